use futures::future::join_all;

use super::*;

const FIRST: &str = "first@demo-project.iam.gserviceaccount.com";
const SECOND: &str = "second@demo-project.iam.gserviceaccount.com";

#[tokio::test]
async fn a_token_is_for_the_target_and_carries_its_email() {
    let bench = Bench::start(granted()).await;
    let token = bench.mint(&impersonation(&[])).await.unwrap();
    let claims = claims(&token);
    assert_eq!(claims["aud"], AUDIENCE);
    assert_eq!(claims["email"], CALLER);
    assert_eq!(claims["email_verified"], true);
    let requests = bench.google.requests();
    let sent: Vec<_> = requests.iter().map(|r| (r.method.as_str(), r.path_and_query.as_str())).collect();
    assert_eq!(
        sent,
        [
            ("GET", "/computeMetadata/v1/instance/service-accounts/default/token"),
            (
                "POST",
                "/v1/projects/-/serviceAccounts/caller@demo-project.iam.gserviceaccount.com:generateIdToken"
            ),
        ]
    );
}

#[tokio::test]
async fn a_chain_is_walked_in_its_order() {
    let member = |email: &str| format!("serviceAccount:{email}");
    let options = Options::default()
        .service_account(FIRST)
        .service_account(SECOND)
        .service_account(CALLER)
        .allow(&member(OPERATOR), Role::TokenCreator, FIRST)
        .allow(&member(FIRST), Role::TokenCreator, SECOND)
        .allow(&member(SECOND), Role::OpenIdTokenCreator, CALLER);
    let bench = Bench::start(options).await;
    let token = bench.mint(&impersonation(&[FIRST, SECOND])).await.unwrap();
    assert_eq!(claims(&token)["email"], CALLER);
    for wrong in [&[SECOND, FIRST][..], &[FIRST], &[SECOND], &[]] {
        let error = bench.mint(&impersonation(wrong)).await.unwrap_err();
        assert_eq!(error.reason(), Reason::SourceDenied, "{wrong:?}");
    }
}

#[tokio::test]
async fn each_failure_becomes_its_error() {
    let bench = Bench::start(granted()).await;
    let soon = Retry::Transient { retry_after: None };
    let mend = "check that caller@demo-project.iam.gserviceaccount.com exists and that the operator's identity has \
                roles/iam.serviceAccountOpenIdTokenCreator on it (and roles/iam.serviceAccountTokenCreator along a chain of \
                delegates)";
    let table = [
        (
            Fault::TooManyRequests { retry_after: Some(30) },
            Reason::QuotaExceeded,
            Retry::Transient { retry_after: Some(30) },
            "HTTP 429 RESOURCE_EXHAUSTED".to_owned(),
        ),
        (
            Fault::TooManyRequests { retry_after: None },
            Reason::QuotaExceeded,
            soon,
            "HTTP 429 RESOURCE_EXHAUSTED".to_owned(),
        ),
        (
            Fault::Forbidden,
            Reason::SourceDenied,
            Retry::Slowly,
            format!("HTTP 403 PERMISSION_DENIED IAM_PERMISSION_DENIED; {mend}"),
        ),
        (Fault::NotFound, Reason::SourceDenied, Retry::Slowly, format!("HTTP 404 NOT_FOUND; {mend}")),
        (Fault::InternalError, Reason::SourceUnavailable, soon, "HTTP 500 INTERNAL".to_owned()),
        (Fault::Unavailable, Reason::SourceUnavailable, soon, "HTTP 503 UNAVAILABLE".to_owned()),
        (Fault::DropConnection, Reason::SourceUnavailable, soon, "the connection broke".to_owned()),
        (Fault::Garbage, Reason::TokenRejected, soon, "the answer holds no token".to_owned()),
    ];
    for (fault, reason, retry, message) in table {
        bench.google.set_fault(Endpoint::GenerateIdToken, fault.clone());
        let error = bench.mint(&impersonation(&[])).await.unwrap_err();
        assert_eq!((error.reason(), error.retry()), (reason, retry), "{fault:?}");
        assert_eq!(error.to_string(), format!("generateIdToken for {CALLER}: {message}"));
        bench.assert_silent(&error);
    }
    assert_eq!(bench.google.count(Endpoint::MetadataToken), 1, "none of them spoils the access token");
    bench.google.clear_faults();
    assert!(bench.mint(&impersonation(&[])).await.is_ok());
}

#[tokio::test]
async fn failures_to_get_an_access_token_become_errors_too() {
    let bench = Bench::start(granted()).await;
    for (fault, reason, message) in [
        (Fault::Unavailable, Reason::SourceUnavailable, "metadata server, token: HTTP 503"),
        (Fault::Garbage, Reason::TokenRejected, "metadata server, token: the answer holds no token"),
        (Fault::DropConnection, Reason::SourceUnavailable, "metadata server, token: the connection broke"),
    ] {
        bench.google.set_fault(Endpoint::MetadataToken, fault);
        let error = bench.mint(&impersonation(&[])).await.unwrap_err();
        assert_eq!((error.reason(), error.to_string().as_str()), (reason, message));
        bench.assert_silent(&error);
    }
    assert_eq!(bench.google.count(Endpoint::GenerateIdToken), 0);
}

