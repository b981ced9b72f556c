use super::super::{Endpoint, Ports, Role};
use super::*;

#[tokio::test]
async fn requests_are_logged_without_credentials() {
    let options =
        Options::default().service_account(CALLER).allow(OPERATOR_MEMBER, Role::OpenIdTokenCreator, CALLER);
    let google = Google::start(options).await.unwrap();
    let bearer = operator_token(&google).await;
    for audience in ["a", "b"] {
        call_iam(&google, &bearer, &format!("{CALLER}:generateIdToken"), json!({ "audience": audience }))
            .await;
    }
    call_iam(&google, "other", &format!("{CALLER}:generateIdToken"), json!({ "audience": "c" })).await;
    let log = google.requests();
    let seen: Vec<_> =
        log.iter().map(|entry| (entry.endpoint, entry.audience.as_deref(), entry.status)).collect();
    assert_eq!(
        seen,
        [
            (Endpoint::MetadataToken, None, Some(200)),
            (Endpoint::GenerateIdToken, Some("a"), Some(200)),
            (Endpoint::GenerateIdToken, Some("b"), Some(200)),
            (Endpoint::GenerateIdToken, Some("c"), Some(401)),
        ]
    );
    assert_eq!(log[0].path_and_query, "/computeMetadata/v1/instance/service-accounts/default/token");
    assert_eq!((log[0].method.as_str(), log[1].method.as_str()), ("GET", "POST"));
    assert_eq!(log[0].header("metadata-flavor"), Some("Google"));
    let hash = log[1].header("authorization").unwrap();
    assert!(hash.starts_with("sha256:") && hash.len() == 23, "{hash}");
    assert_eq!(log[2].header("authorization"), Some(hash));
    assert_ne!(log[3].header("authorization"), Some(hash));
    assert!(!format!("{log:?}").contains(&bearer));
    assert_eq!(google.count(Endpoint::GenerateIdToken), 3);
    google.clear_requests();
    assert_eq!((google.requests().len(), google.count(Endpoint::GenerateIdToken)), (0, 0));
}

#[tokio::test]
async fn every_issued_token_is_known_once() {
    let google = Google::start(Options::default()).await.unwrap();
    let access = operator_token(&google).await;
    let id = identity(&google, "audience=a").await.body;
    assert_eq!(identity(&google, "audience=a").await.body, id);
    assert_eq!(google.issued_tokens(), [access, id]);
    google.clear_requests();
    assert_eq!(google.issued_tokens().len(), 2);
}

#[tokio::test]
async fn unknown_paths_are_logged_as_such() {
    let google = Google::start(Options::default()).await.unwrap();
    assert_eq!(get(&format!("{}/v1/elsewhere", google.iam_credentials_url())).await.status, 404);
    assert_eq!(get(&format!("{}/v1/elsewhere", google.sts_url())).await.status, 404);
    assert_eq!(google.count(Endpoint::Unknown), 2);
}

#[tokio::test]
async fn stopping_frees_the_ports() {
    let google = Google::start(Options::default()).await.unwrap();
    let url = google.jwks_url();
    let port = |url: &str| url.rsplit(':').next().unwrap().split('/').next().unwrap().parse::<u16>().unwrap();
    let ports = Ports { oauth: port(&url), metadata: port(google.metadata_url()), ..Ports::default() };
    assert_eq!(get(&url).await.status, 200);
    google.stop().await;
    let again = Google::start(Options { ports, ..Options::default() }).await.unwrap();
    assert_eq!(again.jwks_url(), url);
    assert_eq!(get(&url).await.status, 200);
    drop(again);
}

#[tokio::test]
async fn two_simulators_do_not_know_each_other() {
    let one = Google::start(Options::default()).await.unwrap();
    let other = Google::start(Options::default()).await.unwrap();
    assert_ne!(one.metadata_url(), other.metadata_url());
    let token = identity(&one, "audience=a").await.body;
    assert!(verifies(&token, &jwks(&one).await));
    assert!(!verifies(&token, &jwks(&other).await));
    assert_eq!(other.count(Endpoint::MetadataIdentity), 0);
}
