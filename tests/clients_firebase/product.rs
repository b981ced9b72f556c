//! The source identityPlatform and the real emulator: sessions that are kept, rotate and end.

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
    common::{binding, claims, emulator::Emulator},
    gateway::Gateway,
};

const PASSWORD: &str = "correct horse";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier clients: needs Firebase's emulator"]
async fn users_of_the_emulator_keep_their_sessions() {
    let emulator = Emulator::start("demo-project").await;
    let tenant = emulator.create_tenant().await;
    sessions(&emulator, &tenant).await;
    emulator.stop().await;
}

/// The session of one process: kept, with each refresh token used once, and begun anew when it is over.
async fn sessions(emulator: &Emulator, tenant: &str) {
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
    let minted = minter.mint(&source, &audience, &Steady).await.map_err(Problem::from)?;
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
