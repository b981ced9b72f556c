//! `idtoken-operator check` on a real API server: what it says of an installation that works, and of one that does not.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{OPERATOR_NAMESPACE, World, google_options};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use xtask::cluster::ClusterOptions;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn it_says_whether_pods_get_what_they_ask_for_and_why_not() {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    // Every pod that is sent has to keep the strictest standard, or is refused.
    let enforce = json!({"metadata": {"labels": {
        "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "latest",
    }}});
    let namespaces = Api::<Namespace>::all(world.client.clone());
    namespaces.patch("shop", &PatchParams::default(), &Patch::Merge(enforce)).await.unwrap();

    let (ok, text) = world.kubectl(&["delete", "crd", "idtokenbindings.idtoken.dev"], None);
    assert!(ok, "{text}");
    let (ok, text) = check(&world, "shop").await;
    assert!(!ok && text.contains("are the CRDs installed?"), "{text}");
    world.install(&[]).await;

    let (ok, text) = check(&world, "shop").await;
    assert!(!ok && text.contains("ok: 1/2 the API server takes an IdTokenBinding\n"), "{text}");
    assert!(
        text.contains("the webhook was not asked for namespace shop"),
        "nothing is registered yet: {text}"
    );

    world.start_webhook().await;
    let (ok, text) = check(&world, "shop").await;
    assert!(ok, "{text}");
    assert_eq!(
        text,
        "ok: 1/2 the API server takes an IdTokenBinding\n\
         ok: 2/2 an annotated pod gets its volume, mount and variables\n\
         ok: pods in namespace shop get their volume, mount and variables\n"
    );
    let bindings = world.bindings().list(&ListParams::default()).await.unwrap();
    let pods =
        Api::<Pod>::namespaced(world.client.clone(), "shop").list(&ListParams::default()).await.unwrap();
    assert_eq!((bindings.items.len(), pods.items.len()), (0, 0), "dry runs leave nothing");

    let (ok, text) = check(&world, OPERATOR_NAMESPACE).await;
    assert!(!ok, "{text}");
    assert!(
        text.contains(&format!("Is the MutatingWebhookConfiguration (with injection.mode=policy: the MutatingAdmissionPolicy) installed, and is {OPERATOR_NAMESPACE} among the namespaces that it excludes")),
        "{text}"
    );
    assert!(text.ends_with("(given up after 3 s)\n"), "{text}");

    world.stop_webhook().await;
    let (ok, text) = check(&world, "shop").await;
    assert!(!ok, "{text}");
    assert!(
        text.contains("error: the API server can't reach a webhook: Internal error occurred: failed calling webhook \"pods.idtoken.dev\"")
            && text.contains("are its pods ready"),
        "{text}"
    );
    world.end().await;
}

async fn check(world: &World, namespace: &str) -> (bool, String) {
    world.run_operator(&["check", &format!("--namespace={namespace}"), "--timeout-seconds=3"]).await
}
