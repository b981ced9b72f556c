use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

use super::super::keys::{SigningKey, jwks as jwks_of, unsigned};
use super::super::{Endpoint, Provider, Role};
use super::*;

const ISSUER: &str = "https://kubernetes.default.svc";
const POOL_AUDIENCE: &str = "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/pool/providers/cluster";
const GKE_AUDIENCE: &str = "identitynamespace:demo-project.svc.id.goog:https://container.googleapis.com/v1/projects/demo-project/locations/europe-west1/clusters/demo";

/// A cluster's signing key, with a provider that trusts it.
struct Cluster {
    google: Google,
    key: SigningKey,
}

impl Cluster {
    async fn start(change: impl FnOnce(Provider) -> Provider) -> Self {
        let key = SigningKey::generate("cluster", crate::clock::now()).unwrap();
        let keys = jwks_of(std::iter::once(&key));
        let pool = Provider::pool(123_456_789_012, "pool", "cluster", ISSUER).with_jwks(keys.clone());
        let mut gke = Provider::gke("demo-project", 123_456_789_012, "europe-west1", "demo").with_jwks(keys);
        gke.issuer = ISSUER.into();
        let options = Options::default().service_account(CALLER).provider(change(pool)).provider(gke);
        Self { google: Google::start(options).await.unwrap(), key }
    }

    fn token(&self, claims: &Value) -> String {
        self.key.sign(claims)
    }

    async fn exchange(&self, audience: &str, token: &str) -> Answer {
        post_form(&self.url(), &fields(audience, token)).await
    }

    fn url(&self) -> String {
        format!("{}/v1/token", self.google.sts_url())
    }
}

fn fields<'a>(audience: &'a str, token: &'a str) -> [(&'a str, &'a str); 6] {
    [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("audience", audience),
        ("scope", "https://www.googleapis.com/auth/cloud-platform"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("subject_token", token),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
    ]
}

fn pod_claims(audience: &str) -> Value {
    let now = crate::clock::now().as_second();
    json!({
        "iss": ISSUER, "sub": "system:serviceaccount:shop:app", "aud": [audience], "iat": now - 10, "exp": now + 900,
    })
}

#[tokio::test]
async fn a_pods_token_becomes_its_principals_access_token() {
    let cluster = Cluster::start(|pool| pool).await;
    for audience in [POOL_AUDIENCE.to_owned(), format!("https:{POOL_AUDIENCE}")] {
        let answer = cluster.exchange(POOL_AUDIENCE, &cluster.token(&pod_claims(&audience))).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let body = answer.json();
        assert_eq!(body["issued_token_type"], "urn:ietf:params:oauth:token-type:access_token");
        assert_eq!(body["token_type"], "Bearer");
        let left = body["expires_in"].as_i64().unwrap();
        assert!((895..=900).contains(&left), "{left}");
    }
    let bearer = cluster
        .exchange(POOL_AUDIENCE, &cluster.token(&pod_claims(POOL_AUDIENCE)))
        .await
        .text("access_token");
    let method = format!("{CALLER}:generateIdToken");
    let refused = call_iam(&cluster.google, &bearer, &method, json!({ "audience": "a" })).await;
    assert_eq!(refused.status, 403);
    let principal = "principal://iam.googleapis.com/projects/123456789012/locations/global/\
                     workloadIdentityPools/pool/subject/system:serviceaccount:shop:app";
    cluster.google.grant(principal, Role::WorkloadIdentityUser, CALLER);
    let minted = call_iam(&cluster.google, &bearer, &method, json!({ "audience": "a" })).await;
    assert_eq!(minted.status, 200);
}

#[tokio::test]
async fn a_gke_cluster_has_its_own_pool() {
    let cluster = Cluster::start(|pool| pool).await;
    let token = cluster.token(&pod_claims("demo-project.svc.id.goog"));
    let bearer = cluster.exchange(GKE_AUDIENCE, &token).await.text("access_token");
    let member = "serviceAccount:demo-project.svc.id.goog[shop/app]";
    cluster.google.grant(member, Role::WorkloadIdentityUser, CALLER);
    let method = format!("{CALLER}:generateIdToken");
    let minted = call_iam(&cluster.google, &bearer, &method, json!({ "audience": "a" })).await;
    assert_eq!(minted.status, 200);
}

