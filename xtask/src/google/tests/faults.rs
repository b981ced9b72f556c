use std::time::Duration;

use tokio::time::Instant;

use super::super::{Endpoint, Fault, Role};
use super::*;

const METHOD: &str = "caller@demo-project.iam.gserviceaccount.com:generateIdToken";

async fn start() -> (Google, String) {
    let options =
        Options::default().service_account(CALLER).allow(OPERATOR_MEMBER, Role::OpenIdTokenCreator, CALLER);
    let google = Google::start(options).await.unwrap();
    let token = operator_token(&google).await;
    (google, token)
}

async fn generate(google: &Google, bearer: &str) -> Answer {
    call_iam(google, bearer, METHOD, json!({ "audience": AUDIENCE, "includeEmail": true })).await
}

#[tokio::test]
async fn the_metadata_server_fails_in_its_own_words() {
    let (google, _) = start().await;
    let throttled = "{\"error\":\"quota_exceeded\",\"error_description\":\"The request was throttled due to rate limit. Please retry after a few seconds.\"}";
    let none = "{\"error\":\"invalid_request\",\"error_description\":\"Service account not enabled on this instance\"}";
    let cases = [
        (Fault::TooManyRequests { retry_after: None }, 429, throttled),
        (Fault::Forbidden, 403, "Unable to generate access token; IAM returned 403 Forbidden"),
        (Fault::NotFound, 404, none),
        (Fault::InternalError, 500, "GKE Metadata Server: Internal Server Error"),
        (Fault::Unavailable, 503, "Service Unavailable"),
    ];
    for (fault, status, body) in cases {
        google.set_fault(Endpoint::MetadataIdentity, fault);
        let answer = identity(&google, "audience=a").await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body));
        assert_eq!(answer.header("metadata-flavor"), Some("Google"));
    }
    assert_eq!(google.minted(Endpoint::MetadataIdentity), 0);
}

#[tokio::test]
async fn iam_fails_in_its_own_words() {
    let (google, bearer) = start().await;
    let quota = "Quota exceeded for quota metric 'Generate credentials requests' and limit 'Generate credentials requests per minute' of service 'iamcredentials.googleapis.com' for consumer 'project_number:123456789012'.";
    let denied = "Permission 'iam.serviceAccounts.getOpenIdToken' denied on resource (or it may not exist).";
    let absent = "Not found; Gaia id not found for email caller@demo-project.iam.gserviceaccount.com";
    let cases = [
        (Fault::TooManyRequests { retry_after: Some(7) }, 429, "RESOURCE_EXHAUSTED", quota),
        (Fault::Forbidden, 403, "PERMISSION_DENIED", denied),
        (Fault::NotFound, 404, "NOT_FOUND", absent),
        (Fault::InternalError, 500, "INTERNAL", "Internal error encountered."),
        (Fault::Unavailable, 503, "UNAVAILABLE", "The service is currently unavailable."),
    ];
    for (fault, status, code, message) in cases {
        google.set_fault(Endpoint::GenerateIdToken, fault);
        let answer = generate(&google, &bearer).await;
        assert_eq!(answer.status, status);
        let error = answer.json()["error"].clone();
        assert_eq!((error["code"].as_u64(), error["status"].as_str()), (Some(status.into()), Some(code)));
        assert_eq!(error["message"], message);
        assert_eq!(answer.header("retry-after"), (status == 429).then_some("7"));
    }
}

