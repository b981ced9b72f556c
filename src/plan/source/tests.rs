use serde_json::json;

use super::*;

fn source(source: &serde_json::Value) -> Result<Source, String> {
    parse(&serde_json::from_value(source.clone()).unwrap()).map_err(|problem| problem.message)
}

#[test]
fn every_member_of_the_union_is_parsed() {
    let email = |text: &str| ServiceAccountEmail::parse(text).unwrap();
    let key = |name: &str, key: &str| SecretKey { name: name.to_owned(), key: key.to_owned() };
    let caller = email("caller@p.iam.gserviceaccount.com");
    let provider = "projects/7/locations/global/workloadIdentityPools/pool/providers/cluster";
    let reference = |name: &str, key: &str| json!({"name": name, "key": key});
    let table = [
        (
            json!({"kubernetesServiceAccount": {"name": "app"}}),
            Source::KubernetesServiceAccount {
                name: "app".to_owned(),
                google_service_account: None,
                provider: None,
            },
        ),
        (
            json!({"kubernetesServiceAccount": {"name": "app", "googleServiceAccount": caller.as_str(), "workloadIdentityProvider": provider}}),
            Source::KubernetesServiceAccount {
                name: "app".to_owned(),
                google_service_account: Some(caller.clone()),
                provider: Some(ProviderName(provider.to_owned())),
            },
        ),
        (
            json!({"kubernetesServiceAccount": {"name": "app", "googleServiceAccount": "", "workloadIdentityProvider": ""}}),
            Source::KubernetesServiceAccount {
                name: "app".to_owned(),
                google_service_account: None,
                provider: None,
            },
        ),
        (
            json!({"impersonation": {"serviceAccount": caller.as_str()}}),
            Source::Impersonation { service_account: caller.clone(), delegates: Vec::new() },
        ),
        (json!({"metadataServer": {}}), Source::MetadataServer),
        (
            json!({"serviceAccountKey": {"secretRef": reference("a", "b.json")}}),
            Source::ServiceAccountKey { file: key("a", "b.json") },
        ),
        (
            json!({"userCredentials": {"secretRef": reference("a", "b.json")}}),
            Source::UserCredentials { file: key("a", "b.json") },
        ),
        (
            json!({"identityPlatform": {
                "tenantId": "shop-1", "apiKeySecretRef": reference("a", "k"),
                "emailSecretRef": reference("a", "e"), "passwordSecretRef": reference("b", "p"),
            }}),
            Source::IdentityPlatform {
                tenant: Some("shop-1".to_owned()),
                api_key: key("a", "k"),
                email: key("a", "e"),
                password: key("b", "p"),
            },
        ),
        (
            json!({"signedJwt": {"serviceAccount": caller.as_str()}}),
            Source::SignedJwt { service_account: caller.clone() },
        ),
    ];
    for (spec, expected) in table {
        assert_eq!(source(&spec).unwrap(), expected);
    }
}

#[test]
fn names_that_could_leave_their_path_are_refused() {
    let reference =
        |name: &str, key: &str| json!({"serviceAccountKey": {"secretRef": {"name": name, "key": key}}});
    let ksa = |field: &str, value: &str| {
        let mut account = json!({"name": "app"});
        account[field] = value.into();
        json!({"kubernetesServiceAccount": account})
    };
    let table = [
        (
            reference("../x", "k"),
            "spec.source.serviceAccountKey.secretRef.name \"../x\" is not valid: write a DNS subdomain: lower-case letters, digits, '-' and '.'",
        ),
        (
            reference("x", "a/b"),
            "spec.source.serviceAccountKey.secretRef.key \"a/b\" is not valid: use letters, digits, '-', '_' and '.'",
        ),
        (
            ksa("name", "a/token?x="),
            "spec.source.kubernetesServiceAccount.name \"a/token?x=\" is not valid: write a DNS subdomain: lower-case letters, digits, '-' and '.'",
        ),
        (
            ksa("googleServiceAccount", "a@example.com"),
            "spec.source.kubernetesServiceAccount.googleServiceAccount \"a@example.com\" is not valid: write the e-mail address of a Google service account (NAME@PROJECT.iam.gserviceaccount.com)",
        ),
        (
            ksa(
                "workloadIdentityProvider",
                "projects/my-project/locations/global/workloadIdentityPools/pool/providers/k8s1",
            ),
            "spec.source.kubernetesServiceAccount.workloadIdentityProvider \"projects/my-project/locations/global/workloadIdentityPools/pool/providers/k8s1\" is not valid: write projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER",
        ),
    ];
    for (spec, expected) in table {
        assert_eq!(source(&spec).unwrap_err(), expected);
    }
}

#[test]
fn only_what_uses_the_operators_identity_needs_a_grant() {
    let table = [
        (json!({"metadataServer": {}}), Some("operator")),
        (
            json!({"impersonation": {"serviceAccount": "a@p.iam.gserviceaccount.com"}}),
            Some("a@p.iam.gserviceaccount.com"),
        ),
        (
            json!({"signedJwt": {"serviceAccount": "a@p.iam.gserviceaccount.com"}}),
            Some("a@p.iam.gserviceaccount.com"),
        ),
        (json!({"kubernetesServiceAccount": {"name": "app"}}), None),
        (json!({"serviceAccountKey": {"secretRef": {"name": "a", "key": "b"}}}), None),
        (json!({"userCredentials": {"secretRef": {"name": "a", "key": "b"}}}), None),
    ];
    for (spec, identity) in table {
        assert_eq!(source(&spec).unwrap().granted_identity(), identity, "{spec}");
    }
}

#[test]
fn audiences_of_googles_apis_are_recognised_however_they_are_written() {
    let is = |audience: &str| Audience::parse(audience).unwrap().is_google_api("s3nsapis.fr");
    for api in [
        "https://iamcredentials.googleapis.com/",
        "https://googleapis.com",
        "HTTPS://Storage.GoogleApis.COM:443/x",
        "storage.googleapis.com",
        "//iam.googleapis.com/projects/1",
        "https://storage.googleapis.com.",
        "https://storage.googleapis.com.:443",
        "https://user@storage.googleapis.com/",
        "https://evil.example:x@storage.googleapis.com/",
        "https:\\\\storage.googleapis.com\\x",
        "https:///storage.googleapis.com/",
        "https://accounts.google.com/o/oauth2/token",
        "accounts.google.com",
        "https://storage.s3nsapis.fr/",
        "https://storage.googleapis.com?x",
        "https://storage.googleapis.com#x",
    ] {
        assert!(is(api), "{api}");
    }
    for other in [
        "https://app.example.com/*",
        "https://googleapis.com.example.com",
        "https://notgoogleapis.com",
        "https://google.com",
        "https://app.example.com/googleapis.com",
        "https://storage.googleapis.com@app.example.com/",
        "https://s3nsapis.fr.example.com",
    ] {
        assert!(!is(other), "{other}");
    }
}
