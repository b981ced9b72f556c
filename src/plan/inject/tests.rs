#![allow(clippy::unwrap_used, clippy::panic)]
use std::{collections::BTreeMap, fs, path::Path};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{BindingFacts, Injection, PatchOp, Pod, Refusal, inject};

/// A pod, the bindings of its namespace, and the literal answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    #[serde(default)]
    bindings: BTreeMap<String, FixtureBinding>,
    pod: Value,
    /// Without the annotation `idtoken.dev/status`, which depends on who injects.
    patch: Vec<Value>,
    /// What the webhook writes there as `config`, where it writes it.
    config: Option<String>,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FixtureBinding {
    secret_name: String,
    key: String,
    authorization_key: Option<String>,
    expiration_time: Option<Timestamp>,
}

#[test]
fn fixtures_are_answered_literally_and_only_once() {
    let mut seen = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/inject")).unwrap() {
        let path = entry.unwrap().path();
        let fixture: Fixture = serde_yaml_ng::from_str(&fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let bindings = |name: &str| {
            fixture.bindings.get(name).map(|binding| BindingFacts {
                secret_name: binding.secret_name.clone(),
                key: binding.key.clone(),
                authorization_key: binding.authorization_key.clone(),
                expiration_time: binding.expiration_time,
            })
        };
        let injection = inject(&Pod::of(&fixture.pod), &bindings, noon()).unwrap();
        let mut patch = fixture.patch;
        patch.extend(fixture.config.map(|config| {
            let version = env!("CARGO_PKG_VERSION");
            let status = format!(r#"{{"injector":"webhook","version":"{version}","config":"{config}"}}"#);
            json!({"op": "add", "path": "/metadata/annotations/idtoken.dev~1status", "value": status})
        }));
        assert_eq!(serde_json::to_value(&injection.patch).unwrap(), Value::from(patch), "{}", path.display());
        assert_eq!(injection.warnings, fixture.warnings, "{}", path.display());

        let again = inject(&Pod::of(&apply(&fixture.pod, &injection.patch)), &bindings, noon()).unwrap();
        assert_eq!(again, Injection { patch: vec![], warnings: fixture.warnings }, "{}", path.display());
        seen += 1;
    }
    assert_eq!(seen, 14);
}

#[test]
fn malformed_annotations_are_refused_with_their_mend() {
    let cases = [
        (
            json!({"inject": "a,"}),
            r#"annotation idtoken.dev/inject: "a," contains an empty name; write names separated by single commas"#,
        ),
        (
            json!({"inject": "a, a"}),
            r#"annotation idtoken.dev/inject: "a, a" contains "a" more than once; write each name once"#,
        ),
        (
            json!({"inject": "a-b,a.b"}),
            r#"annotation idtoken.dev/inject: "a-b,a.b" contains two names that both give the variable IDTOKEN_FILE_A_B; rename one of the bindings, so that they differ in more than '-' and '.'"#,
        ),
        (
            json!({"inject": "Orders"}),
            r#"annotation idtoken.dev/inject: "Orders" contains "Orders", which can't be the name of an IdTokenBinding; write names of bindings, separated by commas (lower-case letters, digits, '-' and '.')"#,
        ),
        (
            json!({"inject": "a", "containers": "app,web"}),
            r#"annotation idtoken.dev/containers: "app,web" contains "web", which is no container of this pod; choose from: setup, app"#,
        ),
        (
            json!({"inject": "a", "mount-path": "/"}),
            r#"annotation idtoken.dev/mount-path: "/" can't be the directory of the tokens; write an absolute path other than '/', without '..' and ':', such as /var/run/secrets/idtoken.dev"#,
        ),
        (
            json!({"inject": "a", "file-mode": "999"}),
            r#"annotation idtoken.dev/file-mode: "999" is not a file mode; write three octal digits, such as 0444 or 0400"#,
        ),
        (
            json!({"inject": "a", "optional": "yes"}),
            r#"annotation idtoken.dev/optional: "yes" is neither true nor false; write "true" or "false""#,
        ),
        (
            json!({"guard": "front"}),
            r#"annotation idtoken.dev/guard: "front" asks for a part that this version of idtoken-operator does not have yet; remove the annotation"#,
        ),
    ];
    for (annotations, message) in cases {
        assert_eq!(refusal(&annotations).to_string(), message);
    }
}

#[test]
fn every_form_of_a_malformed_value_is_refused() {
    let too_long = "a".repeat(254);
    let inject =
        [",", "a,,b", "-a", "a-", "a..b", ".a", "a.", "a_b", "a b", "A", "ä", "a/b", too_long.as_str()];
    let paths = ["tokens", "//", "/.", "/a/./b", "/a//b", "/a/../b", "/..", "/a:b", "a/", "/a\nb"];
    let modes = ["44", "00444", "1444", "0448", "0o444", "rwx", "+44", "-444", "0x1f"];
    let flags = ["1", "True", "TRUE", "on"];
    let cases = inject.iter().map(|value| json!({"inject": value}));
    let cases = cases.chain(paths.iter().map(|value| json!({"inject": "a", "mount-path": value})));
    let cases = cases.chain(modes.iter().map(|value| json!({"inject": "a", "file-mode": value})));
    let cases = cases.chain(flags.iter().map(|value| json!({"inject": "a", "optional": value})));
    let unsupported = [json!({"agent": "true"}), json!({"agent": "passthrough"}), json!({"proxy": "orders"})];
    for annotations in cases.chain(unsupported) {
        refusal(&annotations);
    }
}

#[test]
fn a_long_value_is_cut_in_the_message() {
    let message = refusal(&json!({"inject": "a", "optional": "y".repeat(300)})).to_string();
    assert!(message.starts_with(r#"annotation idtoken.dev/optional: "yyyy"#), "{message}");
    assert!(message.chars().count() < 160, "{message}");
}

#[test]
fn longest_allowed_name_is_accepted_and_its_warning_is_short() {
    let name = format!("{}.{}", "a".repeat(126), "b".repeat(126));
    let injection = inject(&Pod::of(&pod(&json!({"inject": name}))), &|_| None, noon()).unwrap();
    assert_eq!(injection.warnings.len(), 1);
    assert!(injection.warnings[0].chars().count() <= 120, "{}", injection.warnings[0]);
}

#[test]
fn number_of_bindings_is_limited() {
    let names = |count: usize| (0..count).map(|i| format!("b{i}")).collect::<Vec<_>>().join(",");
    assert!(inject(&Pod::of(&pod(&json!({"inject": names(64)}))), &|_| None, noon()).is_ok());
    assert!(
        refusal(&json!({"inject": names(65)})).to_string().contains("names 65 bindings; name at most 64")
    );
    // They are counted before anything is made of them.
    let commas = ",".repeat(1_000_000);
    let refused = refusal(&json!({"inject": commas})).to_string();
    assert!(refused.contains("names 1000001 bindings; name at most 64"), "{refused}");
    let refused = refusal(&json!({"inject": "orders", "containers": names(1001)})).to_string();
    assert!(refused.contains("names 1001 containers; name at most 1000 of them in one pod"), "{refused}");
}

#[test]
fn a_volume_of_another_type_with_our_name_is_refused() {
    let mut pod = pod(&json!({"inject": "orders"}));
    pod["spec"]["volumes"] = json!([{"name": "idtoken", "emptyDir": {}}]);
    assert_eq!(
        inject(&Pod::of(&pod), &|_| None, noon()).unwrap_err().to_string(),
        r#"annotation idtoken.dev/inject: "orders" needs a volume named "idtoken", but the pod has a volume of another type with that name; rename that volume in the pod"#
    );
}

/// What takes most memory for its length; all of it would be tens of megabytes.
#[test]
fn of_no_pod_more_is_kept_than_two_megabytes() {
    let many = |element: Value| Value::Array(vec![element; 100_000]);
    let (named, item) = (json!({"name": "a"}), json!({"path": "a"}));
    let keys = || -> serde_json::Map<_, _> {
        (0..100_000).map(|i| (format!("idtoken.dev/{i}"), json!(1))).collect()
    };
    for spec in [
        json!({"containers": many(named.clone())}),
        json!({"initContainers": many(json!({}))}),
        json!({"containers": [{"volumeMounts": many(named.clone())}]}),
        json!({"containers": [{"env": many(json!({"name": "IDTOKEN_"}))}]}),
        json!({"containers": vec![json!({"volumeMounts": vec![named.clone(); 1000]}); 100]}),
        json!({"volumes": many(json!(1))}),
        json!({"volumes": [{"projected": {"sources": many(json!({"secret": {}}))}}]}),
        json!({"volumes": [{"projected": {"sources": [{"secret": {"items": many(item)}}]}}]}),
        json!({"volumes": [{"projected": {"sources": [keys()]}}]}),
    ] {
        let mut whole = json!({"metadata": {"annotations": {"idtoken.dev/inject": "a"}}, "spec": spec});
        let refused = inject(&Pod::of(&whole), &|_| None, noon()).unwrap_err().to_string();
        assert_eq!(
            refused,
            "annotation idtoken.dev/inject: \"a\" asks for tokens in a pod with more containers, mounts, volumes and annotations than \
             are looked at, some thousands together; remove some of them"
        );
        whole["metadata"] = json!({});
        assert_eq!(inject(&Pod::of(&whole), &|_| None, noon()), Ok(Injection::default()));
    }

    // However many others there are, it is seen what is asked for.
    let mut annotations = keys();
    annotations.insert("idtoken.dev/inject".to_owned(), json!("a"));
    let refused = inject(&Pod::of(&json!({"metadata": {"annotations": annotations}})), &|_| None, noon());
    assert!(refused.unwrap_err().problem.ends_with("some thousands together"));
}

#[test]
fn what_is_not_looked_at_costs_nothing() {
    let mut annotations: serde_json::Map<_, _> =
        (0..100_000).map(|i| (format!("else/{i}"), json!("x"))).collect();
    annotations.insert("idtoken.dev/inject".to_owned(), json!("a"));
    let container = json!({"env": vec![json!({"name": "a"}); 100_000], "args": vec!["x"; 100_000]});
    let pod = json!({"metadata": {"annotations": annotations}, "spec": {"containers": [container]}});
    assert_eq!(inject(&Pod::of(&pod), &|_| None, noon()).unwrap().patch.len(), 6);
}

/// Reviewed once more, they have all of it.
#[test]
fn a_hundred_containers_with_the_variables_of_64_bindings_are_looked_at() {
    let names: Vec<_> = (0..64).map(|i| format!("binding-{i}")).collect();
    let mounts: Vec<_> =
        (0..20).map(|i| json!({"name": format!("m{i}"), "mountPath": format!("/m{i}")})).collect();
    let env: Vec<_> = (0..100).map(|i| json!({"name": format!("V{i}"), "value": "x"})).collect();
    let containers = vec![json!({"name": "app", "volumeMounts": mounts, "env": env}); 100];
    let mut whole = pod(&json!({"inject": names.join(",")}));
    whole["spec"]["containers"] = Value::Array(containers);
    let injection = inject(&Pod::of(&whole), &|_| None, noon()).unwrap();
    let patched = apply(&whole, &injection.patch);
    assert_eq!(patched["spec"]["containers"][99]["env"].as_array().unwrap().len(), 165);
    assert_eq!(inject(&Pod::of(&patched), &|_| None, noon()).unwrap().patch, []);
}

fn apply(pod: &Value, patch: &[PatchOp]) -> Value {
    let patch: json_patch::Patch = serde_json::from_value(serde_json::to_value(patch).unwrap()).unwrap();
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &patch).unwrap();
    patched
}

fn refusal(annotations: &Value) -> Refusal {
    match inject(&Pod::of(&pod(annotations)), &|_| None, noon()) {
        Err(refusal) => refusal,
        Ok(injection) => panic!("{annotations} is accepted: {injection:?}"),
    }
}

fn pod(annotations: &Value) -> Value {
    let annotations: serde_json::Map<_, _> = annotations
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| (format!("idtoken.dev/{key}"), value.clone()))
        .collect();
    json!({
        "metadata": {"annotations": annotations},
        "spec": {"initContainers": [{"name": "setup"}], "containers": [{"name": "app"}]},
    })
}

fn noon() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}