#[tokio::test]
async fn the_oauth_family_fails_in_its_own_words() {
    let (google, _) = start().await;
    let sts = format!("{}/v1/token", google.sts_url());
    let cases = [
        (
            Fault::TooManyRequests { retry_after: None },
            429,
            "quota_exceeded",
            "The request was throttled due to rate limit: sts.googleapis.com/requests. Please retry after a few seconds.",
        ),
        (Fault::Forbidden, 403, "access_denied", "Account restricted"),
        (Fault::InternalError, 500, "internal_failure", "Internal error encountered."),
        (Fault::Unavailable, 503, "temporarily_unavailable", "The service is currently unavailable."),
    ];
    for (fault, status, code, text) in cases {
        for (endpoint, url) in [(Endpoint::Sts, &sts), (Endpoint::OauthToken, &google.oauth_token_url())] {
            google.set_fault(endpoint, fault.clone());
            let answer = post_form(url, &[]).await;
            let expected = json!({ "error": code, "error_description": text });
            assert_eq!((answer.status, answer.json()), (status, expected));
        }
    }
}

#[tokio::test]
async fn a_dropped_connection_has_no_answer() {
    let (google, _) = start().await;
    for (endpoint, url) in
        [(Endpoint::Jwks, google.jwks_url()), (Endpoint::Metadata, google.metadata_url().to_owned())]
    {
        google.set_fault(endpoint, Fault::DropConnection);
        google.clear_requests();
        let request = Request::get(&url).body(Full::default()).unwrap();
        let error = try_send(request).await.err().unwrap();
        assert!(error.is::<hyper_util::client::legacy::Error>(), "{error:?}");
        let log = google.requests();
        assert_eq!((log[0].endpoint, log[0].status), (endpoint, None));
    }
}

#[tokio::test]
async fn garbage_is_a_success_without_sense() {
    let (google, bearer) = start().await;
    google.set_fault(Endpoint::GenerateIdToken, Fault::Garbage);
    let answer = generate(&google, &bearer).await;
    assert_eq!(answer.status, 200);
    assert!(serde_json::from_str::<Value>(&answer.body).is_err());
    google.set_fault(Endpoint::MetadataIdentity, Fault::Garbage);
    let answer = identity(&google, "audience=a").await;
    assert_eq!((answer.status, answer.body.matches('.').count()), (200, 0));
}

#[tokio::test]
async fn a_large_answer_has_5_mb() {
    let (google, bearer) = start().await;
    google.set_fault(Endpoint::GenerateIdToken, Fault::TooLarge);
    let answer = generate(&google, &bearer).await;
    assert_eq!((answer.status, answer.body.len()), (200, 5_242_894));
    assert_eq!(answer.text("padding").len(), 5_242_880);
}

#[tokio::test]
async fn oauth_errors_are_as_asked() {
    let (google, _) = start().await;
    let description = "The given credential is rejected by the attribute condition.";
    let fault = Fault::OauthError { status: 400, code: "unauthorized_client", description, subtype: None };
    for (endpoint, url) in [
        (Endpoint::Sts, format!("{}/v1/token", google.sts_url())),
        (Endpoint::OauthToken, google.oauth_token_url()),
    ] {
        google.set_fault(endpoint, fault.clone());
        let answer = post_form(&url, &[]).await;
        let expected = json!({ "error": "unauthorized_client", "error_description": description });
        assert_eq!((answer.status, answer.json()), (400, expected));
    }
    let subtype = Some("invalid_rapt");
    let fault = Fault::OauthError { status: 400, code: "invalid_grant", description: "reauth", subtype };
    google.set_fault(Endpoint::OauthToken, fault);
    let expected =
        json!({ "error": "invalid_grant", "error_description": "reauth", "error_subtype": "invalid_rapt" });
    assert_eq!(post_form(&google.oauth_token_url(), &[]).await.json(), expected);
}

