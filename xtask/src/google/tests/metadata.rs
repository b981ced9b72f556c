use std::time::Duration;

use super::super::{EmailClaim, Endpoint, Mode, Role};
use super::*;

const PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/identity?audience=a";

async fn start() -> Google {
    Google::start(Options::default()).await.unwrap()
}

#[tokio::test]
async fn the_root_answers_without_the_request_header() {
    let google = start().await;
    let answer = get(google.metadata_url()).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "computeMetadata/\n"));
    assert_eq!(answer.header("metadata-flavor"), Some("Google"));
    assert_eq!(answer.header("server"), Some("Metadata Server for VM"));
    assert_eq!(answer.header("x-xss-protection"), Some("0"));
    assert_eq!(answer.header("x-frame-options"), Some("SAMEORIGIN"));
    assert_eq!(answer.header("content-type"), Some("application/text"));
}

#[tokio::test]
async fn forged_requests_are_refused() {
    let google = start().await;
    let url = format!("{}{PATH}", google.metadata_url());
    let flavor = ("Metadata-Flavor", "Google");
    let cases = [
        (Method::GET, vec![], 403),
        (Method::GET, vec![("Metadata-Flavor", "google")], 404),
        (Method::GET, vec![flavor, ("X-Forwarded-For", "10.0.0.1")], 403),
        (Method::POST, vec![flavor], 405),
        (Method::GET, vec![("metadata-flavor", "Google")], 200),
    ];
    for (method, headers, status) in cases {
        let answer = send(method, &url, &headers, "").await;
        assert_eq!(answer.status, status, "{headers:?}");
        assert_eq!(answer.header("metadata-flavor"), Some("Google"));
        assert_eq!(answer.header("content-type"), Some("text/html"));
    }
    let bare = get(&url).await;
    assert_eq!(bare.body, "Missing Metadata-Flavor:Google header.\n");
}

#[tokio::test]
async fn values_are_plain_text() {
    let google = start().await;
    let accounts = "instance/service-accounts";
    let cases = [
        ("project/project-id", "demo-project"),
        ("project/numeric-project-id", "123456789012"),
        ("universe/universe-domain", "googleapis.com"),
        ("instance/id", "4520031799277581759"),
        ("instance/zone", "projects/123456789012/zones/europe-west1-b"),
        ("instance/attributes/cluster-name", "demo-cluster"),
        ("instance/attributes/cluster-location", "europe-west1"),
        (&format!("{accounts}/default/email"), OPERATOR),
        (&format!("{accounts}/{OPERATOR}/email"), OPERATOR),
        (&format!("{accounts}/operator%40demo-project.iam.gserviceaccount.com/email"), OPERATOR),
        (&format!("{accounts}/default/aliases"), "default\n"),
        (&format!("{accounts}/default/scopes"), "https://www.googleapis.com/auth/cloud-platform\n"),
    ];
    for (path, expected) in cases {
        let answer = metadata(&google, path).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, expected), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/text"), "{path}");
    }
}

#[tokio::test]
async fn directories_list_their_children() {
    let google = start().await;
    let cases = [
        ("", "instance/\nproject/\nuniverse/\n"),
        ("instance/", "attributes/\nhostname\nid\nname\nservice-accounts/\nzone\n"),
        ("instance/service-accounts/", "default/\noperator@demo-project.iam.gserviceaccount.com/\n"),
        ("instance/service-accounts/default/", "aliases\nemail\nidentity\nscopes\ntoken\n"),
        ("project/", "numeric-project-id\nproject-id\n"),
    ];
    for (path, expected) in cases {
        let answer = metadata(&google, path).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, expected), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/text"), "{path}");
    }
}

#[tokio::test]
async fn recursive_answers_are_json() {
    let google = start().await;
    let account = json!({
        "aliases": ["default"],
        "email": "operator@demo-project.iam.gserviceaccount.com",
        "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
    });
    let one = metadata(&google, "instance/service-accounts/default/?recursive=true").await;
    assert_eq!(one.json(), account);
    assert_eq!(one.header("content-type"), Some("application/json"));
    let all = metadata(&google, "instance/service-accounts/?recursive=true").await;
    assert_eq!(
        all.json(),
        json!({ "default": account, "operator@demo-project.iam.gserviceaccount.com": account })
    );
    let project = metadata(&google, "project/?recursive=true").await;
    assert_eq!(
        project.json(),
        json!({ "projectId": "demo-project", "numericProjectId": 123_456_789_012_u64 })
    );
}

