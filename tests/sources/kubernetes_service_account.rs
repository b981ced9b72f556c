use serde_json::{Value, json};
use xtask::google::{Endpoint, Fault, Options, Provider, Role};

use crate::{
    bench::{AUDIENCE, Bench, SOON, after, judge, options, wanted},
    rows,
};
use idtoken_operator::{
    plan::Retry::{OnChange, Slowly},
    token::endpoints::ClusterPool,
};

const ROBOT: &str = "robot@demo-project.iam.gserviceaccount.com";
const ISSUER: &str =
    "https://container.googleapis.com/v1/projects/demo-project/locations/europe-west1/clusters/demo-cluster";
const MEMBER: &str = "serviceAccount:demo-project.svc.id.goog[shop/app]";
const PROVIDER: &str = "projects/123456789012/locations/global/workloadIdentityPools/pool/providers/cluster";

pub(crate) fn source() -> Value {
    json!({"kubernetesServiceAccount": {"name": "app"}})
}

fn with_pool() -> Options {
    options()
        .service_account(ROBOT)
        .provider(Provider::gke("demo-project", 123_456_789_012, "europe-west1", "demo-cluster"))
        .allow(MEMBER, Role::WorkloadIdentityUser, ROBOT)
}

/// In the GKE cluster that the metadata server tells of, with an annotated account.
pub(crate) async fn bench() -> Bench {
    with_account(crate::identity_platform::with_user(with_pool())).await
}

async fn with_account(options: Options) -> Bench {
    let bench = Bench::start(options).await;
    bench.credentials.account("app", "uid-1", Some(ROBOT));
    ISSUER.clone_into(&mut bench.credentials.issuer.lock().unwrap());
    bench
}

#[tokio::test]
async fn first_mint_refresh_and_each_failure_of_iam() {
    let bench = bench().await;
    let wanted = wanted(AUDIENCE, &source());
    let claims = bench.good(&wanted).await;
    assert_eq!((&claims["aud"], &claims["email"]), (&json!(AUDIENCE), &json!(ROBOT)));
    assert_eq!(
        bench.asked(),
        [
            Endpoint::Metadata,
            Endpoint::Metadata,
            Endpoint::Metadata,
            Endpoint::Sts,
            Endpoint::GenerateIdToken
        ],
        "project, location and name of the cluster, once"
    );
    assert_eq!(*bench.credentials.subject_tokens.lock().unwrap(), ["demo-project.svc.id.goog"]);
    bench.good(&wanted).await;
    assert_eq!(
        bench.asked(),
        [Endpoint::GenerateIdToken],
        "a refresh uses the federated token that is there"
    );
    let rows = rows! {
        GenerateIdToken: Fault::TooManyRequests { retry_after: Some(30) } => "QuotaExceeded", after(30), false, "HTTP 429 RESOURCE_EXHAUSTED", [GenerateIdToken];
        GenerateIdToken: Fault::Forbidden => "SourceDenied", Slowly, false, "roles/iam.workloadIdentityUser", [GenerateIdToken];
        GenerateIdToken: Fault::Forbidden => "SourceDenied", Slowly, false, "demo-project.svc.id.goog[shop/app]", [GenerateIdToken];
        GenerateIdToken: Fault::NotFound => "SourceDenied", Slowly, false, "HTTP 404 NOT_FOUND", [GenerateIdToken];
        GenerateIdToken: Fault::InternalError => "SourceUnavailable", SOON, false, "HTTP 500 INTERNAL", [GenerateIdToken];
        GenerateIdToken: Fault::Unavailable => "SourceUnavailable", SOON, false, "HTTP 503 UNAVAILABLE", [GenerateIdToken];
        GenerateIdToken: Fault::DropConnection => "SourceUnavailable", SOON, false, "the connection broke", [GenerateIdToken];
        GenerateIdToken: Fault::TooLarge => "SourceUnavailable", SOON, false, "the answer is larger than 256 KB", [GenerateIdToken];
        GenerateIdToken: Fault::Garbage => "TokenRejected", SOON, false, "the answer holds no token", [GenerateIdToken];
        GenerateIdToken: Fault::WrongEmail => "TokenRejected", SOON, false, "the token's email is", [GenerateIdToken];
    };
    bench.table(&wanted, rows, |_| {}).await;
    bench.good(&wanted).await;
}

