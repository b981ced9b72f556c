//! Google's own Python library.

use tokio::process::Command;

use super::child;

/// Runs a script in the environment that `IDTOKEN_PYTHON` names; what it prints. Whatever the library wants beyond the
/// loopback ends at a port where nobody listens.
pub async fn python(script: &str, input: &str, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let directory =
        std::env::var("IDTOKEN_PYTHON").expect("IDTOKEN_PYTHON names a venv with google-auth and requests");
    let nowhere = ["HTTP_PROXY", "HTTPS_PROXY"].map(|name| (name, "http://127.0.0.1:1"));
    let mut interpreter = Command::new(format!("{directory}/bin/python"));
    interpreter
        .args(["-c", script])
        .args(arguments)
        .envs(nowhere)
        .env("NO_PROXY", "127.0.0.1")
        .env_remove("GOOGLE_APPLICATION_CREDENTIALS")
        .envs(environment.iter().copied());
    let output = child::output(&mut interpreter, input).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}