#[tokio::test]
async fn a_directory_without_its_slash_is_moved() {
    let google = start().await;
    let answer = metadata(&google, "instance/service-accounts/default?recursive=true").await;
    assert_eq!(answer.status, 301);
    assert_eq!(
        answer.header("location"),
        Some("/computeMetadata/v1/instance/service-accounts/default/?recursive=true")
    );
    assert_eq!(answer.header("metadata-flavor"), Some("Google"));
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let options = Options { universe_domain: None, cluster: None, ..Options::default() };
    let google = Google::start(options).await.unwrap();
    for path in [
        "universe/universe-domain",
        "instance/attributes/cluster-name",
        "instance/service-accounts/nobody@demo-project.iam.gserviceaccount.com/email",
        "instance/nothing",
        "nothing/",
    ] {
        let answer = metadata(&google, path).await;
        assert_eq!((answer.status, answer.header("content-type")), (404, Some("text/html")), "{path}");
    }
}

#[tokio::test]
async fn an_id_token_is_googles() {
    let google = start().await;
    let answer = identity(&google, "audience=https%3A%2F%2Forders-abc-uc.a.run.app").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/html")));
    assert!(!answer.body.ends_with('\n'));
    let key = jwks(&google).await["keys"][0]["kid"].clone();
    assert_eq!(header(&answer.body), json!({ "alg": "RS256", "kid": key, "typ": "JWT" }));
    assert!(verifies(&answer.body, &jwks(&google).await));
    assert_eq!(
        claims_without_times(&answer.body, 3600),
        json!({
            "iss": "https://accounts.google.com",
            "aud": "https://orders-abc-uc.a.run.app",
            "azp": google.unique_id(OPERATOR),
            "sub": google.unique_id(OPERATOR),
            "email": "operator@demo-project.iam.gserviceaccount.com",
            "email_verified": true,
        })
    );
}

#[tokio::test]
async fn the_full_format_describes_the_instance() {
    let options = Options { email_claim: EmailClaim::FullFormatOnly, ..Options::default() };
    let google = Google::start(options).await.unwrap();
    let standard = claims(&identity(&google, "audience=a&format=standard&licenses=TRUE").await.body);
    assert_eq!(
        (standard.get("email"), standard.get("email_verified"), standard.get("google")),
        (None, None, None)
    );
    let full = claims(&identity(&google, "audience=a&format=full").await.body);
    assert_eq!(full["email"], "operator@demo-project.iam.gserviceaccount.com");
    assert_eq!(
        full["google"],
        json!({ "compute_engine": {
            "instance_creation_timestamp": 1_760_000_000,
            "instance_id": "4520031799277581759",
            "instance_name": "demo-instance",
            "project_id": "demo-project",
            "project_number": 123_456_789_012_u64,
            "zone": "europe-west1-b",
        } })
    );
    let licensed = claims(&identity(&google, "audience=a&format=full&licenses=TRUE").await.body);
    assert_eq!(licensed["google"]["compute_engine"]["license_id"], json!(["5926592092274602096"]));
}

#[tokio::test]
async fn an_audience_is_required() {
    let google = start().await;
    for query in ["", "audience=", "format=full"] {
        let answer = identity(&google, query).await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (400, "non-empty audience parameter required"),
            "{query}"
        );
        assert_eq!(answer.header("content-type"), Some("text/html"));
    }
}

#[tokio::test]
async fn an_id_token_is_handed_out_again_until_five_minutes_before_its_end() {
    let google = start().await;
    let first = identity(&google, "audience=a").await.body;
    google.advance_clock(Duration::from_secs(3200));
    assert_eq!(identity(&google, "audience=a").await.body, first);
    assert_eq!(google.minted(Endpoint::MetadataIdentity), 1);
    google.advance_clock(Duration::from_secs(101));
    let second = identity(&google, "audience=a").await.body;
    assert_ne!(second, first);
    assert!(claims(&second)["exp"].as_i64() > claims(&first)["exp"].as_i64());
    identity(&google, "audience=b").await;
    assert_eq!(google.minted(Endpoint::MetadataIdentity), 3);
}

#[tokio::test]
async fn the_cache_can_be_switched_off() {
    let google = start().await;
    google.set_metadata_cache_margin(None);
    for _ in 0..3 {
        identity(&google, "audience=a").await;
    }
    assert_eq!(google.minted(Endpoint::MetadataIdentity), 3);
    assert_ne!(operator_token(&google).await, operator_token(&google).await);
}

