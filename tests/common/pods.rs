//! Random pods: such as the API server accepts, and such as nobody should ever see.

#![allow(dead_code, missing_docs, clippy::unwrap_used, unreachable_pub)]

use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Map, Value, json};

/// `count` values, always the same ones for the same seed.
pub fn sample(strategy: &impl Strategy<Value = Value>, seed: u8, count: usize) -> Vec<Value> {
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

/// Pods with anything anywhere: fields of the future, other types than expected, nulls, names that occur twice.
pub fn hostile() -> impl Strategy<Value = Value> {
    let containers =
        |range| odd(prop::collection::vec(odd(hostile_container()), range).prop_map(Value::from));
    let spec = object(vec![
        ("initContainers", containers(0..6).boxed()),
        ("containers", containers(0..20).boxed()),
        ("ephemeralContainers", containers(0..3).boxed()),
        ("volumes", few(hostile_volume())),
        ("hostNetwork", odd(any::<bool>().prop_map(Value::from)).boxed()),
        ("fieldOfTheFuture", anything().boxed()),
    ]);
    let metadata = object(vec![
        ("annotations", odd(annotations(hostile_value)).boxed()),
        ("name", odd(Just(json!("pod"))).boxed()),
        ("fieldOfTheFuture", anything().boxed()),
    ]);
    // Nothing comes of most of it if the outermost objects are odd, too: they are so a little less often.
    let pod = object(vec![("metadata", metadata), ("spec", spec), ("fieldOfTheFuture", anything().boxed())]);
    prop_oneof![40 => pod, 1 => anything()].prop_map(prune)
}

/// Pods that are sound but for the values of some annotations, with containers, mounts and variables of the same names as ours.
pub fn accepted() -> impl Strategy<Value = Value> {
    let container = || (mounts(), variables(), any::<bool>());
    let containers = |range| prop::collection::vec(container(), range);
    (containers(0..8), containers(1..20), volumes(), annotations(accepted_value), prop::option::of(any::<bool>())).prop_map(
        |(init, main, volumes, annotations, host_network)| {
            let named = |list: Vec<(Value, Value, bool)>, kind: &str| -> Value {
                let container = |(index, (mounts, env, resizable)): (usize, (Value, Value, bool))| {
                    let mut container = json!({"name": format!("{kind}-{index}"), "image": "app", "volumeMounts": mounts, "env": env});
                    if resizable {
                        // A field that is younger than the oldest Kubernetes that is supported.
                        container["restartPolicy"] = json!("Never");
                        container["restartPolicyRules"] =
                            json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
                    }
                    container
                };
                list.into_iter().enumerate().map(container).collect()
            };
            let mut pod = json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"generateName": "random-", "namespace": "shop", "annotations": annotations},
                "spec": {"initContainers": named(init, "init"), "containers": named(main, "main"), "volumes": volumes},
            });
            if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"] != absent() {
                pod["spec"]["nodeName"] = json!("node"); // kubelet says where its mirror pods run
            }
            if let Some(host_network) = host_network {
                pod["spec"]["hostNetwork"] = json!(host_network);
            }
            prune(pod)
        },
    )
}

/// Mounts at different places, or none at all.
fn mounts() -> impl Strategy<Value = Value> {
    let mount = prop_oneof![
        Just(json!({"name": "data", "mountPath": "/data"})),
        Just(json!({"name": "data", "mountPath": "/var/run/secrets/idtoken.dev"})),
        Just(json!({"name": "data", "mountPath": "/var/run/secrets/idtoken.dev/"})),
        Just(json!({"name": "data", "mountPath": "/tokens"})),
        Just(json!({"name": "idtoken", "mountPath": "/mine", "readOnly": true})),
        Just(json!({"name": "idtoken", "mountPath": "/mine/too/"})),
        Just(json!({"name": "idtoken", "mountPath": "/one", "subPath": "orders/token"})),
    ];
    distinct(mount, "mountPath")
}

