//! Never destroy, always restore: what becomes of Secrets that others own, delete or change.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use common::{
    AUDIENCE, CALLER, SOON, World, claims, google_options, impersonation, message, metadata_server,
    other_webhook::OtherWebhook, token,
};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use xtask::{
    cluster::ClusterOptions,
    google::{Endpoint, Fault},
    process::wait_for,
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_secret_that_belongs_to_someone_else_stays_as_it_is() {
    let world = World::with_controller(google_options()).await;
    let plain = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "orders-idtoken", "namespace": "shop"}, "stringData": {"id_token": "mine"}});
    // Ours by type, yet controlled by something else: the watch sees it, and it is foreign all the same.
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "6a1c2f3e-0000-4000-8000-000000000001", "controller": true});
    let owned = json!({"apiVersion": "v1", "kind": "Secret", "type": "idtoken.dev/id-token", "metadata": {"name": "carts-idtoken", "namespace": "shop", "ownerReferences": [owner]}, "stringData": {"id_token": "mine"}});
    world.apply(&[plain, owned]);
    for name in ["orders", "carts"] {
        let before = world.secret_of(name).await;
        world.bind(name, &impersonation()).await;
        let refused = world.wait_condition(name, "Ready=False/SecretConflict").await;
        assert!(common::conditions(&refused).contains(&"Stalled=True/SecretConflict".to_owned()));
        assert!(message(&refused, "Ready").contains("delete or rename it"), "{}", message(&refused, "Ready"));
        world.request_refresh(name).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let after = world.secret_of(name).await;
        assert_eq!(after, before);
    }
    let asked = world.google.count(Endpoint::GenerateIdToken);
    assert_eq!(asked, 1, "for the one that no watch shows, and never again");
    world.delete_secret("orders-idtoken").await;
    world.request_refresh("orders").await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn deleted_and_tampered_secrets_come_back() {
    let world = World::with_controller(google_options()).await;
    world.bind("orders", &impersonation()).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    let first = world.secret_of("orders").await;
    world.delete_secret("orders-idtoken").await;
    let second = world
        .wait_secret("orders-idtoken", "the Secret to come back", Duration::from_secs(3), |s| {
            s.metadata.uid != first.metadata.uid
        })
        .await;
    assert_eq!(claims(&token(&second))["aud"], AUDIENCE);

    let own_value = |value: &str| json!({"data": {"id_token": BASE64_STANDARD.encode(value)}});
    let patches = [
        own_value("not a token"),
        json!({"data": {"id_token": null}}),
        json!({"metadata": {"annotations": {"idtoken.dev/token-sha256": "0".repeat(64)}}}),
        json!({"metadata": {"annotations": {"idtoken.dev/expiration-time": null}}}),
    ];
    restores(&world, &patches).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn forged_secrets_come_back() {
    let world = World::with_controller(google_options()).await;
    world.bind("orders", &impersonation()).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    let patches = [
        json!({"metadata": {"annotations": {"idtoken.dev/expiration-time": "2030-01-01T00:00:00Z"}}}),
        // A forger who mends the hash too: the token itself gives him away.
        json!({"data": {"id_token": BASE64_STANDARD.encode("a.b.c")}, "metadata": {"annotations": {
            "idtoken.dev/token-sha256": common::sha256("a.b.c")}}}),
    ];
    restores(&world, &patches).await;
    world.end().await;
}

/// Applies each patch to the Secret of `orders`, and waits until a good token is back.
async fn restores(world: &World, patches: &[serde_json::Value]) {
    for patch in patches {
        println!("{patch}");
        let changed = world
            .secrets()
            .patch("orders-idtoken", &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
        let restored = world
            .wait_secret("orders-idtoken", "the token to come back", SOON, |s| {
                s.metadata.resource_version != changed.metadata.resource_version
                    && s.data.as_ref().is_some_and(|d| d.contains_key("id_token"))
                    && token(s).starts_with("eyJ")
            })
            .await;
        let raw = token(&restored);
        assert_eq!(claims(&raw)["email"], CALLER);
        let annotations = restored.metadata.annotations.unwrap();
        assert_eq!(annotations["idtoken.dev/token-sha256"], common::sha256(&raw));
        let expires: jiff::Timestamp = annotations["idtoken.dev/expiration-time"].parse().unwrap();
        assert_eq!(claims(&raw)["exp"], expires.as_second());
        world.wait_condition("orders", "Ready=True/TokenFresh").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn labels_of_others_cost_no_token_and_survive_a_refresh() {
    let world = World::with_controller(google_options()).await;
    world.bind("orders", &impersonation()).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    let (ok, output) = world.kubectl(&["label", "-n", "shop", "secret/orders-idtoken", "backup=no"], None);
    assert!(ok, "{output}");
    let api = world.bindings();
    let labelled = world.secret_of("orders").await.metadata.resource_version;
    let noted = || async {
        let status = api.get("orders").await?.status.unwrap();
        anyhow::ensure!(status.secret_resource_version == labelled, "{:?}", status.secret_resource_version);
        Ok(())
    };
    xtask::process::wait_for("the status to follow", SOON, noted).await.unwrap();
    assert_eq!(world.google.minted(Endpoint::GenerateIdToken), 1);
    let before = world.secret_of("orders").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    world.request_refresh("orders").await;
    let after = world.wait_secret("orders-idtoken", "a refresh", SOON, |s| token(s) != token(&before)).await;
    assert_eq!(after.metadata.labels.unwrap()["backup"], "no");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn whoever_deletes_it_again_and_again_waits_longer_each_time() {
    let world = World::with_controller(google_options()).await;
    world.bind("orders", &impersonation()).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    let begin = std::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(12) {
        let _ = world.secrets().delete("orders-idtoken", &DeleteParams::default()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let metrics = world.metrics().await;
    let counted =
        metrics.lines().find_map(|l| l.strip_prefix("idtoken_secret_writes_total{result=\"written\"} "));
    let written: u32 = counted.unwrap().parse().unwrap();
    assert!((3..=8).contains(&written), "1 + restores after 0, 1, 2 and 4 s: {written}");
    assert_eq!(world.google.minted(Endpoint::GenerateIdToken), 1, "the token that is lost is still at hand");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_secret_goes_with_its_binding() {
    let options = ClusterOptions { controller_manager: true, ..ClusterOptions::default() };
    let mut world = World::start(google_options(), options).await;
    world.start_controller().await;
    world.namespace("shop").await;
    world.grant("shop", &["shop"], &[CALLER, "operator"]).await;
    world.bind("orders", &impersonation()).await;
    world.bind("own", &metadata_server()).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    world.wait_condition("own", "Ready=True/TokenFresh").await;
    world.bindings().delete("orders", &DeleteParams::default()).await.unwrap();
    let api = world.secrets();
    let gone = || async {
        anyhow::ensure!(api.get_opt("orders-idtoken").await?.is_none(), "it is there");
        Ok(())
    };
    // The garbage collector learns of new kinds every 30 s.
    xtask::process::wait_for("the Secret to go", Duration::from_secs(60), gone).await.unwrap();
    assert!(api.get_opt("own-idtoken").await.unwrap().is_some());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn an_immutable_secret_of_ours_is_told_with_the_way_out() {
    let world = World::with_controller(google_options()).await;
    world.bind("orders", &impersonation()).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    let patch = Patch::Merge(json!({"immutable": true}));
    world.secrets().patch("orders-idtoken", &PatchParams::default(), &patch).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    world.request_refresh("orders").await;
    let degraded = world.wait_condition("orders", "Degraded=True/SecretUnavailable").await;
    assert!(
        message(&degraded, "Degraded").contains("delete it and it comes back"),
        "{}",
        message(&degraded, "Degraded")
    );
    world.delete_secret("orders-idtoken").await;
    world.wait_condition("orders", "Degraded=False/TokenFresh").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn very_many_secrets_do_not_keep_the_controller_from_starting() {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    world.grant("shop", &["shop"], &[CALLER]).await;
    let owner = |i: usize| {
        json!({"apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding", "name": format!("b{i}"),
            "uid": format!("6a1c2f3e-0000-4000-8000-{i:012}"), "controller": true})
    };
    let create = |i: usize| {
        let metadata = json!({"name": format!("b{i}-idtoken"), "ownerReferences": [owner(i)]});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "idtoken.dev/id-token", "metadata": metadata});
        let api = world.secrets();
        async move { api.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap() }
    };
    let created = futures::stream::iter((0..1500).map(create)).buffer_unordered(16).count().await;
    assert_eq!(created, 1500);
    world.start_controller().await; // fails unless it is ready in time
    world.bind("orders", &impersonation()).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_new_label_reaches_the_secret_and_never_makes_a_good_token_bad() {
    let world = World::with_controller(google_options()).await;
    world.bind("orders", &impersonation()).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    world.google.set_fault(Endpoint::GenerateIdToken, Fault::Unavailable);
    // A refresh is asked for, too: for the label alone the token that was just made would do.
    let label = |value: Option<&str>| {
        let requested = json!({"idtoken.dev/refresh-requested-at": value});
        let spec = json!({"secret": {"labels": {"team": value}}});
        Patch::Merge(json!({"metadata": {"annotations": requested}, "spec": spec}))
    };
    let params = PatchParams::default();
    world.bindings().patch("orders", &params, &label(Some("orders"))).await.unwrap();
    let degraded = world.wait_condition("orders", "Degraded=True/SourceUnavailable").await;
    assert!(common::conditions(&degraded).contains(&"Ready=True/TokenFresh".to_owned()));
    world.google.clear_faults();
    let team = |s: &Secret| s.metadata.labels.clone().unwrap_or_default().get("team").cloned();
    world.wait_secret("orders-idtoken", "the label", SOON, |s| team(s).as_deref() == Some("orders")).await;
    world.bindings().patch("orders", &params, &label(None)).await.unwrap();
    world.wait_secret("orders-idtoken", "the label to go", SOON, |s| team(s).is_none()).await;
    world.wait_condition("orders", "Degraded=False/TokenFresh").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_binding_made_anew_waits_for_the_former_ones_secret_to_go() {
    let world = World::with_controller(google_options()).await; // without a garbage collector: the test plays it
    world.bind("orders", &impersonation()).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    let former = world.secret_of("orders").await;
    world.bindings().delete("orders", &DeleteParams::default()).await.unwrap();
    world.bind("orders", &impersonation()).await;
    let waiting = world.wait_condition("orders", "Ready=False/SecretConflict").await;
    assert!(common::conditions(&waiting).contains(&"Stalled=False/SecretConflict".to_owned()));
    assert_eq!(world.secret_of("orders").await, former);
    world.delete_secret("orders-idtoken").await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_write_that_the_api_server_is_too_busy_for_is_decided_anew() {
    let world = World::with_controller(google_options()).await;
    let refusals = Arc::new(AtomicUsize::new(0));
    let left = refusals.clone();
    let busy = OtherWebhook::answering(move |_| {
        match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => json!({"allowed": false, "status": {"code": 429, "message": "busy"}}),
            Err(_) => json!({"allowed": true}),
        }
    })
    .await;
    let mut registration = busy.registration("busy");
    registration["webhooks"][0]["rules"][0]["resources"] = json!(["secrets"]);
    registration["webhooks"][0]["namespaceSelector"] =
        json!({"matchLabels": {"kubernetes.io/metadata.name": "shop"}});
    world.apply(&[registration]);
    let probe = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "probe"}});
    let probe = serde_json::from_value(probe).unwrap();
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    wait_for("the registration to act", SOON, || async {
        world.secrets().create(&dry_run, &probe).await?;
        anyhow::ensure!(busy.calls() > 0, "a Secret was let in unasked");
        Ok(())
    })
    .await
    .unwrap();
    refusals.store(2, Ordering::SeqCst);
    let before = busy.calls();
    world.bind("orders", &impersonation()).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    let minted = world.google.count(Endpoint::GenerateIdToken);
    assert_eq!(minted, 1);
    assert_eq!(busy.calls() - before, 3);
    let metrics = world.metrics().await;
    for writes in ["{result=\"failed\"} 2\n", "{result=\"written\"} 1\n"] {
        let counted = metrics.contains(&format!("idtoken_secret_writes_total{writes}"));
        assert!(counted, "each was decided anew, and none was sent again behind our back: {metrics}");
    }
    world.end().await;
}
