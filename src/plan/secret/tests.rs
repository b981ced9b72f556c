use serde_json::json;

use super::*;
use crate::plan::Retry;

const TOKEN: &str = "header.payload.signature";

/// `printf %s header.payload.signature | sha256sum`
const TOKEN_SHA256: &str = "256d04db4e5e4ac308751ed0885b722b758630567c53a7125ed9fbd068e5c3f6";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn owner() -> Owner {
    Owner { name: "orders".to_owned(), namespace: "shop".to_owned(), uid: "uid-1".to_owned() }
}

fn spec() -> SecretSpec {
    SecretSpec {
        name: "orders-idtoken".to_owned(),
        key: "id_token".to_owned(),
        authorization_key: None,
        labels: [].into(),
        annotations: [].into(),
    }
}

fn map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn data<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, ByteString> {
    pairs.into_iter().map(|(k, v)| (k.to_owned(), ByteString(v.as_bytes().to_vec()))).collect()
}

fn record() -> Record {
    Record {
        issuer: "https://accounts.google.com".to_owned(),
        identity: Some("caller@p.iam.gserviceaccount.com".to_owned()),
        life: Lifetime { issued: at("2026-01-01T10:00:00Z"), expires: at("2026-01-01T11:00:00Z") },
        spec_hash: "spec-1".to_owned(),
        token_sha256: TOKEN_SHA256.to_owned(),
        refresh_handled: Some("once".to_owned()),
        credential: None,
        granted: None,
        signature_checked: true,
    }
}

fn record_annotations() -> BTreeMap<String, String> {
    map([
        ("idtoken.dev/issuer", "https://accounts.google.com"),
        ("idtoken.dev/identity", "caller@p.iam.gserviceaccount.com"),
        ("idtoken.dev/issue-time", "2026-01-01T10:00:00Z"),
        ("idtoken.dev/expiration-time", "2026-01-01T11:00:00Z"),
        ("idtoken.dev/spec-hash", "spec-1"),
        ("idtoken.dev/token-sha256", TOKEN_SHA256),
        ("idtoken.dev/refresh-handled", "once"),
        ("idtoken.dev/signature-checked", "true"),
    ])
}

fn metadata(json: serde_json::Value) -> ObjectMeta {
    serde_json::from_value(json).unwrap()
}

fn controlled_by(uid: &str, kind: &str, name: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true})
}

#[test]
fn a_secret_is_ours_by_the_uid_of_its_controller_alone() {
    assert_eq!(observe(None, "uid-1", true), Observed::Absent);
    let ours = metadata(json!({"ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "uid-9"},
        controlled_by("uid-1", "IdTokenBinding", "orders"),
    ]}));
    assert!(matches!(observe(Some(&ours), "uid-1", true), Observed::Ours(Ours { intact: true, .. })));
    assert!(matches!(observe(Some(&ours), "uid-1", false), Observed::Ours(Ours { intact: false, .. })));

    let table = [
        (json!({}), Other::Else("nobody (it has no controller)".to_owned())),
        (
            // Owned, but not controlled: a Secret of the user's that was bound to the binding's life.
            json!({"ownerReferences": [
                {"apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding", "name": "orders", "uid": "uid-1"},
            ]}),
            Other::Else("nobody (it has no controller)".to_owned()),
        ),
        (
            // The binding was deleted and made anew: same name, another UID.
            json!({"ownerReferences": [controlled_by("uid-0", "IdTokenBinding", "orders")]}),
            Other::Binding("orders".to_owned()),
        ),
        (
            json!({"ownerReferences": [controlled_by("uid-7", "Certificate", "tls")],
                "annotations": record_annotations()}),
            Other::Else("Certificate tls".to_owned()),
        ),
    ];
    for (meta, expected) in table {
        let observed = observe(Some(&metadata(meta)), "uid-1", true);
        assert_eq!(observed, Observed::Foreign(expected));
        assert_eq!(observed.record(), None, "what a foreign Secret says of itself counts for nothing");
    }
}

#[test]
fn the_record_is_read_from_the_annotations() {
    let meta = metadata(json!({
        "ownerReferences": [controlled_by("uid-1", "IdTokenBinding", "orders")],
        "annotations": record_annotations(),
    }));
    assert_eq!(observe(Some(&meta), "uid-1", true).record(), Some(&record()));
}

#[test]
fn optional_annotations_may_be_absent() {
    let mut annotations = record_annotations();
    annotations.remove("idtoken.dev/identity");
    annotations.remove("idtoken.dev/refresh-handled");
    annotations.insert("idtoken.dev/signature-checked".to_owned(), "false".to_owned());
    let expected = Record { identity: None, refresh_handled: None, signature_checked: false, ..record() };
    assert_eq!(record_from(&annotations), Some(expected));
}

