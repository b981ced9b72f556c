use futures::future::join_all;
use xtask::google::PasswordUser;

use super::*;

const API_KEY: &str = "AIzaSyDemo-Key_1";
const EMAIL: &str = "batch@example.com";
const PASSWORD: &str = "correct horse";
const SIGN_IN: &str = "Identity Platform, sign-in";

fn source_of(tenant: Option<&str>) -> Source {
    Source::IdentityPlatform {
        tenant: tenant.map(str::to_owned),
        api_key: secret_key("project", "apiKey"),
        email: secret_key("batch", "email"),
        password: secret_key("batch", "password"),
    }
}

fn source() -> Source {
    source_of(None)
}

fn secrets(api_key: &str, email: &str, password: &str) -> Secrets {
    Secrets::of(&[("project", "apiKey", api_key), ("batch", "email", email), ("batch", "password", password)])
}

fn good() -> Secrets {
    secrets(API_KEY, EMAIL, PASSWORD)
}

fn options() -> Options {
    let of_tenant =
        PasswordUser { tenant: Some("tenant-a".to_owned()), ..PasswordUser::new(EMAIL, "staple") };
    Options::default()
        .api_key(API_KEY)
        .password_user(PasswordUser::new(EMAIL, PASSWORD))
        .password_user(of_tenant)
        .password_user(PasswordUser { mfa: true, ..PasswordUser::new("mfa@example.com", PASSWORD) })
}

async fn start() -> Bench {
    Bench::start(options()).await
}

fn asked(bench: &Bench) -> Vec<Endpoint> {
    bench.google.requests().iter().map(|request| request.endpoint).collect()
}

/// As [`Bench::assert_silent`], and nothing of the credentials either.
fn assert_silent(bench: &Bench, error: &Error) {
    bench.assert_silent(error);
    let texts = format!("{error} {error:?}");
    for secret in [API_KEY, "AIza", EMAIL, PASSWORD, "wrong-password", "key="] {
        assert!(!texts.contains(secret), "{secret} in {texts}");
    }
}

#[tokio::test]
async fn the_first_token_comes_from_a_sign_in_and_the_next_from_a_refresh() {
    let bench = start().await;
    let minted = bench.mint_with(&source(), &good()).await.unwrap();
    assert_eq!((minted.email.as_deref(), minted.credential.as_deref()), (Some(EMAIL), Some("v1")));
    let first = claims(&minted.token);
    assert_eq!(first["iss"], "https://securetoken.google.com/demo-project");
    assert_eq!((&first["aud"], &first["email"]), (&"demo-project".into(), &EMAIL.into()));
    for _ in 0..2 {
        let next = bench.mint_with(&source(), &good()).await.unwrap();
        assert_eq!(claims(&next.token)["auth_time"], first["auth_time"], "of the same sign-in");
    }
    let requests = bench.google.requests();
    let paths: Vec<_> = requests
        .iter()
        .map(|r| (r.method.as_str(), r.path_and_query.split_once("?key=sha256:").unwrap().0))
        .collect();
    assert_eq!(
        paths,
        [("POST", "/v1/accounts:signInWithPassword"), ("POST", "/v1/token"), ("POST", "/v1/token")]
    );
    assert_eq!(requests[0].header("content-type"), Some("application/json"));
    assert_eq!(requests[1].header("content-type"), Some("application/x-www-form-urlencoded"));
}

#[tokio::test]
async fn a_tenants_user_is_another_one() {
    let bench = start().await;
    let credentials = secrets(API_KEY, EMAIL, "staple");
    let minted = bench.mint_with(&source_of(Some("tenant-a")), &credentials).await.unwrap();
    assert_eq!(claims(&minted.token)["firebase"]["tenant"], "tenant-a");
    let error = bench.mint_with(&source(), &credentials).await.unwrap_err();
    assert_eq!(error.reason(), Reason::CredentialsRefused);
    assert_eq!(asked(&bench), [Endpoint::SignInWithPassword; 2]);
    let error = bench.mint_with(&source_of(Some("tenant-b")), &credentials).await.unwrap_err();
    assert_eq!((error.reason(), error.retry()), (Reason::SourceDenied, Retry::Slowly));
    assert_eq!(
        error.to_string(),
        "Identity Platform, sign-in: HTTP 400 INVALID_TENANT_ID; the project of the API key in Secret project, key apiKey has no tenant \
         tenant-b for this user: make the tenant, or correct spec.source.identityPlatform.tenantId or the key"
    );
}