/// Variables of different names, or none at all.
fn variables() -> impl Strategy<Value = Value> {
    let variable = prop_oneof![
        Just(json!({"name": "IDTOKEN_FILE", "value": "/mine"})),
        Just(
            json!({"name": "IDTOKEN_DIR", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}})
        ),
        Just(json!({"name": "IDTOKEN_FILE_ORDERS"})),
        Just(json!({"name": "OTHER", "value": "$(IDTOKEN_FILE)"})),
    ];
    distinct(variable, "name")
}

/// Volumes of different names; `data` is always there, `idtoken` sometimes, and then projected.
fn volumes() -> impl Strategy<Value = Value> {
    let source = prop_oneof![
        Just(json!({"secret": {"name": "x", "items": [{"key": "k", "path": "orders/token"}]}})),
        Just(
            json!({"secret": {"name": "y", "items": [{"key": "k", "path": "stock/token"}, {"key": "h", "path": "stock/authorization"}]}})
        ),
        Just(json!({"secret": {"name": "whole"}})),
        Just(json!({"downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels"}},
        ]}})),
    ];
    let own = distinct(source, "secret").prop_map(
        |sources| json!({"name": "idtoken", "projected": {"defaultMode": 0o400, "sources": sources}}),
    );
    (prop::option::of(own), any::<bool>()).prop_map(|(own, first)| {
        let mut volumes = vec![json!({"name": "data", "emptyDir": {}})];
        volumes.extend(own);
        if first {
            volumes.reverse();
        }
        Value::from(volumes)
    })
}

