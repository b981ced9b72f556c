//! Faults that tests switch on and off, by endpoint.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use http::{StatusCode, header};
use serde_json::json;
use tokio::sync::Notify;

use super::identity_platform;
use super::refusal::refuse;
use super::reply::{self, Reply};
use super::serve::Call;
use super::state::{Simulator, lock};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `…/service-accounts/{account}/identity`.
    MetadataIdentity,
    /// `…/service-accounts/{account}/token`.
    MetadataToken,
    /// `…/service-accounts/{account}/email`.
    MetadataEmail,
    /// Everything else of the metadata server.
    Metadata,
    /// `:generateIdToken`.
    GenerateIdToken,
    /// `:generateAccessToken`.
    GenerateAccessToken,
    /// `:signJwt`.
    SignJwt,
    /// The token exchange.
    Sts,
    /// The OAuth token endpoint.
    OauthToken,
    /// `accounts:signInWithPassword` of Identity Platform.
    SignInWithPassword,
    /// The refresh of Identity Platform's tokens.
    SecureToken,
    /// Google's keys as a JWKS.
    Jwks,
    /// Google's keys as certificates.
    CertsV1,
    /// The published keys of one service account; Identity Platform's are those of one too.
    ServiceAccountKeys,
    /// A path that no API has.
    Unknown,
}

impl Endpoint {
    /// Whether the endpoint can answer with an ID token or another JWT.
    fn signs(self) -> bool {
        matches!(self, Self::MetadataIdentity | Self::GenerateIdToken | Self::SignJwt | Self::OauthToken)
            || self.is_identity_platform()
    }

    /// Whether Identity Platform answers here.
    fn is_identity_platform(self) -> bool {
        matches!(self, Self::SignInWithPassword | Self::SecureToken)
    }

    /// Whether IAM Credentials answers here.
    fn is_iam(self) -> bool {
        matches!(self, Self::GenerateIdToken | Self::GenerateAccessToken | Self::SignJwt)
    }

    /// Whether the endpoint can answer with an access token.
    fn gives_access(self) -> bool {
        matches!(self, Self::MetadataToken | Self::GenerateAccessToken | Self::Sts | Self::OauthToken)
    }
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The right answer, this much later.
    Latency(Duration),
    /// The right answer, once this fault is switched off or another one takes its place.
    Held,
    /// 429, with `Retry-After` in seconds if given.
    TooManyRequests {
        /// The header's value.
        retry_after: Option<u64>,
    },
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 500.
    InternalError,
    /// 503.
    Unavailable,
    /// The connection is closed without an answer.
    DropConnection,
    /// 200 with a body that means nothing.
    Garbage,
    /// 200 with a body of 5 MB.
    TooLarge,
    /// 400 with this message, `CODE` or `CODE : text`, as Identity Platform refuses.
    IdentityError(&'static str),
    /// An error of the OAuth 2 family, as the STS and the token endpoint give it.
    OauthError {
        /// The HTTP status.
        status: u16,
        /// `error`.
        code: &'static str,
        /// `error_description`.
        description: &'static str,
        /// `error_subtype`.
        subtype: Option<&'static str>,
    },
    /// An error in the words of IAM Credentials: `google.rpc.Status`.
    RpcError {
        /// The HTTP status.
        status: u16,
        /// `status`.
        code: &'static str,
        /// `reason` of an `ErrorInfo`, where there is one.
        reason: Option<&'static str>,
    },
    /// An ID token for another audience.
    WrongAudience,
    /// An ID token, or an access token, whose life is over.
    ExpiredToken,
    /// An ID token signed by a key that is not published.
    UnknownKey,
    /// An ID token of another issuer.
    WrongIssuer,
    /// An ID token whose signature does not fit.
    BadSignature,
    /// A JWT about somebody else: `sub`.
    WrongSubject,
    /// An ID token with somebody else's e-mail.
    WrongEmail,
    /// An ID token with `email_verified: false`.
    UnverifiedEmail,
    /// An ID token with `alg: none` and no signature.
    AlgNone,
    /// An ID token issued an hour from now.
    FutureIat,
}

impl Fault {
    /// Whether the fault is one of the token's content.
    pub(super) fn spoils_token(&self) -> bool {
        use Fault::{
            AlgNone, BadSignature, ExpiredToken, FutureIat, UnknownKey, UnverifiedEmail, WrongAudience,
            WrongEmail, WrongIssuer, WrongSubject,
        };
        matches!(
            self,
            WrongAudience
                | ExpiredToken
                | UnknownKey
                | WrongIssuer
                | BadSignature
                | WrongSubject
                | WrongEmail
                | UnverifiedEmail
                | AlgNone
                | FutureIat
        )
    }

