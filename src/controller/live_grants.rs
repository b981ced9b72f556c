//! What is granted by the API server's own word, or the file's: caches filled by watches may lag behind.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    sync::Arc,
    time::Duration,
};

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
    plan::{
        Problem,
        grant::{self, Authority},
        secret::Owner,
    },
};

/// Asks what is granted. Who asks while another one's call is under way shares the next one: when a grant goes, many ask at once.
#[derive(Debug, Default)]
pub(super) struct LiveGrants {
    grants: Shared<Vec<IdTokenGrant>>,
    /// Labels by namespace.
    namespaces: Shared<HashMap<String, Labels>>,
}

type Labels = BTreeMap<String, String>;

impl LiveGrants {
    /// Whether one of the grants that there are now, or were `age` ago at most, allows `authority`. The outer error: that can't be
    /// told.
    pub(super) async fn authorise(
        &self,
        client: &Client,
        source: &Grants,
        owner: &Owner,
        authority: Option<&Authority>,
        age: Duration,
    ) -> Result<Result<(), Problem>, String> {
        let namespace = owner.namespace.as_str();
        let grants = self.grants.get(age, look(client, source)).await?;
        let selects = grants.iter().any(|grant| grant.spec.namespaces.selector.is_some());
        let labels = match (source, selects) {
            (Grants::File(_), _) | (_, false) => None,
            (_, true) if age.is_zero() => labels(client, namespace).await?,
            (_, true) => self.namespaces.get(age, all_labels(client)).await?.get(namespace).cloned(),
        };
        Ok(grant::authorise(grants.iter(), namespace, labels.as_ref(), authority))
    }
}

/// What many ask for, and one call can answer.
#[derive(Debug)]
struct Shared<T> {
    /// Locked across the call, on purpose. Every call is bounded by its time-out.
    last: Mutex<Option<Look<T>>>,
}

#[derive(Debug)]
struct Look<T> {
    began: Instant,
    answer: Result<Arc<T>, String>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { last: Mutex::default() }
    }
}

impl<T> Shared<T> {
    /// As it is at some moment between `age` before the call and the answer. A failure is looked at again sooner.
    async fn get(
        &self,
        age: Duration,
        look: impl Future<Output = Result<Arc<T>, String>>,
    ) -> Result<Arc<T>, String> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        let holds = |look: &&Look<T>| {
            let age = if look.answer.is_ok() { age } else { age.min(AFTER_ERROR) };
            look.began + age >= asked
        };
        if let Some(look) = last.as_ref().filter(holds) {
            return look.answer.clone();
        }
        let began = Instant::now();
        let answer = look.await;
        *last = Some(Look { began, answer: answer.clone() });
        answer
    }
}

async fn look(client: &Client, source: &Grants) -> Result<Arc<Vec<IdTokenGrant>>, String> {
    if let Grants::File(current) = source {
        return current.read().await.map_err(|error| error.to_string());
    }
    let api = Api::<IdTokenGrant>::all(client.clone());
    let listed = bounded("list IdTokenGrants", api.list(&ListParams::default())).await?;
    Ok(Arc::new(listed.items))
}

async fn all_labels(client: &Client) -> Result<Arc<HashMap<String, Labels>>, String> {
    let api = Api::<Namespace>::all(client.clone());
    let list: ObjectList<PartialObjectMeta<Namespace>> =
        bounded("list namespaces", api.list_metadata(&ListParams::default())).await?;
    let labels = |namespace: PartialObjectMeta<Namespace>| {
        Some((namespace.metadata.name?, namespace.metadata.labels.unwrap_or_default()))
    };
    Ok(Arc::new(list.items.into_iter().filter_map(labels).collect()))
}

/// Labels of `namespace`; `None`: there is no such namespace. By a list, which needs no right beyond those of the watch.
async fn labels(client: &Client, namespace: &str) -> Result<Option<Labels>, String> {
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
const AFTER_ERROR: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
