//! What every visit shares.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Client,
    core::PartialObjectMeta,
    runtime::{
        events::Recorder,
        reflector::{ObjectRef, Store},
    },
};

use tokio::sync::OnceCell;

use super::{
    fence::Fence, grants_file::Current, live_grants::LiveGrants, memory::Memory, triggers::Namespaced,
};
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
    /// Namespace and name of the ServiceAccount that this process acts as, once somebody asked; `None`: it acts as none.
    pub own_account: OnceCell<Option<(String, String)>>,
    pub memory: Memory,
    /// Open for the leader only.
    pub fence: Fence,
    /// How long a Secret stays that no grant allows any more.
    pub grace: SignedDuration,
    /// Looked at when it has passed.
    pub live_grants: LiveGrants,
    pub recorder: Recorder,
    pub metrics: Metrics,
}

/// Filled by watches.
pub(super) struct Caches {
    /// Metadata only: no token and no credential is held.
    pub namespaced: Namespaced,
    pub grants: Grants,
}

/// Where grants come from.
#[derive(Clone)]
pub(super) enum Grants {
    Watched {
        grants: Store<IdTokenGrant>,
        /// Labels, for grants that select by them.
        namespaces: Store<PartialObjectMeta<Namespace>>,
    },
    /// These select by no labels.
    File(Current),
}

impl Context {
    /// Whether a grant allows what `wanted` asks for, as of now.
    pub(super) fn authorise(&self, owner: &Owner, wanted: &Wanted) -> Result<(), Problem> {
        match &self.caches.grants {
            Grants::Watched { grants, namespaces } => {
                let namespace = namespaces.get(&ObjectRef::new(&owner.namespace));
                let none = BTreeMap::new();
                // A namespace that the cache does not know yet is not one without labels: its event wakes the binding.
                let labels = namespace.as_ref().map(|n| n.metadata.labels.as_ref().unwrap_or(&none));
                let grants = grants.state();
                grant::authorise(grants.iter().map(AsRef::as_ref), &owner.namespace, labels, wanted)
            }
            Grants::File(current) => {
                grant::authorise(current.grants().iter(), &owner.namespace, None, wanted)
            }
        }
    }
}
