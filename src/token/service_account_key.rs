//! A service account key in a Secret: an assertion with `target_audience` for an ID token. No URL of the file is used.

use std::sync::Arc;

use serde::Deserialize;

use super::{
    Error, RawToken,
    credential_file::{Takes, Unusable, parse_key},
    credentials::Credentials,
    endpoints::{Endpoints, PUBLIC_UNIVERSE},
    google_error,
    http::{Http, Reply},
    iam::{Iam, Target},
    key::{Key, LIFE_SECONDS},
    mint::Minted,
    oauth::Oauth,
    operator::AccessToken,
};
use crate::plan::source::{Audience, SecretKey};

/// The APIs that take service account keys.
#[derive(Debug)]
pub(super) struct ServiceAccountKeys {
    oauth: Oauth,
    iam: Iam,
    is_public_universe: bool,
}

impl ServiceAccountKeys {
    pub(super) fn new(http: &Http, endpoints: &Endpoints) -> Self {
        Self {
            oauth: Oauth::new(http.clone(), endpoints.oauth_token.clone()),
            iam: Iam::new(http.clone(), endpoints.iam_credentials.clone()),
            is_public_universe: endpoints.universe == PUBLIC_UNIVERSE,
        }
    }

    /// An ID token of the account whose key file stands in `file`.
    pub(super) async fn mint(
        &self,
        file: &SecretKey,
        audience: &Audience,
        credentials: &impl Credentials,
    ) -> Result<Minted, Error> {
        let secret = credentials.secrets(&[file]).await?;
        let text = secret.values.first().map(|text| text.as_slice()).unwrap_or_default();
        let key = parse_key(text).map_err(|why| TAKES.refuse(file, why))?;
        let token = if self.is_public_universe {
            self.by_assertion(file, &key, audience).await?
        } else {
            self.by_itself(file, &key, audience).await?
        };
        Ok(Minted { token, email: Some(key.account.to_string()), credential: Some(secret.version) })
    }

    async fn by_assertion(
        &self,
        file: &SecretKey,
        key: &Key,
        audience: &Audience,
    ) -> Result<RawToken, Error> {
        #[derive(Deserialize)]
        struct Answer {
            id_token: String,
        }
        let action = format!("ID token for {}", key.account);
        let wanted = ("target_audience", audience.as_str());
        let assertion = self.oauth.assertion(key, wanted).map_err(|why| TAKES.refuse(file, why))?;
        let reply = self.oauth.assert(&action, &assertion).await?;
        if !reply.status.is_success() {
            return Err(google_error::from_reply(&action, &reply, &mend(file, key, &reply)));
        }
        let answer: Answer = serde_json::from_slice(&reply.body).map_err(|_| Error::NoToken { action })?;
        Ok(RawToken::new(answer.id_token))
    }

    /// Where the OAuth token endpoint is not to be had, the account asks IAM Credentials for a token of its own.
    async fn by_itself(&self, file: &SecretKey, key: &Key, audience: &Audience) -> Result<RawToken, Error> {
        let jwt = key.self_signed(crate::clock::now()).map_err(|why: Unusable| TAKES.refuse(file, why))?;
        let caller = Arc::new(AccessToken::new(jwt, LIFE_SECONDS.unsigned_abs()));
        let account = &key.account;
        let mend = format!(
            "check that the key in {file} still exists, and that {account} has roles/iam.serviceAccountOpenIdTokenCreator on itself"
        );
        self.iam.id_token(&caller, Target { account, delegates: &[], mend: &mend }, audience).await
    }
}

/// What helps against a refusal.
fn mend(file: &SecretKey, key: &Key, reply: &Reply) -> String {
    let account = &key.account;
    let refusal = google_error::oauth(reply);
    let says = |words: &str| refusal.as_ref().is_some_and(|refusal| refusal.says(words));
    let code = refusal.as_ref().map_or("", |refusal| refusal.code.as_str());
    match code {
        "invalid_grant" if says("signature") => format!(
            "Google does not know the key in {file} (any more): create another one, {CREATE} --iam-account={account}, and put it there"
        ),
        "invalid_grant" if says("short-lived") || says("iat") => {
            "the assertion counts as expired or not yet valid: set the clock of the operator's machine"
                .to_owned()
        }
        "invalid_grant" if says("account") => {
            format!("{account} does not exist or is disabled: check the account of the key in {file}")
        }
        "deleted_client" | "invalid_client" | "disabled_client" => {
            format!("{account}, or its key in {file}, was deleted or disabled: check the account")
        }
        _ => format!("check that {account} and its key in {file} still exist"),
    }
}

const CREATE: &str = "gcloud iam service-accounts keys create FILE";
const TAKES: Takes = Takes { field: "spec.source.serviceAccountKey", type_: "service_account", mend: CREATE };