#[tokio::test]
async fn json_is_taken_as_well_as_a_form() {
    let cluster = Cluster::start(|pool| pool).await;
    let token = cluster.token(&pod_claims(POOL_AUDIENCE));
    let camel = json!({
        "grantType": "urn:ietf:params:oauth:grant-type:token-exchange",
        "audience": POOL_AUDIENCE,
        "scope": "https://www.googleapis.com/auth/cloud-platform",
        "requestedTokenType": "urn:ietf:params:oauth:token-type:access_token",
        "subjectToken": token,
        "subjectTokenType": "urn:ietf:params:oauth:token-type:jwt",
    });
    let headers = [("Content-Type", "application/json; charset=utf-8")];
    let answer = send(Method::POST, &cluster.url(), &headers, &camel.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let plain =
        send(Method::POST, &cluster.url(), &[("Content-Type", "text/plain")], &camel.to_string()).await;
    assert_eq!((plain.status, plain.text("error").as_str()), (400, "invalid_request"));
}

#[tokio::test]
async fn es256_is_taken_too() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref().to_vec();
    let coordinate = |range: std::ops::Range<usize>| BASE64URL.encode(&point[range]);
    let keys = json!({ "keys": [{
        "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "ec", "x": coordinate(1..33), "y": coordinate(33..65),
    }] });
    let cluster = Cluster::start(|pool| pool.with_jwks(keys)).await;
    let message = unsigned(&json!({ "alg": "ES256", "kid": "ec" }), &pod_claims(POOL_AUDIENCE));
    let signature = pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    let token = format!("{message}.{}", BASE64URL.encode(signature.as_ref()));
    assert_eq!(cluster.exchange(POOL_AUDIENCE, &token).await.status, 200);
    let other = unsigned(&json!({ "alg": "ES256", "kid": "ec" }), &pod_claims(GKE_AUDIENCE));
    let forged = format!("{other}.{}", BASE64URL.encode(signature.as_ref()));
    assert_eq!(cluster.exchange(POOL_AUDIENCE, &forged).await.status, 400);
}

#[tokio::test]
async fn bad_subject_tokens_are_invalid_grants() {
    let cluster = Cluster::start(|pool| pool).await;
    let now = crate::clock::now().as_second();
    let with = |name: &str, value: Value| {
        let mut claims = pod_claims(POOL_AUDIENCE);
        claims[name] = value;
        claims
    };
    let cases = [
        (
            with("aud", json!(["https://elsewhere.example.com"])),
            "The audience in ID Token [https://elsewhere.example.com] does not match the expected audience \
             //iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/pool/providers/cluster \
             or https://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/pool/providers/cluster."
                .to_owned(),
        ),
        (
            with("iss", json!("https://other.example.com")),
            "The issuer in ID Token https://other.example.com does not match the expected ones: \
             https://kubernetes.default.svc"
                .to_owned(),
        ),
        (with("exp", json!(now - 5)), format!("ID Token issued at {} is stale to sign-in.", now - 10)),
        (with("iat", json!(now + 100)), format!("ID Token issued at {} is not yet valid.", now + 100)),
        (with("iat", json!(now - 90_000)), format!("ID Token issued at {} is stale to sign-in.", now - 90_000)),
        (with("exp", json!(null)), "The ID Token must have the claims iat and exp.".to_owned()),
    ];
    for (claims, text) in cases {
        let answer = cluster.exchange(POOL_AUDIENCE, &cluster.token(&claims)).await;
        let expected = json!({ "error": "invalid_grant", "error_description": text });
        assert_eq!((answer.status, answer.json()), (400, expected));
    }
}

#[tokio::test]
async fn signatures_count_where_keys_are_given() {
    let cluster = Cluster::start(|pool| pool).await;
    let stranger = SigningKey::generate("stranger", crate::clock::now()).unwrap();
    let unknown = cluster.exchange(POOL_AUDIENCE, &stranger.sign(&pod_claims(POOL_AUDIENCE))).await;
    assert_eq!(
        unknown.json(),
        json!({
            "error": "invalid_grant",
            "error_description": "Error connecting to the given credential's issuer.",
        })
    );
    let good = cluster.token(&pod_claims(POOL_AUDIENCE));
    let other = cluster.token(&pod_claims(GKE_AUDIENCE));
    let forged = format!("{}.{}", good.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().1);
    let refused = cluster.exchange(POOL_AUDIENCE, &forged).await;
    assert_eq!((refused.status, refused.text("error").as_str()), (400, "invalid_grant"));

    let trusting = Cluster::start(|pool| Provider { jwks: None, ..pool }).await;
    let unseen = trusting.exchange(POOL_AUDIENCE, &stranger.sign(&pod_claims(POOL_AUDIENCE))).await;
    assert_eq!(unseen.status, 200);
}

