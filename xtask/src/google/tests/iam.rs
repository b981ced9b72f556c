use std::time::Duration;

use super::super::{Endpoint, Role};
use super::*;

const METHOD: &str = "caller@demo-project.iam.gserviceaccount.com:generateIdToken";
const MIDDLE: &str = "middle@demo-project.iam.gserviceaccount.com";

/// The operator may mint ID tokens of the caller, and nothing else.
async fn start() -> (Google, String) {
    let options =
        Options::default().service_account(CALLER).allow(OPERATOR_MEMBER, Role::OpenIdTokenCreator, CALLER);
    let google = Google::start(options).await.unwrap();
    let token = operator_token(&google).await;
    (google, token)
}

fn denied(permission: &str) -> Value {
    json!({ "error": {
        "code": 403,
        "message": format!("Permission '{permission}' denied on resource (or it may not exist)."),
        "status": "PERMISSION_DENIED",
        "details": [{
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "IAM_PERMISSION_DENIED",
            "domain": "iam.googleapis.com",
            "metadata": { "permission": permission },
        }],
    } })
}

#[tokio::test]
async fn an_id_token_names_audience_and_account() {
    let (google, bearer) = start().await;
    let answer =
        call_iam(&google, &bearer, METHOD, json!({ "audience": AUDIENCE, "includeEmail": true })).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json; charset=UTF-8"));
    assert_eq!(answer.json().as_object().unwrap().len(), 1);
    let token = answer.text("token");
    assert!(verifies(&token, &jwks(&google).await));
    assert_eq!(
        claims_without_times(&token, 3600),
        json!({
            "iss": "https://accounts.google.com",
            "aud": "https://orders-abc-uc.a.run.app",
            "azp": google.unique_id(CALLER),
            "sub": google.unique_id(CALLER),
            "email": "caller@demo-project.iam.gserviceaccount.com",
            "email_verified": true,
        })
    );
    assert_eq!(google.minted(Endpoint::GenerateIdToken), 1);
}

#[tokio::test]
async fn the_email_is_there_only_when_asked_for() {
    let (google, bearer) = start().await;
    for (include, expected) in
        [(json!(null), false), (json!(false), false), (json!(true), true), (json!("true"), true)]
    {
        let body = json!({ "audience": "a", "includeEmail": include });
        let token = call_iam(&google, &bearer, METHOD, body).await.text("token");
        let claims = claims(&token);
        assert_eq!(claims.get("email").is_some(), expected, "{include}");
        assert_eq!(claims.get("email_verified").is_some(), expected, "{include}");
    }
}

#[tokio::test]
async fn the_account_may_be_given_by_its_unique_id() {
    let (google, bearer) = start().await;
    let method = format!("{}:generateIdToken", google.unique_id(CALLER));
    let token = call_iam(&google, &bearer, &method, json!({ "audience": "a" })).await.text("token");
    assert_eq!(claims(&token)["sub"], google.unique_id(CALLER).as_str());
    let escaped = "caller%40demo-project.iam.gserviceaccount.com:generateIdToken";
    assert_eq!(call_iam(&google, &bearer, escaped, json!({ "audience": "a" })).await.status, 200);
}

#[tokio::test]
async fn a_call_without_a_credential_is_unauthenticated() {
    let (google, _) = start().await;
    let url = format!("{}/v1/projects/-/serviceAccounts/{METHOD}", google.iam_credentials_url());
    let answer = send(Method::POST, &url, &[], "{\"audience\":\"a\"}").await;
    assert_eq!(answer.status, 401);
    assert_eq!(
        answer.json(),
        json!({ "error": {
            "code": 401,
            "message": "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
            "status": "UNAUTHENTICATED",
            "details": [{
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "CREDENTIALS_MISSING",
                "domain": "googleapis.com",
                "metadata": {
                    "method": "google.iam.credentials.v1.IAMCredentials.GenerateIdToken",
                    "service": "iamcredentials.googleapis.com",
                },
            }],
        } })
    );
}

#[tokio::test]
async fn an_unknown_or_expired_token_is_unauthenticated() {
    let (google, bearer) = start().await;
    let body = json!({ "audience": "a" });
    let unknown = call_iam(&google, "ya29.made-up", METHOD, body.clone()).await;
    assert_eq!((unknown.status, unknown.json()["error"]["status"].as_str()), (401, Some("UNAUTHENTICATED")));
    google.advance_clock(Duration::from_secs(3599));
    assert_eq!(call_iam(&google, &bearer, METHOD, body.clone()).await.status, 200);
    google.advance_clock(Duration::from_secs(2));
    let expired = call_iam(&google, &bearer, METHOD, body).await;
    assert_eq!(expired.status, 401);
    assert_eq!(expired.json()["error"]["details"][0]["reason"], "ACCESS_TOKEN_EXPIRED");
}