    /// Whether the endpoint can have this fault at all: one that changes nothing would make a test pass for no reason.
    pub(super) fn fits(&self, endpoint: Endpoint) -> bool {
        match self {
            Self::ExpiredToken => endpoint.signs() || endpoint.gives_access(),
            Self::IdentityError(_) => endpoint.is_identity_platform(),
            Self::OauthError { .. } => matches!(endpoint, Endpoint::Sts | Endpoint::OauthToken),
            Self::RpcError { .. } => endpoint.is_iam(),
            // A JWT of the caller's own claims has no e-mail.
            Self::WrongEmail | Self::UnverifiedEmail => endpoint.signs() && endpoint != Endpoint::SignJwt,
            _ if self.spoils_token() => endpoint.signs(),
            _ => true,
        }
    }

    /// The answer that this fault puts in place of the right one.
    pub(super) fn reply(&self, sim: &Simulator, call: &Call) -> Option<Reply> {
        let refuse = |status| refuse(sim, call, status);
        Some(match self {
            Self::TooManyRequests { retry_after } => {
                let reply = refuse(StatusCode::TOO_MANY_REQUESTS);
                match retry_after {
                    Some(seconds) => reply::with_header(reply, header::RETRY_AFTER, &seconds.to_string()),
                    None => reply,
                }
            }
            Self::Forbidden => refuse(StatusCode::FORBIDDEN),
            Self::NotFound => refuse(StatusCode::NOT_FOUND),
            Self::InternalError => refuse(StatusCode::INTERNAL_SERVER_ERROR),
            Self::Unavailable => refuse(StatusCode::SERVICE_UNAVAILABLE),
            Self::Garbage => reply::body(StatusCode::OK, "text/html", GARBAGE),
            Self::TooLarge => reply::body(StatusCode::OK, "application/json; charset=UTF-8", large_body()),
            Self::IdentityError(message) => identity_platform::refusal(call.endpoint, message),
            Self::OauthError { status, code, description, subtype } => {
                let mut error = json!({ "error": code, "error_description": description });
                if let Some(subtype) = subtype {
                    error["error_subtype"] = json!(subtype);
                }
                reply::json(status_of(*status), &error)
            }
            Self::RpcError { status, code, reason } => {
                let mut error = json!({ "code": status, "message": RPC_TEXT, "status": code });
                if let Some(reason) = reason {
                    let facts = json!({ "service": "iamcredentials.googleapis.com" });
                    error["details"] = json!([reply::error_info(reason, "googleapis.com", &facts)]);
                }
                reply::json(status_of(*status), &json!({ "error": error }))
            }
            _ => return None,
        })
    }
}

/// The faults that are on.
#[derive(Default)]
pub(super) struct Faults {
    active: Mutex<HashMap<Endpoint, Active>>,
    /// Told of each change.
    changed: Notify,
}

struct Active {
    fault: Fault,
    left: Option<u64>,
}

impl Faults {
    /// Switches a fault on, for so many requests or (`None`) until it is cleared, in place of any other there.
    pub(super) fn set(&self, endpoint: Endpoint, fault: Fault, times: Option<u64>) {
        lock(&self.active).insert(endpoint, Active { fault, left: times });
        self.changed.notify_waiters();
    }

    /// Switches one endpoint's fault off.
    pub(super) fn clear(&self, endpoint: Endpoint) {
        lock(&self.active).remove(&endpoint);
        self.changed.notify_waiters();
    }

