//! Firebase's emulator of Identity Platform on the loopback, as its command line tool starts it.

use std::{path::PathBuf, time::Duration};

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::process::{Process, Program, wait_for};

use super::{SOON, free_port, http_client};

/// A running emulator; it ends when this is dropped.
pub struct Emulator {
    process: Process,
    origin: String,
    project: String,
    _directory: TempDir,
}

impl Emulator {
    /// Starts one for a project, whose ID begins with `demo-`: then the tool asks nothing of the real Firebase.
    pub async fn start(project: &str) -> Self {
        assert!(project.starts_with("demo-"), "{project} may be a real project");
        let directory = TempDir::new().unwrap();
        let port = free_port();
        let on = |port: u16| json!({"host": "127.0.0.1", "port": port});
        let configuration = json!({"emulators": {
            "auth": on(port), "hub": on(free_port()), "logging": on(free_port()), "ui": {"enabled": false},
        }});
        std::fs::write(directory.path().join("firebase.json"), configuration.to_string()).unwrap();
        let mut process = Program::new("node")
            .arg(program())
            .args(["emulators:start", "--only", "auth", "--project", project])
            // What the tool keeps of its own goes where the test ends it.
            .env("HOME", directory.path())
            .env("XDG_CONFIG_HOME", directory.path())
            .env("TMPDIR", directory.path())
            // No look for updates and no message of the day; usage is told only by who has agreed.
            .env("CI", "true")
            .env("NO_UPDATE_NOTIFIER", "1")
            .current_dir(directory.path())
            .spawn(&directory.path().join("emulator.log"))
            .unwrap();
        let origin = format!("http://127.0.0.1:{port}");
        let ready = wait_for("the emulator to be ready", START_LIMIT, || async {
            let said: Value = serde_json::from_str(&http_client::get(&origin).await?)?;
            anyhow::ensure!(said["authEmulator"]["ready"] == true, "it says {said}");
            Ok(())
        });
        let failed = tokio::select! {
            ready = ready => ready.err(),
            ended = process.wait() => Some(process.ended_early(ended.unwrap())),
        };
        if let Some(error) = failed {
            panic!("{error:#}\n{}", process.log());
        }
        Self { process, origin, project: project.to_owned(), _directory: directory }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Makes a tenant; its ID.
    pub async fn create_tenant(&self) -> String {
        let answer =
            self.administer(Method::POST, "v2", "/tenants", &json!({"allowPasswordSignup": true})).await;
        answer["tenantId"].as_str().unwrap().to_owned()
    }

    /// Makes a user, of the tenant if one is given; the user's ID.
    pub async fn sign_up(&self, email: &str, password: &str, tenant: Option<&str>) -> String {
        let (status, answer) = self.accounts("signUp", &credentials(email, password, tenant)).await;
        assert_eq!(status, 200, "{answer}");
        answer["localId"].as_str().unwrap().to_owned()
    }

    /// Changes a user of the project itself as an administrator does: `{"password": …}`, `{"disableUser": true}`.
    pub async fn update(&self, local_id: &str, change: &Value) {
        let mut body = change.clone();
        body["localId"] = json!(local_id);
        self.administer(Method::POST, "v1", "/accounts:update", &body).await;
    }

    /// Deletes a user of the project itself as an administrator does.
    pub async fn delete(&self, local_id: &str) {
        self.administer(Method::POST, "v1", "/accounts:delete", &json!({"localId": local_id})).await;
    }

    /// Changes the project's configuration as an administrator does.
    pub async fn configure(&self, change: &Value) {
        self.administer(Method::PATCH, "v2", "/config", change).await;
    }

    /// Ends it.
    pub async fn stop(self) {
        self.process.stop(Duration::from_secs(10)).await.unwrap();
    }

    /// Calls the project's own API; the answer, which must be a success.
    async fn administer(&self, method: Method, version: &str, path: &str, body: &Value) -> Value {
        let project =
            format!("{}/identitytoolkit.googleapis.com/{version}/projects/{}", self.origin, self.project);
        let headers = [("content-type", "application/json"), ("authorization", ADMINISTRATOR)];
        let url = format!("{project}{path}");
        let (status, answer) = http_client::send(method, &url, &headers, body.to_string()).await.unwrap();
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).unwrap()
    }

    async fn accounts(&self, method: &str, body: &Value) -> (u16, Value) {
        let url =
            format!("{}/identitytoolkit.googleapis.com/v1/accounts:{method}?key={API_KEY}", self.origin);
        http_client::post_json(&url, None, body).await.unwrap()
    }
}

fn credentials(email: &str, password: &str, tenant: Option<&str>) -> Value {
    let mut body = json!({"email": email, "password": password, "returnSecureToken": true});
    if let Some(tenant) = tenant {
        body["tenantId"] = json!(tenant);
    }
    body
}

fn program() -> PathBuf {
    std::env::var_os("IDTOKEN_FIREBASE").expect("IDTOKEN_FIREBASE names firebase-tools' program").into()
}

/// Loading the tool takes seconds of a processor that others want too.
const START_LIMIT: Duration = SOON.saturating_mul(6);

/// The emulator takes any key, but wants one.
const API_KEY: &str = "demo";

/// What the emulator takes for an administrator's access token.
const ADMINISTRATOR: &str = "Bearer owner";
