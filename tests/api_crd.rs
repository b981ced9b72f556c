//! The CRDs on a real API server: every rule and bound accepts and refuses what it should, in words a user can act on;
//! every field is documented; what is read back is what was meant.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeSet;

use common::{World, google_options};
use http::{Method, Request};
use idtoken_operator::plan::grant::file;
use serde::Deserialize;
use serde_json::{Value, json};
use xtask::cluster::ClusterOptions;

const CRDS: [&str; 2] = [
    include_str!("../crds/idtoken.dev_idtokenbindings.yaml"),
    include_str!("../crds/idtoken.dev_idtokengrants.yaml"),
];
const FIXTURES: [&str; 2] =
    [include_str!("fixtures/crd/bindings.yaml"), include_str!("fixtures/crd/grants.yaml")];

/// What the API server adds to the refusal of whatever can't be given to CEL.
const UNCHECKED: &str = ", <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";

/// A file of fixtures: its first comment says how it is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    kind: String,
    base: Value,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    about: String,
    #[serde(default = "nothing")]
    base: Value,
    held: Option<Value>,
    accepted: Vec<Value>,
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    change: Value,
    message: String,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn every_rule_and_bound_accepts_and_refuses_with_its_message() {
    let world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    let mut wrong = Vec::new();
    for fixture in fixtures() {
        for (number, case) in fixture.cases.iter().enumerate() {
            wrong.extend(try_case(&world, &fixture, case, number).await);
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    world.end().await;
}

#[test]
fn every_rule_and_every_bound_of_the_schemas_has_a_refused_case() {
    for (crd, fixture) in CRDS.iter().zip(fixtures()) {
        let messages: Vec<_> = fixture.cases.iter().flat_map(|c| &c.refused).map(|r| &r.message).collect();
        let schema = schema(crd);
        let mut promised: Vec<_> = rules(&schema).into_iter().collect();
        let spec = &schema["properties"]["spec"];
        promised.extend(promises("spec", spec));
        walk(spec, "spec", &mut |path, node| promised.extend(promises(path, node)));
        promised.retain(|wanted| !messages.iter().any(|message| holds(message, wanted)));
        let missing = promised;
        assert!(missing.is_empty(), "{} without a refused case:\n{}", fixture.kind, missing.join("\n"));
        for case in &fixture.cases {
            assert!(!case.accepted.is_empty() && !case.refused.is_empty(), "{}", case.about);
        }
    }
}

#[test]
fn a_file_of_grants_keeps_the_same_rules() {
    let [_, fixture] = fixtures();
    let text = |change: &Value| {
        let mut object =
            json!({"apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenGrant", "metadata": {"name": "g"}});
        json_patch::merge(&mut object, &fixture.base);
        json_patch::merge(&mut object, &expand(change));
        (object["spec"]["namespaces"].get("selector").is_some(), object.to_string())
    };
    for case in &fixture.cases {
        for change in &case.accepted {
            let (selects, text) = text(change);
            match file::parse(&text) {
                Ok(grants) => assert!(grants.len() == 1 && !selects, "{change}"),
                Err(error) => {
                    assert!(selects && error.field == "spec.namespaces.selector", "{change}: {error}");
                }
            }
        }
        for Refused { change, .. } in &case.refused {
            let error = file::parse(&text(change).1).expect_err(&change.to_string());
            assert!(error.field.starts_with("spec"), "{change}: {error}");
        }
    }
}

#[test]
fn every_field_is_described_and_the_definitions_are_small() {
    for crd in CRDS {
        assert!(crd.len() < 256 * 1024);
        let mut bare = Vec::new();
        let mut fields = 0;
        walk(&schema(crd), "", &mut |path, node| {
            fields += 1;
            if !path.ends_with(['*', ']']) && node["description"].as_str().unwrap_or_default().len() < 10 {
                bare.push(path.to_owned());
            }
        });
        assert!(fields > 15, "the schema was walked: {fields}");
        assert!(bare.is_empty(), "fields without a description: {bare:?}");
    }
}

#[test]
fn columns_names_and_conditions_are_those_of_the_contract() {
    let [bindings, grants] = CRDS.map(|crd| serde_yaml_ng::from_str::<Value>(crd).unwrap());
    let columns = |crd: &Value| -> Vec<(String, String, i64)> {
        let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap();
        columns
            .iter()
            .map(|c| {
                let text = |key: &str| c[key].as_str().unwrap().to_owned();
                (text("name"), text("type"), c["priority"].as_i64().unwrap_or(0))
            })
            .collect()
    };
    let expected = |list: &[(&str, &str, i64)]| -> Vec<(String, String, i64)> {
        list.iter().map(|(name, kind, priority)| ((*name).into(), (*kind).into(), *priority)).collect()
    };
    assert_eq!(
        columns(&bindings),
        expected(&[
            ("Ready", "string", 0),
            ("Audience", "string", 0),
            ("Identity", "string", 0),
            ("Expires", "string", 0), // not a date: kubectl prints <invalid> for the future
            ("Age", "date", 0),
            ("Source", "string", 1),
            ("Secret", "string", 1),
            ("Reason", "string", 1),
            ("Next Refresh", "string", 1),
        ])
    );
    assert_eq!(
        columns(&grants),
        expected(&[
            ("Namespaces", "string", 0),
            ("Identities", "string", 0),
            ("Audiences", "string", 0),
            ("Bindings", "integer", 0),
            ("Age", "date", 0),
            ("Used By", "string", 1),
        ])
    );
    let conditions = &bindings["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
        ["conditions"];
    assert_eq!(conditions["x-kubernetes-list-type"], "map");
    assert_eq!(conditions["x-kubernetes-list-map-keys"], json!(["type"]));
    for (crd, scope, short) in [(&bindings, "Namespaced", "itb"), (&grants, "Cluster", "itg")] {
        assert_eq!(crd["spec"]["scope"], scope);
        assert_eq!(crd["spec"]["names"]["shortNames"], json!([short]));
        assert_eq!(crd["spec"]["names"]["categories"], json!(["idtoken"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn what_is_read_back_is_what_was_meant() {
    let world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    let spec_of = async |kind: &str, spec: Value| -> Value {
        let path = place(kind);
        let object = json!({"apiVersion": "idtoken.dev/v1alpha1", "kind": kind, "metadata": {"generateName": "a-"}, "spec": spec});
        send(&world, Method::POST, path, &object).await.unwrap()["spec"].take()
    };
    // A defaulted sibling in a union would persist, and hold against the next change of source.
    for source in [
        json!({"metadataServer": {}}),
        json!({"kubernetesServiceAccount": {"name": "app"}}),
        json!({"impersonation": {"serviceAccount": "a@p.iam.gserviceaccount.com"}}),
        json!({"signedJwt": {"serviceAccount": "a@p.iam.gserviceaccount.com"}}),
        json!({"serviceAccountKey": {"secretRef": {"name": "s", "key": "k"}}}),
    ] {
        let stored = spec_of("IdTokenBinding", json!({"audience": "a", "source": source})).await;
        assert_eq!(
            stored,
            json!({
                "audience": "a",
                "source": source,
                "secret": {"name": "", "key": "id_token", "authorizationKey": ""},
                "refresh": {"atLifetimePercent": 60},
                "suspend": false,
            })
        );
    }
    // A null from a template engine is as good as nothing.
    let nulls = json!({"audience": "a", "source": {"metadataServer": {}, "impersonation": null}});
    let stored = spec_of("IdTokenBinding", nulls).await;
    assert_eq!(stored["source"], json!({"metadataServer": {}, "impersonation": null}));
    let partly = json!({"audience": "a", "source": {"metadataServer": {}}, "secret": {"key": "jwt"}, "refresh": {}, "suspend": true});
    assert_eq!(
        spec_of("IdTokenBinding", partly).await,
        json!({
            "audience": "a",
            "source": {"metadataServer": {}},
            "secret": {"name": "", "key": "jwt", "authorizationKey": ""},
            "refresh": {"atLifetimePercent": 60},
            "suspend": true,
        })
    );
    for namespaces in
        [json!({"all": true}), json!({"names": ["shop"]}), json!({"selector": {"matchLabels": {"a": "b"}}})]
    {
        let spec = json!({"namespaces": namespaces, "identities": ["operator"], "audiences": ["a"]});
        assert_eq!(
            spec_of("IdTokenGrant", spec).await,
            json!({"namespaces": namespaces, "identities": ["operator"], "audiences": ["a"], "delegates": false, "kinds": ["IdToken"]})
        );
    }

    // What kubectl shows of it, and that it documents the last field as well as the first.
    let (ok, text) = world.kubectl(&["explain", "idtokenbinding.spec.source.impersonation.delegates"], None);
    assert!(
        ok && text.contains("Chain of service accounts between the operator and `serviceAccount`"),
        "{text}"
    );
    let (ok, text) = world.kubectl(&["get", "idtoken", "-n", "shop"], None);
    assert!(ok && text.contains("idtokenbinding.idtoken.dev/a-"), "the category: {text}");
    world.end().await;
}

/// What is wrong with one case: a line each.
async fn try_case(world: &World, fixture: &Fixture, case: &Case, number: usize) -> Vec<String> {
    let path = place(&fixture.kind);
    let name = format!("case-{number}");
    let mut base =
        json!({"apiVersion": "idtoken.dev/v1alpha1", "kind": fixture.kind, "metadata": {"name": name}});
    json_patch::merge(&mut base, &fixture.base);
    json_patch::merge(&mut base, &expand(&case.base));
    let mut target = path.to_owned();
    let mut method = Method::POST;
    if let Some(held) = &case.held {
        json_patch::merge(&mut base, &expand(held));
        base = send(world, Method::POST, path, &base).await.unwrap();
        target = format!("{path}/{name}");
        method = Method::PUT;
    }
    let attempt = async |change: &Value| {
        let mut object = base.clone();
        json_patch::merge(&mut object, &expand(change));
        let checked = format!("{target}?dryRun=All&fieldValidation=Strict");
        send(world, method.clone(), &checked, &object).await
    };
    let mut wrong = Vec::new();
    for change in &case.accepted {
        if let Err(message) = attempt(change).await {
            wrong.push(format!("{}: {change} is refused: {message}", case.about));
        }
    }
    for Refused { change, message } in &case.refused {
        let expected = expand(&json!(message));
        match attempt(change).await {
            Ok(_) => wrong.push(format!("{}: {change} is accepted", case.about)),
            Err(found) if expected == found.as_str() => {}
            Err(found) => {
                wrong.push(format!("{}: {change}\n expected {expected}\n    found {found}", case.about));
            }
        }
    }
    wrong
}

/// The object that was accepted, or why it was not: the server's message behind its name.
async fn send(world: &World, method: Method, path: &str, object: &Value) -> Result<Value, String> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Content-Type", "application/json")
        .body(serde_json::to_vec(object).unwrap())
        .unwrap();
    match world.client.request::<Value>(request).await {
        Ok(object) => Ok(object),
        Err(kube::Error::Api(status)) => {
            let message = status.message.replace(UNCHECKED, "");
            Err(message.split_once(" is invalid: ").map(|(_, rest)| rest.to_owned()).unwrap_or(message))
        }
        Err(error) => panic!("{error}"),
    }
}

fn fixtures() -> [Fixture; 2] {
    FIXTURES.map(|text| serde_yaml_ng::from_str(text).unwrap())
}

fn nothing() -> Value {
    json!({})
}

/// Where objects of a kind are created.
fn place(kind: &str) -> &'static str {
    match kind {
        "IdTokenBinding" => "/apis/idtoken.dev/v1alpha1/namespaces/shop/idtokenbindings",
        "IdTokenGrant" => "/apis/idtoken.dev/v1alpha1/idtokengrants",
        other => panic!("{other}"),
    }
}

/// Fills in `${a*3}` and `{times: 3, item: a}`.
fn expand(value: &Value) -> Value {
    match value {
        Value::String(text) => json!(repeat(text)),
        Value::Array(items) => items.iter().map(expand).collect(),
        Value::Object(map) => match (map.get("times").and_then(Value::as_u64), map.get("item")) {
            (Some(times), Some(item)) => (0..times).map(|_| expand(item)).collect(),
            _ => map.iter().map(|(key, value)| (repeat(key), expand(value))).collect(),
        },
        other => other.clone(),
    }
}

fn repeat(text: &str) -> String {
    let Some((before, rest)) = text.split_once("${") else {
        return text.to_owned();
    };
    let (inner, after) = rest.split_once('}').unwrap();
    let (piece, times) = inner.split_once('*').unwrap();
    format!("{before}{}{}", piece.repeat(times.parse().unwrap()), repeat(after))
}

fn schema(crd: &str) -> Value {
    let crd: Value = serde_yaml_ng::from_str(crd).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Visits every property below a schema, with its path: `[0]` for the elements of a list, `*` for those of a map.
fn walk(node: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value)) {
    for (name, property) in node["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        visit(&path, property);
        walk(property, &path, visit);
    }
    for (inner, mark) in [(&node["items"], "[0]"), (&node["additionalProperties"], ".*")] {
        if inner.is_object() {
            let path = format!("{path}{mark}");
            visit(&path, inner);
            walk(inner, &path, visit);
        }
    }
}

/// The messages of all CEL rules.
fn rules(node: &Value) -> BTreeSet<String> {
    match node {
        Value::Object(map) => {
            let own = map.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten();
            let own = own.map(|rule| rule["message"].as_str().expect("every rule has a message").to_owned());
            own.chain(map.values().flat_map(rules)).collect()
        }
        Value::Array(items) => items.iter().flat_map(rules).collect(),
        _ => BTreeSet::new(),
    }
}

/// What the API server says where a bound of this property is passed.
fn promises(path: &str, node: &Value) -> Vec<String> {
    let body = |text: String| format!("{path} in body {text}");
    let bound = |key: &str, say: &dyn Fn(String) -> String| {
        node.get(key).and_then(Value::as_f64).map(|limit| say(limit.to_string()))
    };
    let over = |limit: String| {
        let limit: u32 = limit.parse().unwrap();
        format!("{path}: Too many: {}: must have at most {limit} items", limit + 1)
    };
    let required = node["required"].as_array().into_iter().flatten();
    let required = required.map(|name| format!("{path}.{}: Required value", name.as_str().unwrap()));
    let kind = node.get("enum").map(|_| format!("{path}: Unsupported value: "));
    [
        bound("maxLength", &|n| format!("{path}: Too long: may not be more than {n} bytes")),
        bound("minLength", &|n| body(format!("should be at least {n} chars long"))),
        bound("maxItems", &over),
        bound("maxProperties", &over),
        bound("minItems", &|n| body(format!("should have at least {n} items"))),
        bound("maximum", &|n| body(format!("should be less than or equal to {n}"))),
        bound("minimum", &|n| body(format!("should be greater than or equal to {n}"))),
    ]
    .into_iter()
    .flatten()
    .chain(kind)
    .chain(required)
    .collect()
}

/// Whether a message holds `wanted`, in which `*` stands for a key of a map.
fn holds(message: &str, wanted: &str) -> bool {
    match wanted.split_once(".*") {
        Some((path, rest)) => message.split_once(&format!("{path}.")).is_some_and(|(_, tail)| {
            tail.split_once(':').is_some_and(|(_, t)| rest.ends_with(t.trim_end_matches(']')))
        }),
        None => message.contains(wanted),
    }
}
