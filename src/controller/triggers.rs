//! The watches beside that of the bindings: they fill the caches and name the bindings that a change concerns.

use futures::{Stream, StreamExt as _, future::ready};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        reflector::{ObjectRef, Store, reflector, store},
        watcher,
    },
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::context::Caches;
use crate::{
    api::{IdTokenBinding, IdTokenGrant, SECRET_TYPE},
    telemetry::health::Health,
};

/// Bindings to look at. Unbounded: nobody takes from it before the caches are filled, and filling them puts one in for each
/// Secret; a bound would make the two wait for each other. Afterwards the controller takes at once.
pub(super) type Wake = mpsc::UnboundedSender<ObjectRef<IdTokenBinding>>;

/// Starts the watches of Secrets, grants and namespaces. `bindings` is consulted for whom a change concerns.
pub(super) fn start(
    client: &Client,
    bindings: &Store<IdTokenBinding>,
    wake: &Wake,
    health: &Health,
    stop: &CancellationToken,
) -> Caches {
    let (secrets, secrets_writer) = store();
    let of_our_type = watcher::Config::default().fields(&format!("type={SECRET_TYPE}"));
    let events =
        watcher(Api::<PartialObjectMeta<Secret>>::all(client.clone()), of_our_type).default_backoff();
    let touched = reflector(secrets_writer, events).touched_objects();
    let woken = forward(touched, wake.clone(), stop, |secret: PartialObjectMeta<Secret>| {
        owner_of(&secret).into_iter().collect()
    });
    tokio::spawn(health.vital("the watch of Secrets", woken));

    let (grants, grants_writer) = store();
    let events =
        watcher(Api::<IdTokenGrant>::all(client.clone()), watcher::Config::default()).default_backoff();
    let touched = reflector(grants_writer, events).touched_objects();
    let all = bindings.clone();
    let woken = forward(touched, wake.clone(), stop, move |_grant| concerned(&all, |_| true));
    tokio::spawn(health.vital("the watch of grants", woken));

    let (namespaces, namespaces_writer) = store();
    let events =
        watcher(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), watcher::Config::default())
            .default_backoff();
    let touched = reflector(namespaces_writer, events).touched_objects();
    let all = bindings.clone();
    let woken = forward(touched, wake.clone(), stop, move |namespace: PartialObjectMeta<Namespace>| {
        concerned(&all, |b| b.metadata.namespace == namespace.metadata.name)
    });
    tokio::spawn(health.vital("the watch of namespaces", woken));
    Caches { secrets, grants, namespaces }
}

/// Bindings that use the operator's own identity, and so depend on grants.
fn concerned(
    bindings: &Store<IdTokenBinding>,
    also: impl Fn(&IdTokenBinding) -> bool,
) -> Vec<ObjectRef<IdTokenBinding>> {
    let uses_operator = |b: &IdTokenBinding| {
        let source = &b.spec.source;
        source.impersonation.is_some() || source.metadata_server.is_some() || source.signed_jwt.is_some()
    };
    bindings
        .state()
        .iter()
        .filter(|b| uses_operator(b) && also(b))
        .map(|b| ObjectRef::from_obj(b.as_ref()))
        .collect()
}

fn owner_of(secret: &PartialObjectMeta<Secret>) -> Option<ObjectRef<IdTokenBinding>> {
    let owners = secret.metadata.owner_references.iter().flatten();
    let owner = owners.into_iter().find(|o| o.controller == Some(true) && o.kind == "IdTokenBinding")?;
    Some(ObjectRef::new(&owner.name).within(secret.metadata.namespace.as_deref()?))
}

fn forward<K: Send + 'static>(
    touched: impl Stream<Item = Result<K, watcher::Error>> + Send + 'static,
    wake: Wake,
    stop: &CancellationToken,
    concerned: impl Fn(K) -> Vec<ObjectRef<IdTokenBinding>> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let refs = touched
        .filter_map(|item| {
            ready(item.inspect_err(|error| tracing::warn!(%error, "a watch failed; it is tried again")).ok())
        })
        .flat_map(move |object| futures::stream::iter(concerned(object)))
        .take_until(stop.clone().cancelled_owned());
    async move {
        let mut refs = std::pin::pin!(refs);
        while let Some(reference) = refs.next().await {
            if wake.send(reference).is_err() {
                break;
            }
        }
    }
}
