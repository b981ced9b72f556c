use serde_json::{Value, json};
use xtask::google::{Endpoint, Fault, Options, PasswordUser};

use crate::{
    bench::{Bench, SOON, after, judge, options, wanted},
    rows,
};
use idtoken_operator::plan::Retry::{self, OnChange, OnNewCredential, Slowly};

const PROJECT: &str = "demo-project";
const USER: &str = "shopper@example.com";
const PASSWORD: &str = "correct horse battery staple";
const API_KEY: &str = "AIzaSyTest-0123456789abcdefghijklmnopqr";
const WRONG_PASSWORD: &str = "not that one at all";
const WRONG_KEY: &str = "AIzaSyWrong-123456789abcdefghijklmnopqr";

pub(crate) fn source(tenant: Option<&str>) -> Value {
    let key = |key: &str| json!({"name": "user", "key": key});
    let mut source = json!({
        "apiKeySecretRef": key("apiKey"), "emailSecretRef": key("email"), "passwordSecretRef": key("password"),
    });
    if let Some(tenant) = tenant {
        source["tenantId"] = json!(tenant);
    }
    json!({"identityPlatform": source})
}

pub(crate) fn with_user(options: Options) -> Options {
    options.api_key(API_KEY).password_user(PasswordUser::new(USER, PASSWORD))
}

/// Keeps the user's credentials.
pub(crate) fn sign_up(bench: &Bench) {
    bench.credentials.put("user", "apiKey", API_KEY);
    bench.credentials.put("user", "email", USER);
    bench.credentials.put("user", "password", PASSWORD);
    bench.credentials.plant(API_KEY);
    bench.credentials.plant(PASSWORD);
}

async fn bench() -> Bench {
    let bench = Bench::start(with_user(options())).await;
    sign_up(&bench);
    bench
}

#[tokio::test]
async fn a_first_sign_in_then_refreshes_by_whatever_refresh_token_came_last() {
    let bench = bench().await;
    let wanted = wanted(PROJECT, &source(None));
    let claims = bench.good(&wanted).await;
    assert_eq!((&claims["aud"], &claims["email"]), (&json!(PROJECT), &json!(USER)));
    assert_eq!(claims["iss"], "https://securetoken.google.com/demo-project");
    assert_eq!(bench.asked(), [Endpoint::SignInWithPassword]);
    bench.google.set_refresh_token_rotation(true);
    for _ in 0..3 {
        bench.good(&wanted).await;
        assert_eq!(bench.asked(), [Endpoint::SecureToken]);
    }
    bench.google.revoke_refresh_tokens(USER);
    bench.good(&wanted).await;
    assert_eq!(
        bench.asked(),
        [Endpoint::SecureToken, Endpoint::SignInWithPassword],
        "back to the password, once"
    );
    bench.credentials.touch();
    bench.good(&wanted).await;
    assert_eq!(bench.asked(), [Endpoint::SignInWithPassword], "another state of the Secret signs in anew");
}

