//! Grants on a real API server: what is granted, taken away and given back takes effect at once, a Secret that nobody may have any
//! more goes after its grace, and a grant says who uses it.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;
#[path = "api_grants/unheard.rs"]
mod unheard;

use std::time::Duration;

use common::{
    AUDIENCE, CALLER, OPERATOR, SOON, World, conditions, google_options, impersonation, impersonation_for,
    message, token,
};
use idtoken_operator::api::{IdTokenBinding, IdTokenGrant};
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use xtask::{
    cluster::ClusterOptions,
    google::{Endpoint, Fault, Role},
    process::wait_for,
};

/// A world whose controller removes Secrets after `grace`.
async fn world(grace: &str) -> World {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.flags = vec![format!("--grant-grace={grace}")];
    world.start_controller().await;
    world.namespace("shop").await;
    world.grant("shop", &["shop"], &[CALLER, "operator"]).await;
    world
}

fn grants(world: &World) -> Api<IdTokenGrant> {
    Api::all(world.client.clone())
}

async fn revoke(world: &World) {
    grants(world).delete("shop", &DeleteParams::default()).await.unwrap();
}

async fn give(world: &World) {
    world.grant("shop", &["shop"], &[CALLER, "operator"]).await;
}

fn since(binding: &IdTokenBinding) -> Option<jiff::Timestamp> {
    binding.status.clone().unwrap().not_granted_since
}

async fn ready(world: &World, names: &[&str]) {
    for name in names {
        world.bind(name, &impersonation()).await;
    }
    for name in names {
        world.wait_condition(name, "Ready=True/TokenFresh").await;
    }
}

/// How often Events have said that something is not granted.
async fn refusals(world: &World) -> i32 {
    let events =
        Api::<Event>::namespaced(world.client.clone(), "shop").list(&ListParams::default()).await.unwrap();
    let refusals = events.items.iter().filter(|event| event.reason.as_deref() == Some("NotGranted"));
    refusals.map(|event| event.series.as_ref().and_then(|series| series.count).unwrap_or(1)).sum()
}

async fn wait_gone(world: &World, secret: &str) {
    let api = world.secrets();
    let gone = wait_for("the Secret to be removed", SOON, || async {
        anyhow::ensure!(api.get_opt(secret).await?.is_none(), "it is still there");
        Ok(())
    });
    gone.await.unwrap_or_else(|error| panic!("{error:#}\n{}", xtask::process::tail(&world.logs(), 60)));
}

/// What a Secret is, and what it holds.
fn what(secret: &Secret) -> (Option<String>, Option<String>, String) {
    (secret.metadata.uid.clone(), secret.metadata.resource_version.clone(), token(secret))
}

