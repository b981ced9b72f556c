use serde_json::json;

use super::*;
use crate::{api::Reason, plan::source::ServiceAccountEmail};

fn binding(spec: &serde_json::Value) -> IdTokenBinding {
    serde_json::from_value(json!({
        "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding",
        "metadata": {"name": "orders", "namespace": "shop"}, "spec": spec,
    }))
    .unwrap()
}

#[test]
fn a_small_binding_gets_all_defaults() {
    let wanted =
        validate(&binding(&json!({"audience": "https://x.a.run.app", "source": {"metadataServer": {}}})))
            .unwrap();
    assert_eq!(wanted.audience.as_str(), "https://x.a.run.app");
    assert_eq!(wanted.source, Source::MetadataServer);
    assert_eq!(wanted.secret.name, "orders-idtoken");
    assert_eq!(wanted.secret.key, "id_token");
    assert_eq!(wanted.secret.authorization_key, None);
    assert_eq!(wanted.refresh_percent, 60);
    assert!(!wanted.suspend);
}

#[test]
fn a_chain_keeps_its_order() {
    let wanted = validate(&binding(&json!({"audience": "a", "source": {"impersonation": {
        "serviceAccount": "c@p.iam.gserviceaccount.com",
        "delegates": ["a@p.iam.gserviceaccount.com", "b@p.iam.gserviceaccount.com"],
    }}})))
    .unwrap();
    let Source::Impersonation { service_account, delegates } = &wanted.source else {
        panic!("impersonation")
    };
    assert_eq!(service_account.as_str(), "c@p.iam.gserviceaccount.com");
    let delegates: Vec<_> = delegates.iter().map(ServiceAccountEmail::as_str).collect();
    assert_eq!(delegates, ["a@p.iam.gserviceaccount.com", "b@p.iam.gserviceaccount.com"]);
    assert!(wanted.source.is_chained());
}

#[test]
fn what_an_older_crd_let_pass_is_refused_by_field_value_and_mend() {
    let md = json!({"metadataServer": {}});
    let table = [
        (
            json!({"audience": "", "source": md}),
            "spec.audience \"\" is not valid: write 1 to 2048 characters",
        ),
        (
            json!({"audience": "a b", "source": md}),
            "spec.audience \"a b\" is not valid: use printable ASCII characters without blanks",
        ),
        (json!({"audience": "a", "source": {}}), "spec.source \"{…}\" is not valid: set exactly one source"),
        (
            json!({"audience": "a", "source": {"metadataServer": {}, "impersonation": {"serviceAccount": "x"}}}),
            "spec.source \"{…}\" is not valid: set exactly one source",
        ),
        (
            json!({"audience": "a", "source": {"impersonation": {"serviceAccount": "x/../y"}}}),
            "spec.source.impersonation.serviceAccount \"x/../y\" is not valid: write the e-mail address of a Google service account (NAME@PROJECT.iam.gserviceaccount.com)",
        ),
        (
            json!({"audience": "a", "source": md, "secret": {"key": "..x"}}),
            "spec.secret.key \"..x\" is not valid: use letters, digits, '-', '_' and '.', not starting with '..'",
        ),
        (
            json!({"audience": "a", "source": md, "secret": {"authorizationKey": "id_token"}}),
            "spec.secret.authorizationKey \"id_token\" is not valid: choose another key than spec.secret.key",
        ),
        (
            json!({"audience": "a", "source": md, "secret": {"labels": {"app.kubernetes.io/name": "x"}}}),
            "spec.secret.labels \"app.kubernetes.io/name\" is not valid: remove it: the prefix is reserved",
        ),
        (
            json!({"audience": "a", "source": md, "refresh": {"atLifetimePercent": 99}}),
            "spec.refresh.atLifetimePercent \"99\" is not valid: choose 20 to 90",
        ),
    ];
    for (spec, expected) in table {
        let problem = validate(&binding(&spec)).unwrap_err();
        assert_eq!(problem.reason, Reason::InvalidSpec, "{spec}");
        assert_eq!(problem.message, expected);
    }
}

#[test]
fn the_spec_hash_moves_with_what_belongs_in_the_secret_only() {
    let base = json!({"audience": "a", "source": {"metadataServer": {}}});
    let hash = |spec: &serde_json::Value| validate(&binding(spec)).unwrap().spec_hash;
    let first = hash(&base);
    assert_eq!(first.len(), 64);
    let mut other = base.clone();
    other["refresh"] = json!({"atLifetimePercent": 30});
    other["suspend"] = json!(true);
    assert_eq!(hash(&other), first);
    other["audience"] = json!("b");
    assert_ne!(hash(&other), first);
    let mut labelled = base;
    labelled["secret"] = json!({"labels": {"team": "orders"}});
    assert_eq!(hash(&labelled), first, "labels are no part of the token");
}

#[test]
fn service_account_addresses_are_fit_for_a_path() {
    for good in [
        "a@p.iam.gserviceaccount.com",
        "1-compute@developer.gserviceaccount.com",
        "p@appspot.gserviceaccount.com",
        "a@p.example.com.iam.gserviceaccount.com",
    ] {
        assert!(ServiceAccountEmail::parse(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "a",
        "@p.iam.gserviceaccount.com",
        "A@p.iam.gserviceaccount.com",
        "a@b@p.iam.gserviceaccount.com",
        "a:x@p.iam.gserviceaccount.com",
        "a%2f@p.iam.gserviceaccount.com",
        "a@evil.com",
        "a@.gserviceaccount.com",
        "a@p.iam.gserviceaccount.com.evil.com",
    ] {
        assert!(ServiceAccountEmail::parse(bad).is_err(), "{bad}");
    }
}
