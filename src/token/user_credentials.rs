//! A person's gcloud credentials in a Secret: a refresh that gives an ID token for the OAuth client. For development.

use serde::Deserialize;

use super::{
    Error, RawToken,
    credential_file::{Takes, parse_user},
    credentials::Credentials,
    endpoints::Endpoints,
    google_error,
    http::{Http, Reply},
    mint::Minted,
    oauth::Oauth,
};
use crate::{
    api::Reason,
    plan::{Problem, Retry, source::SecretKey},
};

/// The API that takes people's refresh tokens.
#[derive(Debug)]
pub(super) struct UserCredentials {
    oauth: Oauth,
}

impl UserCredentials {
    pub(super) fn new(http: &Http, endpoints: &Endpoints) -> Self {
        Self { oauth: Oauth::new(http.clone(), endpoints.oauth_token.clone()) }
    }

    /// An ID token of the person whose `authorized_user` file stands in `file`.
    pub(super) async fn mint(
        &self,
        file: &SecretKey,
        credentials: &impl Credentials,
    ) -> Result<Minted, Error> {
        #[derive(Deserialize)]
        struct Answer {
            // Only to tell this answer from something else.
            #[serde(rename = "access_token")]
            _access_token: serde::de::IgnoredAny,
            id_token: Option<String>,
        }
        let secret = credentials.secrets(&[file]).await?;
        let text = secret.values.first().map(|text| text.as_slice()).unwrap_or_default();
        let grant = parse_user(text).map_err(|why| TAKES.refuse(file, why))?;
        let action = "ID token for a user".to_owned();
        let reply = self.oauth.refresh(&action, &grant).await?;
        if !reply.status.is_success() {
            return Err(refusal(&action, file, &reply));
        }
        let answer: Answer = serde_json::from_slice(&reply.body).map_err(|_| Error::NoToken { action })?;
        let token = answer.id_token.ok_or_else(|| without_openid(file))?;
        Ok(Minted { token: RawToken::new(token), email: None, credential: Some(secret.version) })
    }
}

fn refusal(action: &str, file: &SecretKey, reply: &Reply) -> Error {
    let error = google_error::from_reply(action, reply, &format!("check the credentials in {file}"));
    let (Error::Denied { detail, .. }, Some(said)) = (&error, google_error::oauth(reply)) else {
        return error;
    };
    let why = match said.code.as_str() {
        "invalid_grant" if said.is("invalid_rapt") => {
            "Google wants the person to sign in again (invalid_rapt)"
        }
        "invalid_grant" => "the refresh token has expired or was revoked",
        "invalid_client" | "deleted_client" | "disabled_client" | "unauthorized_client" => {
            "the OAuth client is unknown, its secret is wrong, or it was deleted"
        }
        _ => return error,
    };
    Problem::refused(format!("{action}: {detail}; {why}: put another file into {file}, which {LOGIN} writes"))
        .into()
}

/// The same grant gives the same answer for ever.
fn without_openid(file: &SecretKey) -> Problem {
    Problem {
        reason: Reason::CredentialsNotAllowed,
        message: format!(
            "the grant in {file} gives no ID token: it lacks the scope openid; put another file there, which {LOGIN} writes"
        ),
        retry: Retry::OnNewCredential,
    }
}

const LOGIN: &str = "gcloud auth application-default login --scopes=openid,https://www.googleapis.com/auth/userinfo.email,\
                     https://www.googleapis.com/auth/cloud-platform";
const TAKES: Takes = Takes { field: "spec.source.userCredentials", type_: "authorized_user", mend: LOGIN };