#[tokio::test]
async fn each_failure_of_the_exchange() {
    let bench = bench().await;
    let wanted = wanted(AUDIENCE, &source());
    bench.good(&wanted).await;
    let oauth = |status, code, description| Fault::OauthError { status, code, description, subtype: None };
    let audience =
        "The audience in ID Token [demo-project.svc.id.goog] does not match the expected audience.";
    let long = "The size of mapped attribute google.subject exceeds the 127 bytes limit. Either modify your attribute mapping or the incoming assertion to produce a mapped attribute that is less than 127 bytes.";
    let target = "The target service indicated by the \"audience\" parameters is invalid.";
    let rows = rows! {
        Sts: oauth(400, "invalid_grant", audience) => "SourceDenied", Slowly, false, "HTTP 400 invalid_grant", [Sts];
        Sts: oauth(400, "invalid_grant", "Error connecting to the given credential's issuer.") => "SourceDenied", Slowly, false, "keys", [Sts];
        Sts: oauth(400, "invalid_grant", "ID Token issued at 1 is stale to sign-in.") => "SourceDenied", Slowly, false, "HTTP 400 invalid_grant", [Sts];
        Sts: oauth(400, "unauthorized_client", "The given credential is rejected by the attribute condition.") => "SourceDenied", Slowly, false, "attribute condition", [Sts];
        Sts: oauth(400, "invalid_request", long) => "SubjectTooLong", Slowly, false, "workload identity federation takes 127", [Sts];
        Sts: oauth(400, "invalid_request", "Malformed request body.") => "SourceDenied", Slowly, false, "HTTP 400 invalid_request", [Sts];
        Sts: oauth(400, "invalid_target", target) => "SourceDenied", Slowly, false, "HTTP 400 invalid_target", [Sts];
        Sts: Fault::TooManyRequests { retry_after: Some(5) } => "QuotaExceeded", after(5), false, "HTTP 429 quota_exceeded", [Sts];
        Sts: Fault::TooManyRequests { retry_after: None } => "QuotaExceeded", SOON, false, "HTTP 429 quota_exceeded", [Sts];
        Sts: Fault::InternalError => "SourceUnavailable", SOON, false, "HTTP 500", [Sts];
        Sts: Fault::Unavailable => "SourceUnavailable", SOON, false, "HTTP 503", [Sts];
        Sts: Fault::DropConnection => "SourceUnavailable", SOON, false, "the connection broke", [Sts];
        Sts: Fault::TooLarge => "SourceUnavailable", SOON, false, "the answer is larger than 256 KB", [Sts];
        Sts: Fault::Garbage => "TokenRejected", SOON, false, "the answer holds no token", [Sts];
    };
    // Another UID is another principal: nothing is kept for it yet.
    let next = std::sync::atomic::AtomicU64::new(2);
    let anew = |bench: &Bench| {
        let uid = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        bench.credentials.account("app", &format!("uid-{uid}"), Some(ROBOT));
    };
    bench.table(&wanted, rows, anew).await;
    // A federated token that is over is replaced, once.
    anew(&bench);
    bench.google.set_fault_times(Endpoint::Sts, Fault::ExpiredToken, 1);
    bench.good(&wanted).await;
    assert_eq!(
        bench.asked(),
        [Endpoint::Sts, Endpoint::GenerateIdToken, Endpoint::Sts, Endpoint::GenerateIdToken]
    );
}