#[test]
fn what_a_grant_had_to_allow_stands_in_an_annotation_and_counts_whatever_is_wanted_now() {
    let authority = |audience: &str| Authority {
        identity: "caller@p.iam.gserviceaccount.com".to_owned(),
        audience: audience.to_owned(),
        kind: crate::api::grant::TokenKind::IdToken,
        chained: false,
    };
    let orders = authority("https://orders.example.com");
    let record = Record { granted: Some(orders.clone()), ..record() };
    let annotations = record_into(&record);
    assert_eq!(
        annotations["idtoken.dev/granted"],
        r#"{"identity":"caller@p.iam.gserviceaccount.com","audience":"https://orders.example.com","kind":"IdToken","chained":false}"#
    );
    assert_eq!(record_from(&annotations), Some(record.clone()));
    let mut broken = annotations;
    broken.insert("idtoken.dev/granted".to_owned(), "{}".to_owned());
    assert_eq!(record_from(&broken), None);

    let binding = serde_json::from_value(json!({
        "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding", "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {"audience": "https://carts.example.com", "source": {"impersonation": {"serviceAccount": "caller@p.iam.gserviceaccount.com"}}},
    }));
    let wanted = crate::plan::validate::validate(&binding.unwrap()).unwrap();
    let ours = |record: Option<Record>| {
        Observed::Ours(Ours { metadata: ObjectMeta::default(), record, intact: true })
    };
    let carts = Some(authority("https://carts.example.com"));
    let of_this_spec = Record { spec_hash: wanted.spec_hash.clone(), granted: None, ..record.clone() };
    let table = [
        ("of another spec", ours(Some(record.clone())), Some(&wanted), Some(orders.clone())),
        (
            "of another spec that needed none",
            ours(Some(Record { granted: None, ..record.clone() })),
            Some(&wanted),
            None,
        ),
        (
            "of this spec, and the annotation was taken away",
            ours(Some(of_this_spec)),
            Some(&wanted),
            carts.clone(),
        ),
        ("the annotations were wiped", ours(None), Some(&wanted), carts),
        ("the spec is invalid", ours(Some(record)), None, Some(orders)),
        ("the spec is invalid, and the annotations were wiped", ours(None), None, None),
        ("nothing is there", Observed::Absent, Some(&wanted), None),
    ];
    for (what, secret, wanted, expected) in table {
        assert_eq!(held_authority(&secret, wanted), expected, "{what}");
    }
}

#[test]
fn a_record_with_a_required_annotation_missing_or_broken_is_none() {
    for key in [
        "idtoken.dev/issuer",
        "idtoken.dev/issue-time",
        "idtoken.dev/expiration-time",
        "idtoken.dev/spec-hash",
        "idtoken.dev/token-sha256",
        "idtoken.dev/signature-checked",
    ] {
        let mut annotations = record_annotations();
        annotations.remove(key);
        assert_eq!(record_from(&annotations), None, "without {key}");
    }
    for key in ["idtoken.dev/issue-time", "idtoken.dev/expiration-time"] {
        let mut annotations = record_annotations();
        annotations.insert(key.to_owned(), "yesterday".to_owned());
        assert_eq!(record_from(&annotations), None, "{key}");
    }
}

#[test]
fn only_an_unharmed_unexpired_token_of_this_spec_is_current() {
    let ours =
        |intact| Observed::Ours(Ours { metadata: ObjectMeta::default(), record: Some(record()), intact });
    let before = at("2026-01-01T10:59:59Z");
    assert_eq!(ours(true).current("spec-1", before), Some(&record()));
    assert_eq!(ours(true).current("spec-1", at("2026-01-01T11:00:00Z")), None, "expired");
    assert_eq!(ours(true).current("spec-2", before), None, "another spec");
    assert_eq!(ours(false).current("spec-1", before), None, "harmed");
    assert_eq!(ours(false).record(), Some(&record()), "it is known all the same");
    assert_eq!(Observed::Absent.current("spec-1", before), None);
}

#[test]
fn data_is_intact_only_as_it_was_written() {
    let plain = spec();
    assert!(is_intact(&data([("id_token", TOKEN)]), &record(), &plain));
    for (harmed, what) in [
        (data([]), "no token"),
        (data([("id_token", "header.payload.Signature")]), "another token"),
        (data([("id_token", "header.payload.signature\n")]), "a newline"),
        (data([("id_token", "")]), "empty"),
        (data([("token", TOKEN)]), "another key"),
    ] {
        assert!(!is_intact(&harmed, &record(), &plain), "{what}");
    }
}