#[tokio::test]
async fn a_token_of_other_scopes_is_not_enough() {
    let (google, _) = start().await;
    let scope = "https://www.googleapis.com/auth/devstorage.read_only";
    let path = format!("instance/service-accounts/default/token?scopes={scope}");
    let weak = metadata(&google, &path).await.text("access_token");
    let answer = call_iam(&google, &weak, METHOD, json!({ "audience": "a" })).await;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.json()["error"]["message"], "Request had insufficient authentication scopes.");
    assert_eq!(answer.json()["error"]["details"][0]["reason"], "ACCESS_TOKEN_SCOPE_INSUFFICIENT");
}

#[tokio::test]
async fn without_permission_nobody_learns_what_exists() {
    let (google, bearer) = start().await;
    google.revoke(OPERATOR_MEMBER, Role::OpenIdTokenCreator, CALLER);
    for account in [CALLER, "missing@demo-project.iam.gserviceaccount.com"] {
        let method = format!("{account}:generateIdToken");
        let answer = call_iam(&google, &bearer, &method, json!({ "audience": "a" })).await;
        assert_eq!(
            (answer.status, answer.json()),
            (403, denied("iam.serviceAccounts.getOpenIdToken")),
            "{account}"
        );
    }
}

#[tokio::test]
async fn who_could_use_it_learns_that_it_does_not_exist() {
    let (google, bearer) = start().await;
    google.delete_service_account(CALLER);
    let answer = call_iam(&google, &bearer, METHOD, json!({ "audience": "a" })).await;
    assert_eq!(
        (answer.status, answer.json()),
        (
            404,
            json!({ "error": {
                "code": 404,
                "message": "Not found; Gaia id not found for email caller@demo-project.iam.gserviceaccount.com",
                "status": "NOT_FOUND",
            } })
        )
    );
}

#[tokio::test]
async fn being_an_account_is_no_permission_to_mint_for_it() {
    let (google, bearer) = start().await;
    let method = format!("{OPERATOR}:generateIdToken");
    let answer = call_iam(&google, &bearer, &method, json!({ "audience": "a" })).await;
    assert_eq!(answer.status, 403);
}

#[tokio::test]
async fn invalid_arguments_are_named() {
    let (google, bearer) = start().await;
    let caller = "caller@demo-project.iam.gserviceaccount.com";
    let far = crate::clock::now().as_second() + 13 * 3600;
    let cases = [
        ("generateIdToken", json!({}), "audience"),
        ("generateIdToken", json!({ "audience": "" }), "audience"),
        ("generateIdToken", json!({ "audience": "a", "delegates": ["me@example.com"] }), "delegates"),
        ("generateAccessToken", json!({ "scope": [] }), "scope"),
        ("generateAccessToken", json!({ "scope": ["s"], "lifetime": "3601s" }), "lifetime"),
        ("generateAccessToken", json!({ "scope": ["s"], "lifetime": 600 }), "lifetime"),
        ("signJwt", json!({ "payload": "no json" }), "payload"),
        ("signJwt", json!({ "payload": format!("{{\"exp\":{far}}}") }), "payload"),
    ];
    for (method, body, field) in cases {
        let answer = call_iam(&google, &bearer, &format!("{caller}:{method}"), body.clone()).await;
        assert_eq!(answer.status, 400, "{body}");
        let error = &answer.json()["error"];
        assert_eq!(error["status"], "INVALID_ARGUMENT", "{body}");
        assert_eq!(error["details"][0]["@type"], "type.googleapis.com/google.rpc.BadRequest");
        assert_eq!(error["details"][0]["fieldViolations"][0]["field"], field, "{body}");
    }
}

#[tokio::test]
async fn a_project_in_the_path_is_refused_and_so_is_no_json() {
    let (google, bearer) = start().await;
    let bearer = format!("Bearer {bearer}");
    let post = async |project: &str, body: &str| {
        let url = format!("{}/v1/projects/{project}/serviceAccounts/{METHOD}", google.iam_credentials_url());
        send(Method::POST, &url, &[("Authorization", &bearer)], body).await.status
    };
    assert_eq!(post("demo-project", "{\"audience\":\"a\"}").await, 400);
    assert_eq!(post("-", "audience=a").await, 400);
    assert_eq!(post("-", "{\"audience\":\"a\"}").await, 200);
}

#[tokio::test]
async fn other_methods_and_verbs_do_not_exist() {
    let (google, bearer) = start().await;
    let method = "caller@demo-project.iam.gserviceaccount.com:deleteEverything";
    assert_eq!(call_iam(&google, &bearer, method, json!({})).await.status, 404);
    let url = format!("{}/v1/projects/-/serviceAccounts/{METHOD}", google.iam_credentials_url());
    assert_eq!(get(&url).await.status, 404);
}

