mod hostile;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn grant(spec: &serde_json::Value) -> IdTokenGrant {
    serde_json::from_value(json!({
        "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenGrant", "metadata": {"name": "g"}, "spec": spec,
    }))
    .unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn request<'a>(identity: &'a str, audience: &'a str, labels: &'a BTreeMap<String, String>) -> Request<'a> {
    Request {
        namespace: "shop",
        namespace_labels: Some(labels),
        identity,
        audience,
        kind: TokenKind::IdToken,
        chained: false,
    }
}

const CALLER: &str = "caller@p.iam.gserviceaccount.com";

#[test]
fn audience_patterns_match_what_they_name_and_nothing_else() {
    let table = [
        ("https://api.example.com", "https://api.example.com", true),
        ("https://api.example.com", "HTTPS://API.example.com", true),
        ("https://api.example.com", "https://api.example.com/", false),
        ("https://api.example.com/A", "https://api.example.com/a", false),
        ("client-id.apps", "client-id.apps", true),
        ("client-id.apps", "Client-id.apps", false),
        ("https://*.a.run.app", "https://x.a.run.app", true),
        ("https://*.a.run.app", "https://x.y.A.run.app/", true),
        ("https://*.a.run.app", "https://a.run.app", false),
        ("https://*.a.run.app", "https://.a.run.app", false),
        ("https://*.a.run.app", "https://x..a.run.app", false),
        ("https://*.a.run.app", "https://xa.run.app", false),
        ("https://*.a.run.app", "https://x.a.run.app.evil.com", false),
        ("https://*.a.run.app", "https://x.a.run.app.", false),
        ("https://*.a.run.app", "https://x.a.run.app:443", false),
        ("https://*.a.run.app", "https://x.a.run.app/path", false),
        ("https://*.a.run.app", "http://x.a.run.app", false),
        ("https://*.a.run.app", "https://evil.com/x.a.run.app", false),
        ("https://*.a.run.app", "https://evil.com?x.a.run.app", false),
        ("https://*.a.run.app", "https://evil.com#.a.run.app", false),
        ("https://*.a.run.app", "https://evil.com\\.a.run.app", false),
        ("https://*.a.run.app", "https://user@x.a.run.app", false),
        ("https://*.a.run.app/", "https://x.a.run.app", true),
        ("https://*.a.run.app/*", "https://x.a.run.app", true),
        ("https://*.a.run.app/*", "https://x.a.run.app/orders/1", true),
        ("https://*.a.run.app/*", "https://x.a.run.app/../y", false),
        ("https://*.a.run.app/*", "https://x.a.run.app/%2E%2e/y", false),
        ("https://api.example.com/v1/*", "https://API.example.com/v1/orders", true),
        ("https://api.example.com/v1/*", "https://api.example.com/v1", false),
        ("https://api.example.com/v1/*", "https://api.example.com/V1/orders", false),
        ("https://api.example.com/v1/*", "https://api.example.com/v1/../admin", false),
        ("https://api.example.com/v1/*", "https://api.example.com/v1/%2e./admin", false),
        ("https://api.example.com/v1/*", "https://api.example.com/v1/..%2fadmin", false),
        ("https://api.example.com/v1/*", "https://api.example.com/v1/..;x/admin", false),
        ("https://api.example.com/v1/*", "https://api.example.com/v1/%2e%2E;/admin", false),
        ("https://api.example.com/v1/*", "https://api.example.com:8443/v1/orders", false),
        ("https://api.example.com:8443/*", "https://api.example.com:8443/x", true),
        ("https://api.example.com/*", "https://api.example.com.evil.com/x", false),
    ];
    for (pattern, audience, expected) in table {
        let parsed = AudiencePattern::parse(pattern).unwrap_or_else(|| panic!("{pattern} is a pattern"));
        assert_eq!(parsed.matches(audience), expected, "{pattern} against {audience}");
    }
}

