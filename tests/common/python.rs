//! Google's own Python library.

use std::{process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt as _, process::Command};

/// Runs a script in the environment that `IDTOKEN_PYTHON` names; what it prints. Whatever the library wants beyond the
/// loopback ends at a port where nobody listens.
pub async fn python(script: &str, input: &str, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let directory =
        std::env::var("IDTOKEN_PYTHON").expect("IDTOKEN_PYTHON names a venv with google-auth and requests");
    let nowhere = ["HTTP_PROXY", "HTTPS_PROXY"].map(|name| (name, "http://127.0.0.1:1"));
    let mut child = Command::new(format!("{directory}/bin/python"))
        .args(["-c", script])
        .args(arguments)
        .envs(nowhere)
        .env("NO_PROXY", "127.0.0.1")
        .env_remove("GOOGLE_APPLICATION_CREDENTIALS")
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output =
        tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}
