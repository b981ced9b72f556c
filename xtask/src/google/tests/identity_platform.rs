use super::super::{Endpoint, Fault, PasswordUser};
use super::*;

const API_KEY: &str = "AIzaDemo";
const EMAIL: &str = "batch@example.com";
const PASSWORD: &str = "correct horse";

async fn start(options: Options) -> Google {
    let user = PasswordUser::new(EMAIL, PASSWORD);
    let tenants =
        PasswordUser { tenant: Some("tenant-a".into()), ..PasswordUser::new(EMAIL, "battery staple") };
    Google::start(options.api_key(API_KEY).password_user(user).password_user(tenants)).await.unwrap()
}

async fn post_sign_in(google: &Google, query: &str, body: &Value) -> Answer {
    let url = format!("{}/v1/accounts:signInWithPassword{query}", google.identity_toolkit_url());
    send(Method::POST, &url, &[("Content-Type", "application/json")], &body.to_string()).await
}

async fn sign_in(google: &Google, body: Value) -> Answer {
    post_sign_in(google, "?key=AIzaDemo", &body).await
}

fn credentials() -> Value {
    json!({ "email": EMAIL, "password": PASSWORD, "returnSecureToken": true })
}

fn with(name: &str, value: impl Into<Value>) -> Value {
    let mut body = credentials();
    body[name] = value.into();
    body
}

async fn refresh(google: &Google, token: &str) -> Answer {
    let url = format!("{}/v1/token?key=AIzaDemo", google.secure_token_url());
    post_form(&url, &[("grant_type", "refresh_token"), ("refresh_token", token)]).await
}

/// The error of `identitytoolkit.googleapis.com`.
fn toolkit_error(message: &str) -> (u16, Value) {
    let errors = json!([{ "message": message, "domain": "global", "reason": "invalid" }]);
    (400, json!({ "error": { "code": 400, "message": message, "errors": errors } }))
}

/// The error of `securetoken.googleapis.com`.
fn secure_token_error(message: &str) -> (u16, Value) {
    (400, json!({ "error": { "code": 400, "message": message, "status": "INVALID_ARGUMENT" } }))
}

fn refused(answer: &Answer) -> (u16, Value) {
    (answer.status, answer.json())
}

/// The claims without the times, and the time of the sign-in.
fn user_claims(token: &str) -> (Value, i64) {
    let mut claims = claims_without_times(token, 3600);
    let auth_time = claims.as_object_mut().unwrap().remove("auth_time").unwrap();
    (claims, auth_time.as_i64().unwrap())
}