#[tokio::test]
async fn each_failure_of_the_sign_in() {
    let bench = bench().await;
    let wanted = wanted(PROJECT, &source(None));
    let code = Fault::IdentityError;
    let minutes = Retry::Transient { retry_after: Some(300) };
    let refused = OnNewCredential;
    let rows = rows! {
        SignInWithPassword: code("INVALID_LOGIN_CREDENTIALS") => "CredentialsRefused", refused, true, "INVALID_LOGIN_CREDENTIALS", [SignInWithPassword];
        SignInWithPassword: code("EMAIL_NOT_FOUND") => "CredentialsRefused", refused, true, "EMAIL_NOT_FOUND", [SignInWithPassword];
        SignInWithPassword: code("INVALID_PASSWORD") => "CredentialsRefused", refused, true, "INVALID_PASSWORD", [SignInWithPassword];
        SignInWithPassword: code("USER_DISABLED") => "CredentialsRefused", refused, true, "USER_DISABLED", [SignInWithPassword];
        SignInWithPassword: code("INVALID_EMAIL") => "CredentialsRefused", refused, true, "INVALID_EMAIL", [SignInWithPassword];
        SignInWithPassword: code("MISSING_EMAIL") => "CredentialsRefused", refused, true, "MISSING_EMAIL", [SignInWithPassword];
        SignInWithPassword: code("MISSING_PASSWORD") => "CredentialsRefused", refused, true, "MISSING_PASSWORD", [SignInWithPassword];
        SignInWithPassword: code("INVALID_TENANT_ID") => "SourceDenied", Slowly, false, "INVALID_TENANT_ID", [SignInWithPassword];
        SignInWithPassword: code("TENANT_ID_MISMATCH") => "SourceDenied", Slowly, false, "TENANT_ID_MISMATCH", [SignInWithPassword];
        SignInWithPassword: code("TENANT_NOT_FOUND : text") => "SourceDenied", Slowly, false, "TENANT_NOT_FOUND", [SignInWithPassword];
        SignInWithPassword: Fault::Forbidden => "SourceDenied", Slowly, false, "Secret user, key apiKey", [SignInWithPassword];
        SignInWithPassword: code("TOO_MANY_ATTEMPTS_TRY_LATER : Access to this account has been temporarily disabled due to many failed login attempts.") => "QuotaExceeded", minutes, false, "TOO_MANY_ATTEMPTS_TRY_LATER", [SignInWithPassword];
        SignInWithPassword: code("QUOTA_EXCEEDED") => "QuotaExceeded", minutes, false, "QUOTA_EXCEEDED", [SignInWithPassword];
        SignInWithPassword: code("PASSWORD_LOGIN_DISABLED") => "SourceDenied", Slowly, false, "PASSWORD_LOGIN_DISABLED", [SignInWithPassword];
        SignInWithPassword: code("OPERATION_NOT_ALLOWED") => "SourceDenied", Slowly, false, "OPERATION_NOT_ALLOWED", [SignInWithPassword];
        SignInWithPassword: code("PROJECT_DISABLED") => "SourceDenied", Slowly, false, "PROJECT_DISABLED", [SignInWithPassword];
        SignInWithPassword: code("PROJECT_NOT_FOUND") => "SourceDenied", Slowly, false, "PROJECT_NOT_FOUND", [SignInWithPassword];
        SignInWithPassword: code("MISSING_RECAPTCHA_TOKEN") => "SourceDenied", Slowly, false, "reCAPTCHA", [SignInWithPassword];
        SignInWithPassword: code("INVALID_RECAPTCHA_TOKEN") => "SourceDenied", Slowly, false, "reCAPTCHA", [SignInWithPassword];
        SignInWithPassword: code("BLOCKING_FUNCTION_ERROR_RESPONSE : HTTP Cloud Function returned an error: secret words") => "SourceDenied", Slowly, false, "BLOCKING_FUNCTION_ERROR_RESPONSE", [SignInWithPassword];
        SignInWithPassword: code("A_CODE_FROM_THE_FUTURE : secret words") => "SourceDenied", Slowly, false, "A_CODE_FROM_THE_FUTURE", [SignInWithPassword];
        SignInWithPassword: Fault::TooManyRequests { retry_after: Some(40) } => "QuotaExceeded", minutes, false, "HTTP 429", [SignInWithPassword];
        SignInWithPassword: Fault::InternalError => "SourceUnavailable", after(30), false, "HTTP 500", [SignInWithPassword];
        SignInWithPassword: Fault::Unavailable => "SourceUnavailable", after(30), false, "HTTP 503", [SignInWithPassword];
        SignInWithPassword: Fault::Forbidden => "SourceDenied", Slowly, false, "Secret user, key apiKey", [SignInWithPassword];
        SignInWithPassword: Fault::DropConnection => "SourceUnavailable", SOON, false, "the connection broke", [SignInWithPassword];
        SignInWithPassword: Fault::TooLarge => "SourceUnavailable", SOON, false, "the answer is larger than 256 KB", [SignInWithPassword];
        SignInWithPassword: Fault::Garbage => "TokenRejected", SOON, false, "the answer holds no token", [SignInWithPassword];
        SignInWithPassword: Fault::WrongIssuer => "TokenRejected", SOON, false, "the token's issuer is", [SignInWithPassword];
        SignInWithPassword: Fault::BadSignature => "TokenRejected", SOON, false, "signature is wrong", [SignInWithPassword];
        SignInWithPassword: Fault::AlgNone => "TokenRejected", SOON, false, "algorithm is not RS256", [SignInWithPassword];
        SignInWithPassword: Fault::WrongEmail => "TokenRejected", Slowly, false, "the token is for another address than the one in Secret user, key email", [SignInWithPassword];
    };
    bench.table(&wanted, rows, |bench| bench.credentials.touch()).await;
    bench.credentials.touch();
    bench.good(&wanted).await;
}

