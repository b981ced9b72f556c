//! What is granted by the API server's own word, or the file's: caches filled by watches may lag behind.

use std::{collections::BTreeMap, fmt::Display, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{ListParams, ObjectList},
    core::PartialObjectMeta,
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::context::Grants;
use crate::{
    api::IdTokenGrant,
    plan::{Problem, grant, secret::Owner, validate::Wanted},
};

/// Lists the grants. Who asks while another one's list is under way shares the next one: when a grant goes, many ask at once.
#[derive(Debug, Default)]
pub(super) struct LiveGrants {
    /// Locked across the call, on purpose. Every call is bounded by its time-out.
    last: Mutex<Option<Look>>,
}

#[derive(Debug)]
struct Look {
    began: Instant,
    grants: Result<Arc<Vec<IdTokenGrant>>, String>,
}

impl LiveGrants {
    /// Whether one of the grants that there are now allows what `wanted` asks for. The outer error: that can't be told.
    pub(super) async fn authorise(
        &self,
        client: &Client,
        source: &Grants,
        owner: &Owner,
        wanted: &Wanted,
    ) -> Result<Result<(), Problem>, String> {
        let namespace = owner.namespace.as_str();
        if let Grants::File(current) = source {
            let grants = current.read().await.map_err(|error| error.to_string())?;
            return Ok(grant::authorise(grants.iter(), namespace, None, wanted));
        }
        let grants = self.list(client).await?;
        let selects = grants.iter().any(|grant| grant.spec.namespaces.selector.is_some());
        let labels = if selects { labels(client, namespace).await? } else { None };
        Ok(grant::authorise(grants.iter(), namespace, labels.as_ref(), wanted))
    }

    /// As they are at some moment between the call and the answer.
    async fn list(&self, client: &Client) -> Result<Arc<Vec<IdTokenGrant>>, String> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(look) = last.as_ref().filter(|look| look.began >= asked) {
            return look.grants.clone();
        }
        let began = Instant::now();
        let api = Api::<IdTokenGrant>::all(client.clone());
        let listed = bounded("list IdTokenGrants", api.list(&ListParams::default())).await;
        let grants = listed.map(|list| Arc::new(list.items));
        *last = Some(Look { began, grants: grants.clone() });
        grants
    }
}

/// Labels of `namespace`; `None`: there is no such namespace. By a list, which needs no right beyond those of the watch.
async fn labels(client: &Client, namespace: &str) -> Result<Option<BTreeMap<String, String>>, String> {
    let api = Api::<Namespace>::all(client.clone());
    let named = ListParams::default().fields(&format!("metadata.name={namespace}"));
    let list: ObjectList<PartialObjectMeta<Namespace>> =
        bounded("list the namespace", api.list_metadata(&named)).await?;
    Ok(list.items.into_iter().next().map(|namespace| namespace.metadata.labels.unwrap_or_default()))
}

async fn bounded<T, E: Display>(action: &str, call: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match timeout(TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|error| format!("{action}: {error}")),
        Err(_) => Err(format!("{action}: no answer within {} s", TIMEOUT.as_secs())),
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