#[test]
fn a_tampered_authorization_value_is_noticed() {
    let both = SecretSpec { authorization_key: Some("authorization".to_owned()), ..spec() };
    let with = |value| data([("id_token", TOKEN), ("authorization", value)]);
    assert!(is_intact(&with("Bearer header.payload.signature"), &record(), &both));
    for value in [
        "Bearer other.payload.signature",
        "header.payload.signature",
        "bearer header.payload.signature",
        "Bearer  header.payload.signature",
        "Bearer header.payload.signature\n",
        "Bearer ",
        "",
    ] {
        assert!(!is_intact(&with(value), &record(), &both), "{value:?}");
    }
    assert!(!is_intact(&data([("id_token", TOKEN)]), &record(), &both), "it is gone");
}

#[test]
fn a_new_secret_holds_the_token_and_nothing_but_what_is_documented() {
    let secret = desired(&owner(), &spec(), &record(), None, TOKEN);
    assert_eq!(
        serde_json::to_value(&secret).unwrap(),
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "idtoken.dev/id-token",
            "metadata": {
                "name": "orders-idtoken",
                "namespace": "shop",
                "labels": {
                    "app.kubernetes.io/managed-by": "idtoken-operator",
                    "velero.io/exclude-from-backup": "true",
                },
                "annotations": {
                    "idtoken.dev/issuer": "https://accounts.google.com",
                    "idtoken.dev/identity": "caller@p.iam.gserviceaccount.com",
                    "idtoken.dev/issue-time": "2026-01-01T10:00:00Z",
                    "idtoken.dev/expiration-time": "2026-01-01T11:00:00Z",
                    "idtoken.dev/spec-hash": "spec-1",
                    "idtoken.dev/token-sha256": TOKEN_SHA256,
                    "idtoken.dev/refresh-handled": "once",
                    "idtoken.dev/signature-checked": "true",
                    "idtoken.dev/from-binding": "{\"annotations\":[],\"labels\":[]}",
                    "reloader.stakater.com/ignore": "true",
                },
                "ownerReferences": [{
                    "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding", "name": "orders",
                    "uid": "uid-1", "controller": true,
                }],
            },
            // base64 of the token, without a newline
            "data": {"id_token": "aGVhZGVyLnBheWxvYWQuc2lnbmF0dXJl"},
        })
    );
}

#[test]
fn the_authorization_value_stands_beside_the_token() {
    let spec =
        SecretSpec { key: "token".to_owned(), authorization_key: Some("authorization".to_owned()), ..spec() };
    let secret = desired(&owner(), &spec, &record(), None, TOKEN);
    let expected = data([("token", TOKEN), ("authorization", "Bearer header.payload.signature")]);
    assert_eq!(secret.data, Some(expected));
}

#[test]
fn a_replacement_names_the_version_it_replaces_and_keeps_what_is_not_ours() {
    let existing = metadata(json!({
        "name": "orders-idtoken", "namespace": "shop", "uid": "secret-uid", "resourceVersion": "41",
        "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 3,
        "managedFields": [{"manager": "x"}],
        "finalizers": ["example.com/backup"],
        "labels": {"team": "orders", "app.kubernetes.io/managed-by": "someone", "idtoken.dev/stale": "x"},
        "annotations": {
            "example.com/note": "kept",
            "reloader.stakater.com/ignore": "false",
            "idtoken.dev/unknown": "an older version wrote this",
            "idtoken.dev/spec-hash": "spec-0",
        },
        "ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "uid-9"},
            {"apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding", "name": "orders", "uid": "uid-1"},
        ],
    }));
    let meta = desired(&owner(), &spec(), &record(), Some(&existing), TOKEN).metadata;
    assert_eq!(meta.uid.as_deref(), Some("secret-uid"));
    assert_eq!(meta.resource_version.as_deref(), Some("41"));
    assert_eq!(meta.finalizers, Some(vec!["example.com/backup".to_owned()]));
    assert_eq!(meta.managed_fields, None, "the API server refuses none, but it is not ours to send");
    assert_eq!(
        meta.labels,
        Some(map([
            ("team", "orders"),
            ("app.kubernetes.io/managed-by", "idtoken-operator"),
            ("velero.io/exclude-from-backup", "true"),
        ]))
    );
    let mut annotations = record_annotations();
    annotations.extend(map([
        ("example.com/note", "kept"),
        ("reloader.stakater.com/ignore", "true"),
        ("idtoken.dev/from-binding", "{\"annotations\":[],\"labels\":[]}"),
    ]));
    assert_eq!(meta.annotations, Some(annotations));
    assert_eq!(
        serde_json::to_value(meta.owner_references).unwrap(),
        json!([
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "uid-9"},
            {"apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding", "name": "orders", "uid": "uid-1",
             "controller": true},
        ])
    );
}

