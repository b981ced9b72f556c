//! The main job on a real API server: a binding becomes a Secret with a fresh, verified token, and stays one.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::time::Duration;

use common::{
    AUDIENCE, CALLER, OPERATOR, SOON, World, claims, data, google_options, http_get, impersonation, message,
    metadata_server, token,
};
use idtoken_operator::api::IdTokenBinding;
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use xtask::google::{Endpoint, Fault, Role};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_binding_becomes_a_secret_with_a_verified_token() {
    let world = World::with_controller(google_options()).await;
    let spec = json!({
        "audience": AUDIENCE,
        "source": {"impersonation": {"serviceAccount": CALLER}},
        "secret": {"authorizationKey": "authorization", "labels": {"team": "orders"}, "annotations": {"example.com/contact": "x"}},
    });
    world.bind("orders", &spec).await;
    let (ok, output) =
        world.kubectl(&["wait", "-n", "shop", "itb/orders", "--for=condition=Ready", "--timeout=20s"], None);
    assert!(ok, "{output}\n{}", world.logs());
    let binding = world.wait_condition("orders", "Ready=True/TokenFresh").await;

    let secret = world.secret_of("orders").await;
    let raw = token(&secret);
    let claims = claims(&raw);
    assert_eq!(claims["iss"], "https://accounts.google.com");
    assert_eq!(claims["aud"], AUDIENCE);
    assert_eq!(claims["email"], CALLER);
    assert_eq!(claims["email_verified"], true);
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3600);
    assert_eq!(data(&secret, "authorization"), format!("Bearer {raw}"));
    assert_eq!(secret.data.as_ref().unwrap().len(), 2);
    assert_eq!(secret.type_.as_deref(), Some("idtoken.dev/id-token"));
    let labels = secret.metadata.labels.clone().unwrap();
    assert_eq!(labels["team"], "orders");
    assert_eq!(labels["velero.io/exclude-from-backup"], "true");
    let annotations = secret.metadata.annotations.clone().unwrap();
    assert_eq!(annotations["reloader.stakater.com/ignore"], "true");
    assert_eq!(annotations["example.com/contact"], "x");
    let owner = &secret.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.name.as_str(), owner.controller),
        ("IdTokenBinding", "orders", Some(true))
    );

    let status = binding.status.unwrap();
    assert_eq!(status.identity.as_deref(), Some(CALLER));
    assert_eq!(status.issuer.as_deref(), Some("https://accounts.google.com"));
    assert_eq!(status.secret_name.as_deref(), Some("orders-idtoken"));
    assert_eq!(status.secret_resource_version, secret.metadata.resource_version);
    assert_eq!(status.expiration_time.unwrap().as_second(), claims["exp"].as_i64().unwrap());
    assert_eq!(status.observed_generation, Some(1));
    let minutes = status.next_refresh_time.unwrap().duration_since(status.issue_time.unwrap()).as_mins();
    assert!((32..=36).contains(&minutes), "60 percent of an hour less at most 5 points: {minutes}");
    assert_eq!(status.conditions.iter().map(|c| c.observed_generation).collect::<Vec<_>>(), [Some(1); 3]);

    let (_, table) = world.kubectl(&["get", "itb", "-n", "shop", "-o", "wide"], None);
    let header: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        header,
        [
            "NAME", "READY", "AUDIENCE", "IDENTITY", "EXPIRES", "AGE", "SOURCE", "SECRET", "REASON", "NEXT",
            "REFRESH"
        ]
    );
    assert_eq!(world.google.minted(Endpoint::GenerateIdToken), 1);
    let events =
        Api::<Event>::namespaced(world.client.clone(), "shop").list(&ListParams::default()).await.unwrap();
    let reasons: Vec<_> = events.items.iter().filter_map(|e| e.reason.as_deref()).collect();
    assert_eq!(reasons, [] as [&str; 0], "nothing has gone wrong");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_token_is_refreshed_before_it_ends_with_one_write_each() {
    let world = World::with_controller(google_options()).await;
    world.google.set_id_token_lifetime(Duration::from_secs(10));
    world.bind("orders", &impersonation()).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    let first = world.secret_of("orders").await;
    let exp = |s: &_| claims(&token(s))["exp"].as_i64().unwrap();
    let later = world
        .wait_secret("orders-idtoken", "a later token", Duration::from_secs(10), |s| exp(s) > exp(&first))
        .await;
    assert!(
        exp(&first) > jiff::Timestamp::now().as_second(),
        "the old token is still good when the new one is there"
    );
    assert_eq!(later.metadata.uid, first.metadata.uid);
    let rest = world
        .wait_secret("orders-idtoken", "a third", Duration::from_secs(10), |s| exp(s) > exp(&later))
        .await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    let metrics = world.metrics().await;
    let minted = world.google.minted(Endpoint::GenerateIdToken);
    assert!(minted >= 3 && exp(&rest) > exp(&later));
    let counter = |name: &str| -> u64 {
        let line =
            metrics.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name} in {metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let writes = counter("idtoken_secret_writes_total{result=\"written\"}");
    let statuses = counter("idtoken_status_writes_total{result=\"written\"}");
    assert!(
        writes.abs_diff(minted) <= 1,
        "one write of the Secret for each of {minted} tokens, not {writes}"
    );
    assert!(
        statuses <= writes + 1,
        "one status a token and one for the first visit: {statuses} for {writes}"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_restart_mints_nothing_that_is_still_good() {
    let mut world = World::with_controller(google_options()).await;
    for name in ["a", "b", "c"] {
        world.bind(name, &impersonation()).await;
    }
    for name in ["a", "b", "c"] {
        world.wait_condition(name, "Ready=True/TokenFresh").await;
    }
    let before = world.secret_of("a").await.metadata.resource_version;
    world.stop_controller().await;
    world.start_controller().await;
    // A fourth binding shows that the new controller has gone through its queue.
    world.bind("d", &impersonation()).await;
    world.wait_condition("d", "Ready=True/TokenFresh").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        world.google.minted(Endpoint::GenerateIdToken),
        2,
        "one that three share, and one for the fourth"
    );
    assert_eq!(world.secret_of("a").await.metadata.resource_version, before);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_metadata_servers_cached_token_is_kept_and_asked_for_again() {
    let world = World::with_controller(google_options()).await;
    world.google.set_id_token_lifetime(Duration::from_secs(20));
    world.google.set_metadata_cache_margin(Some(Duration::from_secs(3)));
    world.bind("own", &metadata_server()).await;
    let ready = world.wait_condition("own", "Ready=True/TokenFresh").await;
    assert_eq!(ready.status.unwrap().identity.as_deref(), Some(OPERATOR));
    let first = world.secret_of("own").await;
    let exp = |s: &_| claims(&token(s))["exp"].as_i64().unwrap();
    let later = world
        .wait_secret("own-idtoken", "a later token", Duration::from_secs(25), |s| exp(s) > exp(&first))
        .await;
    assert!(jiff::Timestamp::now().as_second() <= exp(&first), "it came before the first one ended");
    assert!(world.google.count(Endpoint::MetadataIdentity) >= 3, "the cached token was handed out again");
    assert_eq!(world.google.minted(Endpoint::MetadataIdentity), 2);
    let counter = world.metrics().await;
    assert!(counter.contains("idtoken_secret_writes_total{result=\"written\"} 2\n"), "{counter}");
    assert_ne!(later.metadata.resource_version, first.metadata.resource_version);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_forced_refresh_happens_once_and_suspended_bindings_rest() {
    let world = World::with_controller(google_options()).await;
    world.bind("orders", &impersonation()).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    let first = token(&world.secret_of("orders").await);
    tokio::time::sleep(Duration::from_millis(1100)).await; // another second, another token
    world.request_refresh("orders").await;
    world.wait_secret("orders-idtoken", "another token", SOON, |s| token(s) != first).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.google.minted(Endpoint::GenerateIdToken), 2, "once, not again and again");

    let suspend = Patch::Merge(json!({"spec": {"suspend": true}}));
    world.bindings().patch("orders", &PatchParams::default(), &suspend).await.unwrap();
    world.wait_condition("orders", "Ready=True/Suspended").await;
    world.request_refresh("orders").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.google.minted(Endpoint::GenerateIdToken), 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_operator_may_be_a_key_file_and_go_through_delegates() {
    const KEYED: &str = "keyed@demo-project.iam.gserviceaccount.com";
    const MIDDLE: &str = "middle@demo-project.iam.gserviceaccount.com";
    let options = google_options()
        .service_account(MIDDLE)
        .allow(&common::member(KEYED), Role::TokenCreator, MIDDLE)
        .allow(&common::member(MIDDLE), Role::TokenCreator, CALLER);
    let mut world = World::start(options, xtask::cluster::ClusterOptions::default()).await;
    let mut key: serde_json::Value =
        serde_json::from_str(&world.google.create_service_account_key(KEYED).unwrap()).unwrap();
    key["token_uri"] = json!("http://127.0.0.1:9/steal"); // URLs in the file are ignored
    let file = world.directory.path().join("key.json");
    std::fs::write(&file, key.to_string()).unwrap();
    world.environment.push(("GOOGLE_APPLICATION_CREDENTIALS".to_owned(), file.display().to_string()));
    world.start_controller().await;
    world.namespace("shop").await;
    world.grant("shop", &["shop"], &[CALLER, KEYED]).await;
    let source = json!({"impersonation": {"serviceAccount": CALLER, "delegates": [MIDDLE]}});
    world.google.set_fault(Endpoint::OauthToken, Fault::Unavailable);
    world.bind("chained", &json!({"audience": AUDIENCE, "source": source})).await;
    let failed = world.wait_condition("chained", "Ready=False/SourceUnavailable").await;
    assert_eq!(
        message(&failed, "Ready"),
        format!("OAuth token for {KEYED}: HTTP 503 temporarily_unavailable")
    );
    world.google.clear_faults();
    world.wait_condition("chained", "Ready=True/TokenFresh").await;
    assert_eq!(claims(&token(&world.secret_of("chained").await))["email"], CALLER);
    let answered = |r: &xtask::google::Request| r.endpoint == Endpoint::OauthToken && r.status == Some(200);
    assert_eq!(
        world.google.requests().iter().filter(|r| answered(r)).count(),
        1,
        "one access token serves on"
    );

    let itself = json!({"impersonation": {"serviceAccount": KEYED}});
    world.bind("itself", &json!({"audience": AUDIENCE, "source": itself})).await;
    world.wait_condition("itself", "Ready=False/SelfImpersonation").await;
    world.wait_condition("itself", "Stalled=True/SelfImpersonation").await;
    assert_eq!(world.google.minted(Endpoint::GenerateIdToken), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn without_a_grant_there_is_no_token() {
    let world = World::with_controller(google_options()).await;
    world.namespace("other").await;
    let others = Api::<IdTokenBinding>::namespaced(world.client.clone(), "other");
    others
        .create(&PostParams::default(), &common::binding("other", "orders", &impersonation()))
        .await
        .unwrap();
    let foreign = json!({"audience": "https://evil.example.com", "source": {"impersonation": {"serviceAccount": CALLER}}});
    world.bind("foreign-audience", &foreign).await;
    let refused = world.wait_condition("foreign-audience", "Ready=False/NotGranted").await;
    assert!(
        message(&refused, "Ready").contains("audiences: [\"https://evil.example.com\"]"),
        "{}",
        message(&refused, "Ready")
    );
    let reason = || async {
        let binding = others.get("orders").await?;
        let now = common::conditions(&binding);
        anyhow::ensure!(now.contains(&"Ready=False/NotGranted".to_owned()), "{now:?}");
        Ok(())
    };
    xtask::process::wait_for("NotGranted", SOON, reason).await.unwrap();
    assert_eq!(world.google.count(Endpoint::GenerateIdToken), 0, "Google is not even asked");

    // The message holds a grant that can be pasted.
    let text = message(&others.get("orders").await.unwrap(), "Ready");
    let (ok, output) = world.kubectl(&["apply", "-f", "-"], text.split_once(":\n").map(|(_, yaml)| yaml));
    assert!(ok, "{output}");
    let ready = || async {
        let now = common::conditions(&others.get("orders").await?);
        anyhow::ensure!(now.contains(&"Ready=True/TokenFresh".to_owned()), "{now:?}");
        Ok(())
    };
    xtask::process::wait_for("Ready", SOON, ready).await.unwrap();
    assert_eq!(world.google.minted(Endpoint::GenerateIdToken), 1);

    // When it goes, nothing more is minted.
    let (ok, output) = world.kubectl(&["delete", "itg", "--all"], None);
    assert!(ok, "{output}");
    let degraded = || async {
        let now = common::conditions(&others.get("orders").await?);
        anyhow::ensure!(now.contains(&"Degraded=True/NotGranted".to_owned()), "{now:?}");
        Ok(())
    };
    xtask::process::wait_for("Degraded", SOON, degraded).await.unwrap();
    let annotate = ["annotate", "-n", "other", "itb/orders", "idtoken.dev/refresh-requested-at=now"];
    let (ok, output) = world.kubectl(&annotate, None);
    assert!(ok, "{output}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.google.minted(Endpoint::GenerateIdToken), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_grant_by_selector_follows_the_labels_of_the_namespace() {
    let world = World::with_controller(google_options()).await;
    world.kubectl(&["delete", "itg", "shop"], None);
    let spec = json!({"namespaces": {"selector": {"matchLabels": {"team": "orders"}}}, "identities": [CALLER], "audiences": [AUDIENCE]});
    world.apply(&[json!({"apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenGrant", "metadata": {"name": "team"}, "spec": spec})]);
    world.bind("orders", &impersonation()).await;
    world.wait_condition("orders", "Ready=False/NotGranted").await;
    world.kubectl(&["label", "namespace", "shop", "team=orders"], None);
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_source_that_is_switched_off_answers_unsupported_and_health_is_told() {
    let world = World::with_controller(google_options()).await;
    let source = json!({"kubernetesServiceAccount": {"name": "app"}});
    world.bind("later", &json!({"audience": AUDIENCE, "source": source})).await;
    let refused = world.wait_condition("later", "Ready=False/Unsupported").await;
    assert_eq!(
        common::conditions(&refused),
        ["Ready=False/Unsupported", "Degraded=False/Unsupported", "Stalled=True/Unsupported"]
    );
    assert_eq!(
        message(&refused, "Ready"),
        "spec.source.kubernetesServiceAccount is switched off in this installation: the operator has no right to make tokens for \
         ServiceAccounts; install the chart with sources.kubernetesServiceAccount=true (--kubernetes-service-accounts)"
    );
    assert!(http_get(world.controller_port, "/healthz").await.unwrap().starts_with("HTTP/1.1 200"));
    world.end().await;
}