#[tokio::test]
async fn every_link_of_a_delegation_needs_its_own_grant() {
    let (google, bearer) = start().await;
    google.create_service_account(MIDDLE);
    google.revoke(OPERATOR_MEMBER, Role::OpenIdTokenCreator, CALLER);
    let middle = "serviceAccount:middle@demo-project.iam.gserviceaccount.com";
    let delegate = "projects/-/serviceAccounts/middle@demo-project.iam.gserviceaccount.com";
    let body = json!({ "audience": "a", "delegates": [delegate] });

    let first_missing = call_iam(&google, &bearer, METHOD, body.clone()).await;
    assert_eq!(first_missing.json(), denied("iam.serviceAccounts.implicitDelegation"));
    google.grant(OPERATOR_MEMBER, Role::OpenIdTokenCreator, MIDDLE);
    let role_too_small = call_iam(&google, &bearer, METHOD, body.clone()).await;
    assert_eq!(role_too_small.json(), denied("iam.serviceAccounts.implicitDelegation"));
    google.grant(OPERATOR_MEMBER, Role::TokenCreator, MIDDLE);
    let second_missing = call_iam(&google, &bearer, METHOD, body.clone()).await;
    assert_eq!(second_missing.json(), denied("iam.serviceAccounts.getOpenIdToken"));
    google.grant(middle, Role::TokenCreator, CALLER);
    let token = call_iam(&google, &bearer, METHOD, body).await.text("token");
    assert_eq!(claims(&token)["sub"], google.unique_id(CALLER).as_str());
    let direct = call_iam(&google, &bearer, METHOD, json!({ "audience": "a" })).await;
    assert_eq!(direct.status, 403);
}

#[tokio::test]
async fn an_access_token_makes_its_holder_the_account() {
    let (google, bearer) = start().await;
    let method = "caller@demo-project.iam.gserviceaccount.com:generateAccessToken";
    let body = json!({ "scope": ["https://www.googleapis.com/auth/cloud-platform"], "lifetime": "600s" });
    let refused = call_iam(&google, &bearer, method, body.clone()).await;
    assert_eq!((refused.status, refused.json()), (403, denied("iam.serviceAccounts.getAccessToken")));
    google.grant(OPERATOR_MEMBER, Role::TokenCreator, CALLER);
    let answer = call_iam(&google, &bearer, method, body).await;
    assert_eq!(answer.status, 200);
    let end = answer.text("expireTime");
    assert_eq!(end.len(), "2026-01-01T00:00:00.123456789Z".len(), "{end} has nanoseconds");
    let end: jiff::Timestamp = end.parse().unwrap();
    let left = end.as_second() - crate::clock::now().as_second();
    assert!((595..=600).contains(&left), "{left}");

    let callers_own = answer.text("accessToken");
    let on_itself = call_iam(&google, &callers_own, METHOD, json!({ "audience": "a" })).await;
    assert_eq!(on_itself.status, 403);
    google.grant(
        "serviceAccount:caller@demo-project.iam.gserviceaccount.com",
        Role::OpenIdTokenCreator,
        CALLER,
    );
    assert_eq!(call_iam(&google, &callers_own, METHOD, json!({ "audience": "a" })).await.status, 200);
    google.advance_clock(Duration::from_secs(601));
    assert_eq!(call_iam(&google, &callers_own, METHOD, json!({ "audience": "a" })).await.status, 401);
}

#[tokio::test]
async fn the_end_of_an_access_token_may_be_given_in_whole_seconds() {
    let options = Options { whole_seconds: true, ..Options::default() };
    let options = options.service_account(CALLER).allow(OPERATOR_MEMBER, Role::TokenCreator, CALLER);
    let google = Google::start(options).await.unwrap();
    let bearer = operator_token(&google).await;
    let method = "caller@demo-project.iam.gserviceaccount.com:generateAccessToken";
    let body = json!({ "scope": ["https://www.googleapis.com/auth/cloud-platform"] });
    let end = call_iam(&google, &bearer, method, body).await.text("expireTime");
    assert_eq!((end.len(), end.as_bytes()[19]), ("2026-01-01T00:00:00Z".len(), b'Z'), "{end}");
}

#[tokio::test]
async fn a_signed_jwt_is_verified_by_the_accounts_keys() {
    let (google, bearer) = start().await;
    let method = "caller@demo-project.iam.gserviceaccount.com:signJwt";
    let payload =
        "{\"iss\":\"caller@demo-project.iam.gserviceaccount.com\",\"aud\":\"https://app.example.com/*\"}";
    let refused = call_iam(&google, &bearer, method, json!({ "payload": payload })).await;
    assert_eq!((refused.status, refused.json()), (403, denied("iam.serviceAccounts.signJwt")));
    google.grant(OPERATOR_MEMBER, Role::TokenCreator, CALLER);
    let answer = call_iam(&google, &bearer, method, json!({ "payload": payload })).await;
    let signed = answer.text("signedJwt");
    assert_eq!(header(&signed), json!({ "alg": "RS256", "kid": answer.text("keyId"), "typ": "JWT" }));
    let expected = json!({ "iss": CALLER, "aud": "https://app.example.com/*" });
    assert_eq!(claims(&signed), expected);
    let keys = get(&google.service_account_jwks_url(CALLER)).await.json();
    assert!(verifies(&signed, &keys));
    assert!(!verifies(&signed, &jwks(&google).await));
}
