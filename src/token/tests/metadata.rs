use xtask::google::{EmailClaim, Mode};

use super::*;

#[tokio::test]
async fn identity_is_asked_for_in_full_with_the_audience_encoded() {
    let options = Options { email_claim: EmailClaim::FullFormatOnly, ..Options::default() };
    let bench = Bench::start(options).await;
    let audience = Audience::parse("https://orders.example.com/a?b=c&d#e").unwrap();
    let minted = bench.minter.mint(&Source::MetadataServer, &audience, &NoCredentials, None, allowed).await;
    let token = minted.unwrap().token;
    assert_eq!(bench.google.issued_tokens(), [token.expose()]);
    assert_eq!(claims(&token)["aud"], "https://orders.example.com/a?b=c&d#e");
    assert_eq!(claims(&token)["email"], OPERATOR);
    let requests = bench.google.requests();
    assert_eq!(requests.len(), 2, "the token, and whose it must be");
    assert_eq!(requests[0].method, "GET");
    assert_eq!(
        requests[0].path_and_query,
        "/computeMetadata/v1/instance/service-accounts/default/identity?audience=https%3A%2F%2Forders.example.com%2Fa\
         %3Fb%3Dc%26d%23e&format=full"
    );
    assert_eq!(requests[0].header("metadata-flavor"), Some("Google"));
    assert!(requests[0].header("user-agent").unwrap().starts_with("idtoken-operator/"));
}

#[tokio::test]
async fn each_failure_becomes_its_error() {
    let bench = Bench::start(Options::default()).await;
    let soon = Retry::Transient { retry_after: None };
    let mend = "check that the operator's pod or machine has a Google service account, that it exists, and on GKE that \
                the Kubernetes ServiceAccount has roles/iam.workloadIdentityUser on it";
    let table = [
        (
            Fault::TooManyRequests { retry_after: Some(7) },
            Reason::QuotaExceeded,
            Retry::Transient { retry_after: Some(7) },
            "HTTP 429 quota_exceeded".to_owned(),
        ),
        (Fault::Forbidden, Reason::SourceDenied, Retry::Slowly, format!("HTTP 403; {mend}")),
        (Fault::NotFound, Reason::SourceDenied, Retry::Slowly, format!("HTTP 404 invalid_request; {mend}")),
        (Fault::InternalError, Reason::SourceUnavailable, soon, "HTTP 500".to_owned()),
        (Fault::Unavailable, Reason::SourceUnavailable, soon, "HTTP 503".to_owned()),
        (Fault::DropConnection, Reason::SourceUnavailable, soon, "the connection broke".to_owned()),
    ];
    for (fault, reason, retry, message) in table {
        bench.google.set_fault(Endpoint::MetadataIdentity, fault.clone());
        let error = bench.mint(&Source::MetadataServer).await.unwrap_err();
        assert_eq!((error.reason(), error.retry()), (reason, retry), "{fault:?}");
        assert_eq!(error.to_string(), format!("metadata server, identity: {message}"));
        bench.assert_silent(&error);
    }
    bench.google.clear_faults();
    assert!(bench.mint(&Source::MetadataServer).await.is_ok(), "the next try is none the worse");
}

#[tokio::test]
async fn an_unannotated_gke_service_account_is_told_apart() {
    let bench = Bench::start(Options::default().gke_not_annotated("idtoken-system", "operator")).await;
    let error = bench.mint(&Source::MetadataServer).await.unwrap_err();
    assert_eq!(error.reason(), Reason::NoServiceAccountForIdToken);
    assert_eq!(error.retry(), Retry::Slowly);
    assert_eq!(
        error.to_string(),
        "metadata server, identity: HTTP 404; the operator's Kubernetes ServiceAccount has no annotation \
         iam.gke.io/gcp-service-account, and a direct federated principal has no Google-signed ID token: annotate it with \
         a Google service account"
    );
}

#[tokio::test]
async fn a_machine_without_a_service_account_is_denied() {
    let mode = Mode::Gce { service_account: None };
    let bench = Bench::start(Options { mode, ..Options::default() }).await;
    let error = bench.mint(&Source::MetadataServer).await.unwrap_err();
    assert_eq!(error.reason(), Reason::SourceDenied);
    assert!(error.to_string().starts_with("metadata server, identity: HTTP 404"), "{error}");
    let error = bench.minter.operator().email().await.unwrap_err();
    assert_eq!(error.reason(), Reason::SourceDenied);
}

#[tokio::test]
async fn the_operators_email_is_kept_for_ten_minutes() {
    let bench = Bench::start(Options::default()).await;
    for _ in 0..3 {
        assert_eq!(bench.minter.operator().email().await.unwrap().as_deref(), Some(OPERATOR));
    }
    pass(590).await;
    assert_eq!(bench.minter.operator().email().await.unwrap().as_deref(), Some(OPERATOR));
    assert_eq!(bench.google.count(Endpoint::MetadataEmail), 1);
    pass(20).await;
    assert_eq!(bench.minter.operator().email().await.unwrap().as_deref(), Some(OPERATOR));
    assert_eq!(bench.google.count(Endpoint::MetadataEmail), 2);
}

#[tokio::test]
async fn an_email_that_is_none_is_refused() {
    let bench = Bench::start(Options::default()).await;
    bench.google.set_fault(Endpoint::MetadataEmail, Fault::Garbage);
    let error = bench.minter.operator().email().await.unwrap_err();
    assert_eq!(error.to_string(), "metadata server, email: the answer holds no token");
    bench.assert_silent(&error);
}

#[tokio::test(start_paused = true)]
async fn callers_share_one_time_out_of_a_silent_server() {
    let (listener, url) = silent();
    let google = Google::start(Options::default()).await.unwrap();
    let endpoints = Endpoints { metadata: url, ..endpoints(&google) };
    let operator = Operator::new(&Http::new().unwrap(), &endpoints, Sources::default());
    let begin = tokio::time::Instant::now();
    let seen = futures::future::join_all((0..20).map(|_| operator.email())).await;
    for error in seen.into_iter().map(Result::unwrap_err) {
        assert_eq!(error.reason(), Reason::SourceUnavailable);
    }
    assert!(begin.elapsed() < Duration::from_secs(31), "{:?}", begin.elapsed());
    drop(listener);
}
