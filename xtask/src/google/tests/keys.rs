use std::time::Duration;

use super::*;

async fn start() -> Google {
    Google::start(Options::default()).await.unwrap()
}

fn kids(jwks: &Value) -> Vec<String> {
    jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_jwks_is_like_googles() {
    let google = start().await;
    let answer = get(&google.jwks_url()).await;
    assert!(google.jwks_url().ends_with("/oauth2/v3/certs"));
    assert_eq!(answer.header("content-type"), Some("application/json; charset=UTF-8"));
    assert_eq!(answer.header("cache-control"), Some("public, max-age=21600"));
    let key = answer.json()["keys"][0].clone();
    assert_eq!(
        (key["kty"].as_str(), key["alg"].as_str(), key["use"].as_str()),
        (Some("RSA"), Some("RS256"), Some("sig"))
    );
    assert_eq!(key["e"], "AQAB");
    assert_eq!(BASE64URL.decode(key["n"].as_str().unwrap()).unwrap().len(), 256);
    let kid = key["kid"].as_str().unwrap();
    assert_eq!(kid.len(), 40);
    assert!(kid.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)), "{kid}");
    google.set_jwks_max_age(Duration::from_secs(5));
    assert_eq!(get(&google.jwks_url()).await.header("cache-control"), Some("public, max-age=5"));
}

#[tokio::test]
async fn certificates_are_of_the_same_keys() {
    let google = start().await;
    google.rotate_keys().unwrap();
    let answer = get(&google.certs_v1_url()).await;
    assert!(google.certs_v1_url().ends_with("/oauth2/v1/certs"));
    let certificates = answer.json();
    let mut names: Vec<_> = certificates.as_object().unwrap().keys().cloned().collect();
    let mut published = kids(&jwks(&google).await);
    names.sort();
    published.sort();
    assert_eq!(names.len(), 2);
    assert_eq!(names, published);
    for kid in names {
        let pem = certificates[&kid].as_str().unwrap();
        assert!(pem.starts_with("-----BEGIN CERTIFICATE-----\n"), "{pem}");
    }
}

#[tokio::test]
async fn keys_rotate_with_overlap() {
    let google = start().await;
    let old = identity(&google, "audience=a").await.body;
    let old_kid = header(&old)["kid"].as_str().unwrap().to_owned();
    google.rotate_keys().unwrap();
    let new = identity(&google, "audience=b").await.body;
    let new_kid = header(&new)["kid"].as_str().unwrap().to_owned();
    assert_ne!(new_kid, old_kid);
    let both = jwks(&google).await;
    assert_eq!(kids(&both), [new_kid.clone(), old_kid]);
    assert!(verifies(&old, &both) && verifies(&new, &both));
    google.retire_old_keys();
    let after = jwks(&google).await;
    assert_eq!(kids(&after), [new_kid]);
    assert!(!verifies(&old, &after) && verifies(&new, &after));
}

#[tokio::test]
async fn other_paths_and_verbs_do_not_exist() {
    let google = start().await;
    let origin = google.jwks_url().replace("/oauth2/v3/certs", "");
    assert_eq!(get(&format!("{origin}/oauth2/v9/certs")).await.status, 404);
    assert_eq!(send(Method::POST, &google.jwks_url(), &[], "").await.status, 404);
    assert_eq!(get(&google.service_account_jwks_url("nobody@example.com")).await.status, 404);
    assert_eq!(get(&google.service_account_jwks_url(OPERATOR)).await.json(), json!({ "keys": [] }));
}
