//! The workload identity pool that a GKE cluster has by itself: told by flags, or found out from the metadata server.

use crate::{
    api::Reason,
    plan::Problem,
    token::{
        Error,
        endpoints::{ClusterPool, Endpoints},
        http::Http,
        metadata::Metadata,
        shared::Shared,
    },
};

/// Knows this cluster's pool, or finds it out once.
#[derive(Debug)]
pub(super) struct ClusterPools {
    given: Option<ClusterPool>,
    metadata: Metadata,
    found: Shared<ClusterPool>,
}

impl ClusterPools {
    pub(super) fn new(http: &Http, endpoints: &Endpoints) -> Self {
        Self {
            given: endpoints.cluster_pool.clone(),
            metadata: Metadata::new(http.clone(), endpoints.metadata.clone()),
            found: Shared::new(),
        }
    }

    /// The pool; a cluster never changes it.
    pub(super) async fn own(&self) -> Result<ClusterPool, Error> {
        match &self.given {
            Some(given) => Ok(given.clone()),
            None => self.found.get(|_, _| true, self.find()).await,
        }
    }

    async fn find(&self) -> Result<ClusterPool, Error> {
        let project = self.name("project-id", "/project/project-id").await?;
        let location = self.name("cluster-location", "/instance/attributes/cluster-location").await?;
        let cluster = self.name("cluster-name", "/instance/attributes/cluster-name").await?;
        Ok(ClusterPool {
            pool: format!("{project}.svc.id.goog"),
            provider: format!(
                "https://container.googleapis.com/v1/projects/{project}/locations/{location}/clusters/{cluster}"
            ),
        })
    }

    async fn name(&self, what: &str, path: &str) -> Result<String, Error> {
        match self.metadata.name(what, &format!("/computeMetadata/v1{path}")).await {
            Ok(name) => name.ok_or_else(|| elsewhere(what).into()),
            Err(Error::Call { action, cause }) => Err(Error::Unavailable {
                action,
                detail: format!(
                    "{cause}; it is asked for the pool of this GKE cluster, since {FIELD} is empty: elsewhere name a provider there"
                ),
                retry_after: None,
            }),
            Err(error) => Err(error),
        }
    }
}

fn elsewhere(what: &str) -> Problem {
    Problem::slow(
        Reason::InvalidSpec,
        format!(
            "{FIELD} is empty, which means the pool of this GKE cluster, but this is no GKE cluster: the metadata server knows no {what}. \
             Name a provider there, or start the controller with --workload-pool and --identity-provider"
        ),
    )
}

const FIELD: &str = "spec.source.kubernetesServiceAccount.workloadIdentityProvider";