#[tokio::test]
async fn a_password_signs_in() {
    let google = start(Options::default()).await;
    let answer = sign_in(&google, with("email", "Batch@Example.com")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let (id_token, refresh_token) = (answer.text("idToken"), answer.text("refreshToken"));
    assert_eq!(
        answer.json(),
        json!({
            "kind": "identitytoolkit#VerifyPasswordResponse",
            "localId": "ff343dad6a2541e1f0e9a0915d51",
            "email": "batch@example.com",
            "displayName": "",
            "registered": true,
            "idToken": id_token,
            "refreshToken": refresh_token,
            "expiresIn": "3600",
        })
    );
    let (claims, auth_time) = user_claims(&id_token);
    assert!((crate::clock::now().as_second() - auth_time).abs() <= 5);
    assert_eq!(
        claims,
        json!({
            "iss": "https://securetoken.google.com/demo-project",
            "aud": "demo-project",
            "user_id": "ff343dad6a2541e1f0e9a0915d51",
            "sub": "ff343dad6a2541e1f0e9a0915d51",
            "email": "batch@example.com",
            "email_verified": true,
            "firebase": { "identities": { "email": ["batch@example.com"] }, "sign_in_provider": "password" },
        })
    );
    assert_eq!(google.issued_tokens(), [id_token, refresh_token]);
    assert_eq!(google.minted(Endpoint::SignInWithPassword), 1);
}

#[tokio::test]
async fn the_tokens_have_keys_of_their_own() {
    let google = start(Options::default()).await;
    let token = sign_in(&google, credentials()).await.text("idToken");
    let origin = google.jwks_url().replace("/oauth2/v3/certs", "");
    let path = "/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com";
    assert_eq!(google.secure_token_jwks_url(), format!("{origin}{path}"));
    let keys = get(&google.secure_token_jwks_url()).await.json();
    assert!(verifies(&token, &keys));
    assert!(!verifies(&token, &jwks(&google).await));
    let certificates = format!("{origin}/robot/v1/metadata/x509/securetoken@system.gserviceaccount.com");
    let kid = header(&token)["kid"].as_str().unwrap().to_owned();
    let pem = get(&certificates).await.text(&kid);
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----\n"), "{pem}");
    google.rotate_secure_token_keys().unwrap();
    let new = sign_in(&google, credentials()).await.text("idToken");
    assert_ne!(header(&new)["kid"], kid);
    let keys = get(&google.secure_token_jwks_url()).await.json();
    assert!(verifies(&token, &keys) && verifies(&new, &keys));
    assert_eq!(google.count(Endpoint::ServiceAccountKeys), 3);
    assert_eq!(
        google.service_account_jwks_url_template(),
        format!("{origin}/service_accounts/v1/metadata/jwk/{{email}}")
    );
}

#[tokio::test]
async fn a_tenants_users_are_its_own() {
    let google = start(Options { identity_project: "other-project".into(), ..Options::default() }).await;
    let of_tenant = json!({
        "email": EMAIL, "password": "battery staple", "returnSecureToken": true, "tenantId": "tenant-a",
    });
    let token = sign_in(&google, of_tenant).await.text("idToken");
    let claims = claims(&token);
    assert_eq!(claims["firebase"]["tenant"], "tenant-a");
    assert_eq!(claims["iss"], "https://securetoken.google.com/other-project");
    assert_eq!(claims["aud"], "other-project");
    let projects_own = sign_in(&google, with("tenantId", "tenant-a")).await;
    assert_eq!(refused(&projects_own), toolkit_error("INVALID_LOGIN_CREDENTIALS"));
    let unknown = sign_in(&google, with("tenantId", "tenant-b")).await;
    assert_eq!(refused(&unknown), toolkit_error("INVALID_TENANT_ID"));
}

#[tokio::test]
async fn bad_sign_ins_are_refused_by_code() {
    let google = start(Options::default()).await;
    let long = format!("{}@example.com", "x".repeat(250));
    let cases = [
        (with("email", ""), "INVALID_EMAIL"),
        (json!({ "password": PASSWORD }), "MISSING_EMAIL"),
        (with("email", "batch"), "INVALID_EMAIL"),
        (with("email", long), "INVALID_EMAIL"),
        (with("password", ""), "MISSING_PASSWORD"),
        (with("password", "wrong"), "INVALID_LOGIN_CREDENTIALS"),
        (with("email", "nobody@example.com"), "INVALID_LOGIN_CREDENTIALS"),
    ];
    for (body, code) in cases {
        assert_eq!(refused(&sign_in(&google, body).await), toolkit_error(code));
    }
    google.set_enumeration_protection(false);
    let wrong = sign_in(&google, with("password", "wrong")).await;
    assert_eq!(refused(&wrong), toolkit_error("INVALID_PASSWORD"));
    let nobody = sign_in(&google, with("email", "nobody@example.com")).await;
    assert_eq!(refused(&nobody), toolkit_error("EMAIL_NOT_FOUND"));
    google.set_disabled(EMAIL, true);
    assert_eq!(refused(&sign_in(&google, credentials()).await), toolkit_error("USER_DISABLED"));
    google.set_disabled(EMAIL, false);
    assert_eq!(sign_in(&google, credentials()).await.status, 200);
}

#[tokio::test]
async fn what_is_no_request_is_refused_as_such() {
    let google = start(Options::default()).await;
    let misspelt = sign_in(&google, with("tenantID", "tenant-a")).await;
    let text = "Invalid JSON payload received. Unknown name \"tenantID\": Cannot find field.";
    assert_eq!(refused(&misspelt), secure_token_error(text));
    assert_eq!(sign_in(&google, json!("text")).await.status, 400);
    let url = format!("{}/v1/accounts:signInWithPassword?key=AIzaDemo", google.identity_toolkit_url());
    assert_eq!(get(&url).await.status, 404);
    assert_eq!(get(&format!("{}/v1/accounts:signUp", google.identity_toolkit_url())).await.status, 404);
    assert_eq!((google.count(Endpoint::SignInWithPassword), google.count(Endpoint::Unknown)), (3, 1));
}

#[tokio::test]
async fn without_asking_there_are_no_tokens() {
    let google = start(Options::default()).await;
    let answer = sign_in(&google, json!({ "email": EMAIL, "password": PASSWORD })).await;
    assert_eq!((answer.status, answer.json().get("idToken")), (200, None));
    assert_eq!(answer.json().get("refreshToken"), None);
    assert_eq!(google.issued_tokens().len(), 0);
}

#[tokio::test]
async fn a_second_factor_gives_a_success_without_token() {
    let user = PasswordUser { mfa: true, ..PasswordUser::new("mfa@example.com", PASSWORD) };
    let google = start(Options::default().password_user(user)).await;
    let answer = sign_in(&google, with("email", "mfa@example.com")).await;
    let body = answer.json();
    assert_eq!((answer.status, body.get("idToken"), body.get("refreshToken")), (200, None, None));
    let pending = answer.text("mfaPendingCredential");
    assert_eq!(body["mfaInfo"][0]["phoneInfo"], "+*******0100");
    assert_eq!(google.issued_tokens(), [pending]);
    assert_eq!(google.minted(Endpoint::SignInWithPassword), 0);
}

#[tokio::test]
async fn the_api_key_is_looked_at_first() {
    let google = start(Options::default()).await;
    let missing = post_sign_in(&google, "", &json!({})).await;
    let text = "The request is missing a valid API key.";
    let errors = json!([{ "message": text, "domain": "global", "reason": "forbidden" }]);
    let error = json!({ "code": 403, "message": text, "status": "PERMISSION_DENIED", "errors": errors });
    assert_eq!((missing.status, missing.json()), (403, json!({ "error": error })));
    let wrong = post_sign_in(&google, "?key=AIzaOther", &credentials()).await;
    let text = "API key not valid. Please pass a valid API key.";
    let errors = json!([{ "message": text, "domain": "global", "reason": "badRequest" }]);
    let info = json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
        "metadata": { "service": "identitytoolkit.googleapis.com" },
    });
    let error = json!({
        "code": 400, "message": text, "status": "INVALID_ARGUMENT", "errors": errors, "details": [info],
    });
    assert_eq!((wrong.status, wrong.json()), (400, json!({ "error": error })));
    let refresh = format!("{}/v1/token", google.secure_token_url());
    assert_eq!(post_form(&refresh, &[]).await.status, 403);
    let refused = post_form(&format!("{refresh}?key=AIzaOther"), &[]).await.json();
    assert_eq!(refused["error"]["details"][0]["metadata"]["service"], "securetoken.googleapis.com");
    let log = format!("{:?}", google.requests());
    assert!(log.contains("/v1/accounts:signInWithPassword?key=sha256:") && !log.contains("AIza"), "{log}");
}

