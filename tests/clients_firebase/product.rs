//! The source identityPlatform and the real emulator: `token mint`, and sessions that are kept, rotate and end.

use idtoken_operator::{
    api::IdTokenBinding,
    plan::{
        Problem, Retry,
        credential::{Account, account_missing},
        source::SecretKey,
        validate::{Wanted, validate},
    },
    token::{
        credentials::{Credentials, SecretValues, SubjectToken},
        endpoints::{Endpoints, parse},
        http::Http,
        mint::Minter,
        operator::{Operator, Sources},
    },
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    common::{binding, claims, emulator::Emulator, envoy::Envoy, http_client, mint},
    gateway::Gateway,
};
use xtask::google::{Google, Options};

const PASSWORD: &str = "correct horse";
const ISSUER: &str = "https://securetoken.google.com/demo-project";

/// `token mint` for users of the project and of a tenant, and for those who get none.
pub(crate) async fn token_mint(emulator: &Emulator, tenant: &str) {
    let user = emulator.sign_up("orders@example.com", PASSWORD, None).await;
    let other = emulator.sign_up("orders@example.com", "battery staple", Some(tenant)).await;
    let gone = emulator.sign_up("left@example.com", PASSWORD, None).await;
    emulator.update(&gone, &json!({"disableUser": true})).await;
    let two = emulator.sign_up("twice@example.com", PASSWORD, None).await;
    let phone = json!({"phoneInfo": "+15555550100", "mfaEnrollmentId": "first", "enrolledAt": "2026-01-01T00:00:00Z"});
    emulator.update(&two, &json!({"emailVerified": true, "mfa": {"enrollments": [phone]}})).await;

    let flag = [format!("--identity-platform-emulator={}", emulator.origin())];
    let raw = [&flag[..], &["--raw".to_owned()]].concat();
    let secret = |email: &str, password: &str| {
        [mint::credential("user", &json!({"apiKey": "any", "email": email, "password": password}))]
    };
    let batch = secret("orders@example.com", PASSWORD);
    let warning = "warning: nobody signed this token of the emulator, and no real service takes it\n";
    let ended = mint::mint(&raw, &spec(None), &batch, None).await;
    assert_eq!((ended.code, ended.err.as_str()), (0, warning));
    let token = ended.out;
    assert!(token.ends_with('.'), "it has no signature");
    let said = claims(&token);
    assert_eq!(
        (&said["iss"], &said["aud"], &said["sub"], &said["email"]),
        (&json!(ISSUER), &json!("demo-project"), &json!(user), &json!("orders@example.com"))
    );
    let of_tenant = secret("orders@example.com", "battery staple");
    let ended = mint::mint(&raw, &spec(Some(tenant)), &of_tenant, None).await;
    assert_eq!((ended.code, ended.err.as_str()), (0, warning));
    let said = claims(&ended.out);
    assert_eq!((&said["firebase"]["tenant"], &said["sub"]), (&json!(tenant), &json!(other)));

    let as_json = [&flag[..], &["--json".to_owned()]].concat();
    let shown: Value =
        serde_json::from_str(&mint::mint(&as_json, &spec(None), &batch, None).await.out).unwrap();
    assert_eq!(
        (&shown["identity"], &shown["issuer"], &shown["signature"]),
        (&json!("orders@example.com"), &json!(ISSUER), &json!("none"))
    );

    // Where nobody speaks of an emulator, its tokens are worth nothing, however they come.
    let origin = emulator.origin();
    let endpoint = [format!("--identity-toolkit-url={origin}/identitytoolkit.googleapis.com")];
    let ended = mint::mint(&endpoint, &spec(None), &batch, None).await;
    let refused =
        "error: TokenRejected: identityPlatform: the token's algorithm is not RS256; it was not published\n";
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (1, "", refused));
    let google = Google::start(Options::default()).await.unwrap();
    let jwks = http_client::get(&google.secure_token_jwks_url()).await.unwrap();
    let envoy = Envoy::start(ISSUER, &["demo-project"], &jwks).await;
    assert_eq!(envoy.call(Some(&token)).await.0, 401);
    envoy.stop().await;
    google.stop().await;

    let sign_in = "error: CredentialsRefused: Identity Platform, sign-in: HTTP";
    for (tenant, email, password, says) in [
        (
            None,
            "orders@example.com",
            "wrong",
            "400 INVALID_PASSWORD; the password is wrong: correct Secret user, key password",
        ),
        (
            Some(tenant),
            "orders@example.com",
            PASSWORD,
            "400 INVALID_PASSWORD; the password is wrong: correct Secret user, key password",
        ),
        (
            Some("none-a1b2c"),
            "orders@example.com",
            PASSWORD,
            "400 EMAIL_NOT_FOUND; tenant none-a1b2c has no user with this address: correct Secret user, key email",
        ),
        (
            None,
            "nobody@example.com",
            PASSWORD,
            "400 EMAIL_NOT_FOUND; the project has no user with this address: correct Secret user, key email",
        ),
        (
            Some(tenant),
            "left@example.com",
            PASSWORD,
            "400 EMAIL_NOT_FOUND; tenant TENANT has no user with this address: correct Secret user, key email",
        ),
        (
            None,
            "left@example.com",
            PASSWORD,
            "400 USER_DISABLED; the user is disabled: enable it and set the binding's annotation idtoken.dev/refresh-requested-at to the \
             time, or name another user in Secret user, key email",
        ),
        (
            None,
            "twice@example.com",
            PASSWORD,
            "200; the user of Secret user, key email has a second factor, which no program can give: name a user without one",
        ),
    ] {
        let ended = mint::mint(&flag, &spec(tenant), &secret(email, password), None).await;
        let expected = format!("{sign_in} {}\n", says.replace("TENANT", tenant.unwrap_or_default()));
        assert_eq!((ended.code, ended.out.as_str(), ended.err), (1, "", expected));
    }
}

