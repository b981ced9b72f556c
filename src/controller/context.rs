//! What every visit shares.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Client,
    core::{PartialObjectMeta, Selector},
    runtime::{
        events::Recorder,
        reflector::{ObjectRef, Store},
    },
};
use tokio::sync::OnceCell;

use super::{
    bindings::Bindings, fence::Fence, grants_file::Current, live_grants::LiveGrants, memory::Memory,
    mints::Mints, queue::Queue, triggers::Namespaced,
};
use crate::{
    api::{IdTokenGrant, Reason},
    cache::fill::Progress,
    plan::{
        Problem,
        grant::{self, Authority},
        secret::Owner,
    },
    telemetry::metrics::Metrics,
    token::mint::Minter,
    verify::Verifier,
};

/// What every visit shares.
pub(super) struct Context {
    pub client: Client,
    /// For what is written to Secrets, and removed: it goes out at once, on the word of the grants, or not at all.
    pub once: Client,
    pub minter: Minter,
    pub verifier: Verifier,
    pub mints: Mints,
    pub bindings: Bindings,
    /// Which bindings are this process's.
    pub selector: Selector,
    /// Which of them is visited when.
    pub queue: Queue,
    pub caches: Caches,
    /// Namespace and name of the ServiceAccount that this process acts as, once somebody asked; `None`: it acts as none.
    pub own_account: OnceCell<Option<(String, String)>>,
    pub memory: Arc<Memory>,
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
        /// How the two watches are.
        watches: Vec<Progress>,
    },
    /// These select by no labels.
    File(Current),
}

impl Context {
    /// Whether a grant allows `authority`, or there is nothing to allow. By what the watches brought, as long as they are heard of;
    /// else by a list, which is shared, so that a quiet cluster costs one a minute at most.
    pub(super) async fn authorise(
        &self,
        owner: &Owner,
        authority: Option<&Authority>,
    ) -> Result<(), Problem> {
        if authority.is_none() {
            return Ok(());
        }
        match &self.caches.grants {
            Grants::Watched { watches, .. } if !watches.iter().all(|watch| watch.heard_within(DOUBT)) => {
                let live =
                    self.live_grants.authorise(&self.client, &self.caches.grants, owner, authority, DOUBT);
                live.await.unwrap_or_else(|error| {
                    let message =
                        format!("nothing is minted, since it can't be told what is granted: {error}");
                    Err(Problem::transient(Reason::SourceUnavailable, message))
                })
            }
            Grants::Watched { grants, namespaces, .. } => {
                let namespace = namespaces.get(&ObjectRef::new(&owner.namespace));
                let none = BTreeMap::new();
                // A namespace that the cache does not know yet is not one without labels: its event wakes the binding.
                let labels = namespace.as_ref().map(|n| n.metadata.labels.as_ref().unwrap_or(&none));
                let grants = grants.state();
                grant::authorise(grants.iter().map(AsRef::as_ref), &owner.namespace, labels, authority)
            }
            Grants::File(current) => {
                grant::authorise(current.grants().iter(), &owner.namespace, None, authority)
            }
        }
    }
}

/// Without a sign of life for so long, a watch may be deaf; and so old may be what is asked for in its place.
const DOUBT: Duration = Duration::from_secs(60);
