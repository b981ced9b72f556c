//! The Security Token Service: somebody else's token for a federated access token of Google's.

use http::Uri;

use super::{
    Error,
    endpoints::join,
    google_error::{self, OauthRefusal},
    http::{Http, Reply, Request},
    iam::CLOUD_PLATFORM,
    oauth::AccessAnswer,
    operator::AccessToken,
};

/// The Security Token Service.
#[derive(Clone, Debug)]
pub(super) struct Sts {
    http: Http,
    origin: Uri,
}

/// What is exchanged.
pub(super) struct Exchange<'a> {
    /// What is attempted, in words.
    pub(super) action: &'a str,
    /// Who vouches, as the service names it.
    pub(super) audience: &'a str,
    /// The token.
    pub(super) subject_token: &'a str,
    /// Its type.
    pub(super) subject_token_type: &'a str,
}

/// No federated token.
pub(super) enum Failure {
    /// The service refused, and said why.
    Refused {
        /// Why.
        why: Refusal,
        /// HTTP code and Google's reason.
        detail: String,
    },
    /// Everything else.
    Other(Error),
}

/// Why the service refuses a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It doesn't have the key that signed it.
    Keys,
    /// The provider does not take its audience.
    Audience,
    /// Its issuer is not the provider's.
    Issuer,
    /// It has expired, or is not valid yet.
    Times,
    /// The provider's attribute condition.
    Condition,
    /// The mapped subject is longer than 127 bytes.
    SubjectTooLong,
    /// There is no such pool or provider.
    Target,
    /// Not known to us.
    Other,
}

impl Sts {
    pub(super) fn new(http: Http, origin: Uri) -> Self {
        Self { http, origin }
    }

    /// A federated access token.
    pub(super) async fn exchange(&self, exchange: &Exchange<'_>) -> Result<AccessToken, Failure> {
        let fail = |cause| Error::Call { action: exchange.action.to_owned(), cause };
        // No Authorization header: the service takes one for workforces only.
        let fields = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("audience", exchange.audience),
            ("scope", CLOUD_PLATFORM),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("subject_token", exchange.subject_token),
            ("subject_token_type", exchange.subject_token_type),
        ];
        let request = Request::post_form(join(&self.origin, "/v1/token").map_err(fail)?, &fields);
        let reply = self.http.call(request).await.map_err(fail)?;
        if reply.status.is_success() {
            return Ok(AccessAnswer::read(exchange.action, &reply)?);
        }
        Err(failure(exchange.action, &reply))
    }
}

impl Refusal {
    /// What helps.
    pub(super) fn mend(self, audience: &str) -> String {
        match self {
            Self::Keys => "the provider does not have the key that signed the token: upload the cluster's keys again (kubectl get \
                           --raw /openid/v1/jwks > jwks.json; gcloud iam workload-identity-pools providers update-oidc PROVIDER \
                           --workload-identity-pool=POOL --location=global --jwk-json-path=jwks.json)"
                .to_owned(),
            Self::Audience => "the provider does not take the token's audience: leave the provider's allowed audiences empty, or add \
                               the audience to them"
                .to_owned(),
            Self::Issuer => "the provider's issuer is not that of the token: compare the provider's issuer URI with the issuer in \
                             kubectl get --raw /.well-known/openid-configuration"
                .to_owned(),
            Self::Times => "the token counts as expired or not yet valid: check the clock of whoever issued it".to_owned(),
            Self::Condition => "the provider's attribute condition rejects the token: check the condition".to_owned(),
            Self::SubjectTooLong => {
                "the subject is longer than the 127 bytes that google.subject may have: shorten the names in it, or map another \
                 attribute to google.subject"
                    .to_owned()
            }
            Self::Target => format!(
                "there is no such workload identity pool or provider, or it is disabled or deleted: check {audience}"
            ),
            Self::Other => format!("check the workload identity provider {audience}"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    /// As an error, with the usual mend.
    pub(super) fn into_error(self, exchange: &Exchange<'_>) -> Error {
        match self {
            Self::Other(error) => error,
            Self::Refused { why, detail } => Error::Denied {
                action: exchange.action.to_owned(),
                detail,
                mend: why.mend(exchange.audience),
            },
        }
    }
}

fn failure(action: &str, reply: &Reply) -> Failure {
    match google_error::from_reply(action, reply, "") {
        Error::Denied { detail, .. } => {
            let why = google_error::oauth(reply).map_or(Refusal::Other, |refusal| why(&refusal));
            Failure::Refused { why, detail }
        }
        other => Failure::Other(other),
    }
}

fn why(refusal: &OauthRefusal) -> Refusal {
    let says = |words: &[&str]| words.iter().any(|word| refusal.says(word));
    match refusal.code.as_str() {
        "invalid_grant" if says(&["credential's issuer", "signature"]) => Refusal::Keys,
        "invalid_grant" if says(&["audience"]) => Refusal::Audience,
        "invalid_grant" if says(&["expired", "stale", "not yet valid", "issued at"]) => Refusal::Times,
        "invalid_grant" if says(&["issuer"]) => Refusal::Issuer,
        "unauthorized_client" => Refusal::Condition,
        "invalid_request" if says(&["127 bytes"]) => Refusal::SubjectTooLong,
        "invalid_target" => Refusal::Target,
        _ => Refusal::Other,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;

    #[test]
    fn each_text_of_googles_has_its_words() {
        let table = [
            ("invalid_grant", "Error connecting to the given credential's issuer.", Refusal::Keys),
            ("invalid_grant", "Invalid ID Token signature.", Refusal::Keys),
            (
                "invalid_grant",
                "The audience in ID Token [x] does not match the expected audience y.",
                Refusal::Audience,
            ),
            (
                "invalid_grant",
                "The issuer in ID Token x does not match the expected ones: y",
                Refusal::Issuer,
            ),
            ("invalid_grant", "ID Token issued at 1 is stale to sign-in.", Refusal::Times),
            ("invalid_grant", "The token has expired", Refusal::Times),
            ("invalid_grant", "whatever", Refusal::Other),
            (
                "unauthorized_client",
                "The given credential is rejected by the attribute condition.",
                Refusal::Condition,
            ),
            (
                "invalid_request",
                "The size of mapped attribute google.subject exceeds the 127 bytes limit. Either modify …",
                Refusal::SubjectTooLong,
            ),
            ("invalid_request", "malformed", Refusal::Other),
            ("invalid_target", "", Refusal::Target),
            ("new_code", "", Refusal::Other),
        ];
        for (code, description, expected) in table {
            let body = serde_json::json!({"error": code, "error_description": description}).to_string();
            let reply = Reply {
                status: StatusCode::BAD_REQUEST,
                headers: HeaderMap::new(),
                body: body.into_bytes().into(),
            };
            let Failure::Refused { why, detail } = failure("x", &reply) else { panic!("{code}") };
            assert_eq!((why, detail), (expected, format!("HTTP 400 {code}")), "{description}");
        }
    }
}
