//! `idtoken-operator token mint` in a home of its own and with nothing of our environment.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use super::{binding, child};

/// How the program ended.
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Mints by a binding `orders` in `shop` and the objects that it names. `flags` say where Google is; `credentials_file` is
/// what `GOOGLE_APPLICATION_CREDENTIALS` names.
pub async fn mint(
    flags: &[String],
    spec: &Value,
    objects: &[Value],
    credentials_file: Option<&Path>,
) -> Ended {
    let binding = serde_json::to_value(binding("shop", "orders", spec)).unwrap();
    let items: Vec<_> = [&[binding][..], objects].concat();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let home = TempDir::new().unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_idtoken-operator"));
    program
        .args(["token", "mint", "--file=-"])
        .args(flags)
        .env_clear()
        .env("HOME", home.path())
        .envs(credentials_file.map(|file| ("GOOGLE_APPLICATION_CREDENTIALS", file)));
    let output = child::output(&mut program, &list).await;
    Ended {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The token that it prints with `--raw`, which must be all that it says.
pub async fn token(
    flags: &[String],
    spec: &Value,
    objects: &[Value],
    credentials_file: Option<&Path>,
) -> String {
    let flags = [flags, &["--raw".to_owned()]].concat();
    let ended = mint(&flags, spec, objects, credentials_file).await;
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{spec}");
    ended.out
}

/// A Secret that bindings may use.
pub fn credential(name: &str, data: &Value) -> Value {
    let metadata = json!({"name": name, "namespace": "shop", "labels": {"idtoken.dev/credential": "true"}});
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})
}