#[tokio::test]
async fn a_refresh_token_gives_new_tokens() {
    let google = start(Options::default()).await;
    let signed_in = sign_in(&google, credentials()).await;
    let (first, refresh_token) = (signed_in.text("idToken"), signed_in.text("refreshToken"));
    google.advance_clock(std::time::Duration::from_secs(2));
    let answer = refresh(&google, &refresh_token).await;
    let id_token = answer.text("id_token");
    assert_eq!(
        answer.json(),
        json!({
            "access_token": id_token,
            "expires_in": "3600",
            "token_type": "Bearer",
            "refresh_token": refresh_token,
            "id_token": id_token,
            "user_id": "ff343dad6a2541e1f0e9a0915d51",
            "project_id": "123456789012",
        })
    );
    assert_ne!(id_token, first);
    assert_eq!(user_claims(&id_token), user_claims(&first), "the user has not signed in again");
    assert_eq!(google.issued_tokens(), [first, refresh_token, id_token]);
    assert_eq!(google.minted(Endpoint::SecureToken), 1);
}

#[tokio::test]
async fn rotated_refresh_tokens_hold_once() {
    let google = start(Options::default()).await;
    google.set_refresh_token_rotation(true);
    let first = sign_in(&google, credentials()).await.text("refreshToken");
    let second = refresh(&google, &first).await.text("refresh_token");
    assert_ne!(second, first);
    assert_eq!(refused(&refresh(&google, &first).await), secure_token_error("TOKEN_EXPIRED"));
    let third = refresh(&google, &second).await.text("refresh_token");
    assert!(google.issued_tokens().contains(&third));
    google.revoke_refresh_tokens(EMAIL);
    assert_eq!(refused(&refresh(&google, &third).await), secure_token_error("TOKEN_EXPIRED"));
}

