//! A user of Identity Platform: sign-in by password, then refresh by the refresh token, which is kept in memory only.

mod refusal;
mod session;
mod user;

use http::Uri;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use tokio::{sync::Mutex, time::Instant};
use zeroize::Zeroizing;

use self::{refusal::Refused, session::Session, user::User};
use super::{
    Error, RawToken,
    credential_file::Hidden,
    credentials::Credentials,
    endpoints::{Endpoints, encode, join},
    http::{Http, Reply, Request},
    mint::Minted,
    shared::Keyed,
};
use crate::plan::{Problem, Retry, source::SecretKey};

/// Identity Platform, and who has signed in.
#[derive(Debug)]
pub(super) struct IdentityPlatform {
    http: Http,
    identity_toolkit: Uri,
    secure_token: Uri,
    sessions: Keyed<Whose, Mutex<Session>>,
}

/// What a binding names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// The user's tenant; `None`: a user of the project.
    pub(super) tenant: Option<&'a str>,
    /// Where the web API key stands.
    pub(super) api_key: &'a SecretKey,
    /// Where the e-mail address stands.
    pub(super) email: &'a SecretKey,
    /// Where the password stands.
    pub(super) password: &'a SecretKey,
}

/// Whose session it is. Once one of the Secrets is written, it is another one's.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Whose {
    tenant: Option<String>,
    keys: [SecretKey; 3],
    version: String,
}

/// What came of a call that gives tokens.
struct Tokens {
    id_token: RawToken,
    refresh_token: Option<Zeroizing<String>>,
}

impl IdentityPlatform {
    pub(super) fn new(http: &Http, endpoints: &Endpoints) -> Self {
        Self {
            http: http.clone(),
            identity_toolkit: endpoints.identity_toolkit.clone(),
            secure_token: endpoints.secure_token.clone(),
            sessions: Keyed::new(),
        }
    }

    /// An ID token of the wanted user. `request`: the forced refresh that asks for it.
    pub(super) async fn mint(
        &self,
        wanted: Wanted<'_>,
        credentials: &impl Credentials,
        request: Option<&str>,
    ) -> Result<Minted, Error> {
        let asked = Instant::now();
        let Wanted { tenant, api_key, email, password } = wanted;
        let keys = [api_key, email, password];
        let secrets = credentials.secrets(&keys).await?;
        let user = User::read(wanted, &secrets.values)?;
        let whose = Whose {
            tenant: tenant.map(str::to_owned),
            keys: keys.map(Clone::clone),
            version: secrets.version.clone(),
        };
        let session = self.sessions.of(&whose);
        let mut session = session.lock().await;
        let result = if let Some(result) = session.answer(asked, request) {
            result
        } else {
            let result = self.next_token(&user, &mut session).await;
            session.note(&result);
            result
        };
        let email = Some(user.email.to_string());
        result.map(|token| Minted { token, email, credential: Some(secrets.version) })
    }

    async fn next_token(&self, user: &User<'_>, session: &mut Session) -> Result<RawToken, Error> {
        if let Some(refresh_token) = session.refresh_token.clone() {
            match self.refresh(user, &refresh_token).await {
                Ok(tokens) => {
                    // Not every answer has another one.
                    session.refresh_token = tokens.refresh_token.or(Some(refresh_token));
                    return Ok(tokens.id_token);
                }
                Err(Refused::SessionOver) => session.refresh_token = None,
                Err(Refused::ForAnotherReason(error)) => {
                    if error.retry() == Retry::Slowly {
                        // Nobody knows what it is: the next try begins anew.
                        session.refresh_token = None;
                    }
                    return Err(error);
                }
            }
        }
        let tokens = self.sign_in(user).await.inspect_err(|error| session.hold(error))?;
        session.refresh_token = tokens.refresh_token;
        Ok(tokens.id_token)
    }

    async fn sign_in(&self, user: &User<'_>) -> Result<Tokens, Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            email: &'a str,
            password: &'a str,
            return_secure_token: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            tenant_id: Option<&'a str>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            id_token: Option<Hidden>,
            refresh_token: Option<Hidden>,
            mfa_pending_credential: Option<IgnoredAny>,
        }
        let body = Body {
            email: &user.email,
            password: &user.password,
            return_secure_token: true,
            tenant_id: user.wanted.tenant,
        };
        let path = "/v1/accounts:signInWithPassword";
        let reply =
            self.post(SIGN_IN, &self.identity_toolkit, path, user, |uri| Request::post_json(uri, &body));
        let reply = reply.await?;
        if !reply.status.is_success() {
            return Err(refusal::of_sign_in(SIGN_IN, &reply, user.wanted));
        }
        let nothing = || Error::NoToken { action: SIGN_IN.to_owned() };
        let answer: Answer = serde_json::from_slice(&reply.body).map_err(|_| nothing())?;
        match (answer.id_token, answer.mfa_pending_credential) {
            (Some(id_token), _) => Ok(Tokens::of(id_token, answer.refresh_token)),
            (None, Some(_)) => Err(second_factor(user.wanted.email).into()),
            (None, None) => Err(nothing()),
        }
    }

    async fn refresh(&self, user: &User<'_>, refresh_token: &str) -> Result<Tokens, Refused> {
        #[derive(Deserialize)]
        struct Answer {
            id_token: Hidden,
            refresh_token: Option<Hidden>,
        }
        let fields = [("grant_type", "refresh_token"), ("refresh_token", refresh_token)];
        let reply =
            self.post(REFRESH, &self.secure_token, "/v1/token", user, |uri| Request::post_form(uri, &fields));
        let reply = reply.await?;
        if !reply.status.is_success() {
            return Err(refusal::of_refresh(REFRESH, &reply, user.wanted));
        }
        let answer: Answer =
            serde_json::from_slice(&reply.body).map_err(|_| Error::NoToken { action: REFRESH.to_owned() })?;
        Ok(Tokens::of(answer.id_token, answer.refresh_token))
    }

    /// Sends what `request` makes. The address holds the API key: it is shown nowhere.
    async fn post(
        &self,
        action: &str,
        origin: &Uri,
        path: &str,
        user: &User<'_>,
        request: impl FnOnce(Uri) -> Request,
    ) -> Result<Reply, Error> {
        let fail = |cause| Error::Call { action: action.to_owned(), cause };
        let query = Zeroizing::new(format!("{path}?key={}", encode(&user.api_key)));
        let uri = join(origin, &query).map_err(fail)?;
        self.http.call(request(uri)).await.map_err(fail)
    }
}

impl Tokens {
    fn of(id_token: Hidden, refresh_token: Option<Hidden>) -> Self {
        let refresh_token = refresh_token.map(|token| token.0).filter(|token| !token.is_empty());
        Self { id_token: RawToken(id_token.0), refresh_token }
    }
}

fn second_factor(email: &SecretKey) -> Problem {
    Problem::refused(format!(
        "{SIGN_IN}: HTTP 200; the user of {email} has a second factor, which no program can give: name a user without one"
    ))
}

const SIGN_IN: &str = "Identity Platform, sign-in";
const REFRESH: &str = "Identity Platform, refresh";