#[tokio::test]
async fn rotating_refresh_tokens_are_kept() {
    let bench = start().await;
    bench.google.set_refresh_token_rotation(true);
    for _ in 0..4 {
        bench.mint_with(&source(), &good()).await.unwrap();
    }
    assert_eq!(
        asked(&bench),
        [Endpoint::SignInWithPassword, Endpoint::SecureToken, Endpoint::SecureToken, Endpoint::SecureToken]
    );
}

#[tokio::test]
async fn a_session_that_is_over_is_begun_anew_once() {
    let bench = start().await;
    bench.mint_with(&source(), &good()).await.unwrap();
    for code in [
        "TOKEN_EXPIRED",
        "USER_NOT_FOUND",
        "USER_DISABLED",
        "INVALID_REFRESH_TOKEN",
        "MISSING_REFRESH_TOKEN",
        "INVALID_GRANT_TYPE",
        "MISSING_GRANT_TYPE",
        "TOKEN_EXPIRED : The user's credential is no longer valid. The user must sign in again.",
    ] {
        bench.google.set_fault(Endpoint::SecureToken, Fault::IdentityError(code));
        bench.google.clear_requests();
        bench.mint_with(&source(), &good()).await.unwrap();
        assert_eq!(asked(&bench), [Endpoint::SecureToken, Endpoint::SignInWithPassword], "{code}");
    }
    bench.google.clear_faults();
    bench.google.clear_requests();
    bench.google.revoke_refresh_tokens(EMAIL);
    bench.mint_with(&source(), &good()).await.unwrap();
    bench.mint_with(&source(), &good()).await.unwrap();
    assert_eq!(asked(&bench), [Endpoint::SecureToken, Endpoint::SignInWithPassword, Endpoint::SecureToken]);
}

#[tokio::test]
async fn a_disabled_user_is_refused_at_the_sign_in() {
    let bench = start().await;
    bench.mint_with(&source(), &good()).await.unwrap();
    bench.google.set_disabled(EMAIL, true);
    bench.google.clear_requests();
    let error = bench.mint_with(&source(), &good()).await.unwrap_err();
    assert_eq!((error.reason(), error.retry()), (Reason::CredentialsRefused, Retry::OnNewCredential));
    assert_eq!(
        error.to_string(),
        "Identity Platform, sign-in: HTTP 400 USER_DISABLED; the user is disabled: enable it and set the binding's annotation \
         idtoken.dev/refresh-requested-at to the time, or name another user in Secret batch, key email"
    );
    assert_silent(&bench, &error);
    assert_eq!(asked(&bench), [Endpoint::SecureToken, Endpoint::SignInWithPassword]);
}