#[tokio::test]
async fn bad_refreshes_are_refused_by_code() {
    let google = start(Options::default()).await;
    let url = format!("{}/v1/token?key=AIzaDemo", google.secure_token_url());
    let cases: [(&[(&str, &str)], &str); 4] = [
        (&[("refresh_token", "x")], "MISSING_GRANT_TYPE"),
        (&[("grant_type", "password")], "INVALID_GRANT_TYPE"),
        (&[("grant_type", "refresh_token")], "MISSING_REFRESH_TOKEN"),
        (&[("grant_type", "refresh_token"), ("refresh_token", "x")], "INVALID_REFRESH_TOKEN"),
    ];
    for (fields, code) in cases {
        assert_eq!(refused(&post_form(&url, fields).await), secure_token_error(code));
    }
    let token = sign_in(&google, credentials()).await.text("refreshToken");
    google.set_disabled(EMAIL, true);
    assert_eq!(refused(&refresh(&google, &token).await), secure_token_error("USER_DISABLED"));
    google.set_disabled(EMAIL, false);
    assert_eq!(refresh(&google, &token).await.status, 200);
    google.set_password(EMAIL, "new");
    assert_eq!(refused(&refresh(&google, &token).await), secure_token_error("TOKEN_EXPIRED"));
    assert_eq!(sign_in(&google, with("password", "new")).await.status, 200);
}

#[tokio::test]
async fn faults_are_in_identity_platforms_words() {
    let google = start(Options::default()).await;
    let locked = "TOO_MANY_ATTEMPTS_TRY_LATER : Access to this account has been temporarily disabled";
    google.set_fault_times(Endpoint::SignInWithPassword, Fault::IdentityError(locked), 1);
    assert_eq!(refused(&sign_in(&google, credentials()).await), toolkit_error(locked));
    google.set_fault_times(Endpoint::SecureToken, Fault::IdentityError("QUOTA_EXCEEDED"), 1);
    assert_eq!(refused(&refresh(&google, "x").await), secure_token_error("QUOTA_EXCEEDED"));
    google.set_fault_times(Endpoint::SignInWithPassword, Fault::Forbidden, 1);
    let blocked = sign_in(&google, credentials()).await;
    assert_eq!(blocked.status, 403);
    let error = blocked.json()["error"].clone();
    assert_eq!(
        error["message"],
        "Requests to this API identitytoolkit method google.cloud.identitytoolkit.v1.AuthenticationService.SignInWithPassword are blocked."
    );
    assert_eq!(error["details"][0]["reason"], "API_KEY_SERVICE_BLOCKED");
    google.set_fault(Endpoint::SecureToken, Fault::TooManyRequests { retry_after: Some(7) });
    let throttled = refresh(&google, "x").await;
    assert_eq!((throttled.status, throttled.header("retry-after")), (429, Some("7")));
    assert_eq!(throttled.json()["error"]["status"], "RESOURCE_EXHAUSTED");
}

#[tokio::test]
async fn spoilt_user_tokens_are_spoilt_in_one_thing() {
    let google = start(Options::default()).await;
    let keys = get(&google.secure_token_jwks_url()).await.json();
    let now = crate::clock::now().as_second();
    for (fault, claim, value) in [
        (Fault::WrongAudience, "aud", json!("https://wrong-audience.example.com")),
        (Fault::WrongIssuer, "iss", json!("https://wrong-issuer.example.com")),
        (Fault::WrongEmail, "email", json!("somebody-else@other-project.iam.gserviceaccount.com")),
    ] {
        google.set_fault_times(Endpoint::SignInWithPassword, fault, 1);
        let token = sign_in(&google, credentials()).await.text("idToken");
        assert!(verifies(&token, &keys));
        assert_eq!(claims(&token)[claim], value);
    }
    google.set_fault_times(Endpoint::SignInWithPassword, Fault::ExpiredToken, 1);
    let expired = sign_in(&google, credentials()).await;
    assert_eq!(expired.text("expiresIn"), "3600");
    assert!(claims(&expired.text("idToken"))["exp"].as_i64().unwrap() < now);
    for fault in [Fault::UnknownKey, Fault::BadSignature] {
        google.set_fault_times(Endpoint::SignInWithPassword, fault, 1);
        assert!(!verifies(&sign_in(&google, credentials()).await.text("idToken"), &keys));
    }
}

#[test]
fn a_user_does_not_print_the_password() {
    let user = PasswordUser::new(EMAIL, PASSWORD);
    let printed = format!("{user:?} {:?}", Options::default().password_user(user.clone()));
    assert!(printed.contains(EMAIL) && !printed.contains(PASSWORD), "{printed}");
}
