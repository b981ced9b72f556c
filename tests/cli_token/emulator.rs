//! `token mint --identity-platform-emulator`, against a server that answers as Firebase's emulator does.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, Uri},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{Bench, sources::secret};

const SOURCE: &str = "identityPlatform: {apiKeySecretRef: {name: login, key: apiKey}, emailSecretRef: {name: login, key: email}, \
                      passwordSecretRef: {name: login, key: password}}";

/// The token that the emulator makes: of the claims, and unsigned.
fn unsigned(claims: &Value) -> String {
    let encoded = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", encoded(&json!({"alg": "none", "typ": "JWT"})), encoded(claims))
}

/// What the token says of a user of the project.
fn claims() -> Value {
    let now = idtoken_operator::clock::now().as_second();
    json!({
        "iss": "https://securetoken.google.com/demo-project", "aud": "demo-project", "sub": "u1", "auth_time": now, "iat": now,
        "exp": now + 3630, "email": "robot@example.com", "email_verified": false, "firebase": {"sign_in_provider": "password"},
    })
}

/// A server that gives whoever knows the password a token of `claims`, in the tenant that was asked for, under the emulator's path
/// alone.
async fn emulator(claims: Value) -> String {
    let sign_in = async |uri: Uri, State(mut claims): State<Value>, Json(asked): Json<Value>| {
        assert_eq!(uri.to_string(), "/identitytoolkit.googleapis.com/v1/accounts:signInWithPassword?key=any");
        if asked["password"] != "correct horse" {
            let error = json!({"error": {"code": 400, "message": "INVALID_PASSWORD", "errors": []}});
            return (StatusCode::BAD_REQUEST, Json(error));
        }
        if let Some(tenant) = asked.get("tenantId") {
            claims["firebase"]["tenant"] = tenant.clone();
        }
        let token = unsigned(&claims);
        let answer = json!({"idToken": token, "refreshToken": "r", "expiresIn": "3600", "localId": "u1"});
        (StatusCode::OK, Json(answer))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(sign_in).with_state(claims);
    tokio::spawn(async move { axum::serve(listener, router).await });
    origin
}

/// The binding, with the Secret of its user.
fn file(audience: &str, source: &str, password: &str) -> String {
    let values = json!({"apiKey": "any", "email": "robot@example.com", "password": password});
    format!(
        "apiVersion: idtoken.dev/v1alpha1\nkind: IdTokenBinding\nmetadata: {{name: portal}}\nspec:\n  audience: {audience}\n  \
         source: {{{source}}}\n{}",
        secret("login", &values)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_a_tenant_signs_in_and_a_wrong_password_does_not() {
    let bench = Bench::start().await;
    let origin = emulator(claims()).await;
    let flag = ["--identity-platform-emulator", origin.as_str(), "--json"];
    let tenant = SOURCE.replace("{apiKey", "{tenantId: shop-a1b2c, apiKey");
    let ended = bench.mint(&file("demo-project", &tenant, "correct horse"), &flag).await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    let minted: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(minted["claims"]["firebase"]["tenant"], "shop-a1b2c");
    assert_eq!((&minted["signature"], &minted["identity"]), (&"none".into(), &"robot@example.com".into()));

    let ended = bench.mint(&file("demo-project", SOURCE, "hunter2"), &flag).await;
    assert_eq!((ended.code, ended.out.as_str()), (1, ""));
    let refused = "error: CredentialsRefused: Identity Platform, sign-in: HTTP 400 INVALID_PASSWORD; the password is wrong: ";
    assert!(ended.err.starts_with(refused), "{}", ended.err);
    assert!(!ended.err.contains("hunter2"), "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_token_is_taken_by_this_flag_alone() {
    let bench = Bench::start().await;
    let claims = claims();
    let origin = emulator(claims.clone()).await;
    let flag = ["--identity-platform-emulator", origin.as_str()];
    let file = |audience: &str| file(audience, SOURCE, "correct horse");
    let warning = "warning: nobody signed this token of the emulator, and no real service takes it\n";
    let ended = bench.mint(&file("demo-project"), &flag).await;
    assert_eq!((ended.code, ended.err.as_str()), (0, warning), "{}", ended.out);
    assert!(
        ended.out.starts_with("source     identityPlatform\nidentity   robot@example.com\n"),
        "{}",
        ended.out
    );
    assert!(ended.out.contains("\nsignature  none\nclaims\n"), "{}", ended.out);
    let raw = bench.mint(&file("demo-project"), &[&flag[..], &["--raw"]].concat()).await;
    assert_eq!((raw.code, raw.out == unsigned(&claims)), (0, true), "{}", raw.err);

    let other = bench.mint(&file("other-project"), &flag).await;
    assert_eq!((other.code, other.out.as_str()), (1, ""), "the claims count all the same");
    let toolkit = format!("--identity-toolkit-url={origin}/identitytoolkit.googleapis.com");
    let mut command = Command::new(env!("CARGO_BIN_EXE_idtoken-operator"));
    command.args(["token", "mint", "-f", "-", &toolkit]).env_clear().env("HOME", bench.home.path());
    let text = file("demo-project");
    let without = tokio::task::spawn_blocking(move || super::ended(command, &text)).await.unwrap();
    assert_eq!((without.code, without.out.as_str()), (1, ""), "without the flag it is not taken");
    assert_eq!(
        without.err,
        "error: TokenRejected: identityPlatform: the token's algorithm is not RS256; it was not published\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_do_not_cross_a_network_in_the_clear() {
    let bench = Bench::start().await;
    let file = super::mint::binding("{metadataServer: {}}");
    let ended =
        bench.mint(&file, &["--identity-platform-emulator", "http://emulator.example.com:9099"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (2, ""));
    assert!(ended.err.starts_with("error: --identity-platform-emulator \"http://emulator.example.com:9099/identitytoolkit.googleapis.com\" is not valid: use https"), "{}", ended.err);
}

/// What runs in a cluster must not be able to take tokens that nobody signed: neither by a flag nor by a variable nor by a
/// value of the chart.
#[test]
fn only_token_mint_knows_of_an_emulator() {
    let run = |arguments: &[&str]| {
        let program = env!("CARGO_BIN_EXE_idtoken-operator");
        let output = Command::new(program).args(arguments).env_clear().output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), text)
    };
    for command in [&["controller"][..], &["webhook"], &["check"], &["token", "inspect"]] {
        let (code, help) = run(&[command, &["--help"]].concat());
        assert_eq!((code, help.to_lowercase().contains("emulator")), (0, false), "{command:?}: {help}");
        let (code, said) = run(&[command, &["--identity-platform-emulator=http://127.0.0.1:9099"]].concat());
        let refused = "error: unexpected argument '--identity-platform-emulator' found\n";
        assert!(code == 2 && said.starts_with(refused), "{command:?}: {said}");
    }
    let (_, help) = run(&["token", "mint", "--help"]);
    assert!(help.contains("--identity-platform-emulator <URL>"), "{help}");
    assert!(!help.contains("IDENTITY_PLATFORM_EMULATOR"), "a variable would be easy to leave behind: {help}");
    let chart = files_below(Path::new("charts"));
    assert!(
        chart.iter().any(|(path, _)| path.ends_with("values.schema.json")),
        "there is a chart to look into"
    );
    for (path, text) in chart {
        assert!(!text.to_lowercase().contains("emulator"), "{}", path.display());
    }
}

fn files_below(directory: &Path) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = |path: PathBuf| {
        if path.is_dir() {
            return files_below(&path);
        }
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        vec![(path, text)]
    };
    entries.flat_map(files).collect()
}