#[tokio::test]
async fn errors_of_iam_are_as_asked() {
    let (google, bearer) = start().await;
    let reason = Some("SERVICE_DISABLED");
    google.set_fault(
        Endpoint::GenerateIdToken,
        Fault::RpcError { status: 403, code: "PERMISSION_DENIED", reason },
    );
    let answer = generate(&google, &bearer).await;
    let error = &answer.json()["error"];
    assert_eq!(
        (answer.status, &error["code"], &error["status"]),
        (403, &json!(403), &json!("PERMISSION_DENIED"))
    );
    let details = json!([{
        "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED", "domain": "googleapis.com",
        "metadata": { "service": "iamcredentials.googleapis.com" },
    }]);
    assert_eq!(error["details"], details);
    let fault = Fault::RpcError { status: 400, code: "INVALID_ARGUMENT", reason: None };
    google.set_fault(Endpoint::GenerateIdToken, fault);
    let answer = generate(&google, &bearer).await;
    let error = &answer.json()["error"];
    assert_eq!(
        (answer.status, &error["status"], &error["details"]),
        (400, &json!("INVALID_ARGUMENT"), &Value::Null)
    );
}

#[tokio::test]
async fn latency_delays_the_right_answer() {
    let (google, bearer) = start().await;
    google.set_fault(Endpoint::GenerateIdToken, Fault::Latency(Duration::from_millis(300)));
    let before = Instant::now();
    assert_eq!(generate(&google, &bearer).await.status, 200);
    assert!(before.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_fault_lasts_its_count_or_until_cleared() {
    let (google, bearer) = start().await;
    google.set_fault_times(Endpoint::GenerateIdToken, Fault::Unavailable, 2);
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(generate(&google, &bearer).await.status);
    }
    assert_eq!(seen, [503, 503, 200]);
    google.set_fault(Endpoint::GenerateIdToken, Fault::Unavailable);
    google.set_fault(Endpoint::Jwks, Fault::Unavailable);
    google.clear_fault(Endpoint::GenerateIdToken);
    assert_eq!(generate(&google, &bearer).await.status, 200);
    assert_eq!(get(&google.jwks_url()).await.status, 503);
    google.clear_faults();
    assert_eq!(get(&google.jwks_url()).await.status, 200);
}

/// A token minted under the fault, with the keys of the moment.
async fn spoilt(google: &Google, bearer: &str, fault: Fault) -> (String, bool) {
    google.set_fault_times(Endpoint::GenerateIdToken, fault, 1);
    let token = generate(google, bearer).await.text("token");
    let good = header(&token)["alg"] == "RS256" && verifies(&token, &jwks(google).await);
    (token, good)
}

#[tokio::test]
async fn spoilt_claims_are_signed_all_the_same() {
    let (google, bearer) = start().await;
    let cases = [
        (Fault::WrongAudience, "aud", json!("https://wrong-audience.example.com")),
        (Fault::WrongIssuer, "iss", json!("https://wrong-issuer.example.com")),
        (Fault::WrongEmail, "email", json!("somebody-else@other-project.iam.gserviceaccount.com")),
        (Fault::UnverifiedEmail, "email_verified", json!(false)),
    ];
    for (fault, claim, value) in cases {
        let (token, verified) = spoilt(&google, &bearer, fault).await;
        assert!(verified);
        assert_eq!(claims(&token)[claim], value);
    }
}

#[tokio::test]
async fn spoilt_times_keep_the_life() {
    let (google, bearer) = start().await;
    let now = crate::clock::now().as_second();
    for (fault, expected) in [(Fault::ExpiredToken, -600 - 3600), (Fault::FutureIat, 3600)] {
        let (token, verified) = spoilt(&google, &bearer, fault).await;
        let (issued, end) =
            (claims(&token)["iat"].as_i64().unwrap(), claims(&token)["exp"].as_i64().unwrap());
        assert!(verified);
        assert_eq!(end - issued, 3600);
        assert!((0..=5).contains(&(issued - now - expected)), "{issued}");
    }
}

#[tokio::test]
async fn spoilt_signatures_do_not_verify() {
    let (google, bearer) = start().await;
    let (unknown, verified) = spoilt(&google, &bearer, Fault::UnknownKey).await;
    assert!(!verified);
    let published = jwks(&google).await;
    assert!(published["keys"].as_array().unwrap().iter().all(|key| key["kid"] != header(&unknown)["kid"]));
    let (broken, verified) = spoilt(&google, &bearer, Fault::BadSignature).await;
    assert!(!verified);
    assert_eq!(header(&broken)["kid"], published["keys"][0]["kid"]);
    let (none, _) = spoilt(&google, &bearer, Fault::AlgNone).await;
    assert_eq!(header(&none), json!({ "alg": "none", "typ": "JWT" }));
    assert!(none.ends_with('.'));
}

#[tokio::test]
async fn a_jwt_that_an_account_signs_can_be_spoilt_too() {
    let options =
        Options::default().service_account(CALLER).allow(OPERATOR_MEMBER, Role::TokenCreator, CALLER);
    let google = Google::start(options).await.unwrap();
    let bearer = operator_token(&google).await;
    let now = crate::clock::now().as_second();
    let payload = json!({ "iss": CALLER, "sub": CALLER, "aud": AUDIENCE, "iat": now, "exp": now + 3600 });
    let method = "caller@demo-project.iam.gserviceaccount.com:signJwt";
    let sign = async |fault: Option<Fault>| {
        google.clear_faults();
        if let Some(fault) = fault {
            google.set_fault(Endpoint::SignJwt, fault);
        }
        let answer = call_iam(&google, &bearer, method, json!({ "payload": payload.to_string() })).await;
        let signed = answer.text("signedJwt");
        let keys = get(&google.service_account_jwks_url(CALLER)).await.json();
        let good = header(&signed)["alg"] == "RS256" && verifies(&signed, &keys);
        (signed, good)
    };
    let (whole, good) = sign(None).await;
    assert!(good);
    assert_eq!(claims(&whole), payload);
    for (fault, claim, value) in [
        (Fault::WrongAudience, "aud", json!("https://wrong-audience.example.com")),
        (Fault::WrongIssuer, "iss", json!("https://wrong-issuer.example.com")),
        (Fault::WrongSubject, "sub", json!("somebody-else")),
        (Fault::ExpiredToken, "exp", json!(now - 600)),
        (Fault::FutureIat, "iat", json!(now + 3600)),
    ] {
        let (signed, good) = sign(Some(fault)).await;
        assert!(good, "{claim}");
        assert_eq!(claims(&signed)[claim], value, "{claim}");
    }
    for fault in [Fault::BadSignature, Fault::UnknownKey, Fault::AlgNone] {
        let (signed, good) = sign(Some(fault.clone())).await;
        assert!(!good, "{fault:?}");
        assert_eq!(claims(&signed), payload, "{fault:?}");
    }
    assert!(sign(None).await.1, "the published key is still the same");
}

#[tokio::test]
async fn a_spoilt_token_does_not_stay_in_the_metadata_cache() {
    let (google, _) = start().await;
    let good = identity(&google, "audience=a").await.body;
    google.set_fault_times(Endpoint::MetadataIdentity, Fault::WrongAudience, 1);
    let wrong = identity(&google, "audience=a").await.body;
    assert_eq!(claims(&wrong)["aud"], "https://wrong-audience.example.com");
    assert_eq!(identity(&google, "audience=a").await.body, good);
}

#[tokio::test]
async fn an_expired_access_token_promises_life_and_is_refused() {
    let (google, _) = start().await;
    google.set_fault_times(Endpoint::MetadataToken, Fault::ExpiredToken, 1);
    let answer = metadata(&google, "instance/service-accounts/default/token").await.json();
    assert_eq!(answer["expires_in"], 3600);
    assert_eq!(generate(&google, answer["access_token"].as_str().unwrap()).await.status, 401);
}

#[tokio::test]
#[should_panic(expected = "Jwks cannot have the fault WrongAudience")]
async fn a_fault_that_could_not_happen_is_not_taken() {
    let (google, _) = start().await;
    google.set_fault(Endpoint::Jwks, Fault::WrongAudience);
}