/// Values that are mostly as they should be.
fn accepted_value(key: &'static str) -> BoxedStrategy<Value> {
    let (good, bad): (&[&str], &[&str]) = match key {
        "inject" => {
            (&["orders", "orders,stock", " unknown.v1 , old "], &["orders,orders", "a-b,a.b", "Orders"])
        }
        "containers" => (&["main-0", " main-0 ", ""], &["main-0,nobody"]),
        "mount-path" => (&["/tokens", "/tokens/", "/etc/$(HOME)/x", "/data"], &["/", "relative"]),
        "file-mode" => (&["0400", "640"], &["999"]),
        "optional" => (&["true", "false"], &["yes"]),
        "status" => (&["anything", "{}"], &["{\"injector\":\"policy\"}"]),
        "agent" => (&["false"], &["true"]),
        _ => (&["x"], &["y"]),
    };
    let any = |values: &[&'static str]| prop::sample::select(values.to_vec()).prop_map(Value::from);
    prop_oneof![9 => any(good), 1 => any(bad)].boxed()
}

/// Values of which some are no strings.
fn hostile_value(key: &'static str) -> BoxedStrategy<Value> {
    prop_oneof![
        8 => accepted_value(key),
        2 => "\\PC{0,60}".prop_map(Value::from),
        1 => any::<String>().prop_map(Value::from),
        1 => prop::collection::vec("[a-c.,-]{1,3}", 0..80).prop_map(|names| json!(names.join(","))),
        1 => anything(),
    ]
    .boxed()
}

/// `inject` almost always, each of the others sometimes.
fn annotations(value: fn(&'static str) -> BoxedStrategy<Value>) -> impl Strategy<Value = Value> {
    let rare = |key: &'static str| prop_oneof![5 => Just(absent()), 1 => value(key)].boxed();
    let keys = ["containers", "mount-path", "file-mode", "optional", "status", "unknown-key"];
    let rest: Vec<_> = keys.into_iter().map(|key| (key, rare(key))).collect();
    let seldom: Vec<_> = ["agent", "guard", "proxy"]
        .map(|key| (key, prop_oneof![40 => Just(absent()), 1 => value(key)].boxed()))
        .into();
    let inject = prop_oneof![30 => value("inject"), 1 => Just(absent())].boxed();
    let ours = object([vec![("inject", inject)], rest, seldom].concat());
    let mirror = prop_oneof![40 => Just(absent()), 1 => Just(json!("hash"))];
    (ours, mirror).prop_map(|(ours, mirror)| {
        let mut all: Map<String, Value> = ours
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| (format!("idtoken.dev/{key}"), value.clone()))
            .collect();
        all.insert("kubernetes.io/config.mirror".to_owned(), mirror);
        all.insert("example.com/other".to_owned(), json!("kept"));
        Value::from(all)
    })
}

fn hostile_container() -> BoxedStrategy<Value> {
    let mount = object(vec![
        ("name", odd(word(&["data", "idtoken", ""])).boxed()),
        (
            "mountPath",
            odd(word(&["/var/run/secrets/idtoken.dev", "/var/run/secrets/idtoken.dev///", "/", "", "/x"]))
                .boxed(),
        ),
        ("subPath", prop_oneof![3 => Just(absent()), 1 => odd(word(&["", "a"]))].boxed()),
        ("fieldOfTheFuture", anything().boxed()),
    ]);
    let variable = object(vec![
        ("name", odd(word(&["IDTOKEN_DIR", "IDTOKEN_FILE", "IDTOKEN_FILE_ORDERS", ""])).boxed()),
        ("value", odd(word(&["", "x"])).boxed()),
        ("fieldOfTheFuture", anything().boxed()),
    ]);
    object(vec![
        ("name", odd(word(&["main-0", "init-0", "", "other"])).boxed()),
        ("volumeMounts", few(mount)),
        ("env", few(variable)),
        ("fieldOfTheFuture", anything().boxed()),
    ])
}

fn hostile_volume() -> BoxedStrategy<Value> {
    let item = object(vec![
        ("key", odd(word(&["k", ""])).boxed()),
        ("path", odd(word(&["orders/token", "stock/token", "stock/authorization", ""])).boxed()),
    ]);
    let secret = object(vec![("name", odd(word(&["x"])).boxed()), ("items", few(item))]);
    let source = object(vec![("secret", odd(secret).boxed()), ("sourceOfTheFuture", anything().boxed())]);
    let projected = object(vec![("sources", few(source)), ("fieldOfTheFuture", anything().boxed())]);
    object(vec![
        ("name", odd(word(&["idtoken", "data", "idtoken-2", ""])).boxed()),
        ("projected", prop_oneof![1 => Just(absent()), 6 => odd(projected)].boxed()),
        ("volumeTypeOfTheFuture", prop_oneof![6 => Just(absent()), 1 => anything()].boxed()),
    ])
}

/// An object of these members, without those that are absent.
fn object(members: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let (keys, values): (Vec<_>, Vec<_>) = members.into_iter().unzip();
    values.prop_map(move |values| keys.iter().map(|key| (*key).to_owned()).zip(values).collect()).boxed()
}

/// An array of up to three, or not even an array.
fn few(element: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    odd(prop::collection::vec(odd(element), 0..4).prop_map(Value::from)).boxed()
}

/// Something else altogether, now and then.
fn odd(usual: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Value> {
    prop_oneof![24 => usual, 1 => Just(absent()), 1 => Just(Value::Null), 1 => anything()]
}

/// Any JSON.
fn anything() -> impl Strategy<Value = Value> + Clone {
    let leaf = prop_oneof![
        Just(absent()),
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z~/]{0,5}", inner, 0..4)
                .prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

fn word(words: &'static [&'static str]) -> impl Strategy<Value = Value> + Clone {
    prop::sample::select(words).prop_map(Value::from)
}

/// Absent, empty, or elements that differ in `key`.
fn distinct(
    element: impl Strategy<Value = Value> + 'static,
    key: &'static str,
) -> impl Strategy<Value = Value> {
    prop::option::of(prop::collection::vec(element, 0..4)).prop_map(move |items| {
        let Some(items) = items else { return absent() };
        let mut seen = std::collections::BTreeSet::new();
        items.into_iter().filter(|item| seen.insert(item[key].to_string())).collect()
    })
}

/// Stands for a member that is not there.
fn absent() -> Value {
    json!("\u{0}absent")
}

/// `value` without the members that are marked as absent.
fn prune(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            map.into_iter().filter(|(_, v)| *v != absent()).map(|(k, v)| (k, prune(v))).collect()
        }
        Value::Array(items) => items.into_iter().map(prune).collect(),
        other => other,
    }
}