#[tokio::test]
async fn an_account_that_can_not_be_used_says_why_before_anybody_is_asked() {
    let bench = Bench::start(with_pool()).await;
    let wanted = wanted(AUDIENCE, &source());
    let problem = bench.obtain(&wanted).await.map(|_| ()).unwrap_err();
    judge(
        "missing",
        &problem,
        "CredentialsNotFound",
        OnChange,
        false,
        "ServiceAccount shop/app does not exist",
    );
    bench.credentials.account("app", "uid-1", None);
    let problem = bench.obtain(&wanted).await.map(|_| ()).unwrap_err();
    judge(
        "bare",
        &problem,
        "ServiceAccountNotAnnotated",
        OnChange,
        false,
        "has no annotation iam.gke.io/gcp-service-account",
    );
    assert_eq!(bench.asked(), []);
    assert_eq!(*bench.credentials.subject_tokens.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn two_namespaces_and_two_lives_of_an_account_are_different_principals() {
    let bench = bench().await;
    let wanted = wanted(AUDIENCE, &source());
    bench.good(&wanted).await;
    bench.asked();
    bench.credentials.account("app", "uid-2", Some(ROBOT));
    bench.good(&wanted).await;
    assert_eq!(bench.asked(), [Endpoint::Sts, Endpoint::GenerateIdToken]);
}

#[tokio::test]
async fn a_provider_of_ones_own_works_anywhere() {
    let member = "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/pool/subject/system:serviceaccount:shop:app";
    let provider = Provider::pool(123_456_789_012, "pool", "cluster", "https://kubernetes.example.com");
    let options = Options { cluster: None, ..options() }.service_account(ROBOT).provider(provider).allow(
        member,
        Role::WorkloadIdentityUser,
        ROBOT,
    );
    let bench = with_account(options).await;
    "https://kubernetes.example.com".clone_into(&mut bench.credentials.issuer.lock().unwrap());
    let spec = json!({"kubernetesServiceAccount": {"name": "app", "workloadIdentityProvider": PROVIDER}});
    assert_eq!(bench.good(&wanted(AUDIENCE, &spec)).await["email"], ROBOT);
    assert_eq!(bench.asked(), [Endpoint::Sts, Endpoint::GenerateIdToken]);
    assert_eq!(
        *bench.credentials.subject_tokens.lock().unwrap(),
        [
            "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/pool/providers/cluster"
        ]
    );
    bench.google.revoke(member, Role::WorkloadIdentityUser, ROBOT);
    let problem = bench.obtain(&wanted(AUDIENCE, &spec)).await.map(|_| ()).unwrap_err();
    judge("revoked", &problem, "SourceDenied", Slowly, false, member);
    // A name of 253 characters is no subject for a pool.
    let long = "a".repeat(110);
    bench.credentials.account(&long, "uid-9", Some(ROBOT));
    let spec = json!({"kubernetesServiceAccount": {"name": long, "workloadIdentityProvider": PROVIDER}});
    let problem = bench.obtain(&wanted(AUDIENCE, &spec)).await.map(|_| ()).unwrap_err();
    judge("long", &problem, "SubjectTooLong", Slowly, false, "workload identity federation takes 127");
    assert!(problem.message.contains(&format!("system:serviceaccount:shop:{long}")), "{}", problem.message);
}

#[tokio::test]
async fn the_clusters_pool_may_be_given_and_outside_of_gke_there_is_none() {
    let outside = Options { cluster: None, ..with_pool() };
    let bench = with_account(outside.clone()).await;
    let wanted = wanted(AUDIENCE, &source());
    let problem = bench.obtain(&wanted).await.map(|_| ()).unwrap_err();
    judge(
        "no GKE",
        &problem,
        "InvalidSpec",
        Slowly,
        true,
        "spec.source.kubernetesServiceAccount.workloadIdentityProvider",
    );
    let pool = ClusterPool { pool: "demo-project.svc.id.goog".to_owned(), provider: ISSUER.to_owned() };
    let bench = Bench::start_with(outside, |endpoints| endpoints.cluster_pool = Some(pool)).await;
    bench.credentials.account("app", "uid-1", Some(ROBOT));
    ISSUER.clone_into(&mut bench.credentials.issuer.lock().unwrap());
    bench.good(&wanted).await;
    assert_eq!(bench.asked(), [Endpoint::Sts, Endpoint::GenerateIdToken]);
    bench.google.set_fault(Endpoint::Metadata, Fault::Unavailable);
    bench.good(&wanted).await;
}