#[tokio::test]
async fn what_passes_by_itself_leaves_the_session() {
    let bench = start().await;
    bench.mint_with(&source(), &good()).await.unwrap();
    let soon = |retry_after| Retry::Transient { retry_after };
    let table = [
        (
            Fault::TooManyRequests { retry_after: Some(30) },
            Reason::QuotaExceeded,
            soon(Some(30)),
            "HTTP 429 RESOURCE_EXHAUSTED",
        ),
        (
            Fault::IdentityError("QUOTA_EXCEEDED"),
            Reason::QuotaExceeded,
            soon(Some(300)),
            "HTTP 400 QUOTA_EXCEEDED",
        ),
        (
            Fault::IdentityError("TOO_MANY_ATTEMPTS_TRY_LATER : Access has been disabled"),
            Reason::QuotaExceeded,
            soon(Some(300)),
            "HTTP 400 TOO_MANY_ATTEMPTS_TRY_LATER",
        ),
        (Fault::Unavailable, Reason::SourceUnavailable, soon(None), "HTTP 503 UNAVAILABLE"),
        (Fault::InternalError, Reason::SourceUnavailable, soon(None), "HTTP 500 INTERNAL"),
        (Fault::DropConnection, Reason::SourceUnavailable, soon(None), "the connection broke"),
        (Fault::Garbage, Reason::TokenRejected, soon(None), "the answer holds no token"),
        (Fault::TooLarge, Reason::SourceUnavailable, soon(None), "the answer is larger than 256 KB"),
    ];
    for (fault, reason, retry, message) in table {
        bench.google.set_fault(Endpoint::SecureToken, fault);
        let error = bench.mint_with(&source(), &good()).await.unwrap_err();
        assert_eq!((error.reason(), error.retry()), (reason, retry), "{error}");
        assert_eq!(error.to_string(), format!("Identity Platform, refresh: {message}"));
        assert_silent(&bench, &error);
    }
    bench.google.clear_faults();
    bench.mint_with(&source(), &good()).await.unwrap();
    assert_eq!(bench.google.count(Endpoint::SignInWithPassword), 1);
}

#[tokio::test]
async fn a_refusal_that_nobody_knows_ends_the_session_at_the_next_try() {
    let bench = start().await;
    bench.mint_with(&source(), &good()).await.unwrap();
    let unknown = Fault::IdentityError("PROJECT_NUMBER_MISMATCH : text");
    bench.google.set_fault_times(Endpoint::SecureToken, unknown, 1);
    let error = bench.mint_with(&source(), &good()).await.unwrap_err();
    assert_eq!((error.reason(), error.retry()), (Reason::SourceDenied, Retry::Slowly));
    assert_eq!(
        error.to_string(),
        "Identity Platform, refresh: HTTP 400 PROJECT_NUMBER_MISMATCH; look the code up in Identity Platform's documentation"
    );
    bench.google.clear_requests();
    bench.mint_with(&source(), &good()).await.unwrap();
    assert_eq!(asked(&bench), [Endpoint::SignInWithPassword]);
}

#[tokio::test]
async fn each_refusal_of_a_sign_in_has_its_words() {
    let refused = (Reason::CredentialsRefused, Retry::OnNewCredential);
    let denied = (Reason::SourceDenied, Retry::Slowly);
    let later = (Reason::QuotaExceeded, Retry::Transient { retry_after: Some(300) });
    let off = "; sign-in by password is switched off for the project: enable the provider Email/Password";
    let gone = "; the project of the API key in Secret project, key apiKey is disabled, gone, or without Identity Platform: check it";
    let robot = "; sign-in to the project is protected by reCAPTCHA, which no program can pass: take the protection off sign-in by password";
    let no_user = "; the project has no user with this address: correct Secret batch, key email";
    let wrong = "; the password is wrong: correct Secret batch, key password";
    let table = [
        (
            "INVALID_LOGIN_CREDENTIALS",
            refused,
            "; the project has no user with this address and password: correct Secret batch, key email, or Secret batch, key password",
        ),
        ("EMAIL_NOT_FOUND", refused, no_user),
        ("INVALID_PASSWORD", refused, wrong),
        ("MISSING_PASSWORD", refused, wrong),
        (
            "INVALID_EMAIL",
            refused,
            "; what stands in Secret batch, key email is no e-mail address: correct it",
        ),
        ("TOO_MANY_ATTEMPTS_TRY_LATER", later, ""),
        ("QUOTA_EXCEEDED", later, ""),
        ("PASSWORD_LOGIN_DISABLED", denied, off),
        ("OPERATION_NOT_ALLOWED", denied, off),
        ("PROJECT_DISABLED", denied, gone),
        ("PROJECT_NOT_FOUND", denied, gone),
        ("MISSING_RECAPTCHA_TOKEN", denied, robot),
        ("INVALID_RECAPTCHA_TOKEN", denied, robot),
        (
            "BLOCKING_FUNCTION_ERROR_RESPONSE",
            denied,
            "; a blocking function of the project refused the sign-in: check its logs",
        ),
        ("SOMETHING_NEW", denied, "; look the code up in Identity Platform's documentation"),
    ];
    let bench = start().await;
    for (code, (reason, retry), words) in table {
        let credentials = Secrets { version: code, ..good() };
        let leaky: &'static str = format!("{code} : batch@example.com eyJhbGciOi").leak();
        bench.google.set_fault(Endpoint::SignInWithPassword, Fault::IdentityError(leaky));
        let error = bench.mint_with(&source(), &credentials).await.unwrap_err();
        assert_eq!((error.reason(), error.retry()), (reason, retry), "{code}");
        assert_eq!(error.to_string(), format!("{SIGN_IN}: HTTP 400 {code}{words}"));
        assert_silent(&bench, &error);
    }
}

