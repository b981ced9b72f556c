//! Output: the status of each grant, which says who uses it. Written by the leader, at most every few seconds (see [`pause`]), and only where
//! something changed and all is seen: a number that is too small would say that a grant may go.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{api::core::v1::Namespace, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Resource as _,
    api::{Patch, PatchParams},
    core::PartialObjectMeta,
    runtime::reflector::Store,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    bindings::Bindings,
    context::{Context, Grants},
};
use crate::{
    api::{FIELD_MANAGER, IdTokenGrant, IdTokenGrantStatus},
    cache::fill::Fills,
    plan::grant::usage::usage,
};

/// Keeps the statuses of grants until `stop`. Grants of a file have none.
pub(super) async fn keep_usage(ctx: Arc<Context>, bindings: Bindings, fills: Fills, stop: CancellationToken) {
    let Grants::Watched { grants, namespaces, .. } = ctx.caches.grants.clone() else {
        return stop.cancelled().await;
    };
    let known = Known { bindings, grants, namespaces, fills };
    let work = async {
        // Half-filled caches would say that nobody uses a grant.
        known.fills.settled().await;
        let mut told = Told::default();
        loop {
            let pause =
                if told.tell(&ctx, &known).await { pause(known.bindings.version().0) } else { AFTER_ERROR };
            sleep(pause).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

/// What the usage of grants follows from.
#[derive(Clone)]
struct Known {
    bindings: Bindings,
    grants: Store<IdTokenGrant>,
    namespaces: Store<PartialObjectMeta<Namespace>>,
    /// Whether that is all of it.
    fills: Fills,
}

impl Known {
    /// Changes where any of it does that matters: of bindings spec and annotations, of grants the spec, of namespaces
    /// the labels.
    fn version(&self) -> u64 {
        let of = |meta: &ObjectMeta| hash((&meta.uid, meta.generation, meta.deletion_timestamp.is_some()));
        let bindings = self.bindings.version();
        let grants = self.grants.state().iter().map(|g| of(&g.metadata)).fold(0, u64::wrapping_add);
        let labels = |n: &Arc<PartialObjectMeta<Namespace>>| hash((&n.metadata.uid, &n.metadata.labels));
        let namespaces = self.namespaces.state().iter().map(labels).fold(0, u64::wrapping_add);
        hash((bindings, grants, namespaces))
    }

    /// Each grant with the status that it should have.
    fn usage(&self) -> Vec<(Arc<IdTokenGrant>, IdTokenGrantStatus)> {
        let namespaces = self.namespaces.state();
        let none = BTreeMap::new();
        let labels: HashMap<&str, &BTreeMap<String, String>> = namespaces
            .iter()
            .filter_map(|n| Some((n.metadata.name.as_deref()?, n.metadata.labels.as_ref().unwrap_or(&none))))
            .collect();
        let grants = self.grants.state();
        let bindings = self.bindings.all();
        let statuses = usage(grants.iter().map(AsRef::as_ref), bindings, |name| labels.get(name).copied());
        grants.iter().cloned().zip(statuses).collect()
    }
}

/// What was told in the term of leadership that lasts.
#[derive(Default)]
struct Told {
    term: Option<i32>,
    version: Option<u64>,
    /// By the grant's UID. What somebody else writes there is not fought over.
    statuses: HashMap<String, IdTokenGrantStatus>,
}

impl Told {
    /// Tells what is new, if this process leads; false: not all of it could be written.
    async fn tell(&mut self, ctx: &Context, known: &Known) -> bool {
        let Some(pass) = ctx.fence.pass() else {
            *self = Self::default();
            return true;
        };
        if known.fills.is_refused() {
            return true;
        }
        if self.term != pass.term() {
            *self = Self { term: pass.term(), ..Self::default() };
        }
        let version = known.version();
        if self.version == Some(version) {
            return true;
        }
        let all = known.clone();
        // Many bindings times many grants: nothing else is to wait for that.
        let Ok(usage) = tokio::task::spawn_blocking(move || all.usage()).await else { return false };
        let written = pass.protect(self.write(ctx, usage)).await.unwrap_or(false);
        self.version = written.then_some(version);
        written
    }

    async fn write(&mut self, ctx: &Context, usage: Vec<(Arc<IdTokenGrant>, IdTokenGrantStatus)>) -> bool {
        let mut all = true;
        let mut statuses = HashMap::new();
        for (grant, status) in usage {
            let Some(uid) = grant.metadata.uid.clone() else { continue };
            let before = self.statuses.get(&uid).or(grant.status.as_ref());
            let written = before == Some(&status)
                || write(ctx, &grant, &status)
                    .await
                    .inspect_err(|error| {
                        let name = grant.metadata.name.as_deref();
                        tracing::warn!(grant = name, %error, "the status of a grant was not written");
                    })
                    .is_ok();
            all &= written;
            if written {
                statuses.insert(uid, status);
            }
        }
        self.statuses = statuses;
        all
    }
}

async fn write(ctx: &Context, grant: &IdTokenGrant, status: &IdTokenGrantStatus) -> anyhow::Result<()> {
    let name = grant.metadata.name.as_deref().unwrap_or_default();
    let body = serde_json::json!({
        "apiVersion": IdTokenGrant::api_version(&()),
        "kind": IdTokenGrant::kind(&()),
        // The UID keeps a status from landing on a new grant of the same name.
        "metadata": {"name": name, "uid": grant.metadata.uid},
        "status": status,
    });
    let api = Api::<IdTokenGrant>::all(ctx.client.clone());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match timeout(TIMEOUT, api.patch_status(name, &params, &Patch::Apply(&body))).await? {
        // Gone, or another one of that name: its watch says so.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        answer => Ok(answer.map(drop)?),
    }
}

/// Between two looks at so many bindings: they should take a small part of a processor at most.
fn pause(bindings: usize) -> Duration {
    A_BINDING.saturating_mul(u32::try_from(bindings).unwrap_or(u32::MAX)).clamp(EVERY, SELDOM)
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Between two writes of one grant at least.
const EVERY: Duration = Duration::from_secs(5);
const SELDOM: Duration = Duration::from_secs(60);
/// For each binding that there is: some thirty times what a look at it takes.
const A_BINDING: Duration = Duration::from_millis(1);
const AFTER_ERROR: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_bindings_the_rarer_a_look_at_all_of_them() {
        let seconds =
            [0, 5_000, 20_000, 60_000, 100_000, usize::MAX].map(|bindings| pause(bindings).as_secs());
        assert_eq!(seconds, [5, 5, 20, 60, 60, 60]);
    }
}