#[tokio::test]
async fn lifetimes_are_settable_while_it_runs() {
    let google = start().await;
    google.set_id_token_lifetime(Duration::from_secs(20));
    google.set_access_token_lifetime(Duration::from_secs(30));
    claims_without_times(&identity(&google, "audience=a").await.body, 20);
    let token = metadata(&google, "instance/service-accounts/default/token").await.json();
    assert_eq!(token["expires_in"], 30);
}

#[tokio::test]
async fn an_access_token_shrinks_until_it_is_replaced() {
    let google = start().await;
    let path = "instance/service-accounts/default/token";
    let first = metadata(&google, path).await;
    assert_eq!(first.header("content-type"), Some("application/json"));
    assert_eq!(first.json()["token_type"], "Bearer");
    let left = first.json()["expires_in"].as_i64().unwrap();
    assert!((3599..=3600).contains(&left), "{left}");
    google.advance_clock(Duration::from_secs(1000));
    let again = metadata(&google, path).await.json();
    assert_eq!(again["access_token"], first.json()["access_token"]);
    let left = again["expires_in"].as_i64().unwrap();
    assert!((2597..=2600).contains(&left), "{left}");
    google.advance_clock(Duration::from_secs(2301));
    assert_ne!(metadata(&google, path).await.json()["access_token"], again["access_token"]);
}

#[tokio::test]
async fn a_machine_without_an_account_says_so() {
    let options = Options { mode: Mode::Gce { service_account: None }, ..Options::default() };
    let google = Google::start(options).await.unwrap();
    let expected = json!({
        "error": "invalid_request",
        "error_description": "Service account not enabled on this instance",
    });
    for leaf in ["token", "identity?audience=a", "email", "?recursive=true"] {
        let answer = metadata(&google, &format!("instance/service-accounts/default/{leaf}")).await;
        assert_eq!((answer.status, answer.json()), (404, expected.clone()), "{leaf}");
    }
}

#[tokio::test]
async fn an_annotated_pod_is_its_google_account_while_iam_says_so() {
    let google = Google::start(Options::default().gke_annotated("shop", "app", CALLER)).await.unwrap();
    let answer = identity(&google, "audience=a").await;
    assert_eq!(answer.header("server"), Some("GKE Metadata Server"));
    assert_eq!(claims(&answer.body)["email"], "caller@demo-project.iam.gserviceaccount.com");
    let listing = metadata(&google, "instance/service-accounts/").await.body;
    assert_eq!(listing, "caller@demo-project.iam.gserviceaccount.com/\ndefault/\n");

    let member = "serviceAccount:demo-project.svc.id.goog[shop/app]";
    google.revoke(member, Role::WorkloadIdentityUser, CALLER);
    let refused = identity(&google, "audience=a").await;
    assert_eq!(
        (refused.status, refused.body.as_str()),
        (
            403,
            "Unable to generate access token; IAM returned 403 Forbidden: Permission \
             'iam.serviceAccounts.getOpenIdToken' denied on resource (or it may not exist).\n"
        )
    );
    google.delete_service_account(CALLER);
    let gone = metadata(&google, "instance/service-accounts/default/token").await;
    assert_eq!(
        (gone.status, gone.body.as_str()),
        (
            404,
            "Unable to generate access token; IAM returned 404 Not Found: Not found; Gaia id not found for email \
             caller@demo-project.iam.gserviceaccount.com\n"
        )
    );
}

#[tokio::test]
async fn a_pod_without_annotation_has_an_access_token_only() {
    let google = Google::start(Options::default().gke_not_annotated("shop", "app")).await.unwrap();
    let email = metadata(&google, "instance/service-accounts/default/email").await.body;
    assert_eq!(email, "demo-project.svc.id.goog");
    let refused = identity(&google, "audience=a").await;
    assert_eq!(refused.status, 404);
    assert!(refused.body.starts_with(
        "Your Kubernetes service account (shop/app) is not annotated with a target Google service account"
    ));
    google.create_service_account(CALLER);
    let principal = "principal://iam.googleapis.com/projects/123456789012/locations/global/\
                     workloadIdentityPools/demo-project.svc.id.goog/subject/ns/shop/sa/app";
    google.grant(principal, Role::WorkloadIdentityUser, CALLER);
    let token = operator_token(&google).await;
    let minted =
        call_iam(&google, &token, &format!("{CALLER}:generateIdToken"), json!({ "audience": "a" })).await;
    assert_eq!(minted.status, 200);
}