#[tokio::test]
async fn what_may_pass_is_signed_in_for_slowly() {
    let bench = start().await;
    let table = [
        (Fault::TooManyRequests { retry_after: None }, Reason::QuotaExceeded, 300),
        (Fault::TooManyRequests { retry_after: Some(30) }, Reason::QuotaExceeded, 300),
        (Fault::TooManyRequests { retry_after: Some(400) }, Reason::QuotaExceeded, 400),
        (Fault::InternalError, Reason::SourceUnavailable, 30),
        (Fault::Unavailable, Reason::SourceUnavailable, 30),
    ];
    for (version, (fault, reason, seconds)) in ["a", "b", "c", "d", "e"].into_iter().zip(table) {
        bench.google.set_fault(Endpoint::SignInWithPassword, fault);
        let error = bench.mint_with(&source(), &Secrets { version, ..good() }).await.unwrap_err();
        let slowly = Retry::Transient { retry_after: Some(seconds) };
        assert_eq!((error.reason(), error.retry()), (reason, slowly), "{error}");
    }
}

#[tokio::test]
async fn what_is_no_code_is_not_shown() {
    let bench = start().await;
    let message = Fault::IdentityError("the password correct horse is wrong");
    bench.google.set_fault(Endpoint::SignInWithPassword, message);
    let error = bench.mint_with(&source(), &good()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Identity Platform, sign-in: HTTP 400; check the project of the API key in Secret project, key apiKey: Identity Platform must \
         be enabled in it"
    );
    assert_silent(&bench, &error);
}

#[tokio::test]
async fn an_api_key_that_is_refused_is_told_by_its_place() {
    let bench = start().await;
    let wrong = Secrets { version: "v0", ..secrets("AIzaOther", EMAIL, PASSWORD) };
    let error = bench.mint_with(&source(), &wrong).await.unwrap_err();
    assert_eq!((error.reason(), error.retry()), (Reason::CredentialsRefused, Retry::OnNewCredential));
    assert_eq!(
        error.to_string(),
        format!(
            "{SIGN_IN}: HTTP 400 API_KEY_INVALID; the API key in Secret project, key apiKey is missing or not valid: put a valid one there"
        )
    );
    let words = "the API key in Secret project, key apiKey may not be used for this API or from here: change the key's restrictions, or \
                 put another one there";
    assert_silent(&bench, &error);
    bench.google.set_fault_times(Endpoint::SignInWithPassword, Fault::Forbidden, 1);
    let error = bench.mint_with(&source(), &good()).await.unwrap_err();
    assert_eq!((error.reason(), error.retry()), (Reason::SourceDenied, Retry::Slowly));
    assert_eq!(error.to_string(), format!("{SIGN_IN}: HTTP 403 API_KEY_SERVICE_BLOCKED; {words}"));
    bench.mint_with(&source(), &good()).await.unwrap();
    bench.google.set_fault_times(Endpoint::SecureToken, Fault::Forbidden, 1);
    let error = bench.mint_with(&source(), &good()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("Identity Platform, refresh: HTTP 403 API_KEY_SERVICE_BLOCKED; {words}")
    );
    assert_silent(&bench, &error);
}