async fn patch_secret(world: &World, name: &str, patch: Value) {
    world.secrets().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

/// Takes verbs away from a rule of the controller's ClusterRole, or gives them back.
fn rights(world: &World, resource: &str, verbs: &[&str]) {
    let mut role = world
        .render(&[])
        .into_iter()
        .find(|o| o["kind"] == "ClusterRole" && o["metadata"]["name"] == "idtoken-operator-controller")
        .unwrap();
    let rules = role["rules"].as_array_mut().unwrap();
    rules.iter_mut().find(|rule| rule["resources"] == json!([resource])).unwrap()["verbs"] = json!(verbs);
    world.apply(&[role]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_grant_that_goes_stops_mints_at_once_and_takes_secrets_after_the_grace() {
    let world = world("4s").await;
    ready(&world, &["orders", "resting", "orphaned", "replaced"]).await;
    let suspend = Patch::Merge(json!({"spec": {"suspend": true}}));
    world.bindings().patch("resting", &PatchParams::default(), &suspend).await.unwrap();
    world.wait_condition("resting", "Ready=True/Suspended").await;
    let before = world.secret_of("orders").await;
    revoke(&world).await;

    let degraded = world.wait_condition("orders", "Degraded=True/NotGranted").await;
    assert!(
        conditions(&degraded).contains(&"Ready=True/TokenFresh".to_owned()),
        "the token that is there is good"
    );
    let began = since(&degraded).unwrap();
    world.request_refresh("orders").await;
    let resting = world.wait_condition("resting", "Degraded=True/NotGranted").await;
    assert!(conditions(&resting).contains(&"Ready=True/Suspended".to_owned()));
    assert_eq!(what(&world.secret_of("orders").await), what(&before));

    // What is not ours by then stays: one that lost its owner, and one that somebody else put into its place.
    patch_secret(&world, "orphaned-idtoken", json!({"metadata": {"ownerReferences": null}})).await;
    let theirs = json!({"metadata": {"name": "replaced-idtoken"}, "stringData": {"id_token": "theirs"}});
    world.delete_secret("replaced-idtoken").await;
    world.secrets().create(&PostParams::default(), &serde_json::from_value(theirs).unwrap()).await.unwrap();

    let refused = world.wait_condition("orders", "Ready=False/NotGranted").await;
    let took = jiff::Timestamp::now().duration_since(began);
    assert!(took.as_secs() >= 4, "not before the grace was over: {took}");
    assert!(message(&refused, "Ready").contains("an administrator can allow it with:\n"));
    let status = refused.status.clone().unwrap();
    assert_eq!((since(&refused), status.secret_resource_version, status.identity), (None, None, None));
    wait_gone(&world, "orders-idtoken").await;
    world.wait_condition("resting", "Ready=False/NotGranted").await;
    wait_gone(&world, "resting-idtoken").await;
    world.wait_condition("orphaned", "Ready=False/SecretConflict").await;
    world.secret_of("orphaned").await;
    assert_eq!(
        world.google.count(Endpoint::GenerateIdToken),
        1,
        "for all of them; Google was not asked again"
    );
    let metrics = world.metrics().await;
    assert!(metrics.contains("idtoken_secret_writes_total{result=\"removed\"} 2\n"), "{metrics}");
    let events =
        Api::<Event>::namespaced(world.client.clone(), "shop").list(&ListParams::default()).await.unwrap();
    let told = events.items.iter().any(|e| {
        e.involved_object.name.as_deref() == Some("orders") && e.reason.as_deref() == Some("NotGranted")
    });
    assert!(told, "an event says so");

    give(&world).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    world.wait_condition("resting", "Ready=False/Suspended").await;
    world.wait_condition("replaced", "Ready=False/SecretConflict").await;
    assert_eq!(token(&world.secret_of("replaced").await), "theirs");
    assert_ne!(world.secret_of("orders").await.metadata.uid, before.metadata.uid);
    assert_eq!(world.google.count(Endpoint::GenerateIdToken), 2, "the refresh that was asked for");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_grant_that_comes_back_within_the_grace_disturbs_nobody() {
    let world = world("2m").await;
    ready(&world, &["orders"]).await;
    let before = world.secret_of("orders").await;
    let undisturbed = async |how: &str| {
        let healed = world.wait_condition("orders", "Degraded=False/TokenFresh").await;
        assert!(conditions(&healed).contains(&"Ready=True/TokenFresh".to_owned()), "{how}");
        assert_eq!(since(&healed), None, "{how}");
        assert_eq!(what(&world.secret_of("orders").await), what(&before), "{how}");
        assert_eq!(world.google.count(Endpoint::GenerateIdToken), 1, "{how}");
    };
    revoke(&world).await;
    world.wait_condition("orders", "Degraded=True/NotGranted").await;
    give(&world).await;
    undisturbed("deleted and made again").await;

    let audiences = |audience: &str| Patch::Merge(json!({"spec": {"audiences": [audience]}}));
    grants(&world).patch("shop", &PatchParams::default(), &audiences("https://*.example.com")).await.unwrap();
    world.wait_condition("orders", "Degraded=True/NotGranted").await;
    grants(&world).patch("shop", &PatchParams::default(), &audiences("https://*.a.run.app")).await.unwrap();
    undisturbed("changed and changed back").await;

    // By the labels of the namespace.
    world.kubectl(&["label", "namespace", "shop", "team=orders"], None);
    let spec = json!({"namespaces": {"selector": {"matchLabels": {"team": "orders"}}}, "identities": [CALLER], "audiences": [AUDIENCE]});
    world.apply(&[json!({"apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenGrant", "metadata": {"name": "team"}, "spec": spec})]);
    revoke(&world).await;
    world.kubectl(&["label", "namespace", "shop", "team-"], None);
    world.wait_condition("orders", "Degraded=True/NotGranted").await;
    world.kubectl(&["label", "namespace", "shop", "team=orders"], None);
    undisturbed("the label was taken away and given back").await;

    // A binding that asks for something else is no longer allowed, at once.
    let elsewhere = json!({"spec": {"audience": "https://carts.a.run.app"}});
    world.bindings().patch("orders", &PatchParams::default(), &Patch::Merge(elsewhere)).await.unwrap();
    let refused = world.wait_condition("orders", "Ready=False/NotGranted").await;
    assert_eq!(since(&refused), None, "what stands in the Secret is allowed");
    assert_eq!(what(&world.secret_of("orders").await), what(&before));
    let back = json!({"spec": {"audience": AUDIENCE}});
    world.bindings().patch("orders", &PatchParams::default(), &Patch::Merge(back)).await.unwrap();
    undisturbed("it asked for something else, and did not any more").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn what_a_secret_holds_decides_and_not_what_its_binding_asks_for_by_then() {
    let world = world("2s").await;
    ready(&world, &["orders", "kept", "broken"]).await;
    let edit = async |name: &str, spec: Value| {
        let patch = Patch::Merge(json!({"spec": spec}));
        world.bindings().patch(name, &PatchParams::default(), &patch).await.unwrap();
    };
    // It asks for what is not granted; what it has is.
    let before = world.secret_of("kept").await;
    edit("kept", json!({"audience": "https://evil.example.com"})).await;
    let refused = world.wait_condition("kept", "Ready=False/NotGranted").await;
    assert_eq!(since(&refused), None);
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.request_refresh("kept").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(what(&world.secret_of("kept").await), what(&before), "the grace is over, and has never begun");

    // It asks for what needs no grant, and can't be had; what it has is granted no longer.
    let finalizer = json!({"metadata": {"finalizers": ["example.com/backup"]}});
    patch_secret(&world, "broken-idtoken", finalizer).await;
    revoke(&world).await;
    let key =
        json!({"impersonation": null, "serviceAccountKey": {"secretRef": {"name": "none", "key": "none"}}});
    for name in ["orders", "broken"] {
        edit(name, json!({"source": key})).await;
    }
    wait_gone(&world, "orders-idtoken").await;
    wait_gone(&world, "kept-idtoken").await;
    world.wait_condition("orders", "Ready=False/CredentialsNotFound").await;

    // One that is held up counts as gone, and says so.
    let told = wait_for("the finalizer to be named", SOON, || async {
        let broken = world.bindings().get("broken").await?;
        anyhow::ensure!(message(&broken, "Ready").contains("example.com/backup"), "not yet");
        Ok(broken)
    });
    let held = told.await.unwrap();
    assert!(conditions(&held).contains(&"Ready=False/CredentialsNotFound".to_owned()));
    assert!(world.secret_of("broken").await.metadata.deletion_timestamp.is_some());
    let metrics = world.metrics().await;
    assert!(metrics.contains("idtoken_secret_writes_total{result=\"removed\"} 2\n"), "{metrics}");
    patch_secret(&world, "broken-idtoken", json!({"metadata": {"finalizers": null}})).await;
    wait_gone(&world, "broken-idtoken").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_grant_that_is_deleted_and_made_again_at_once_is_no_news() {
    let world = world("2m").await;
    ready(&world, &["orders"]).await;
    // The controller may have heard of the binding before it heard of the grant.
    let told = refusals(&world).await;
    let before = world.bindings().get("orders").await.unwrap().metadata.resource_version;
    revoke(&world).await;
    // Longer than it takes to be noticed.
    tokio::time::sleep(Duration::from_secs(1)).await;
    give(&world).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let after = world.bindings().get("orders").await.unwrap();
    assert_eq!(after.metadata.resource_version, before, "no status was written");
    assert_eq!(refusals(&world).await, told, "no Event was sent");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_revocation_while_a_mint_is_in_flight_writes_nothing() {
    let world = world("2m").await;
    ready(&world, &["orders"]).await;
    let before = world.secret_of("orders").await;
    world.google.set_fault(Endpoint::GenerateIdToken, Fault::Latency(Duration::from_secs(5)));
    world.request_refresh("orders").await;
    world.bind("first", &impersonation_for("first")).await;
    // It needs the same token as the refresh, and waits for it.
    world.bind("sharer", &impersonation()).await;
    let asked = wait_for("both mints to be under way", SOON, || async {
        let count = world.google.count(Endpoint::GenerateIdToken);
        anyhow::ensure!(count == 3, "{count} requests");
        Ok(())
    });
    asked.await.unwrap();
    revoke(&world).await;
    world.wait_condition("orders", "Degraded=True/NotGranted").await;
    for name in ["first", "sharer"] {
        world.wait_condition(name, "Ready=False/NotGranted").await;
        assert!(world.secrets().get_opt(&format!("{name}-idtoken")).await.unwrap().is_none());
    }
    assert_eq!(world.google.minted(Endpoint::GenerateIdToken), 3, "Google did give the tokens");
    assert_eq!(what(&world.secret_of("orders").await), what(&before));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_restart_goes_on_with_the_grace_where_it_was() {
    let mut world = world("1h").await;
    ready(&world, &["orders"]).await;
    revoke(&world).await;
    let began = since(&world.wait_condition("orders", "Degraded=True/NotGranted").await).unwrap();
    world.stop_controller().await;
    world.start_controller().await;
    // What it says of another binding shows that the new controller has gone through its queue.
    world.bind("late", &impersonation()).await;
    world.wait_condition("late", "Ready=False/NotGranted").await;
    world.request_refresh("orders").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(since(&world.bindings().get("orders").await.unwrap()), Some(began));
    world.secret_of("orders").await;

    world.stop_controller().await;
    world.flags = vec!["--grant-grace=1s".to_owned()];
    world.start_controller().await;
    wait_gone(&world, "orders-idtoken").await;
    world.wait_condition("orders", "Ready=False/NotGranted").await;
    assert_eq!(world.google.count(Endpoint::GenerateIdToken), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_last_look_beats_a_watch_that_is_behind() {
    let mut world = world("2s").await;
    ready(&world, &["orders"]).await;
    let before = world.secret_of("orders").await;
    world.stop_controller().await;
    revoke(&world).await;
    // It will list grants, once, and then hear of none.
    rights(&world, "idtokengrants", &["list"]);
    world.start_controller().await;
    world.wait_condition("orders", "Degraded=True/NotGranted").await;
    give(&world).await;
    let looked = wait_for("the last look", SOON, || async {
        let logs = world.logs();
        anyhow::ensure!(logs.contains("a grant allows it, although the watches say none does"), "not yet");
        Ok(())
    });
    looked.await.unwrap();
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    assert_eq!(what(&world.secret_of("orders").await), what(&before));

    rights(&world, "idtokengrants", &["list", "watch"]);
    world.wait_condition_within("orders", "Degraded=False/TokenFresh", Duration::from_secs(60)).await;
    assert_eq!(what(&world.secret_of("orders").await), what(&before));
    assert_eq!(world.google.count(Endpoint::GenerateIdToken), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_removal_that_is_not_possible_is_told_and_tried_again() {
    let world = world("1s").await;
    ready(&world, &["orders"]).await;
    rights(&world, "secrets", &["get", "list", "watch", "create", "update"]);
    revoke(&world).await;
    let failed = world.wait_condition("orders", "Degraded=True/SecretUnavailable").await;
    assert_eq!(
        message(&failed, "Degraded"),
        "no grant allows Secret orders-idtoken any more, but it could not be removed: delete Secret shop/orders-idtoken: \
         HTTP 403 Forbidden; check the operator's rights and admission policies in this namespace"
    );
    let began = since(&failed);
    assert!(began.is_some());
    world.secret_of("orders").await;
    rights(&world, "secrets", &["get", "list", "watch", "create", "update", "delete"]);
    world.wait_condition_within("orders", "Ready=False/NotGranted", Duration::from_secs(60)).await;
    wait_gone(&world, "orders-idtoken").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_grant_taken_out_of_the_file_takes_the_secret_too() {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    let file = world.directory.path().join("grants.yaml");
    let grant = format!(
        "{{apiVersion: idtoken.dev/v1alpha1, kind: IdTokenGrant, metadata: {{name: shop}}, spec: {{\
         namespaces: {{names: [shop]}}, identities: [{CALLER}], audiences: ['https://*.a.run.app']}}}}"
    );
    std::fs::write(&file, &grant).unwrap();
    world.flags = vec![
        "--namespace=shop".to_owned(),
        format!("--grants-file={}", file.display()),
        "--grant-grace=2s".to_owned(),
    ];
    world.start_controller().await;
    ready(&world, &["orders"]).await;
    std::fs::write(&file, "# nothing\n").unwrap();
    world.wait_condition("orders", "Ready=False/NotGranted").await;
    wait_gone(&world, "orders-idtoken").await;
    std::fs::write(&file, &grant).unwrap();
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    assert!(!world.logs().contains("Forbidden"), "{}", world.logs());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_grant_says_who_uses_it() {
    let world = world("2m").await;
    ready(&world, &["orders", "carts"]).await;
    let api = grants(&world);
    let says = async |bindings: i64, used_by: &[&str]| {
        let said = wait_for("the grant's status", SOON, || async {
            let status = api.get("shop").await?.status.unwrap_or_default();
            anyhow::ensure!(status.bindings == Some(bindings) && status.used_by == used_by, "{status:?}");
            Ok(status)
        });
        said.await.unwrap_or_else(|error| panic!("{error:#}\n{}", xtask::process::tail(&world.logs(), 60)))
    };
    let status = says(2, &["shop/carts", "shop/orders"]).await;
    assert_eq!(status.observed_generation, Some(1));
    let (_, table) = world.kubectl(&["get", "itg", "-o", "wide"], None);
    let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "NAMESPACES", "IDENTITIES", "AUDIENCES", "BINDINGS", "AGE", "USED", "BY"]);
    assert_eq!((rows[1][0], rows[1][4], rows[1][6]), ("shop", "2", "[\"shop/carts\",\"shop/orders\"]"));
    let (_, narrow) = world.kubectl(&["get", "itg"], None);
    assert!(!narrow.contains("USED BY") && narrow.contains("BINDINGS"), "{narrow}");

    world.bindings().delete("carts", &DeleteParams::default()).await.unwrap();
    says(1, &["shop/orders"]).await;
    let narrower = Patch::Merge(json!({"spec": {"audiences": ["https://*.example.com"]}}));
    api.patch("shop", &PatchParams::default(), &narrower).await.unwrap();
    let status = says(0, &[]).await;
    assert_eq!(status.observed_generation, Some(2));
    // Nobody writes what has not changed.
    let version = api.get("shop").await.unwrap().metadata.resource_version;
    world.bind("another", &impersonation()).await;
    world.wait_condition("another", "Ready=False/NotGranted").await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(api.get("shop").await.unwrap().metadata.resource_version, version);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_operator_is_never_impersonated_and_named_only_to_who_may_use_it() {
    const MIDDLE: &str = "middle@demo-project.iam.gserviceaccount.com";
    let options = google_options()
        .service_account(MIDDLE)
        .allow(&common::member(OPERATOR), Role::TokenCreator, OPERATOR)
        .allow(&common::member(OPERATOR), Role::TokenCreator, MIDDLE)
        .allow(&common::member(MIDDLE), Role::TokenCreator, CALLER);
    let world = World::with_controller(options).await;
    let everything = json!({"namespaces": {"names": ["shop"]}, "identities": ["*@demo-project.iam.gserviceaccount.com"],
        "audiences": ["https://*.a.run.app"], "delegates": true, "kinds": ["IdToken", "SignedJwt"]});
    world.apply(&[json!({"apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenGrant", "metadata": {"name": "wide"}, "spec": everything})]);
    world.namespace("poor").await;
    let poor = Api::<IdTokenBinding>::namespaced(world.client.clone(), "poor");
    let chain = |target: &str, delegates: &[&str]| json!({"impersonation": {"serviceAccount": target, "delegates": delegates}});
    let table = [
        ("target", chain(OPERATOR, &[])),
        ("target-of-a-chain", chain(OPERATOR, &[MIDDLE])),
        ("delegate", chain(CALLER, &[OPERATOR])),
        ("last-delegate", chain(CALLER, &[MIDDLE, OPERATOR])),
        ("first-delegate", chain(CALLER, &[OPERATOR, MIDDLE])),
        ("signer", json!({"signedJwt": {"serviceAccount": OPERATOR}})),
    ];
    for (name, source) in &table {
        let spec = json!({"audience": AUDIENCE, "source": source});
        world.bind(name, &spec).await;
        poor.create(&PostParams::default(), &common::binding("poor", name, &spec)).await.unwrap();
    }
    for (name, source) in &table {
        let refused = world.wait_condition(name, "Ready=False/SelfImpersonation").await;
        assert!(conditions(&refused).contains(&"Stalled=True/SelfImpersonation".to_owned()), "{name}");
        let named = wait_for("NotGranted", SOON, || async {
            let binding = poor.get(name).await?;
            let now = conditions(&binding);
            anyhow::ensure!(now.contains(&"Ready=False/NotGranted".to_owned()), "{name}: {now:?}");
            Ok(serde_json::to_value(binding.status)?.to_string())
        });
        // A target is named as the binding names it: whether that is the operator is not told.
        let told = named.await.unwrap();
        assert!(!told.contains("operator's own"), "{told}");
        let target =
            source.pointer("/impersonation/serviceAccount").or(source.pointer("/signedJwt/serviceAccount"));
        assert_eq!(told.contains(OPERATOR), target == Some(&json!(OPERATOR)), "{name}: {told}");
    }
    for endpoint in [Endpoint::GenerateIdToken, Endpoint::SignJwt, Endpoint::GenerateAccessToken] {
        assert_eq!(world.google.count(endpoint), 0, "{endpoint:?}");
    }
    world.end().await;
}