/// The session of one process: kept, with each refresh token used once, and begun anew when it is over.
pub(crate) async fn sessions(emulator: &Emulator, tenant: &str) {
    let first = emulator.sign_up("steady@example.com", PASSWORD, None).await;
    emulator.sign_up("steady@example.com", PASSWORD, Some(tenant)).await;
    let gateway = Gateway::start(emulator.origin()).await;
    let minter = minter(gateway.origin());
    for tenant in [None, Some(tenant)] {
        for asked in ["signInWithPassword", "token", "token"] {
            let said = minted(&minter, tenant).await.unwrap();
            assert_eq!(said["firebase"]["tenant"], json!(tenant));
            assert_eq!(gateway.asked(), [asked], "{tenant:?}");
        }
    }
    gateway.forget();
    let said = minted(&minter, None).await.unwrap();
    assert_eq!((said["sub"].as_str(), gateway.asked()), (Some(first.as_str()), both()));

    emulator.delete(&first).await;
    let second = emulator.sign_up("steady@example.com", PASSWORD, None).await;
    let said = minted(&minter, None).await.unwrap();
    assert_eq!((said["sub"].as_str(), gateway.asked()), (Some(second.as_str()), both()));
    assert_ne!(first, second);

    emulator.update(&second, &json!({"disableUser": true})).await;
    let problem = minted(&minter, None).await.unwrap_err();
    assert_eq!((problem.reason.as_str(), problem.retry), ("CredentialsRefused", Retry::OnNewCredential));
    assert_eq!(gateway.asked(), both());
    assert_eq!(minted(&minter, None).await.unwrap_err(), problem);
    assert_eq!(gateway.asked(), Vec::<String>::new(), "the refusal is known");
}

/// The session was over, and so the user signed in again.
fn both() -> Vec<String> {
    vec!["token".to_owned(), "signInWithPassword".to_owned()]
}

/// A binding of a user, of the tenant if one is given.
fn spec(tenant: Option<&str>) -> Value {
    let key = |key: &str| json!({"name": "user", "key": key});
    let mut user = json!({
        "apiKeySecretRef": key("apiKey"), "emailSecretRef": key("email"), "passwordSecretRef": key("password"),
    });
    if let Some(tenant) = tenant {
        user["tenantId"] = json!(tenant);
    }
    json!({"audience": "demo-project", "source": {"identityPlatform": user}})
}

fn minter(origin: &str) -> Minter {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let at = |path: &str| parse("--x", &format!("{origin}/{path}"), false).unwrap();
    let nowhere = parse("--x", "http://127.0.0.1:1", false).unwrap();
    let endpoints = Endpoints {
        universe: "googleapis.com".to_owned(),
        cluster_pool: None,
        identity_toolkit: at("identitytoolkit.googleapis.com"),
        secure_token: at("securetoken.googleapis.com"),
        sts: nowhere.clone(),
        metadata: nowhere.clone(),
        iam_credentials: nowhere.clone(),
        oauth_token: nowhere,
    };
    let http = Http::new().unwrap();
    let operator = Operator::new(&http, &endpoints, Sources::default());
    Minter::new(&http, &endpoints, operator)
}

/// The claims of the next token.
async fn minted(minter: &Minter, tenant: Option<&str>) -> Result<Value, Problem> {
    let binding: IdTokenBinding = binding("shop", "orders", &spec(tenant));
    let Wanted { source, audience, .. } = validate(&binding).unwrap();
    let authorise = || std::future::ready(Ok(()));
    let minted = minter.mint(&source, &audience, &Steady, None, authorise).await.map_err(Problem::from)?;
    Ok(claims(minted.token.expose()))
}

/// The credentials of the user whose session is watched.
struct Steady;

impl Credentials for Steady {
    async fn secrets(&self, keys: &[&SecretKey]) -> Result<SecretValues, Problem> {
        let value = |key: &&SecretKey| match key.key.as_str() {
            "apiKey" => "any",
            "email" => "steady@example.com",
            _ => PASSWORD,
        };
        let values = keys.iter().map(|key| Zeroizing::new(value(key).as_bytes().to_vec())).collect();
        Ok(SecretValues { values, version: "1".to_owned() })
    }

    async fn account(&self, name: &str) -> Result<Account, Problem> {
        Err(account_missing("shop", name))
    }

    async fn subject_token(&self, account: &Account, _: &str) -> Result<SubjectToken, Problem> {
        Err(account_missing("shop", &account.name))
    }
}
