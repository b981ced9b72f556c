//! `token mint` with Firebase's own emulator of Identity Platform.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use common::emulator::Emulator;
use serde_json::{Value, json};

const EMAIL: &str = "robot@example.com";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier clients: needs Firebase's emulator"]
async fn users_of_the_project_and_of_a_tenant_sign_in_at_the_emulator() {
    let emulator = Emulator::start("demo-project").await;
    emulator.sign_up(EMAIL, "correct horse", None).await;
    let tenant = emulator.create_tenant().await;
    let uid = emulator.sign_up(EMAIL, "battery staple", Some(&tenant)).await;

    let minted = mint(&emulator, None, "correct horse");
    let claims = &minted["claims"];
    assert_eq!((&minted["identity"], &minted["audience"]), (&json!(EMAIL), &json!("demo-project")));
    assert_eq!(minted["issuer"], "https://securetoken.google.com/demo-project");
    assert_eq!(
        (&claims["firebase"]["sign_in_provider"], &claims["firebase"]["tenant"]),
        (&json!("password"), &Value::Null)
    );
    assert_eq!(minted["signature"], "none");

    let minted = mint(&emulator, Some(&tenant), "battery staple");
    assert_eq!(
        (&minted["claims"]["sub"], &minted["claims"]["firebase"]["tenant"]),
        (&json!(uid), &json!(tenant)),
        "the same address, another user"
    );

    for (tenant, password, message) in [
        (
            None,
            "hunter2",
            "error: CredentialsRefused: Identity Platform, sign-in: HTTP 400 INVALID_PASSWORD; the password is wrong: ",
        ),
        (
            Some(tenant.as_str()),
            "correct horse",
            "error: CredentialsRefused: Identity Platform, sign-in: HTTP 400 INVALID_PASSWORD; ",
        ),
        (
            Some("none-a1b2c"),
            "correct horse",
            "error: CredentialsRefused: Identity Platform, sign-in: HTTP 400 EMAIL_NOT_FOUND; tenant none-a1b2c has no user with this address: ",
        ),
    ] {
        let refused = run(&emulator, tenant, password);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!((refused.status.code(), refused.stdout.as_slice()), (Some(1), &b""[..]), "{said}");
        assert!(said.starts_with(message) && !said.contains("hunter2"), "{said}");
    }
    emulator.stop().await;
}

/// What `--json` prints.
fn mint(emulator: &Emulator, tenant: Option<&str>, password: &str) -> Value {
    let output = run(emulator, tenant, password);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(said, "warning: nobody signed this token of the emulator, and no real service takes it\n");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn run(emulator: &Emulator, tenant: Option<&str>, password: &str) -> Output {
    let key = |key: &str| json!({"name": "login", "key": key});
    let binding = json!({
        "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding", "metadata": {"name": "portal"},
        "spec": {"audience": "demo-project", "source": {"identityPlatform": {
            "tenantId": tenant, "apiKeySecretRef": key("apiKey"), "emailSecretRef": key("email"), "passwordSecretRef": key("password"),
        }}},
    });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login", "labels": {"idtoken.dev/credential": "true"}},
        "stringData": {"apiKey": "demo", "email": EMAIL, "password": password},
    });
    let mut program = Command::new(env!("CARGO_BIN_EXE_idtoken-operator"))
        .args(["token", "mint", "--json", "-f", "-", "--identity-platform-emulator", emulator.origin()])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    write!(program.stdin.take().unwrap(), "{binding}\n---\n{secret}\n").unwrap();
    program.wait_with_output().unwrap()
}