    /// Switches every fault off.
    pub(super) fn clear_all(&self) {
        lock(&self.active).clear();
        self.changed.notify_waiters();
    }

    /// Returns when [`Fault::Held`] is no longer on.
    pub(super) async fn released(&self, endpoint: Endpoint) {
        loop {
            let changed = self.changed.notified();
            let held = |active: &Active| active.fault == Fault::Held;
            if !lock(&self.active).get(&endpoint).is_some_and(held) {
                return;
            }
            changed.await;
        }
    }

    /// The fault that the next request has, counted down.
    pub(super) fn take(&self, endpoint: Endpoint) -> Option<Fault> {
        let mut faults = lock(&self.active);
        let active = faults.get_mut(&endpoint)?;
        match &mut active.left {
            None => Some(active.fault.clone()),
            Some(0) => None,
            Some(left) => {
                *left -= 1;
                Some(active.fault.clone())
            }
        }
    }
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST)
}

/// JSON, so that nothing but its size is wrong.
fn large_body() -> String {
    format!("{{\"padding\":\"{}\"}}", "x".repeat(LARGE))
}

/// Not for anybody to show: an error's text may hold what was sent.
const RPC_TEXT: &str = "The request was refused for its bearer ya29.c.somebodys-token.";

const LARGE: usize = 5 << 20;

const GARBAGE: &str = "<html><body>\u{1}\u{2} this is not what you asked for </body></html>";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counted_fault_ends_by_itself() {
        let faults = Faults::default();
        faults.set(Endpoint::Sts, Fault::Unavailable, Some(2));
        let taken: Vec<_> = (0..3).map(|_| faults.take(Endpoint::Sts)).collect();
        assert_eq!(taken, [Some(Fault::Unavailable), Some(Fault::Unavailable), None]);
        assert_eq!(faults.take(Endpoint::Jwks), None);
    }

    #[tokio::test]
    async fn what_is_held_goes_on_when_the_fault_is_switched_off_or_another_takes_its_place() {
        let faults = Faults::default();
        faults.released(Endpoint::Sts).await;
        for end in [
            |faults: &Faults| faults.clear(Endpoint::Sts),
            |faults: &Faults| faults.clear_all(),
            |faults: &Faults| faults.set(Endpoint::Sts, Fault::NotFound, None),
        ] {
            faults.set(Endpoint::Sts, Fault::Held, None);
            faults.set(Endpoint::Jwks, Fault::NotFound, None);
            let mut released = std::pin::pin!(faults.released(Endpoint::Sts));
            assert!(futures::poll!(&mut released).is_pending());
            end(&faults);
            released.await;
        }
    }

    #[test]
    fn faults_of_tokens_fit_only_where_tokens_come_from() {
        assert!(Fault::WrongAudience.fits(Endpoint::GenerateIdToken));
        assert!(!Fault::WrongAudience.fits(Endpoint::Sts));
        assert!(Fault::ExpiredToken.fits(Endpoint::Sts));
        assert!(!Fault::ExpiredToken.fits(Endpoint::Jwks));
        assert!(Fault::NotFound.fits(Endpoint::Jwks));
        assert!(Fault::WrongIssuer.fits(Endpoint::SecureToken));
        assert!(Fault::IdentityError("USER_DISABLED").fits(Endpoint::SignInWithPassword));
        assert!(!Fault::IdentityError("USER_DISABLED").fits(Endpoint::OauthToken));
        let oauth = Fault::OauthError { status: 400, code: "invalid_grant", description: "", subtype: None };
        assert!(oauth.fits(Endpoint::Sts) && oauth.fits(Endpoint::OauthToken));
        assert!(!oauth.fits(Endpoint::SecureToken));
        let rpc = Fault::RpcError { status: 403, code: "PERMISSION_DENIED", reason: None };
        assert!(rpc.fits(Endpoint::SignJwt) && rpc.fits(Endpoint::GenerateIdToken));
        assert!(!rpc.fits(Endpoint::Sts));
        assert!(Fault::WrongSubject.fits(Endpoint::SignJwt));
        assert!(!Fault::WrongEmail.fits(Endpoint::SignJwt));
    }
}
