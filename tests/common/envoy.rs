//! A real Envoy on the loopback, as a receiver of tokens.

mod configuration;

use std::{path::PathBuf, time::Duration};

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::process::{Process, Program, wait_for};

use super::{SOON, free_port, http_client};

/// A running Envoy; it ends when this is dropped.
pub struct Envoy {
    process: Process,
    url: String,
    _directory: TempDir,
}

impl Envoy {
    /// Starts one that lets in tokens of `issuer` for one of `audiences`, signed by a key of the JWKS.
    pub async fn start(issuer: &str, audiences: &[&str], jwks: &str) -> Self {
        Self::with(&[("/".to_owned(), provider(issuer, audiences, jwks))]).await
    }

    /// Starts one that at each path lets in tokens of that path's provider.
    pub async fn with(providers: &[(String, Value)]) -> Self {
        let port = free_port();
        let directory = TempDir::new().unwrap();
        let bootstrap = directory.path().join("envoy.json");
        let configuration = configuration::bootstrap(("127.0.0.1", port), providers, &json!([]));
        std::fs::write(&bootstrap, configuration.to_string()).unwrap();
        let mut process = Program::new(program())
            .arg("--config-path")
            .arg(bootstrap)
            .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"])
            .spawn(&directory.path().join("envoy.log"))
            .unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let listening =
            wait_for("Envoy to listen", SOON, || http_client::send(Method::GET, &url, &[], String::new()));
        let failed = tokio::select! {
            listening = listening => listening.err(),
            ended = process.wait() => Some(process.ended_early(ended.unwrap())),
        };
        if let Some(error) = failed {
            panic!("{error:#}\n{}", process.log());
        }
        Self { process, url, _directory: directory }
    }

    /// What a caller with this token, or with none, gets: 200, 401 or 403, and the text.
    pub async fn call(&self, token: Option<&str>) -> (u16, String) {
        self.call_at("/", token).await
    }

    /// The same at a path.
    pub async fn call_at(&self, path: &str, token: Option<&str>) -> (u16, String) {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = authorization.iter().map(|value| ("authorization", value.as_str())).collect();
        let url = format!("{}{path}", self.url);
        http_client::send(Method::GET, &url, &headers, String::new()).await.unwrap()
    }

    /// Ends it.
    pub async fn stop(self) {
        self.process.stop(Duration::from_secs(10)).await.unwrap();
    }
}

/// Tokens of `issuer` for one of `audiences`, signed by a key of the JWKS.
pub fn provider(issuer: &str, audiences: &[&str], jwks: &str) -> Value {
    json!({"issuer": issuer, "audiences": audiences, "local_jwks": {"inline_string": jwks}})
}

fn program() -> PathBuf {
    std::env::var_os("IDTOKEN_ENVOY").expect("IDTOKEN_ENVOY names Envoy's program").into()
}
