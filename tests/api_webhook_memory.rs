//! What reviews of hostile pods cost the webhook's process, beside which ordinary pods are created.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::sync::Arc;

use common::{
    World,
    admissions::{bundle, create, restored, review},
    google_options, impersonation,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use xtask::cluster::ClusterOptions;

const LARGEST: usize = 3 * 1024 * 1024;
/// Beyond what the process has before, which depends on how it was compiled: as released, that is less than 20 MB, and both fit into the
/// chart's limit of 64 MiB.
const MOST: u64 = 32_000_000;

/// Many at once of each kind. Whoever may create pods may send such bodies: the API server asks the webhook before it looks at the pod
/// itself.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn hostile_reviews_take_neither_the_memory_nor_the_place_of_others() {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    for i in 0..64 {
        world.bind(&format!("b{i}"), &impersonation()).await;
    }
    world.start_webhook().await;
    restored(&world, |now| !now.is_empty()).await;
    let trusted: Arc<str> = bundle(&world).await.into();
    create(&world.client, "before", true, true).await.unwrap();
    let before = world.webhook_memory();

    for Hostile { inject, spec, refusal } in hostile() {
        let body: Arc<str> = body(&inject, &spec).into();
        assert!(body.len() < LARGEST);
        let mut asked = JoinSet::new();
        for _ in 0..25 {
            asked.spawn(answer(world.webhook_port, trusted.clone(), body.clone()));
        }
        create(&world.client, "meanwhile", true, true).await.unwrap();
        let shown = &spec[..60];
        for answer in asked.join_all().await {
            let response = &answer["response"];
            assert_eq!(response["allowed"], refusal.is_none(), "{shown}");
            assert_eq!(response["patch"].is_string(), refusal.is_none(), "{shown}");
            let words = response["status"]["message"].as_str().unwrap_or_default();
            assert!(words.contains(refusal.unwrap_or_default()), "{shown}: {words}");
        }
        let grown = world.webhook_memory() - before;
        println!("{before} bytes and at most {grown} more after {shown}");
        assert!(grown < MOST, "{shown}: {before} bytes and {grown} more");
    }
    world.end().await;
}

struct Hostile {
    inject: String,
    spec: String,
    /// Some of its words.
    refusal: Option<&'static str>,
}

fn hostile() -> Vec<Hostile> {
    let deep = format!("{}{}", "[".repeat(1_500_000), "]".repeat(1_500_000));
    let containers = |containers: &str| format!(r#"{{"containers":[{containers}]}}"#);
    let container = |rest: &str| containers(&format!(r#"{{"name":"app",{rest}}}"#));
    let env = |name: &str, count| {
        container(&format!(r#""env":[{}]"#, many(&format!(r#"{{"name":"{name}"}}"#), count)))
    };
    let mounts = many(r#"{"name":""}"#, 250_000);
    let sources = many(r#"{"a":{}}"#, 300_000);
    let sixty_four = (0..64).map(|i| format!("b{i}")).collect::<Vec<_>>().join(",");
    let kinds = [
        ("orders", env("a", 80_000), None),
        ("orders", env("a", 240_000), None),
        ("orders", container(&format!(r#""args":{deep}"#)), None),
        ("orders", env("IDTOKEN_", 140_000), Some(TOO_MUCH)),
        ("orders", containers(&many("{}", 20_000)), Some(TOO_MUCH)),
        ("orders", containers(&many("{}", 1_000_000)), Some(TOO_MUCH)),
        ("orders", container(&format!(r#""volumeMounts":[{mounts}]"#)), Some(TOO_MUCH)),
        ("orders", format!(r#"{{"volumes":[{{"projected":{{"sources":[{sources}]}}}}]}}"#), Some(TOO_MUCH)),
        (&sixty_four, containers(&many(r#"{"name":"a"}"#, 100)), None),
        (&sixty_four, containers(&many(r#"{"name":"a"}"#, 200)), Some("larger than the API server takes")),
    ];
    let hostile =
        |(inject, spec, refusal): (&str, String, _)| Hostile { inject: inject.to_owned(), spec, refusal };
    kinds.map(hostile).into()
}

const TOO_MUCH: &str = "a pod with more containers, mounts, volumes and annotations than are looked at";

fn many(element: &str, count: usize) -> String {
    vec![element; count].join(",")
}

/// What is answered in the end: what finds no room, or no answer in ten seconds, is sent once more, as controllers do.
async fn answer(port: u16, trusted: Arc<str>, body: Arc<str>) -> Value {
    for _ in 0..100 {
        match review(port, &trusted, &body).await.unwrap() {
            (408 | 503, _) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            (status, answer) => {
                assert_eq!(status, 200, "{answer}");
                return serde_json::from_str(&answer).unwrap();
            }
        }
    }
    panic!("it is never its turn");
}

/// A review of the creation of a pod in `shop`.
fn body(inject: &str, spec: &str) -> String {
    let review = json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "namespace": "shop",
            "operation": "CREATE",
            "object": {"metadata": {"annotations": {"idtoken.dev/inject": inject}}, "spec": "SPEC"},
        },
    });
    review.to_string().replace("\"SPEC\"", spec)
}