#[tokio::test]
async fn a_second_factor_is_refused() {
    let bench = start().await;
    let error = bench.mint_with(&source(), &secrets(API_KEY, "mfa@example.com", PASSWORD)).await.unwrap_err();
    assert_eq!((error.reason(), error.retry()), (Reason::CredentialsRefused, Retry::OnNewCredential));
    assert_eq!(
        error.to_string(),
        "Identity Platform, sign-in: HTTP 200; the user of Secret batch, key email has a second factor, which no program can give: name \
         a user without one"
    );
    assert_silent(&bench, &error);
}

#[tokio::test]
async fn twenty_bindings_at_once_share_one_answer() {
    let bench = start().await;
    let (source, credentials) = (source(), good());
    for asked_for in [Endpoint::SignInWithPassword, Endpoint::SecureToken] {
        bench.google.clear_requests();
        let minted = join_all((0..20).map(|_| bench.mint_with(&source, &credentials))).await;
        let tokens: Vec<_> = minted.into_iter().map(|minted| minted.unwrap().token).collect();
        assert!(tokens.iter().all(|token| token.expose() == tokens[0].expose()));
        assert_eq!(asked(&bench), [asked_for]);
    }
    bench.mint_with(&source, &credentials).await.unwrap();
    assert_eq!(asked(&bench), [Endpoint::SecureToken; 2], "who comes later asks anew");
}

/// A mint that the annotation with this value forces.
async fn forced(bench: &Bench, credentials: &Secrets, request: &str) -> Result<Minted, Error> {
    let audience = Audience::parse(AUDIENCE).unwrap();
    bench.minter.mint(&source(), &audience, credentials, Some(request), allowed).await
}

#[tokio::test]
async fn a_refused_password_is_sent_once_whoever_asks_and_once_more_for_each_request() {
    let bench = start().await;
    let sent = || bench.google.count(Endpoint::SignInWithPassword);
    let (source, credentials) = (source(), secrets(API_KEY, EMAIL, "wrong-password"));
    let minted = join_all((0..20).map(|_| bench.mint_with(&source, &credentials))).await;
    for error in minted.into_iter().map(Result::unwrap_err) {
        assert_eq!(error.reason(), Reason::CredentialsRefused);
        assert_silent(&bench, &error);
    }
    for _ in 0..3 {
        pass(1800).await;
        let error = bench.mint_with(&source, &credentials).await.unwrap_err();
        assert_eq!((error.reason(), error.retry()), (Reason::CredentialsRefused, Retry::OnNewCredential));
        assert_eq!(sent(), 1);
    }
    for (request, sent_then) in [("a", 2), ("a", 2), ("b", 3), ("a", 3), ("b", 3)] {
        assert!(forced(&bench, &credentials, request).await.is_err());
        assert_eq!(sent(), sent_then, "{request}");
    }
    let corrected = Secrets { version: "v2", ..good() };
    assert!(bench.mint_with(&source, &corrected).await.is_ok(), "a new credential is tried at once");
}

#[tokio::test]
async fn a_user_who_is_enabled_again_comes_back_by_a_request() {
    let bench = start().await;
    bench.google.set_disabled(EMAIL, true);
    assert!(forced(&bench, &good(), "before").await.is_err());
    bench.google.set_disabled(EMAIL, false);
    assert!(forced(&bench, &good(), "before").await.is_err());
    assert!(forced(&bench, &good(), "after").await.is_ok());
    assert!(bench.mint_with(&source(), &good()).await.is_ok(), "nothing is held any more");
}