#[tokio::test]
async fn each_failure_of_a_refresh() {
    let bench = bench().await;
    let wanted = wanted(PROJECT, &source(None));
    bench.good(&wanted).await;
    let minutes = Retry::Transient { retry_after: Some(300) };
    // What passes leaves the session as it is: the password is not sent.
    let rows = rows! {
        SecureToken: Fault::IdentityError("QUOTA_EXCEEDED") => "QuotaExceeded", minutes, false, "QUOTA_EXCEEDED", [SecureToken];
        SecureToken: Fault::IdentityError("TOO_MANY_ATTEMPTS_TRY_LATER") => "QuotaExceeded", minutes, false, "TOO_MANY_ATTEMPTS_TRY_LATER", [SecureToken];
        SecureToken: Fault::TooManyRequests { retry_after: Some(40) } => "QuotaExceeded", after(40), false, "HTTP 429", [SecureToken];
        SecureToken: Fault::InternalError => "SourceUnavailable", SOON, false, "HTTP 500", [SecureToken];
        SecureToken: Fault::Unavailable => "SourceUnavailable", SOON, false, "HTTP 503", [SecureToken];
        SecureToken: Fault::DropConnection => "SourceUnavailable", SOON, false, "the connection broke", [SecureToken];
        SecureToken: Fault::TooLarge => "SourceUnavailable", SOON, false, "the answer is larger than 256 KB", [SecureToken];
        SecureToken: Fault::Garbage => "TokenRejected", SOON, false, "the answer holds no token", [SecureToken];
    };
    bench.table(&wanted, rows, |_| {}).await;
    bench.good(&wanted).await;
    assert_eq!(bench.asked(), [Endpoint::SecureToken]);
    // What ends a session sends the password once.
    let ends = [
        "TOKEN_EXPIRED",
        "USER_NOT_FOUND",
        "USER_DISABLED",
        "INVALID_REFRESH_TOKEN",
        "MISSING_REFRESH_TOKEN",
        "INVALID_GRANT_TYPE",
        "MISSING_GRANT_TYPE",
    ];
    for code in ends {
        bench.google.set_fault_times(Endpoint::SecureToken, Fault::IdentityError(code), 1);
        bench.good(&wanted).await;
        assert_eq!(bench.asked(), [Endpoint::SecureToken, Endpoint::SignInWithPassword], "{code}");
    }
    // A key that was restricted meanwhile is refused for both.
    let rows = rows! {
        SecureToken: Fault::Forbidden => "SourceDenied", Slowly, false, "change the key's restrictions", [SecureToken];
    };
    bench.table(&wanted, rows, |_| {}).await;
    bench.credentials.touch();
    bench.good(&wanted).await;
    assert_eq!(bench.asked(), [Endpoint::SignInWithPassword]);
    // A disabled user is refused there.
    bench.google.set_disabled(USER, true);
    let problem = bench.obtain(&wanted).await.map(|_| ()).unwrap_err();
    judge("disabled", &problem, "CredentialsRefused", OnNewCredential, true, "USER_DISABLED");
    assert_eq!(bench.asked(), [Endpoint::SecureToken, Endpoint::SignInWithPassword]);
}

