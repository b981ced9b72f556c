//! The bindings: ten each, in ten namespaces, need the same token.

use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::Request;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::google::{DEFAULT_ACCOUNT, Options, Role};

/// Bindings by number, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fleet(pub(super) u32);

impl Fleet {
    /// How many different tokens they need.
    pub(super) fn tokens(self) -> u32 {
        self.0.div_ceil(SHARERS)
    }

    /// Google, as far as they need it.
    pub(super) fn google(self, lifetime: Duration) -> Options {
        let operator = format!("serviceAccount:{DEFAULT_ACCOUNT}");
        let options = Options { id_token_lifetime: lifetime, ..Options::default() };
        (0..self.tokens()).map(caller).fold(options, |options, caller| {
            options.service_account(&caller).allow(&operator, Role::OpenIdTokenCreator, &caller)
        })
    }

    /// Makes the bindings with numbers from `first` on.
    pub(super) async fn create(self, client: &Client, first: u32) -> anyhow::Result<()> {
        let bindings = stream::iter(first..self.0).map(|number| async move {
            let object = binding(number);
            let path = format!("{}/idtokenbindings", path(number));
            post(client, &path, &object).await.with_context(|| format!("cannot create {}", name(number)))
        });
        bindings.buffer_unordered(AT_ONCE).try_collect().await
    }
}

/// Makes the namespaces, and a grant for each.
pub(super) async fn create_namespaces(client: &Client) -> anyhow::Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in (0..NAMESPACES).map(namespace) {
        let object = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        namespaces.create(&PostParams::default(), &object).await?;
        post(client, "/apis/idtoken.dev/v1alpha1/idtokengrants", &grant(&name)).await?;
    }
    Ok(())
}

/// The name of a binding, of which no two have the same.
pub(super) fn name(number: u32) -> String {
    format!("orders-{number:05}")
}

/// The namespace of a binding.
pub(super) fn namespace(number: u32) -> String {
    format!("team-{:02}", number % NAMESPACES)
}

/// The path of its namespace's part of our API.
pub(super) fn path(number: u32) -> String {
    format!("/apis/idtoken.dev/v1alpha1/namespaces/{}", namespace(number))
}

fn caller(token: u32) -> String {
    format!("caller-{token:05}@demo-project.iam.gserviceaccount.com")
}

fn binding(number: u32) -> Value {
    let token = number / SHARERS;
    json!({
        "apiVersion": "idtoken.dev/v1alpha1",
        "kind": "IdTokenBinding",
        "metadata": {"name": name(number)},
        "spec": {
            "audience": format!("https://api-{token:05}.bench.example.com"),
            "source": {"impersonation": {"serviceAccount": caller(token)}},
        },
    })
}

fn grant(namespace: &str) -> Value {
    json!({
        "apiVersion": "idtoken.dev/v1alpha1",
        "kind": "IdTokenGrant",
        "metadata": {"name": namespace},
        "spec": {
            "namespaces": {"names": [namespace]},
            "identities": ["*@demo-project.iam.gserviceaccount.com"],
            "audiences": ["https://*.bench.example.com"],
        },
    })
}

async fn post(client: &Client, path: &str, object: &Value) -> anyhow::Result<()> {
    let request = Request::post(path).header("content-type", "application/json");
    client.request_text(request.body(object.to_string().into_bytes())?).await?;
    Ok(())
}

/// Bindings that need the same token.
const SHARERS: u32 = 10;
const NAMESPACES: u32 = 20;
/// Requests at the same time.
const AT_ONCE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_bindings_in_ten_namespaces_need_the_same_token() {
        let of = |number| {
            let binding = binding(number);
            (binding["spec"].clone(), namespace(number))
        };
        let sharers: Vec<_> = (10..20).map(of).collect();
        assert!(sharers.iter().all(|(spec, _)| *spec == sharers[0].0));
        assert_eq!(sharers[0].0["audience"], "https://api-00001.bench.example.com");
        assert_eq!((sharers[0].1.as_str(), sharers[9].1.as_str()), ("team-10", "team-19"));
        assert_ne!(of(20).0, sharers[0].0);
        assert_eq!([20, 21, 300].map(|count| Fleet(count).tokens()), [2, 3, 30]);
    }
}
