use std::sync::Mutex;

use futures::future::join_all;
use serde_json::json;
use xtask::google::{Cluster, Provider};

use super::*;
use crate::{plan::source::ProviderName, token::endpoints::ClusterPool};

const PROVIDER: &str =
    "projects/123456789012/locations/global/workloadIdentityPools/on-prem/providers/cluster-1";
const PROVIDER_AUDIENCE: &str = "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/on-prem/providers/cluster-1";
const PRINCIPAL: &str = "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/on-prem/subject/system:serviceaccount:shop:app";
const GKE_ISSUER: &str =
    "https://container.googleapis.com/v1/projects/demo-project/locations/europe-west1/clusters/demo-cluster";
const ISSUER: &str = "https://kubernetes.default.svc";

/// The ServiceAccounts of a namespace, and the audiences that their tokens were asked for.
struct Accounts {
    account: Account,
    issuer: &'static str,
    asked: Mutex<Vec<String>>,
}

fn app(issuer: &'static str) -> Accounts {
    let account = Account {
        namespace: "shop".to_owned(),
        name: "app".to_owned(),
        uid: "u1".to_owned(),
        annotated: Some(CALLER.to_owned()),
        is_principal: false,
    };
    Accounts { account, issuer, asked: Mutex::default() }
}

impl Accounts {
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Credentials for Accounts {
    async fn secrets(&self, keys: &[&SecretKey]) -> Result<SecretValues, Problem> {
        unreachable!("asked for {keys:?}")
    }

    async fn account(&self, name: &str) -> Result<Account, Problem> {
        assert_eq!(name, "app");
        Ok(self.account.clone())
    }

    async fn subject_token(&self, account: &Account, audience: &str) -> Result<SubjectToken, Problem> {
        self.asked.lock().unwrap().push(audience.to_owned());
        let now = crate::clock::now().as_second();
        let Account { namespace, name, .. } = account;
        let claims = json!({
            "iss": self.issuer, "sub": format!("system:serviceaccount:{namespace}:{name}"), "aud": [audience],
            "iat": now, "exp": now + 3600,
        });
        let encoded = |value: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let header = encoded(&json!({"alg": "RS256", "kid": "k"}));
        Ok(SubjectToken::new(format!("{header}.{}.c2ln", encoded(&claims))))
    }
}

fn source(provider: Option<&str>) -> Source {
    Source::KubernetesServiceAccount {
        name: "app".to_owned(),
        google_service_account: None,
        provider: provider.map(|name| ProviderName::parse(name).unwrap()),
    }
}

fn gke() -> Source {
    source(None)
}

fn elsewhere() -> Source {
    source(Some(PROVIDER))
}

/// A GKE cluster and another one, both of whose `shop/app` may be the caller.
fn options() -> Options {
    Options::default()
        .provider(Provider::gke("demo-project", 123_456_789_012, "europe-west1", "demo-cluster"))
        .provider(Provider::pool(123_456_789_012, "on-prem", "cluster-1", ISSUER))
        .service_account(CALLER)
        .allow("serviceAccount:demo-project.svc.id.goog[shop/app]", Role::WorkloadIdentityUser, CALLER)
        .allow(PRINCIPAL, Role::WorkloadIdentityUser, CALLER)
}

fn endpoints_asked(bench: &Bench) -> Vec<Endpoint> {
    bench.google.requests().iter().map(|request| request.endpoint).collect()
}

#[tokio::test]
async fn gkes_own_pool_is_found_out_once_and_gives_a_token_in_one_hop() {
    let (bench, accounts) = (Bench::start(options()).await, app(GKE_ISSUER));
    let minted = bench.mint_with(&gke(), &accounts).await.unwrap();
    assert_eq!(minted.email.as_deref(), Some(CALLER));
    assert_eq!(minted.credential, Some(accounts.account.version()));
    assert_eq!(claims(&minted.token)["email"], CALLER);
    assert_eq!(claims(&minted.token)["aud"], AUDIENCE);
    assert_eq!(accounts.asked(), ["demo-project.svc.id.goog"]);
    let asked = bench.google.requests();
    let paths: Vec<_> = asked.iter().map(|r| (r.method.as_str(), r.path_and_query.as_str())).collect();
    assert_eq!(
        paths,
        [
            ("GET", "/computeMetadata/v1/project/project-id"),
            ("GET", "/computeMetadata/v1/instance/attributes/cluster-location"),
            ("GET", "/computeMetadata/v1/instance/attributes/cluster-name"),
            ("POST", "/v1/token"),
            (
                "POST",
                "/v1/projects/-/serviceAccounts/caller@demo-project.iam.gserviceaccount.com:generateIdToken"
            ),
        ]
    );
    assert_eq!(
        asked[3].audience.as_deref(),
        Some(
            "identitynamespace:demo-project.svc.id.goog:https://container.googleapis.com/v1/projects/demo-project/locations/europe-west1/clusters/demo-cluster"
        )
    );
    assert_eq!(asked[3].header("authorization"), None);
    bench.google.clear_requests();
    bench.mint_with(&gke(), &accounts).await.unwrap();
    assert_eq!(endpoints_asked(&bench), [Endpoint::GenerateIdToken], "pool and federated token are kept");
}

#[tokio::test]
async fn gkes_own_pool_may_be_given() {
    let google = Google::start(options()).await.unwrap();
    let http = Http::new().unwrap();
    let pool = ClusterPool { pool: "demo-project.svc.id.goog".to_owned(), provider: GKE_ISSUER.to_owned() };
    let nowhere = "http://127.0.0.1:1".parse().unwrap();
    let endpoints = Endpoints { cluster_pool: Some(pool), metadata: nowhere, ..endpoints(&google) };
    let operator = Operator::new(&http, &endpoints, Sources::default());
    let bench = Bench { minter: Minter::new(&http, &endpoints, operator), google };
    assert!(bench.mint_with(&gke(), &app(GKE_ISSUER)).await.is_ok());
}

#[tokio::test]
async fn another_cluster_names_its_provider_in_both_audiences() {
    let (bench, accounts) = (Bench::start(options()).await, app(ISSUER));
    let minted = bench.mint_with(&elsewhere(), &accounts).await.unwrap();
    assert_eq!(claims(&minted.token)["email"], CALLER);
    assert_eq!(accounts.asked(), [PROVIDER_AUDIENCE]);
    assert_eq!(endpoints_asked(&bench), [Endpoint::Sts, Endpoint::GenerateIdToken]);
    assert_eq!(bench.google.requests()[0].audience.as_deref(), Some(PROVIDER_AUDIENCE));
}

#[tokio::test]
async fn twenty_bindings_at_once_share_one_exchange() {
    let (bench, accounts) = (Bench::start(options()).await, app(ISSUER));
    let source = elsewhere();
    let minted = join_all((0..20).map(|_| bench.mint_with(&source, &accounts))).await;
    assert!(minted.iter().all(Result::is_ok));
    assert_eq!(bench.google.count(Endpoint::Sts), 1);
    assert_eq!(bench.google.count(Endpoint::GenerateIdToken), 20);
}

#[tokio::test]
async fn another_account_and_another_provider_are_other_principals() {
    let (bench, mut accounts) = (Bench::start(options()).await, app(ISSUER));
    bench.mint_with(&elsewhere(), &accounts).await.unwrap();
    accounts.account.uid = "u2".to_owned();
    bench.mint_with(&elsewhere(), &accounts).await.unwrap();
    assert_eq!(bench.google.count(Endpoint::Sts), 2, "the account was made anew");
    accounts.account.namespace = "other".to_owned();
    let error = bench.mint_with(&elsewhere(), &accounts).await.unwrap_err();
    assert_eq!(bench.google.count(Endpoint::Sts), 3, "the same name elsewhere");
    assert_eq!(error.reason(), Reason::SourceDenied);
    let accounts = app(GKE_ISSUER);
    bench.mint_with(&gke(), &accounts).await.unwrap();
    assert_eq!(bench.google.count(Endpoint::Sts), 4, "another provider");
}

#[tokio::test]
async fn a_federated_token_is_replaced_before_its_end_and_where_it_is_refused() {
    let (bench, accounts) = (Bench::start(options()).await, app(ISSUER));
    bench.mint_with(&elsewhere(), &accounts).await.unwrap();
    pass(3360).await;
    bench.mint_with(&elsewhere(), &accounts).await.unwrap();
    assert_eq!(bench.google.count(Endpoint::Sts), 1);
    pass(20).await;
    bench.google.set_fault_times(Endpoint::Sts, Fault::ExpiredToken, 1);
    bench.google.clear_requests();
    bench.mint_with(&elsewhere(), &accounts).await.unwrap();
    assert_eq!(
        endpoints_asked(&bench),
        [Endpoint::Sts, Endpoint::GenerateIdToken, Endpoint::Sts, Endpoint::GenerateIdToken],
        "IAM refused the first: once more with another one"
    );
}

#[tokio::test]
async fn who_is_refused_with_an_old_token_comes_back_with_a_new_one() {
    let (bench, accounts) = (Bench::start(options()).await, app(ISSUER));
    bench.mint_with(&elsewhere(), &accounts).await.unwrap();
    let refused = async |exchanges: usize| {
        bench.google.set_fault_times(Endpoint::GenerateIdToken, Fault::Forbidden, 1);
        let error = bench.mint_with(&elsewhere(), &accounts).await.unwrap_err();
        assert_eq!((error.reason(), error.retry()), (Reason::SourceDenied, Retry::Slowly));
        assert_eq!(bench.google.count(Endpoint::Sts), exchanges);
    };
    refused(1).await;
    refused(1).await;
    pass(61).await;
    refused(1).await;
    refused(2).await;
    bench.mint_with(&elsewhere(), &accounts).await.unwrap();
    assert_eq!(bench.google.count(Endpoint::Sts), 2, "the new one is kept");
}

#[tokio::test]
async fn a_machine_that_is_not_gke_is_told_what_to_name() {
    let bench = Bench::start(Options { cluster: None, ..options() }).await;
    let error = bench.mint_with(&gke(), &app(ISSUER)).await.unwrap_err();
    assert_eq!((error.reason(), error.retry()), (Reason::InvalidSpec, Retry::Slowly));
    assert_eq!(
        error.to_string(),
        "spec.source.kubernetesServiceAccount.workloadIdentityProvider is empty, which means the pool of this GKE cluster, but this is \
         no GKE cluster: the metadata server knows no cluster-location. Name a provider there, or start the controller with \
         --workload-pool and --identity-provider"
    );
    bench.google.set_fault(Endpoint::Metadata, Fault::DropConnection);
    let error = bench.mint_with(&gke(), &app(ISSUER)).await.unwrap_err();
    let soon = Retry::Transient { retry_after: None };
    assert_eq!((error.reason(), error.retry()), (Reason::SourceUnavailable, soon));
    assert_eq!(
        error.to_string(),
        "metadata server, project-id: the connection broke; it is asked for the pool of this GKE cluster, since \
         spec.source.kubernetesServiceAccount.workloadIdentityProvider is empty: elsewhere name a provider there"
    );
    bench.google.set_fault(Endpoint::Metadata, Fault::Garbage);
    let error = bench.mint_with(&gke(), &app(ISSUER)).await.unwrap_err();
    assert_eq!(error.to_string(), "metadata server, project-id: the answer holds no token");
    bench.google.set_fault(Endpoint::Metadata, Fault::Unavailable);
    let error = bench.mint_with(&gke(), &app(ISSUER)).await.unwrap_err();
    assert_eq!(error.to_string(), "metadata server, project-id: HTTP 503");
}

#[tokio::test]
async fn a_missing_binding_in_iam_is_shown_ready_to_paste() {
    let bench = Bench::start(options()).await;
    bench.google.revoke(PRINCIPAL, Role::WorkloadIdentityUser, CALLER);
    let error = bench.mint_with(&elsewhere(), &app(ISSUER)).await.unwrap_err();
    assert_eq!((error.reason(), error.retry()), (Reason::SourceDenied, Retry::Slowly));
    assert_eq!(
        error.to_string(),
        "generateIdToken for caller@demo-project.iam.gserviceaccount.com: HTTP 403 PERMISSION_DENIED IAM_PERMISSION_DENIED; check that \
         caller@demo-project.iam.gserviceaccount.com exists and let the ServiceAccount be it: gcloud iam service-accounts \
         add-iam-policy-binding caller@demo-project.iam.gserviceaccount.com --role=roles/iam.workloadIdentityUser \
         --member='principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/on-prem/subject/system:serviceaccount:shop:app'"
    );
    let member = "serviceAccount:demo-project.svc.id.goog[shop/app]";
    bench.google.revoke(member, Role::WorkloadIdentityUser, CALLER);
    let error = bench.mint_with(&gke(), &app(GKE_ISSUER)).await.unwrap_err();
    assert!(error.to_string().ends_with(&format!(" --member='{member}'")), "{error}");
    bench.google.grant(member, Role::WorkloadIdentityUser, CALLER);
    assert!(bench.mint_with(&gke(), &app(GKE_ISSUER)).await.is_ok());
}

#[tokio::test]
async fn who_has_no_google_account_is_told_before_anything_is_asked() {
    let (bench, mut accounts) = (Bench::start(options()).await, app(ISSUER));
    accounts.account.annotated = None;
    let error = bench.mint_with(&elsewhere(), &accounts).await.unwrap_err();
    assert_eq!((error.reason(), error.retry()), (Reason::ServiceAccountNotAnnotated, Retry::OnChange));
    accounts.account.is_principal = true;
    let error = bench.mint_with(&elsewhere(), &accounts).await.unwrap_err();
    assert_eq!(error.reason(), Reason::NoServiceAccountForIdToken);
    assert_eq!((bench.google.requests().len(), accounts.asked().len()), (0, 0));
}

#[tokio::test]
async fn a_subject_of_more_than_127_bytes_is_named_with_its_length() {
    let (bench, mut accounts) = (Bench::start(options()).await, app(ISSUER));
    let name = "n".repeat(101);
    accounts.account.name.clone_from(&name);
    let error = bench.mint_with(&elsewhere(), &accounts).await.unwrap_err();
    assert_eq!((error.reason(), error.retry()), (Reason::SubjectTooLong, Retry::Slowly));
    assert_eq!(
        error.to_string(),
        format!(
            "token exchange for ServiceAccount shop/{name}: HTTP 400 invalid_request; its subject system:serviceaccount:shop:{name} has \
             128 bytes, and workload identity federation takes 127: use a ServiceAccount or a namespace with a shorter name, or map \
             another attribute to google.subject"
        )
    );
}

#[tokio::test]
async fn each_refusal_of_the_exchange_says_what_helps() {
    let bench = Bench::start(options()).await;
    let pool = || Provider::pool(123_456_789_012, "on-prem", "cluster-1", ISSUER);
    let keys = "the provider does not have the key that signed the token: upload the cluster's keys again (kubectl get --raw \
                /openid/v1/jwks > jwks.json; gcloud iam workload-identity-pools providers update-oidc PROVIDER \
                --workload-identity-pool=POOL --location=global --jwk-json-path=jwks.json)";
    let table = [
        (pool().with_jwks(json!({"keys": []})), "HTTP 400 invalid_grant", keys),
        (
            Provider { allowed_audiences: vec!["sts.googleapis.com".to_owned()], ..pool() },
            "HTTP 400 invalid_grant",
            "the provider does not take the token's audience: leave the provider's allowed audiences empty, or add the audience to them",
        ),
        (
            Provider { issuer: "https://another".to_owned(), ..pool() },
            "HTTP 400 invalid_grant",
            "the provider's issuer is not that of the token: compare the provider's issuer URI with the issuer in kubectl get --raw \
             /.well-known/openid-configuration",
        ),
        (
            Provider { allowed_subjects: vec!["x".to_owned()], ..pool() },
            "HTTP 400 unauthorized_client",
            "the provider's attribute condition rejects the token: check the condition",
        ),
    ];
    let fails = async |detail: &str, mend: &str| {
        let error = bench.mint_with(&elsewhere(), &app(ISSUER)).await.unwrap_err();
        assert_eq!((error.reason(), error.retry()), (Reason::SourceDenied, Retry::Slowly));
        assert_eq!(
            error.to_string(),
            format!("token exchange for ServiceAccount shop/app: {detail}; {mend}")
        );
        bench.assert_silent(&error);
    };
    for (provider, detail, mend) in table {
        bench.google.set_provider(provider);
        fails(detail, mend).await;
    }
    bench.google.set_provider(pool());
    bench.google.advance_clock(Duration::from_secs(3 * 3600));
    fails(
        "HTTP 400 invalid_grant",
        "the token counts as expired or not yet valid: check the clock of whoever issued it",
    )
    .await;
    let unknown = PROVIDER.replace("cluster-1", "cluster-2");
    let error = bench.mint_with(&source(Some(&unknown)), &app(ISSUER)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "token exchange for ServiceAccount shop/app: HTTP 400 invalid_target; there is no such workload identity pool or provider, or \
             it is disabled or deleted: check //iam.googleapis.com/{unknown}"
        )
    );
}