#[test]
fn labels_and_annotations_of_the_binding_go_when_it_drops_them() {
    let before = SecretSpec {
        labels: map([("team", "orders"), ("tier", "web")]),
        annotations: map([("example.com/contact", "a"), ("example.com/cost", "7")]),
        ..spec()
    };
    let first = desired(&owner(), &before, &record(), None, TOKEN).metadata;
    assert_eq!(
        first.annotations.as_ref().unwrap()["idtoken.dev/from-binding"],
        "{\"annotations\":[\"example.com/contact\",\"example.com/cost\"],\"labels\":[\"team\",\"tier\"]}"
    );

    // Somebody adds keys of their own, and the binding drops one of each kind and changes another.
    let mut existing = first;
    existing.labels.as_mut().unwrap().insert("added".to_owned(), "by hand".to_owned());
    existing.annotations.as_mut().unwrap().insert("example.com/added".to_owned(), "by hand".to_owned());
    let after = SecretSpec {
        labels: map([("team", "billing")]),
        annotations: map([("example.com/contact", "b")]),
        ..spec()
    };
    let second = desired(&owner(), &after, &record(), Some(&existing), TOKEN).metadata;
    assert_eq!(
        second.labels,
        Some(map([
            ("team", "billing"),
            ("added", "by hand"),
            ("app.kubernetes.io/managed-by", "idtoken-operator"),
            ("velero.io/exclude-from-backup", "true"),
        ]))
    );
    let annotations = second.annotations.unwrap();
    assert_eq!(annotations["example.com/contact"], "b");
    assert_eq!(annotations["example.com/added"], "by hand");
    assert_eq!(annotations.get("example.com/cost"), None);
}

#[test]
fn a_broken_note_of_what_came_from_the_binding_costs_nothing_but_the_cleaning() {
    let existing = metadata(json!({
        "labels": {"team": "orders"}, "annotations": {"idtoken.dev/from-binding": "not json"},
    }));
    let meta = desired(&owner(), &spec(), &record(), Some(&existing), TOKEN).metadata;
    assert_eq!(meta.labels.unwrap().get("team").map(String::as_str), Some("orders"));
}

#[test]
fn what_keeps_the_token_safe_is_not_the_users_to_switch_off() {
    let spec = SecretSpec {
        labels: map([("velero.io/exclude-from-backup", "false")]),
        annotations: map([("reloader.stakater.com/ignore", "false")]),
        ..spec()
    };
    let meta = desired(&owner(), &spec, &record(), None, TOKEN).metadata;
    assert_eq!(meta.labels.unwrap()["velero.io/exclude-from-backup"], "true");
    assert_eq!(meta.annotations.unwrap()["reloader.stakater.com/ignore"], "true");
}

#[test]
fn a_conflict_names_the_way_out() {
    let problem = conflict("orders-idtoken", &Other::Else("Certificate tls".to_owned()));
    assert_eq!(problem.reason, Reason::SecretConflict);
    assert_eq!(problem.retry, Retry::OnChange);
    assert_eq!(
        problem.message,
        "Secret orders-idtoken exists and is controlled by Certificate tls, so it was left alone; delete or rename it, \
         or create a binding with another spec.secret.name"
    );
}

#[test]
fn the_secret_of_a_former_binding_is_waited_for() {
    let problem = conflict("orders-idtoken", &Other::Binding("orders".to_owned()));
    assert_eq!(problem.reason, Reason::SecretConflict);
    assert_eq!(problem.retry, Retry::Transient { retry_after: None });
}

#[test]
fn labels_and_annotations_of_the_binding_are_missed_and_dropped_ones_noticed() {
    let mut spec = spec();
    spec.labels = map([("team", "orders")]);
    let meta = desired(&owner(), &spec, &record(), None, TOKEN).metadata;
    let carries = |meta: &ObjectMeta, spec: &SecretSpec| observe(Some(meta), "uid-1", true).carries(spec);
    assert!(carries(&meta, &spec));
    let mut without = meta.clone();
    without.labels.as_mut().unwrap().remove("team");
    assert!(!carries(&without, &spec));
    spec.labels = map([("team", "carts")]);
    assert!(!carries(&meta, &spec));
    spec.labels.clear();
    assert!(!carries(&meta, &spec), "it still has a label that the binding dropped");
    spec.annotations = map([("example.com/contact", "x")]);
    assert!(!carries(&meta, &spec));
}

#[test]
fn hashes_are_lower_case_hex() {
    assert_eq!(sha256_hex(TOKEN.as_bytes()), TOKEN_SHA256);
}
