//! From what a binding wants to a raw token. The one door to all sources.

use super::{
    Error, RawToken,
    credentials::Credentials,
    endpoints::Endpoints,
    federation::{self, Federation},
    http::Http,
    iam::Iam,
    identity_platform::{self, IdentityPlatform},
    impersonation,
    metadata::Metadata,
    operator::{Authorised, Operator},
    service_account_key::ServiceAccountKeys,
    signed_jwt,
    user_credentials::UserCredentials,
};
use crate::plan::{
    Problem,
    source::{Audience, Source},
};

/// A token fresh from its source.
#[derive(Debug)]
pub struct Minted {
    /// The token, unverified.
    pub token: RawToken,
    /// Whose it must be, where the source says so beforehand.
    pub email: Option<String>,
    /// Which state of the binding's own credential it was got by; `None`: the source has none.
    pub credential: Option<String>,
}

impl Minted {
    fn by_operator(token: RawToken, email: String) -> Self {
        Self { token, email: Some(email), credential: None }
    }
}

/// Asks the sources.
#[derive(Debug)]
pub struct Minter {
    operator: Operator,
    metadata: Metadata,
    iam: Iam,
    federation: Federation,
    identity_platform: IdentityPlatform,
    keys: ServiceAccountKeys,
    users: UserCredentials,
    universe: String,
}

impl Minter {
    /// With `operator` as the identity of the sources that use it.
    #[must_use]
    pub fn new(http: &Http, endpoints: &Endpoints, operator: Operator) -> Self {
        Self {
            operator,
            metadata: Metadata::new(http.clone(), endpoints.metadata.clone()),
            iam: Iam::new(http.clone(), endpoints.iam_credentials.clone()),
            federation: Federation::new(http, endpoints),
            identity_platform: IdentityPlatform::new(http, endpoints),
            keys: ServiceAccountKeys::new(http, endpoints),
            users: UserCredentials::new(http, endpoints),
            universe: endpoints.universe.clone(),
        }
    }

    /// The operator's own identity.
    #[must_use]
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// The universe whose APIs are called.
    #[must_use]
    pub fn universe(&self) -> &str {
        &self.universe
    }

    /// Asks `source` for a token for `audience`. The answer is unverified. `request` is the value of the annotation that forces a
    /// refresh: what was refused for good is tried once more for each value. Where the operator's identity is used, `authorise` has the
    /// last word just before the request that makes the token, when whatever there is to wait for has come.
    pub async fn mint<F>(
        &self,
        source: &Source,
        audience: &Audience,
        credentials: &impl Credentials,
        request: Option<&str>,
        authorise: impl Fn() -> F + Sync,
    ) -> Result<Minted, Error>
    where
        F: Future<Output = Result<(), Problem>> + Send,
    {
        let operator = Authorised { operator: &self.operator, authorise };
        match source {
            Source::MetadataServer => {
                let token = self.metadata.id_token(audience.as_str(), operator.authorise).await?;
                Ok(Minted::by_operator(token, self.metadata.email().await?))
            }
            Source::Impersonation { service_account, delegates } => {
                let token =
                    impersonation::id_token(&self.iam, &operator, service_account, delegates, audience);
                Ok(Minted::by_operator(token.await?, service_account.to_string()))
            }
            Source::SignedJwt { service_account } => {
                let token = signed_jwt::signed_jwt(&self.iam, &operator, service_account, audience).await?;
                Ok(Minted::by_operator(token, service_account.to_string()))
            }
            Source::KubernetesServiceAccount { name, google_service_account, provider } => {
                let wanted = federation::Wanted {
                    name,
                    google_service_account: google_service_account.as_ref(),
                    provider: provider.as_ref(),
                };
                self.federation.mint(wanted, audience, credentials).await
            }
            Source::ServiceAccountKey { file } => self.keys.mint(file, audience, credentials).await,
            Source::UserCredentials { file } => self.users.mint(file, credentials).await,
            Source::IdentityPlatform { tenant, api_key, email, password } => {
                let wanted =
                    identity_platform::Wanted { tenant: tenant.as_deref(), api_key, email, password };
                self.identity_platform.mint(wanted, credentials, request).await
            }
        }
    }
}
