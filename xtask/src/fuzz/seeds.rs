//! What a fuzzer starts from: the fixtures of the injection, and tokens.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::Target;
use crate::workspace;

/// Writes the seeds of `target` to `directory`.
pub(super) fn write(target: Target, directory: &Path) -> anyhow::Result<()> {
    let seeds = match target {
        Target::Review => pods()?.iter().map(review).collect(),
        Target::Annotations => pods()?.iter().map(annotations).collect(),
        Target::Token => tokens(),
    };
    for (number, seed) in seeds.iter().enumerate() {
        fs::write(directory.join(number.to_string()), seed)?;
    }
    Ok(())
}

/// The pods of the fixtures.
fn pods() -> anyhow::Result<Vec<Value>> {
    let directory = workspace::root().join("tests/fixtures/inject");
    let files = fs::read_dir(&directory).with_context(|| format!("no {}", directory.display()))?;
    let pod = |file: std::io::Result<fs::DirEntry>| -> anyhow::Result<Value> {
        let mut fixture: Value = serde_yaml_ng::from_str(&fs::read_to_string(file?.path())?)?;
        Ok(fixture["pod"].take())
    };
    files.map(pod).collect()
}

/// As the API server asks.
fn review(pod: &Value) -> String {
    json!({
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "1",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "namespace": "shop",
            "operation": "CREATE",
            "object": pod,
        },
    })
    .to_string()
}

fn annotations(pod: &Value) -> String {
    let value =
        |key: &str| pod["metadata"]["annotations"][format!("idtoken.dev/{key}")].as_str().unwrap_or_default();
    ["inject", "containers", "mount-path", "file-mode", "optional", "status"].map(value).join("\0")
}

/// Not encoded yet: the target does that, so that what is changed is what the parsers read.
fn tokens() -> Vec<String> {
    let times = json!({"iat": 1_795_348_800, "exp": 1_795_352_400});
    let claims = [
        json!({"iss": "https://accounts.google.com", "aud": "aud", "sub": "1", "email": "caller@p.iam.gserviceaccount.com", "email_verified": true}),
        json!({"iss": "https://securetoken.google.com/aud", "aud": ["aud"], "sub": "u", "firebase": {"tenant": "t"}, "auth_time": 1}),
        json!({"iss": "a@p.iam.gserviceaccount.com", "sub": "a@p.iam.gserviceaccount.com", "aud": "aud", "nbf": 1}),
    ];
    let token = |mut claims: Value| {
        for (name, value) in times.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        format!("{}\0{claims}\0signature", json!({"alg": "RS256", "kid": "k", "typ": "JWT"}))
    };
    let whole = "Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJtZSIsImF1ZCI6WyJhIiwiYiJdfQ.".to_owned();
    claims.map(token).into_iter().chain([whole]).collect()
}