#[tokio::test]
async fn subjects_are_limited() {
    let cluster = Cluster::start(|pool| Provider { allowed_subjects: vec!["somebody".into()], ..pool }).await;
    let rejected = cluster.exchange(POOL_AUDIENCE, &cluster.token(&pod_claims(POOL_AUDIENCE))).await;
    assert_eq!(
        (rejected.status, rejected.json()),
        (
            400,
            json!({
                "error": "unauthorized_client",
                "error_description": "The given credential is rejected by the attribute condition.",
            })
        )
    );
    let mut claims = pod_claims(POOL_AUDIENCE);
    claims["sub"] = json!("x".repeat(128));
    let long = cluster.exchange(POOL_AUDIENCE, &cluster.token(&claims)).await;
    assert_eq!(
        (long.status, long.json()),
        (
            400,
            json!({
                "error": "invalid_request",
                "error_description": "The size of mapped attribute google.subject exceeds the 127 bytes limit.",
            })
        )
    );
}

#[tokio::test]
async fn requests_that_are_not_this_exchange_are_refused() {
    let cluster = Cluster::start(|pool| pool).await;
    let token = cluster.token(&pod_claims(POOL_AUDIENCE));
    let unknown = cluster.exchange("//iam.googleapis.com/projects/1/nothing", &token).await;
    assert_eq!((unknown.status, unknown.text("error").as_str()), (400, "invalid_target"));
    let no_jwt = cluster.exchange(POOL_AUDIENCE, "not-a-jwt").await;
    assert_eq!((no_jwt.status, no_jwt.text("error").as_str()), (400, "invalid_request"));
    for changed in [0, 3, 5] {
        let mut fields = fields(POOL_AUDIENCE, &token);
        fields[changed].1 = "something else";
        let answer = post_form(&cluster.url(), &fields).await;
        assert_eq!(
            (answer.status, answer.text("error").as_str()),
            (400, "invalid_request"),
            "{}",
            fields[changed].0
        );
    }
    let headers = [("Authorization", "Basic eDp5"), ("Content-Type", "application/x-www-form-urlencoded")];
    let authenticated = send(Method::POST, &cluster.url(), &headers, "").await;
    assert_eq!((authenticated.status, authenticated.text("error").as_str()), (401, "invalid_client"));
    assert_eq!(get(&cluster.url()).await.status, 404);
}

#[tokio::test]
async fn the_answer_does_not_outlive_either_limit() {
    let cluster = Cluster::start(|pool| pool).await;
    cluster.google.set_access_token_lifetime(Duration::from_secs(60));
    let answer = cluster.exchange(POOL_AUDIENCE, &cluster.token(&pod_claims(POOL_AUDIENCE))).await.json();
    assert_eq!(answer["expires_in"], 60);
    assert_eq!(cluster.google.requests()[0].audience.as_deref(), Some(POOL_AUDIENCE));
    assert_eq!(cluster.google.count(Endpoint::Sts), 1);
}

#[tokio::test]
async fn keys_can_be_uploaded_again() {
    let cluster = Cluster::start(|pool| pool).await;
    let new = SigningKey::generate("rotated", crate::clock::now()).unwrap();
    let token = new.sign(&pod_claims(POOL_AUDIENCE));
    assert_eq!(cluster.exchange(POOL_AUDIENCE, &token).await.status, 400);
    let pool = Provider::pool(123_456_789_012, "pool", "cluster", ISSUER);
    cluster.google.set_provider(pool.with_jwks(jwks_of(std::iter::once(&new))));
    assert_eq!(cluster.exchange(POOL_AUDIENCE, &token).await.status, 200);
    let old = cluster.token(&pod_claims(POOL_AUDIENCE));
    assert_eq!(cluster.exchange(POOL_AUDIENCE, &old).await.status, 400);
}
