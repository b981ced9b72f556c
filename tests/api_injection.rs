//! Random pods through the real API server and the registered webhook, and other webhooks before and after ours.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use common::{
    World, google_options, impersonation,
    injection::{array, checked, is_handled, is_whole},
    other_webhook::{OtherWebhook, by_label, pod},
    pods,
};
use http::Request;
use idtoken_operator::plan::inject::BindingFacts;
use jiff::Timestamp;
use serde_json::{Value, json};
use xtask::{cluster::ClusterOptions, process::wait_for};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn random_pods_come_back_valid_and_as_decided() {
    const SEED: u8 = 6;
    const PODS: usize = 150;
    println!("the seed of the pods is {SEED}");
    let world = with_webhook().await;
    let mut own = impersonation();
    own["secret"] = json!({"name": "orders-secret", "key": "jwt", "authorizationKey": "header"});
    world.bind("orders", &own).await;
    let facts = |name: &str| {
        (name == "orders").then(|| BindingFacts {
            secret_name: "orders-secret".into(),
            key: "jwt".into(),
            authorization_key: Some("header".into()),
            expiration_time: None,
        })
    };

    let (mut injected, mut refused, mut untouched) = (0, 0, 0);
    for pod in pods::sample(&pods::accepted(), SEED, PODS) {
        let answer = dry_run(&world, &pod).await;
        match (checked(&pod, &facts, Timestamp::now()), answer) {
            (Ok(patched), Ok(answer)) if is_handled(&pod) => {
                assert_eq!(parts(&answer), parts(&patched), "{pod}");
                is_whole(&answer, "webhook");
                injected += 1;
            }
            (Err(words), Err(message)) if reaches_us(&pod) => {
                let expected = format!("admission webhook \"pods.idtoken.dev\" denied the request: {words}");
                assert_eq!(message, expected);
                refused += 1;
            }
            (_, Ok(answer)) if !is_handled(&pod) => {
                assert_eq!(parts(&answer), parts(&pod), "{pod}");
                untouched += 1;
            }
            // Its author counted on our volume, and asked for nothing.
            (_, Err(message)) if !is_handled(&pod) => {
                assert!(message.contains(r#"Not found: "idtoken""#), "{message}: {pod}");
                untouched += 1;
            }
            (decided, answer) => panic!("{decided:?}, but {answer:?}: {pod}"),
        }
    }
    println!("{injected} injected, {refused} refused, {untouched} untouched");
    assert!(injected > 80 && refused > 5 && untouched > 1, "{injected} {refused} {untouched}");

    // Nothing but the answers has come of it.
    for kind in ["pods", "events", "secrets"] {
        let (ok, output) = world.kubectl(&["get", kind, "-n", "shop", "-o", "name"], None);
        assert_eq!((ok, output.as_str()), (true, ""), "{kind}");
    }
    let binding = world.bindings().get("orders").await.unwrap();
    assert_eq!(binding.metadata.generation, Some(1));
    assert!(binding.status.is_none());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn whatever_a_later_webhook_does_the_pod_is_whole_in_the_end() {
    let world = with_webhook().await;
    world.bind("orders", &impersonation()).await;
    let other = OtherWebhook::start(by_label).await;
    world.apply(&[other.registration("zz-other")]); // after idtoken-operator
    called(&world, &other).await;

    for behaviour in ["mesh", "anew", "volume", "status"] {
        let answer = dry_run(&world, &pod(behaviour)).await.unwrap();
        is_whole(&answer, "webhook");
        assert_eq!(
            array(&answer["spec"]["volumes"])[0]["name"],
            "data",
            "the author's own stays where it was"
        );
        let names = |list: &str| -> Vec<Value> {
            array(&answer["spec"][list]).iter().map(|c| c["name"].clone()).collect()
        };
        let (init, main): (&[&str], &[&str]) = if behaviour == "mesh" {
            (&["setup", "mesh-init"], &["app", "mesh"])
        } else {
            (&["setup"], &["app"])
        };
        assert_eq!(
            (names("initContainers"), names("containers")),
            (init.iter().map(|n| json!(n)).collect(), main.iter().map(|n| json!(n)).collect())
        );
    }

    // Without our annotations the API server does not ask again; what was added stays.
    let stripped = dry_run(&world, &pod("annotations")).await.unwrap();
    assert_eq!(stripped["metadata"]["annotations"], json!({"example.com/own": "x"}));
    let mut marked = stripped.clone();
    marked["metadata"]["annotations"] =
        json!({"idtoken.dev/inject": "orders", "idtoken.dev/status": r#"{"injector":"webhook"}"#});
    is_whole(&marked, "webhook");

    // A volume that takes our name when ours is there already is nothing that we could mend: the API server refuses the pod.
    let refusal = dry_run(&world, &pod("same-name")).await.unwrap_err();
    assert!(refusal.contains(r#"spec.volumes[2].name: Duplicate value: "idtoken""#), "{refusal}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn what_an_earlier_webhook_did_is_what_ours_works_on() {
    let world = with_webhook().await;
    world.bind("orders", &impersonation()).await;
    let other = OtherWebhook::start(by_label).await;
    world.apply(&[other.registration("aa-other")]); // before idtoken-operator
    called(&world, &other).await;
    for behaviour in ["mesh", "anew", "volume", "status"] {
        is_whole(&dry_run(&world, &pod(behaviour)).await.unwrap(), "webhook");
    }
    let stripped = dry_run(&world, &pod("annotations")).await.unwrap();
    assert_eq!(array(&stripped["spec"]["volumes"]).len(), 1, "nothing is asked for any more");
    let refusal = dry_run(&world, &pod("same-name")).await.unwrap_err();
    assert!(
        refusal.ends_with(r#"annotation idtoken.dev/inject: "orders" needs a volume named "idtoken", but the pod has a volume of another type with that name; rename that volume in the pod"#),
        "{refusal}"
    );
    world.end().await;
}

/// The match conditions of the registration.
fn reaches_us(pod: &Value) -> bool {
    ["inject", "guard"]
        .iter()
        .any(|key| pod["metadata"]["annotations"][format!("idtoken.dev/{key}")].is_string())
}

/// A world with the webhook only, and the namespace `shop`.
async fn with_webhook() -> World {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    world.start_webhook().await;
    world
}

/// Waits until the API server asks the other webhook, too.
async fn called(world: &World, other: &OtherWebhook) {
    let asked = async || {
        let _ = dry_run(world, &pod("nothing")).await;
        anyhow::ensure!(other.calls() > 0, "it was not asked");
        Ok(())
    };
    wait_for("the other webhook to be called", common::SOON, asked).await.unwrap();
}

/// The pod as the API server would store it, or the message of its refusal. Raw JSON both ways: no type may drop a field.
async fn dry_run(world: &World, pod: &Value) -> Result<Value, String> {
    let request =
        Request::post("/api/v1/namespaces/shop/pods?dryRun=All").header("content-type", "application/json");
    match world.client.request(request.body(pod.to_string().into_bytes()).unwrap()).await {
        Ok(answer) => Ok(answer),
        Err(kube::Error::Api(status)) => Err(status.message),
        Err(error) => panic!("{error}"),
    }
}

/// All of a pod that an injection is about; absent, null and empty are the same.
fn parts(pod: &Value) -> Value {
    let full = |value: &Value| without_nulls(Value::from(array(value).to_vec()));
    let container =
        |c: &Value| json!([c["name"], full(&c["volumeMounts"]), full(&c["env"]), c["restartPolicyRules"]]);
    let containers = |list: &str| -> Value { array(&pod["spec"][list]).iter().map(container).collect() };
    json!({
        "annotations": pod["metadata"]["annotations"],
        "volumes": full(&pod["spec"]["volumes"]),
        "initContainers": containers("initContainers"),
        "containers": containers("containers"),
    })
}

/// The API server writes some absent fields as null.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect()
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}