#[tokio::test]
async fn wrong_passwords_keys_and_second_factors_are_refused_for_good() {
    let mfa = PasswordUser { mfa: true, ..PasswordUser::new("careful@example.com", PASSWORD) };
    let bench = Bench::start(with_user(options()).password_user(mfa)).await;
    sign_up(&bench);
    let wanted = wanted(PROJECT, &source(None));
    for wrong in [WRONG_PASSWORD, WRONG_KEY] {
        bench.credentials.plant(wrong);
    }
    let refuse = async |case: &str, says: &str| {
        let problem = bench.obtain(&wanted).await.map(|_| ()).expect_err(case);
        judge(case, &problem, "CredentialsRefused", OnNewCredential, true, says);
        bench.assert_silent(case, &problem);
        assert_eq!(bench.asked(), [Endpoint::SignInWithPassword], "{case}");
    };
    bench.credentials.put("user", "password", WRONG_PASSWORD);
    refuse("a wrong password", "INVALID_LOGIN_CREDENTIALS").await;
    bench.google.set_enumeration_protection(false);
    bench.credentials.touch(); // the same state of the Secret is not sent again
    refuse("a wrong password in an older project", "INVALID_PASSWORD").await;
    bench.credentials.put("user", "email", "nobody@example.com");
    refuse("an unknown user in an older project", "EMAIL_NOT_FOUND").await;
    sign_up(&bench);
    bench.credentials.put("user", "email", "careful@example.com");
    refuse("a second factor", "second factor").await;
    sign_up(&bench);
    bench.credentials.put("user", "apiKey", WRONG_KEY);
    refuse("a wrong API key", "Secret user, key apiKey").await;
}

#[tokio::test]
async fn a_tenants_user_is_the_tenants() {
    let tenant = PasswordUser {
        tenant: Some("shop-a1b2c".to_owned()),
        ..PasswordUser::new(USER, "the tenant's password")
    };
    let bench = Bench::start(with_user(options()).password_user(tenant)).await;
    sign_up(&bench);
    bench.credentials.put("user", "password", "the tenant's password");
    let claims = bench.good(&wanted(PROJECT, &source(Some("shop-a1b2c")))).await;
    assert_eq!(claims["firebase"]["tenant"], "shop-a1b2c");
    bench.credentials.put("user", "password", PASSWORD);
    let claims = bench.good(&wanted(PROJECT, &source(None))).await;
    assert_eq!(claims["firebase"]["tenant"], Value::Null);
    let problem = bench.obtain(&wanted("other-project", &source(None))).await.map(|_| ()).unwrap_err();
    judge(
        "another project",
        &problem,
        "TokenRejected",
        Slowly,
        false,
        "the token's audience is \"demo-project\"",
    );
}

#[tokio::test]
async fn bad_values_name_secret_and_key_and_nothing_more() {
    let bench = bench().await;
    let wanted = wanted(PROJECT, &source(None));
    for (key, value) in [
        ("password", &b""[..]),
        ("password", b"\n"),
        ("email", b""),
        ("email", b" \n"),
        ("apiKey", b""),
        ("apiKey", b"a b"),
        ("password", b"\xff\xfe"),
        ("email", b"\xff"),
        ("apiKey", b"\xff"),
    ] {
        sign_up(&bench);
        bench.credentials.put("user", key, value);
        let problem = bench.obtain(&wanted).await.map(|_| ()).expect_err(key);
        judge(key, &problem, "CredentialsNotAllowed", OnChange, false, &format!("Secret user, key {key}"));
        bench.assert_silent(key, &problem);
        assert_eq!(bench.asked(), [], "{key} {value:?}");
    }
    sign_up(&bench);
    bench.credentials.remove("user", "email");
    let problem = bench.obtain(&wanted).await.map(|_| ()).unwrap_err();
    judge("no e-mail", &problem, "CredentialsNotFound", OnChange, false, "Secret user has no key email");
    // An editor's newline at the end is no part of a value.
    bench.credentials.put("user", "email", format!("{USER}\n"));
    bench.credentials.put("user", "password", format!("{PASSWORD}\n"));
    bench.credentials.put("user", "apiKey", format!("{API_KEY}\r\n"));
    bench.good(&wanted).await;
}
