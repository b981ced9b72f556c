use serde_json::json;
use xtask::google::{CLOUD_PLATFORM, User};

use super::*;

const EMAIL: &str = "dev@example.com";
const LOGIN: &str = "gcloud auth application-default login --scopes=openid,https://www.googleapis.com/auth/userinfo.email,https://www.googleapis.com/auth/cloud-platform";

fn source() -> Source {
    Source::UserCredentials { file: secret_key("me", "adc.json") }
}

fn file() -> serde_json::Value {
    json!({
        "type": "authorized_user", "client_id": "id-1.apps.googleusercontent.com", "client_secret": "c2VjcmV0",
        "refresh_token": "1//refresh", "quota_project_id": "p", "universe_domain": "googleapis.com",
    })
}

fn secret(file: &serde_json::Value) -> Secrets {
    Secrets::of(&[("me", "adc.json", &file.to_string())])
}

async fn start(scopes: &[&str]) -> Bench {
    let user = User {
        client_id: "id-1.apps.googleusercontent.com".to_owned(),
        client_secret: "c2VjcmV0".to_owned(),
        refresh_token: "1//refresh".to_owned(),
        email: EMAIL.to_owned(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
    };
    Bench::start(Options::default().user(user)).await
}

#[tokio::test]
async fn a_refresh_gives_a_token_for_the_oauth_client() {
    let bench = start(&["openid", CLOUD_PLATFORM]).await;
    let minted = bench.mint_with(&source(), &secret(&file())).await.unwrap();
    assert_eq!((minted.email, minted.credential.as_deref()), (None, Some("v1")));
    let claims = claims(&minted.token);
    assert_eq!(claims["aud"], "id-1.apps.googleusercontent.com");
    assert_eq!(claims["email"], EMAIL);
    let sent: Vec<_> = bench.google.requests().iter().map(|r| r.path_and_query.clone()).collect();
    assert_eq!(sent, ["/token"]);
}

#[tokio::test]
async fn a_grant_without_openid_is_told_and_never_tried_again() {
    let bench = start(&[CLOUD_PLATFORM]).await;
    let error = bench.mint_with(&source(), &secret(&file())).await.unwrap_err();
    assert_eq!((error.reason(), error.retry()), (Reason::CredentialsNotAllowed, Retry::OnNewCredential));
    assert_eq!(
        error.to_string(),
        format!(
            "the grant in Secret me, key adc.json gives no ID token: it lacks the scope openid; put another file there, which {LOGIN} \
             writes"
        )
    );
    bench.assert_silent(&error);
}

#[tokio::test]
async fn refused_credentials_are_never_tried_again() {
    let bench = start(&["openid"]).await;
    bench.google.revoke_user("1//refresh");
    let error = bench.mint_with(&source(), &secret(&file())).await.unwrap_err();
    assert_eq!((error.reason(), error.retry()), (Reason::CredentialsRefused, Retry::OnNewCredential));
    assert_eq!(
        error.to_string(),
        format!(
            "ID token for a user: HTTP 400 invalid_grant; the refresh token has expired or was revoked: put another file into Secret \
             me, key adc.json, which {LOGIN} writes"
        )
    );
    let mut wrong = file();
    wrong["client_secret"] = json!("b3RoZXI");
    let error = bench.mint_with(&source(), &secret(&wrong)).await.unwrap_err();
    assert_eq!((error.reason(), error.retry()), (Reason::CredentialsRefused, Retry::OnNewCredential));
    assert_eq!(
        error.to_string(),
        format!(
            "ID token for a user: HTTP 401 invalid_client; the OAuth client is unknown, its secret is wrong, or it was deleted: put \
             another file into Secret me, key adc.json, which {LOGIN} writes"
        )
    );
}

#[tokio::test]
async fn a_person_who_must_sign_in_again_is_told_so() {
    let body = json!({"error": "invalid_grant", "error_description": "reauth related error", "error_subtype": "invalid_rapt"});
    let answer = move || async move { (::http::StatusCode::BAD_REQUEST, axum::Json(body)) };
    let (url, _) = http_client::serve(axum::Router::new().fallback(answer)).await;
    let google = Google::start(Options::default()).await.unwrap();
    let (http, endpoints) = (Http::new().unwrap(), Endpoints { oauth_token: url, ..endpoints(&google) });
    let operator = Operator::new(&http, &endpoints, Sources::default());
    let bench = Bench { minter: Minter::new(&http, &endpoints, operator), google };
    let error = bench.mint_with(&source(), &secret(&file())).await.unwrap_err();
    assert_eq!((error.reason(), error.retry()), (Reason::CredentialsRefused, Retry::OnNewCredential));
    assert_eq!(
        error.to_string(),
        format!(
            "ID token for a user: HTTP 400 invalid_grant; Google wants the person to sign in again (invalid_rapt): put another file into \
             Secret me, key adc.json, which {LOGIN} writes"
        )
    );
}

#[tokio::test]
async fn what_is_no_refusal_of_the_credential_is_tried_again() {
    let bench = start(&["openid"]).await;
    let oauth = |status, code, description| Fault::OauthError { status, code, description, subtype: None };
    let soon = Retry::Transient { retry_after: None };
    let table = [
        (
            Fault::TooManyRequests { retry_after: Some(9) },
            Reason::QuotaExceeded,
            Retry::Transient { retry_after: Some(9) },
            "HTTP 429 quota_exceeded",
        ),
        (Fault::Unavailable, Reason::SourceUnavailable, soon, "HTTP 503 temporarily_unavailable"),
        (Fault::Garbage, Reason::TokenRejected, soon, "the answer holds no token"),
        (Fault::TooLarge, Reason::SourceUnavailable, soon, "the answer is larger than 256 KB"),
        (
            oauth(400, "invalid_request", "x"),
            Reason::SourceDenied,
            Retry::Slowly,
            "HTTP 400 invalid_request; check the credentials in Secret me, key adc.json",
        ),
    ];
    for (fault, reason, retry, message) in table {
        bench.google.set_fault(Endpoint::OauthToken, fault);
        let error = bench.mint_with(&source(), &secret(&file())).await.unwrap_err();
        assert_eq!((error.reason(), error.retry()), (reason, retry), "{error}");
        assert_eq!(error.to_string(), format!("ID token for a user: {message}"));
        bench.assert_silent(&error);
    }
}

#[tokio::test]
async fn a_secret_that_is_no_grant_is_told_by_its_name_and_never_shown() {
    let bench = start(&["openid"]).await;
    let whole = format!("put the whole file there that {LOGIN} writes");
    let without = |field: &str| {
        let mut file = file();
        file[field] = json!("");
        file
    };
    let of_type = |type_: &str| {
        let mut file = file();
        file["type"] = json!(type_);
        file
    };
    let table = [
        (without("client_id"), format!("has no usable client_id; {whole}")),
        (without("client_secret"), format!("has no usable client_secret; {whole}")),
        (without("refresh_token"), format!("has no usable refresh_token; {whole}")),
        (json!(["c2VjcmV0"]), format!("is no JSON object with the fields of a credential file; {whole}")),
        (
            of_type("service_account"),
            "is of type service_account; spec.source.serviceAccountKey takes files of that type".to_owned(),
        ),
        (
            of_type("external_account_authorized_user"),
            "is of type external_account_authorized_user; spec.source.userCredentials takes files of type authorized_user only"
                .to_owned(),
        ),
    ];
    for (file, message) in table {
        let error = bench.mint_with(&source(), &secret(&file)).await.unwrap_err();
        assert_eq!((error.reason(), error.retry()), (Reason::CredentialsNotAllowed, Retry::OnChange));
        assert_eq!(error.to_string(), format!("Secret me, key adc.json {message}"));
        assert!(!format!("{error:?}").contains("c2VjcmV0"));
    }
    let missing = bench.mint_with(&source(), &Secrets::of(&[])).await.unwrap_err();
    assert_eq!(missing.to_string(), "Secret me has no key adc.json; add it");
    assert_eq!(bench.google.requests().len(), 0);
}

#[tokio::test]
async fn no_url_of_the_file_is_used() {
    let bench = start(&["openid"]).await;
    let (trap, url) = silent();
    trap.set_nonblocking(true).unwrap();
    let mut trapped = file();
    for field in ["token_uri", "token_url", "auth_uri", "revoke_uri", "token_info_url", "universe_domain"] {
        trapped[field] = json!(url.to_string());
    }
    assert!(bench.mint_with(&source(), &secret(&trapped)).await.is_ok());
    assert_eq!(trap.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}
