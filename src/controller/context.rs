//! What every visit shares.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Client,
    core::PartialObjectMeta,
    runtime::{
        events::Recorder,
        reflector::{ObjectRef, Store},
    },
};

use super::memory::Memory;
use crate::{
    api::IdTokenGrant,
    plan::{Problem, grant, secret::Owner, validate::Wanted},
    telemetry::metrics::Metrics,
    token::mint::Minter,
    verify::Verifier,
};

/// What every visit shares.
pub(super) struct Context {
    pub client: Client,
    pub minter: Minter,
    pub verifier: Verifier,
    pub caches: Caches,
    pub memory: Memory,
    pub recorder: Recorder,
    pub metrics: Metrics,
}

/// Filled by watches.
#[derive(Clone)]
pub(super) struct Caches {
    /// Our Secrets, metadata only: no token is held.
    pub secrets: Store<PartialObjectMeta<Secret>>,
    pub grants: Store<IdTokenGrant>,
    /// Labels, for grants that select by them.
    pub namespaces: Store<PartialObjectMeta<Namespace>>,
}

impl Caches {
    /// Deciding on half-filled caches would take grants for revoked and Secrets for deleted.
    pub(super) async fn wait_until_filled(&self) -> anyhow::Result<()> {
        self.secrets.wait_until_ready().await?;
        self.grants.wait_until_ready().await?;
        self.namespaces.wait_until_ready().await?;
        Ok(())
    }
}

impl Context {
    /// Whether a grant allows what `wanted` asks for, as of now.
    pub(super) fn authorise(&self, owner: &Owner, wanted: &Wanted) -> Result<(), Problem> {
        let namespace = self.caches.namespaces.get(&ObjectRef::new(&owner.namespace));
        let none = BTreeMap::new();
        // A namespace that the cache does not know yet is not one without labels: its event wakes the binding.
        let labels = namespace.as_ref().map(|n| n.metadata.labels.as_ref().unwrap_or(&none));
        let grants = self.caches.grants.state();
        grant::authorise(grants.iter().map(AsRef::as_ref), &owner.namespace, labels, wanted)
    }
}