#[test]
fn stars_elsewhere_are_no_patterns() {
    for text in [
        "",
        "https://*",
        "https://*/",
        "https://*.app",
        "https://*.0.0.1",
        "https://*.example.0x7f",
        "https://x*.a.run.app",
        "https://*.a.run.app:443",
        "https://*.a.run.app/x*",
        "https://*.*.run.app",
        "https://a.*.run.app/",
        "https://host*",
        "https://host/a*b*",
        "*://host/x*",
        "https://us*er@host/x*",
        "**",
    ] {
        assert_eq!(AudiencePattern::parse(text), None, "{text}");
    }
    for text in
        ["", "**", "*@*.iam.gserviceaccount.com", "a*@p.iam.gserviceaccount.com", "*@gmail.com", "*@evil.com"]
    {
        assert_eq!(IdentityPattern::parse(text), None, "{text}");
    }
}

#[test]
fn identity_patterns() {
    let project = IdentityPattern::parse("*@p.iam.gserviceaccount.com").unwrap();
    assert!(project.matches("caller@p.iam.gserviceaccount.com"));
    assert!(!project.matches("@p.iam.gserviceaccount.com"));
    assert!(!project.matches("caller@q.p.iam.gserviceaccount.com"));
    assert!(!project.matches("operator"));
    assert!(IdentityPattern::parse("operator").unwrap().matches("operator"));
    assert!(!IdentityPattern::parse("operator").unwrap().matches(CALLER));
}

#[test]
fn a_grant_allows_only_where_everything_matches() {
    let none = labels(&[]);
    let spec = json!({"namespaces": {"names": ["shop"]}, "identities": [CALLER], "audiences": ["https://*.a.run.app"], "delegates": false, "kinds": ["IdToken"]});
    let shop = grant(&spec);
    let good = request(CALLER, "https://x.a.run.app", &none);
    assert!(allows(&shop, good));
    assert!(!allows(&shop, Request { namespace: "other", ..good }));
    assert!(!allows(&shop, Request { identity: "operator", ..good }));
    assert!(!allows(&shop, Request { audience: "https://evil.com", ..good }));
    assert!(!allows(&shop, Request { chained: true, ..good }));
    assert!(!allows(&shop, Request { kind: TokenKind::SignedJwt, ..good }));

    let mut leaving = shop.clone();
    leaving.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time("2026-01-01T00:00:00Z".parse().unwrap()));
    assert!(!allows(&leaving, good));
}

#[test]
fn bare_stars_need_all_namespaces() {
    let none = labels(&[]);
    let everyone =
        json!({"namespaces": {"all": true}, "identities": ["*"], "audiences": ["*"], "kinds": ["IdToken"]});
    assert!(allows(&grant(&everyone), request("operator", "https://x", &none)));
    // What the CRD's rules refuse is refused here too: an older CRD may have let it pass.
    let named = json!({"namespaces": {"names": ["shop"]}, "identities": ["*"], "audiences": ["https://x"], "kinds": ["IdToken"]});
    assert!(!allows(&grant(&named), request(CALLER, "https://x", &none)));
    let wide = json!({"namespaces": {"names": ["shop"]}, "identities": ["*@p.iam.gserviceaccount.com"], "audiences": ["*"], "kinds": ["IdToken"]});
    assert!(!allows(&grant(&wide), request(CALLER, "https://x", &none)));
    let single = json!({"namespaces": {"names": ["shop"]}, "identities": [CALLER], "audiences": ["*"], "kinds": ["IdToken"]});
    assert!(allows(&grant(&single), request(CALLER, "https://x", &none)));
}

