//! The fault table: whatever Google does, before the first token and after it, the condition tells, the good token stays,
//! a retry is planned, and no wrong token is published.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::time::Duration;

use common::{
    OPERATOR, World, audience_of, claims, google_options, impersonation, message, metadata_server, token,
};
use idtoken_operator::api::IdTokenBinding;
use serde_json::Value;
use xtask::{
    google::{Endpoint, Fault},
    process::wait_for,
};

/// Fault, reason, and the bounds of the wait before the first retry in seconds.
type Row = (Fault, &'static str, (i64, i64));

const SOON: (i64, i64) = (1, 2);
const SLOWLY: (i64, i64) = (15, 19);

/// Every fault of a token endpoint but latency, which has a test of its own.
fn table() -> Vec<Row> {
    vec![
        (Fault::TooManyRequests { retry_after: Some(7) }, "QuotaExceeded", (7, 8)),
        (Fault::TooManyRequests { retry_after: None }, "QuotaExceeded", SOON),
        (Fault::Forbidden, "SourceDenied", SLOWLY),
        (Fault::NotFound, "SourceDenied", SLOWLY),
        (Fault::InternalError, "SourceUnavailable", SOON),
        (Fault::Unavailable, "SourceUnavailable", SOON),
        (Fault::DropConnection, "SourceUnavailable", SOON),
        (Fault::Garbage, "TokenRejected", SOON),
        (Fault::WrongAudience, "TokenRejected", SOON),
        (Fault::ExpiredToken, "TokenRejected", SOON),
        (Fault::UnknownKey, "TokenRejected", SOON),
        (Fault::WrongIssuer, "TokenRejected", SOON),
        (Fault::BadSignature, "TokenRejected", SOON),
        (Fault::WrongEmail, "TokenRejected", SOON),
        (Fault::UnverifiedEmail, "TokenRejected", SOON),
        (Fault::AlgNone, "TokenRejected", SOON),
        (Fault::FutureIat, "TokenRejected", SOON),
    ]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn every_fault_of_generate_id_token() {
    every_fault(Endpoint::GenerateIdToken, &impersonation()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn every_fault_of_the_metadata_servers_identity() {
    every_fault(Endpoint::MetadataIdentity, &metadata_server()).await;
}

async fn every_fault(endpoint: Endpoint, spec: &Value) {
    let world = World::with_controller(google_options()).await;
    for (index, (fault, reason, wait)) in table().into_iter().enumerate() {
        let name = format!("row-{index}");
        println!("{endpoint:?} {fault:?}: {reason}");
        // Each for itself: a token of the row before would do for this one.
        let mut spec = spec.clone();
        spec["audience"] = audience_of(&name).into();
        one_fault(&world, endpoint, &spec, &name, (fault, reason, wait)).await;
    }
    world.end().await;
}

async fn one_fault(world: &World, endpoint: Endpoint, spec: &Value, name: &str, (fault, reason, wait): Row) {
    // Before the first token.
    world.google.set_fault(endpoint, fault.clone());
    world.bind(name, spec).await;
    let failed = world.wait_condition(name, &format!("Ready=False/{reason}")).await;
    assert_planned(&failed, "Ready", wait);
    assert!(!message(&failed, "Ready").is_empty());
    assert!(
        world.secrets().get_opt(&format!("{name}-idtoken")).await.unwrap().is_none(),
        "nothing was published"
    );
    world.google.clear_faults();
    world.request_refresh(name).await;
    world.wait_condition(name, "Ready=True/TokenFresh").await;
    let good = world.secret_of(name).await;

    // After it.
    world.google.set_fault(endpoint, fault);
    let asked = world.google.count(endpoint);
    world.request_refresh(name).await;
    let degraded = world.wait_condition(name, &format!("Degraded=True/{reason}")).await;
    assert!(
        common::conditions(&degraded).contains(&"Ready=True/TokenFresh".to_owned()),
        "the good token counts"
    );
    assert!(world.google.count(endpoint) > asked, "the fault was met");
    assert_planned(&degraded, "Degraded", wait);
    let kept = world.secret_of(name).await;
    assert_eq!((kept.data, &kept.metadata.resource_version), (good.data, &good.metadata.resource_version));
    world.google.clear_faults();
    world.request_refresh(name).await;
    let healed = world.wait_condition(name, "Degraded=False/TokenFresh").await;
    assert!(common::conditions(&healed).contains(&"Ready=True/TokenFresh".to_owned()));
}

/// IAM changes without an event.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn what_was_denied_or_missing_is_tried_again_without_anybodys_doing() {
    let world = World::with_controller(google_options()).await;
    for (name, fault) in [("denied", Fault::Forbidden), ("missing", Fault::NotFound)] {
        world.google.set_fault(Endpoint::GenerateIdToken, fault);
        let mut spec = impersonation();
        spec["audience"] = audience_of(name).into();
        world.bind(name, &spec).await;
        world.wait_condition(name, "Ready=False/SourceDenied").await;
        world.google.clear_faults();
        wait_for("the next try", Duration::from_secs(60), async || {
            let conditions = common::conditions(&world.bindings().get(name).await?);
            anyhow::ensure!(conditions.contains(&"Ready=True/TokenFresh".to_owned()), "{conditions:?}");
            Ok(())
        })
        .await
        .unwrap();
    }
    world.end().await;
}

/// The next try is planned within `wait` seconds of the condition's change, as far as whole seconds can tell.
fn assert_planned(binding: &IdTokenBinding, condition: &str, (least, most): (i64, i64)) {
    let status = binding.status.clone().unwrap();
    let changed = status.conditions.iter().find(|c| c.type_ == condition).unwrap().last_transition_time.0;
    let next = status.next_refresh_time.expect("a retry is planned");
    let wait = next.duration_since(changed).as_secs();
    assert!((least - 1..=most + 2).contains(&wait), "{condition}: {wait} s instead of {least} to {most}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_slow_source_times_out_and_the_binding_recovers_by_itself() {
    let world = World::with_controller(google_options()).await;
    let minute = Duration::from_secs(60);
    world.google.set_fault(Endpoint::GenerateIdToken, Fault::Latency(minute));
    world.google.set_fault(Endpoint::MetadataIdentity, Fault::Latency(minute));
    world.bind("slow", &impersonation()).await;
    world.bind("own", &metadata_server()).await;
    let failed =
        world.wait_condition_within("slow", "Ready=False/SourceUnavailable", Duration::from_secs(25)).await;
    assert_eq!(
        message(&failed, "Ready"),
        "generateIdToken for caller@demo-project.iam.gserviceaccount.com: no answer within 15 s"
    );
    let failed =
        world.wait_condition_within("own", "Ready=False/SourceUnavailable", Duration::from_secs(40)).await;
    assert_eq!(message(&failed, "Ready"), "metadata server, identity: no answer within 30 s");
    world.google.clear_faults();
    world.wait_condition_within("slow", "Ready=True/TokenFresh", Duration::from_secs(40)).await;
    world.wait_condition_within("own", "Ready=True/TokenFresh", Duration::from_secs(60)).await;
    let good = token(&world.secret_of("slow").await);

    world.google.set_fault(Endpoint::GenerateIdToken, Fault::Latency(minute));
    world.request_refresh("slow").await;
    world.wait_condition_within("slow", "Degraded=True/SourceUnavailable", Duration::from_secs(25)).await;
    assert_eq!(token(&world.secret_of("slow").await), good);
    world.google.clear_faults();
    world.wait_condition_within("slow", "Degraded=False/TokenFresh", Duration::from_secs(40)).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn faults_of_the_operators_own_access_token_are_told_too() {
    let world = World::with_controller(google_options()).await;
    // The operator asks for its e-mail address and its access token once and keeps both: so that row comes first.
    let rows = [
        (
            Endpoint::MetadataEmail,
            Fault::Unavailable,
            "SourceUnavailable",
            "metadata server, email: HTTP 503",
        ),
        (
            Endpoint::MetadataToken,
            Fault::Unavailable,
            "SourceUnavailable",
            "metadata server, token: HTTP 503",
        ),
        (
            Endpoint::MetadataToken,
            Fault::TooManyRequests { retry_after: None },
            "QuotaExceeded",
            "metadata server, token: HTTP 429 quota_exceeded",
        ),
        (
            Endpoint::MetadataToken,
            Fault::DropConnection,
            "SourceUnavailable",
            "metadata server, token: the connection broke",
        ),
        (
            Endpoint::MetadataToken,
            Fault::Garbage,
            "TokenRejected",
            "metadata server, token: the answer holds no token",
        ),
    ];
    for (endpoint, fault, reason, text) in rows {
        println!("{endpoint:?} {fault:?}");
        world.google.set_fault(endpoint, fault);
        let name = format!("{endpoint:?}-{reason}-{}", text.len()).to_lowercase();
        // Forced: else it would be told what the same identity met for the binding before.
        let mut forced = common::binding("shop", &name, &impersonation());
        let requested = ("idtoken.dev/refresh-requested-at".to_owned(), "now".to_owned());
        forced.metadata.annotations = Some([requested].into());
        world.bindings().create(&kube::api::PostParams::default(), &forced).await.unwrap();
        let failed = world.wait_condition(&name, &format!("Ready=False/{reason}")).await;
        assert_eq!(message(&failed, "Ready"), text);
        assert_eq!(world.google.minted(Endpoint::GenerateIdToken), 0);
        world.bindings().delete(&name, &kube::api::DeleteParams::default()).await.unwrap();
        world.google.clear_faults();
    }
    world.bind("good", &impersonation()).await;
    world.wait_condition("good", "Ready=True/TokenFresh").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn without_keys_the_condition_says_that_the_signature_is_unknown_or_refuses() {
    let mut world = World::with_controller(google_options()).await;
    world.google.set_fault(Endpoint::Jwks, Fault::Unavailable);
    world.bind("unchecked", &impersonation()).await;
    let ready = world.wait_condition("unchecked", "Ready=True/TokenFresh").await;
    assert!(message(&ready, "Ready").contains("its signature is unknown"), "{}", message(&ready, "Ready"));
    // Rubbish is no better than nothing.
    world.google.set_fault(Endpoint::Jwks, Fault::Garbage);
    world.bind("rubbish", &impersonation()).await;
    let ready = world.wait_condition("rubbish", "Ready=True/TokenFresh").await;
    assert!(message(&ready, "Ready").contains("its signature is unknown"), "{}", message(&ready, "Ready"));
    // Claims are checked all the same.
    world.google.set_fault(Endpoint::GenerateIdToken, Fault::WrongAudience);
    world.bind("wrong", &impersonation()).await;
    world.wait_condition("wrong", "Ready=False/TokenRejected").await;
    world.google.clear_fault(Endpoint::GenerateIdToken);

    world.stop_controller().await;
    world.flags.push("--require-signature".to_owned());
    world.start_controller().await;
    world.bind("strict", &impersonation()).await;
    let refused = world.wait_condition("strict", "Ready=False/TokenRejected").await;
    assert!(message(&refused, "Ready").contains("--require-signature"), "{}", message(&refused, "Ready"));
    world.google.clear_faults();
    world.wait_condition("strict", "Ready=True/TokenFresh").await;
    world.request_refresh("unchecked").await;
    let api = world.bindings();
    let checked = || async {
        let text = message(&api.get("unchecked").await?, "Ready");
        anyhow::ensure!(text == "Secret unchecked-idtoken holds a verified token", "{text}");
        Ok(())
    };
    xtask::process::wait_for("the signature to be checked", common::SOON, checked).await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_token_that_ends_while_the_source_fails_is_no_longer_ready() {
    let world = World::with_controller(google_options()).await;
    world.google.set_id_token_lifetime(Duration::from_secs(8));
    world.bind("orders", &impersonation()).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    world.google.set_fault(Endpoint::GenerateIdToken, Fault::Unavailable);
    let expired = world.wait_condition("orders", "Ready=False/SourceUnavailable").await;
    let exp = expired.status.unwrap().expiration_time.unwrap();
    let late = jiff::Timestamp::now().duration_since(exp).as_secs();
    assert!((0..=3).contains(&late), "told {late} s after the end");
    assert_eq!(
        claims(&token(&world.secret_of("orders").await))["exp"],
        exp.as_second(),
        "what was good is not destroyed"
    );
    let asked = world.google.count(Endpoint::GenerateIdToken);
    assert!((2..=8).contains(&asked), "it backs off: {asked} requests");
    world.google.clear_faults();
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn keys_may_rotate_and_gke_without_an_annotation_is_named() {
    let world = World::with_controller(google_options()).await;
    world.bind("before", &impersonation()).await;
    world.wait_condition("before", "Ready=True/TokenFresh").await;
    world.google.rotate_keys().unwrap();
    world.bind("after", &metadata_server()).await;
    let ready = world.wait_condition("after", "Ready=True/TokenFresh").await;
    assert_eq!(ready.status.unwrap().identity.as_deref(), Some(OPERATOR));
    world.end().await;

    let options = google_options().gke_not_annotated("idtoken-system", "idtoken-operator-controller");
    let world = World::with_controller(options).await;
    world.bind("own", &metadata_server()).await;
    let refused = world.wait_condition("own", "Ready=False/NoServiceAccountForIdToken").await;
    assert!(
        message(&refused, "Ready").contains("iam.gke.io/gcp-service-account"),
        "{}",
        message(&refused, "Ready")
    );
    world.end().await;
}