#[tokio::test]
async fn an_account_that_the_operator_may_not_use_is_denied() {
    let bench = Bench::start(Options::default().service_account(CALLER)).await;
    let error = bench.mint(&impersonation(&[])).await.unwrap_err();
    assert_eq!(error.reason(), Reason::SourceDenied);
    let problem = Problem::from(error);
    assert_eq!(problem.retry, Retry::Slowly);
    assert!(problem.message.contains("roles/iam.serviceAccountOpenIdTokenCreator"), "{}", problem.message);
}

#[tokio::test]
async fn twenty_callers_at_once_share_one_access_token() {
    let bench = Bench::start(granted()).await;
    let source = impersonation(&[]);
    let tokens = join_all((0..20).map(|_| bench.mint(&source))).await;
    assert!(tokens.iter().all(Result::is_ok));
    assert_eq!(bench.google.count(Endpoint::MetadataToken), 1);
    assert_eq!(bench.google.count(Endpoint::GenerateIdToken), 20);
}

#[tokio::test]
async fn twenty_callers_at_once_share_one_failure_to_get_an_access_token() {
    let bench = Bench::start(granted()).await;
    bench.google.set_fault(Endpoint::MetadataToken, Fault::Unavailable);
    let source = impersonation(&[]);
    let tokens = join_all((0..20).map(|_| bench.mint(&source))).await;
    for error in tokens.into_iter().map(Result::unwrap_err) {
        assert_eq!(error.to_string(), "metadata server, token: HTTP 503");
    }
    assert_eq!(bench.google.count(Endpoint::MetadataToken), 1);
    bench.google.clear_faults();
    assert!(bench.mint(&source).await.is_ok(), "who comes later asks anew");
}

#[tokio::test]
async fn the_access_token_is_replaced_225_seconds_before_its_end() {
    let bench = Bench::start(granted()).await;
    let source = impersonation(&[]);
    bench.mint(&source).await.unwrap();
    pass(3360).await;
    bench.mint(&source).await.unwrap();
    assert_eq!(bench.google.count(Endpoint::MetadataToken), 1);
    pass(20).await;
    bench.mint(&source).await.unwrap();
    assert_eq!(bench.google.count(Endpoint::MetadataToken), 2);
}

#[tokio::test]
async fn a_refused_access_token_is_replaced_once() {
    let bench = Bench::start(granted()).await;
    bench.google.set_fault_times(Endpoint::MetadataToken, Fault::ExpiredToken, 1);
    assert!(bench.mint(&impersonation(&[])).await.is_ok());
    assert_eq!(bench.google.count(Endpoint::MetadataToken), 2);
    assert_eq!(bench.google.count(Endpoint::GenerateIdToken), 2);
}

#[tokio::test]
async fn access_tokens_that_are_refused_again_are_told() {
    let bench = Bench::start(granted()).await;
    bench.google.set_fault(Endpoint::MetadataToken, Fault::ExpiredToken);
    let error = bench.mint(&impersonation(&[])).await.unwrap_err();
    assert!(error.to_string().contains("HTTP 401 UNAUTHENTICATED"), "{error}");
    bench.assert_silent(&error);
    assert_eq!(bench.google.count(Endpoint::GenerateIdToken), 2, "twice, not again and again");
}

#[tokio::test]
async fn an_api_that_is_switched_off_is_told_apart() {
    let info = serde_json::json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED"});
    let error = serde_json::json!({"error": {"code": 403, "status": "PERMISSION_DENIED", "message": "x", "details": [info]}});
    let answer = move || async move { (::http::StatusCode::FORBIDDEN, axum::Json(error)) };
    let (url, _) = http_client::serve(axum::Router::new().fallback(answer)).await;
    let google = Google::start(granted()).await.unwrap();
    let (http, endpoints) = (Http::new().unwrap(), Endpoints { iam_credentials: url, ..endpoints(&google) });
    let operator = Operator::new(&http, &endpoints, Sources::default());
    let bench = Bench { minter: Minter::new(&http, &endpoints, operator), google };
    let error = bench.mint(&impersonation(&[])).await.unwrap_err();
    assert_eq!((error.reason(), error.retry()), (Reason::SourceDenied, Retry::Slowly));
    assert_eq!(
        error.to_string(),
        "generateIdToken for caller@demo-project.iam.gserviceaccount.com: HTTP 403 PERMISSION_DENIED SERVICE_DISABLED; the API is \
         switched off in the caller's project: gcloud services enable iamcredentials.googleapis.com"
    );
}