#[tokio::test]
async fn failures_of_the_exchange_are_tried_again() {
    let bench = Bench::start(options()).await;
    let soon = |retry_after| Retry::Transient { retry_after };
    let table = [
        (
            Fault::TooManyRequests { retry_after: Some(5) },
            Reason::QuotaExceeded,
            soon(Some(5)),
            "HTTP 429 quota_exceeded",
        ),
        (Fault::InternalError, Reason::SourceUnavailable, soon(None), "HTTP 500 internal_failure"),
        (Fault::DropConnection, Reason::SourceUnavailable, soon(None), "the connection broke"),
        (Fault::Garbage, Reason::TokenRejected, soon(None), "the answer holds no token"),
        (Fault::TooLarge, Reason::SourceUnavailable, soon(None), "the answer is larger than 256 KB"),
    ];
    for (fault, reason, retry, message) in table {
        bench.google.set_fault(Endpoint::Sts, fault);
        let error = bench.mint_with(&elsewhere(), &app(ISSUER)).await.unwrap_err();
        assert_eq!((error.reason(), error.retry()), (reason, retry), "{error}");
        assert_eq!(error.to_string(), format!("token exchange for ServiceAccount shop/app: {message}"));
        bench.assert_silent(&error);
    }
    bench.google.clear_faults();
    assert!(bench.mint_with(&elsewhere(), &app(ISSUER)).await.is_ok());
}

/// Cluster's name and place are believed only as far as they are names.
#[tokio::test]
async fn what_the_metadata_server_tells_must_be_a_name() {
    let cluster = Cluster { name: "c/../../x".to_owned(), location: "europe-west1".to_owned() };
    let bench = Bench::start(Options { cluster: Some(cluster), ..options() }).await;
    let error = bench.mint_with(&gke(), &app(GKE_ISSUER)).await.unwrap_err();
    assert_eq!(error.to_string(), "metadata server, cluster-name: the answer holds no token");
    assert_eq!(bench.google.count(Endpoint::Sts), 0);
}
