#![allow(clippy::unwrap_used, clippy::panic)]
use std::{convert::Infallible, time::Duration};

use axum::body::{Body, Bytes};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures::{StreamExt as _, stream};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::*;

/// One binding, `orders` in namespace `shop`, whose token expired in 2020.
struct Shop;

impl BindingLookup for Shop {
    async fn find(&self, namespace: &str, name: &str) -> Lookup {
        match (namespace, name) {
            ("shop", "orders") => Lookup::Found(BindingFacts {
                secret_name: "orders-secret".into(),
                key: "jwt".into(),
                authorization_key: None,
                expiration_time: Some("2020-01-01T00:00:00Z".parse().unwrap()),
            }),
            ("shop", "silent") => Lookup::Unavailable,
            ("shop", "broken") => panic!("a bug"),
            ("shop" | "greedy", "slow") => {
                tokio::time::sleep(Duration::from_secs(10)).await;
                Lookup::Unavailable
            }
            ("shop" | "bank", "late") => {
                tokio::task::yield_now().await;
                Lookup::Missing
            }
            _ => Lookup::Missing,
        }
    }
}

#[tokio::test]
async fn annotated_pod_is_patched() {
    let (status, answer, _) = review(creation("shop", "orders")).await;
    assert_eq!(status, 200);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let response = &answer["response"];
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(response["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
    assert_eq!(response["allowed"], true);
    assert_eq!(response["patchType"], "JSONPatch");
    assert_eq!(
        response["warnings"],
        json!([r#"the token of IdTokenBinding "orders" expired at 2020-01-01T00:00:00Z; see its status"#])
    );
    let patch = BASE64_STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
    let patch: Value = serde_json::from_slice(&patch).unwrap();
    assert_eq!(patch[0]["op"], "add");
    assert_eq!(patch[0]["path"], "/spec/volumes");
    assert_eq!(patch[0]["value"][0]["projected"]["sources"][0]["secret"]["name"], "orders-secret");
    assert_eq!(patch.as_array().unwrap().len(), 4);
    assert_eq!(patch[3]["path"], "/metadata/annotations/idtoken.dev~1status");
}

#[tokio::test]
async fn a_dry_run_is_answered_like_any_other() {
    let mut wet = creation("shop", "orders");
    wet["request"]["dryRun"] = json!(false);
    assert_eq!(review(wet).await.1, review(creation("shop", "orders")).await.1);
}

/// So that the registration's failurePolicy decides, as it does where the webhook can't be reached.
#[tokio::test]
async fn a_panic_is_answered_and_the_next_pod_is_served() {
    let (webhook, outcomes) = served();
    let (status, answer) = send(&webhook, creation("shop", "broken").to_string()).await;
    assert_eq!((status, answer.as_str()), (500, "a bug in idtoken-operator: see the webhook's log"));
    let (status, _) = send(&webhook, creation("shop", "orders").to_string()).await;
    assert_eq!((status, outcomes.count("failed"), outcomes.count("injected")), (200, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_given_up_after_ten_seconds() {
    let (webhook, _) = served();
    let start = tokio::time::Instant::now();
    let drops = stream::iter([Ok::<_, Infallible>(Bytes::from("{"))]).chain(stream::pending());
    let (status, _) = send(&webhook, Body::from_stream(drops)).await;
    assert_eq!((status, start.elapsed()), (408, Duration::from_secs(10)));
}

#[tokio::test]
async fn namespace_is_the_requests_and_not_the_objects() {
    let mut review_of_other = creation("elsewhere", "orders");
    review_of_other["request"]["object"]["metadata"]["namespace"] = json!("shop");
    let (_, answer, _) = review(review_of_other).await;
    assert!(answer.contains("is not known (yet)"), "{answer}");
}

#[tokio::test]
async fn a_binding_that_can_not_be_read_leaves_the_pod_to_the_failure_policy() {
    let (status, answer, outcomes) = review(creation("shop", "silent")).await;
    assert_eq!(status, 503, "an answer with allowed: false would refuse the pod under Ignore, too");
    assert_eq!(answer, "IdTokenBinding silent can't be read at the moment; try again");
    assert_eq!(outcomes.count("unavailable"), 1);
}

#[tokio::test]
async fn malformed_annotation_is_refused() {
    let (status, answer, outcomes) = review(creation("shop", "Orders!")).await;
    assert_eq!(status, 200);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(
        answer["response"],
        json!({
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "allowed": false,
            "status": {
                "status": "Failure",
                "code": 400,
                "reason": "BadRequest",
                "message": "annotation idtoken.dev/inject: \"Orders!\" contains \"Orders!\", which can't be the name of an \
                            IdTokenBinding; write names of bindings, separated by commas (lower-case letters, digits, \
                            '-' and '.')",
            },
        })
    );
    assert_eq!(outcomes.count("refused"), 1);
}

#[tokio::test]
async fn whatever_is_not_the_creation_of_a_pod_is_let_through() {
    for (field, value) in [
        ("operation", json!("UPDATE")),
        ("subResource", json!("ephemeralcontainers")),
        ("kind", json!({"group": "apps", "version": "v1", "kind": "Pod"})),
        ("object", json!(null)),
    ] {
        let mut other = creation("shop", "orders");
        other["request"][field] = value;
        let (status, answer, outcomes) = review(other).await;
        assert_eq!(status, 200);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let unchanged = json!({"uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "allowed": true});
        assert_eq!(answer["response"], unchanged, "{field}");
        assert_eq!(outcomes.count("unchanged"), 1);
    }
}

#[tokio::test]
async fn whatever_is_not_a_review_is_a_bad_request() {
    for (body, message) in [
        (json!("nonsense"), "not an AdmissionReview: invalid type"),
        (
            json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"}),
            "has no request with a uid",
        ),
        (
            json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {"uid": ""}}),
            "with a uid",
        ),
        (
            json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1"}),
            "is not admission.k8s.io/v1",
        ),
        (
            json!({"kind": "Pod", "apiVersion": "admission.k8s.io/v1"}),
            "is not admission.k8s.io/v1 AdmissionReview",
        ),
    ] {
        let (status, answer, outcomes) = review(body).await;
        assert_eq!(status, 400, "{answer}");
        assert!(answer.contains(message), "{answer}");
        assert_eq!(outcomes.count("malformed"), 1);
    }
}

#[tokio::test]
async fn body_of_more_than_three_mebibytes_is_cut_off() {
    let large = |size: usize| json!({"padding": "x".repeat(size)});
    assert_eq!(review(large(3 * 1024 * 1024 - 100)).await.0, 400, "read");
    assert_eq!(review(large(3 * 1024 * 1024)).await.0, 413);
}

/// A review that is as long as `bytes`, and a little more.
fn padded(namespace: &str, inject: &str, bytes: usize) -> String {
    let mut review = creation(namespace, inject);
    review["request"]["object"]["spec"]["padding"] = "x".repeat(bytes).into();
    review.to_string()
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_binding_keeps_nobody_waiting_whose_binding_is_known() {
    let (webhook, outcomes) = served();
    let sent = |body: String| {
        let webhook = webhook.clone();
        tokio::spawn(async move { send(&webhook, body).await })
    };
    let first = sent(padded("shop", "slow", 2 * 1024 * 1024));
    let second = sent(padded("shop", "slow", 2 * 1024 * 1024));
    let greedy: Vec<_> = (0..200).map(|_| sent(padded("greedy", "slow", 60 * 1024))).collect();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (status, words) = second.await.unwrap();
    assert_eq!((status, words.contains("too many pods wait for bindings")), (503, true), "{words}");
    let start = tokio::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(send(&webhook, creation("shop", "orders").to_string()).await.0, 200);
    }
    assert_eq!(send(&webhook, padded("shop", "orders", 60 * 1024)).await.0, 200);
    assert_eq!(send(&webhook, padded("shop", "orders", 3_000_000)).await.0, 200);
    assert_eq!(send(&webhook, creation("bank", "late").to_string()).await.0, 200, "others may wait, too");
    assert_eq!((start.elapsed(), outcomes.count("injected")), (Duration::ZERO, 103));
    let has_waited = |(status, words): &(u16, String)| *status == 503 && words.contains("can't be read");
    assert!(has_waited(&first.await.unwrap()));
    let ends: Vec<_> = join_all(greedy).await.into_iter().map(Result::unwrap).collect();
    let waited = ends.iter().filter(|end| has_waited(end)).count();
    assert!((60..=68).contains(&waited), "4 MiB of them waited: {waited}");
    assert!(ends.iter().all(|(status, _)| *status == 503));
}

#[tokio::test]
async fn a_review_that_waits_for_its_binding_is_answered_like_any_other() {
    let named = |name: &str| creation("shop", name).to_string();
    let (webhook, outcomes) = served();
    let (status, late) = send(&webhook, named("late")).await;
    let (_, at_once) = send(&webhook, named("none")).await;
    assert_eq!((status, outcomes.count("injected")), (200, 2));
    let patch = |answer: &str| {
        let answer: Value = serde_json::from_str(answer).unwrap();
        let patch = BASE64_STANDARD.decode(answer["response"]["patch"].as_str().unwrap()).unwrap();
        let patch: Value = serde_json::from_slice(&patch).unwrap();
        json!(patch.as_array().unwrap()[..3]).to_string() // the fourth says which request it was
    };
    assert_eq!(patch(&late).replace("late", "none").replace("LATE", "NONE"), patch(&at_once));
}

async fn review(body: Value) -> (u16, String, Outcomes) {
    let (webhook, outcomes) = served();
    let (status, answer) = send(&webhook, body.to_string()).await;
    (status, answer, outcomes)
}

fn served() -> (Webhook<Shop>, Outcomes) {
    let outcomes = Outcomes::default();
    (Webhook::new(Arc::new(Shop), outcomes.clone(), || "2026-11-22T12:00:00Z".parse().unwrap()), outcomes)
}

async fn send(webhook: &Webhook<Shop>, body: impl Into<Body>) -> (u16, String) {
    let request = HttpRequest::post("/mutate").header("content-type", "application/json");
    let response = webhook.respond(request.body(body.into()).unwrap()).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// As the API server sends it.
fn creation(namespace: &str, inject: &str) -> Value {
    json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": namespace,
            "operation": "CREATE",
            "userInfo": {"username": "admin"},
            "object": {
                "kind": "Pod",
                "apiVersion": "v1",
                "metadata": {"generateName": "app-", "annotations": {"idtoken.dev/inject": inject}},
                "spec": {"containers": [{"name": "app", "image": "app", "fieldOfTheFuture": 1}]},
            },
            "oldObject": null,
            "dryRun": true,
        },
    })
}