#[tokio::test]
async fn a_sign_in_that_is_to_come_later_is_held_until_then() {
    let bench = start().await;
    let later = Fault::IdentityError("TOO_MANY_ATTEMPTS_TRY_LATER : text");
    bench.google.set_fault_times(Endpoint::SignInWithPassword, later, 1);
    assert!(bench.mint_with(&source(), &good()).await.is_err());
    pass(100).await;
    let error = bench.mint_with(&source(), &good()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{SIGN_IN}: HTTP 400 TOO_MANY_ATTEMPTS_TRY_LATER"));
    let Retry::Transient { retry_after: Some(left) } = error.retry() else { panic!("{error:?}") };
    assert!((190..=200).contains(&left), "{left} s of the 300 are left");
    assert_eq!(bench.google.count(Endpoint::SignInWithPassword), 1);
    pass(201).await;
    assert!(bench.mint_with(&source(), &good()).await.is_ok());
}

#[tokio::test]
async fn who_waits_for_secrets_holds_up_nobody() {
    /// A namespace whose API server does not answer.
    struct Silent;
    impl Credentials for Silent {
        async fn secrets(&self, _: &[&SecretKey]) -> Result<SecretValues, Problem> {
            std::future::pending().await
        }
        async fn account(&self, _: &str) -> Result<Account, Problem> {
            std::future::pending().await
        }
        async fn subject_token(&self, _: &Account, _: &str) -> Result<SubjectToken, Problem> {
            std::future::pending().await
        }
    }
    let bench = start().await;
    let (source, good) = (source(), good());
    let waiting = join_all((0..200).map(|_| bench.mint_with(&source, &Silent)));
    tokio::select! {
        biased;
        _ = waiting => panic!("nobody answers these"),
        minted = bench.mint_with(&source, &good) => assert!(minted.is_ok()),
    }
}

#[tokio::test]
async fn a_changed_secret_and_other_keys_of_it_begin_sessions_of_their_own() {
    let bench = start().await;
    bench.mint_with(&source(), &good()).await.unwrap();
    bench.mint_with(&source(), &Secrets { version: "v2", ..good() }).await.unwrap();
    assert_eq!(asked(&bench), [Endpoint::SignInWithPassword; 2]);
    let other = Source::IdentityPlatform {
        tenant: None,
        api_key: secret_key("project", "apiKey"),
        email: secret_key("batch", "email"),
        password: secret_key("batch", "password-2"),
    };
    let mut credentials = good();
    credentials.values.push(("batch", "password-2", PASSWORD.into()));
    bench.mint_with(&other, &credentials).await.unwrap();
    assert_eq!(asked(&bench), [Endpoint::SignInWithPassword; 3]);
}

#[tokio::test]
async fn values_lose_their_newline_and_are_otherwise_sent_as_they_are() {
    let odd = "pa ss\"\u{e9}\\ +&=%";
    let options = Options::default().api_key("key+/&=").password_user(PasswordUser::new(EMAIL, odd));
    let bench = Bench::start(options).await;
    let credentials = secrets("key+/&=\r\n", "batch@example.com\n\n", &format!("{odd}\n"));
    for _ in 0..2 {
        bench.mint_with(&source(), &credentials).await.unwrap();
    }
    assert_eq!(asked(&bench), [Endpoint::SignInWithPassword, Endpoint::SecureToken]);
}

#[tokio::test]
async fn an_empty_value_and_bytes_are_told_by_their_place() {
    let bench = start().await;
    let binary = |bytes: &[u8]| {
        let mut credentials = good();
        credentials.values[2].2 = bytes.to_vec();
        credentials
    };
    let table = [
        (secrets("\n", EMAIL, PASSWORD), "Secret project, key apiKey is empty; put the value there"),
        (secrets(API_KEY, "", PASSWORD), "Secret batch, key email is empty; put the value there"),
        (secrets(API_KEY, EMAIL, "\r\n"), "Secret batch, key password is empty; put the value there"),
        (secrets(API_KEY, " \n", PASSWORD), "Secret batch, key email is empty; put the value there"),
        (
            secrets("AIza one", EMAIL, PASSWORD),
            "Secret project, key apiKey has blanks or other signs in it that no API key has; put the value there",
        ),
        (binary(&[0xff, 0xfe]), "Secret batch, key password is not UTF-8 text; put the value there"),
    ];
    for (credentials, message) in table {
        let error = bench.mint_with(&source(), &credentials).await.unwrap_err();
        assert_eq!((error.reason(), error.retry()), (Reason::CredentialsNotAllowed, Retry::OnChange));
        assert_eq!(error.to_string(), message);
    }
    assert_eq!(bench.google.requests().len(), 0);
}
