//! The simulator beside a real API server: the keys are the cluster's own.

#![allow(clippy::unwrap_used, clippy::panic)]

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, ObjectMeta, PostParams};
use serde_json::{Value, json};
use xtask::cluster::{Cluster, ClusterOptions};
use xtask::google::{Google, Options, Provider, Role};

const CALLER: &str = "caller@demo-project.iam.gserviceaccount.com";
const POOL: &str = "demo-project.svc.id.goog";
const GKE: &str = "identitynamespace:demo-project.svc.id.goog:https://container.googleapis.com/v1/projects/demo-project/locations/europe-west1/clusters/demo-cluster";

#[tokio::test]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_sts_takes_a_real_clusters_tokens_and_no_others() {
    let member = "serviceAccount:demo-project.svc.id.goog[default/app]";
    let options =
        Options::default().service_account(CALLER).allow(member, Role::WorkloadIdentityUser, CALLER);
    let google = Google::start(options).await.unwrap();
    let (cluster, stranger) = tokio::join!(start(), start());
    let keys = cluster.client().request_text(Request::get("/openid/v1/jwks").body(Vec::new()).unwrap()).await;
    let keys: Value = serde_json::from_str(&keys.unwrap()).unwrap();
    assert_eq!((&keys["keys"][0]["kty"], &keys["keys"][0]["alg"]), (&json!("RSA"), &json!("RS256")));
    let provider = Provider::gke("demo-project", 123_456_789_012, "europe-west1", "demo-cluster");
    let issuer = cluster.service_account_issuer().to_owned();
    google.set_provider(Provider { issuer, ..provider }.with_jwks(keys));

    let token = token_for(&cluster, POOL).await;
    let exchanged = exchange(&google, &token).await;
    let access = exchanged["access_token"].as_str().unwrap_or_else(|| panic!("{exchanged}"));
    let url =
        format!("{}/v1/projects/-/serviceAccounts/{CALLER}:generateIdToken", google.iam_credentials_url());
    let headers = [("authorization", format!("Bearer {access}"))];
    let minted =
        post(&url, &headers, json!({ "audience": "https://orders-abc-uc.a.run.app" }).to_string()).await;
    assert!(minted["token"].is_string(), "{minted}");

    let other_audience = exchange(&google, &token_for(&cluster, "https://elsewhere.example.com").await).await;
    assert_eq!(
        other_audience["error_description"],
        "The audience in ID Token [https://elsewhere.example.com] does not match the expected audience demo-project.svc.id.goog."
    );
    let unknown_key = exchange(&google, &token_for(&stranger, POOL).await).await;
    assert_eq!(
        unknown_key,
        json!({ "error": "invalid_grant", "error_description": "Error connecting to the given credential's issuer." })
    );
    // The claims of one token with the signature of another.
    let another = token_for(&cluster, POOL).await;
    let (signed, signature) = (token.rsplit_once('.').unwrap().0, another.rsplit_once('.').unwrap().1);
    let forged = exchange(&google, &format!("{signed}.{signature}")).await;
    assert_eq!(forged["error_description"], "Invalid ID Token signature.");
    tokio::try_join!(cluster.stop(), stranger.stop()).unwrap();
    google.stop().await;
}

/// A cluster with the ServiceAccount `app`.
async fn start() -> Cluster {
    let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
    let app = ServiceAccount {
        metadata: ObjectMeta { name: Some("app".into()), ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
    accounts(&cluster).create(&PostParams::default(), &app).await.unwrap();
    cluster
}

fn accounts(cluster: &Cluster) -> Api<ServiceAccount> {
    Api::namespaced(cluster.client(), "default")
}

async fn token_for(cluster: &Cluster, audience: &str) -> String {
    let spec = TokenRequestSpec {
        audiences: vec![audience.into()],
        expiration_seconds: Some(900),
        bound_object_ref: None,
    };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let made = accounts(cluster).create_token_request("app", &PostParams::default(), &request).await;
    made.unwrap().status.unwrap().token
}

async fn exchange(google: &Google, token: &str) -> Value {
    let fields = json!({
        "grantType": "urn:ietf:params:oauth:grant-type:token-exchange",
        "audience": GKE,
        "scope": "https://www.googleapis.com/auth/cloud-platform",
        "requestedTokenType": "urn:ietf:params:oauth:token-type:access_token",
        "subjectToken": token,
        "subjectTokenType": "urn:ietf:params:oauth:token-type:jwt",
    });
    post(&format!("{}/v1/token", google.sts_url()), &[], fields.to_string()).await
}

async fn post(url: &str, headers: &[(&str, String)], body: String) -> Value {
    let mut request = Request::post(url).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(Full::<Bytes>::from(body)).unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&answer).unwrap()
}
