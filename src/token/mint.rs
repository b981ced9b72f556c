//! From what a binding wants to a raw token. The one door to all sources: quota and sharing of mints belong here.

use tokio::sync::Semaphore;

use super::{
    Error, RawToken, endpoints::Endpoints, http::Http, impersonation::Impersonation, metadata::Metadata,
    operator::Operator,
};
use crate::plan::validate::{Audience, Source};

/// Asks the sources.
#[derive(Debug)]
pub struct Minter {
    operator: Operator,
    metadata: Metadata,
    impersonation: Impersonation,
    in_flight: Semaphore,
}

impl Minter {
    /// With `operator` as the identity of the sources that use it.
    #[must_use]
    pub fn new(http: &Http, endpoints: &Endpoints, operator: Operator) -> Self {
        Self {
            operator,
            metadata: Metadata::new(http.clone(), endpoints.metadata.clone()),
            impersonation: Impersonation::new(http.clone(), endpoints.iam_credentials.clone()),
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
        }
    }

    /// The operator's own identity.
    #[must_use]
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// Whose token `source` will give: what the token's e-mail address must then be.
    pub async fn identity(&self, source: &Source) -> Result<String, Error> {
        match source {
            Source::MetadataServer => self.metadata.email().await,
            Source::Impersonation { service_account, .. } => Ok(service_account.to_string()),
        }
    }

    /// Asks `source` for a token for `audience`. The answer is unverified.
    pub async fn mint(&self, source: &Source, audience: &Audience) -> Result<RawToken, Error> {
        let _permit = self.in_flight.acquire().await; // never closed
        match source {
            Source::MetadataServer => self.metadata.id_token(audience.as_str()).await,
            Source::Impersonation { service_account, delegates } => {
                self.impersonation.id_token(&self.operator, service_account, delegates, audience).await
            }
        }
    }
}

/// Mints under way at once. Google's quota is by the minute; this bounds connections and memory.
const MAX_IN_FLIGHT: usize = 64;