#[test]
fn selectors_mean_what_kubernetes_means_but_empty_selects_nothing() {
    let orders = labels(&[("team", "orders"), ("tier", "gold")]);
    let table = [
        (json!({"matchLabels": {"team": "orders"}}), true),
        (json!({"matchLabels": {"team": "carts"}}), false),
        (
            json!({"matchExpressions": [{"key": "team", "operator": "In", "values": ["orders", "carts"]}]}),
            true,
        ),
        (json!({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["orders"]}]}), false),
        (json!({"matchExpressions": [{"key": "absent", "operator": "NotIn", "values": ["x"]}]}), true),
        (json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}), true),
        (json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}), false),
        (json!({"matchExpressions": [{"key": "tier", "operator": "Gt", "values": ["1"]}]}), false),
        (
            json!({"matchLabels": {"team": "orders"}, "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}),
            false,
        ),
        (json!({}), false),
    ];
    for (selector, expected) in table {
        let spec = json!({"namespaces": {"selector": selector}, "identities": [CALLER], "audiences": ["https://x"], "kinds": ["IdToken"]});
        assert_eq!(allows(&grant(&spec), request(CALLER, "https://x", &orders)), expected, "{spec}");
    }
    let two = json!({"namespaces": {"names": ["shop"], "all": true}, "identities": [CALLER], "audiences": ["https://x"], "kinds": ["IdToken"]});
    assert!(
        !allows(&grant(&two), request(CALLER, "https://x", &orders)),
        "two members at once select nothing"
    );
}

#[test]
fn a_namespace_that_is_not_known_is_selected_by_no_selector() {
    let none = labels(&[]);
    let absent = json!({"matchExpressions": [{"key": "restricted", "operator": "DoesNotExist"}]});
    let spec = json!({"namespaces": {"selector": absent}, "identities": [CALLER], "audiences": ["https://x"], "kinds": ["IdToken"]});
    let known = request(CALLER, "https://x", &none);
    assert!(allows(&grant(&spec), known));
    assert!(!allows(&grant(&spec), Request { namespace_labels: None, ..known }));
}

#[test]
fn the_message_holds_a_grant_ready_to_paste() {
    let none = labels(&[]);
    let text = missing(Request { chained: true, ..request(CALLER, "https://x.a.run.app", &none) });
    let yaml = text.split_once(":\n").unwrap().1;
    let parsed: serde_json::Value = serde_yaml_ng::from_str(yaml).unwrap();
    assert_eq!(
        parsed,
        json!({
            "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenGrant", "metadata": {"name": "shop-7380d47c"},
            "spec": {"namespaces": {"names": ["shop"]}, "identities": [CALLER], "audiences": ["https://x.a.run.app"], "delegates": true}
        })
    );
}

proptest! {
    #[test]
    fn no_subdomain_pattern_matches_a_host_that_does_not_end_in_its_suffix(
        suffix in "[a-z]{1,5}\\.[a-z]{1,5}", audience in "https://[a-zA-Z0-9.:@/?#%\\\\*-]{0,40}",
    ) {
        let pattern = format!("https://*.{suffix}/*");
        if AudiencePattern::parse(&pattern).unwrap().matches(&audience) {
            let uri: http::Uri = audience.parse().unwrap();
            let host = uri.host().unwrap().to_ascii_lowercase();
            prop_assert!(host.ends_with(&format!(".{suffix}")) && host.len() > suffix.len() + 1, "{} in {}", host, audience);
            prop_assert!(uri.port().is_none());
        }
    }

    #[test]
    fn no_subdomain_pattern_matches_its_suffix_grown_into_another_host(
        label in "[a-z0-9-]{0,6}", tail in "[a-z.:@/?#\\\\-]{1,12}",
    ) {
        let audience = format!("https://{label}.a.run.app{tail}");
        let matched = AudiencePattern::parse("https://*.a.run.app").unwrap().matches(&audience);
        prop_assert!(!matched || tail == "/", "{}", audience);
    }

    #[test]
    fn no_prefix_pattern_matches_another_host(host in "[a-z.:@-]{1,20}", path in "[a-z/.%]{0,12}") {
        let audience = format!("https://{host}/v1/{path}");
        if AudiencePattern::parse("https://api.example.com/v1/*").unwrap().matches(&audience) {
            prop_assert_eq!(host, "api.example.com");
        }
    }
}
