//! The promises of `cargo xtask demo`.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use xtask::demo::build_operator;
use xtask::process::{Process, Program, wait_for};

#[tokio::test]
#[ignore = "tier api: needs a kube-apiserver"]
async fn every_step_is_observed_and_nothing_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let (status, printed) = ended(demo(directory.path(), &["--once"])).await;
    assert!(status.success(), "{printed}");
    for expected in [
        "\n1. The operator is installed\n",
        ": caBundle of ",
        "https://orders-abc-uc.a.run.app   caller@demo-project.iam.gserviceaccount.com",
        "Ready=True TokenFresh: Secret orders-idtoken holds a verified token\n",
        "  iss    https://accounts.google.com\n",
        "  aud    https://orders-abc-uc.a.run.app\n",
        "  email  caller@demo-project.iam.gserviceaccount.com\n",
        "  exp    ",
        "before the old token's end\n",
        "- mountPath: /var/run/secrets/idtoken.dev\n",
        "name: IDTOKEN_FILE_ORDERS\n",
        "Error from server (BadRequest): admission webhook \"pods.idtoken.dev\" denied the request: annotation \
         idtoken.dev/file-mode: \"999\" is not a file mode",
        "\nAll steps were observed. (7 steps, ",
    ] {
        assert!(printed.contains(expected), "no {expected:?} in:\n{printed}");
    }
    assert!(!printed.contains("eyJ"), "a token was printed");
    assert_eq!(files(directory.path()), ["log"]);
}

#[tokio::test]
#[ignore = "tier api: needs a kube-apiserver"]
async fn every_source_has_a_row_that_was_observed() {
    let directory = tempfile::tempdir().unwrap();
    let (status, printed) = ended(demo(directory.path(), &["--all-sources", "--once"])).await;
    assert!(status.success(), "{printed}");
    let squeezed = printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let lines: Vec<_> = squeezed.collect();
    for row in [
        "metadataServer operator@demo-project.iam.gserviceaccount.com https://status-abc-uc.a.run.app https://accounts.google.com 2",
        "impersonation caller@demo-project.iam.gserviceaccount.com https://orders-abc-uc.a.run.app https://accounts.google.com 2",
        "impersonation caller@demo-project.iam.gserviceaccount.com 123456789012-iap.apps.googleusercontent.com https://accounts.google.com 2",
        "kubernetesServiceAccount app@demo-project.iam.gserviceaccount.com https://europe-west1-demo-project.cloudfunctions.net/invoices https://accounts.google.com 2",
        "kubernetesServiceAccount batch@demo-project.iam.gserviceaccount.com https://stock.endpoints.demo-project.cloud.goog https://accounts.google.com 2",
        "serviceAccountKey partner@demo-project.iam.gserviceaccount.com https://partner-abc.ew.gateway.dev https://accounts.google.com 2",
        "userCredentials developer@example.com 764086051850-demo.apps.googleusercontent.com https://accounts.google.com 2",
        "identityPlatform robot@example.com demo-project https://securetoken.google.com/demo-project 2",
        "identityPlatform robot@tenant.example.com demo-project https://securetoken.google.com/demo-project 2",
        "signedJwt signer@demo-project.iam.gserviceaccount.com https://admin.example.com/* signer@demo-project.iam.gserviceaccount.com 2",
    ] {
        assert_eq!(lines.iter().filter(|line| line.starts_with(row)).count(), 1, "{row} in:\n{printed}");
    }
    for expected in [
        "Stalled=True CredentialsRefused: ",
        "refused sign-ins: 1; 8 s later: 1\n",
        "Ready=True TokenFresh: Secret wrong-idtoken holds a verified token\n",
        "\nAll steps were observed. (8 steps, ",
    ] {
        assert!(printed.contains(expected), "no {expected:?} in:\n{printed}");
    }
    for secret in
        ["eyJ", "correct horse", "not the password", "AIza-demo-key", "1//demo-refresh", "PRIVATE KEY"]
    {
        assert!(!printed.contains(secret), "{secret} was printed");
    }
    assert_eq!(files(directory.path()), ["log"]);
}

#[tokio::test]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_step_that_does_not_happen_fails_the_demo() {
    let directory = tempfile::tempdir().unwrap();
    let misled = directory.path().join("misled");
    fs::write(&misled, MISLED.replace("OPERATOR", build_operator().unwrap().to_str().unwrap())).unwrap();
    fs::set_permissions(&misled, fs::Permissions::from_mode(0o755)).unwrap();
    let misled = misled.to_str().unwrap();
    let (status, printed) = ended(demo(directory.path(), &["--once", "--program", misled])).await;
    assert_eq!(status.code(), Some(1), "{printed}");
    assert!(printed.contains("  expected: condition Ready=True within 30 s\n"), "{printed}");
    assert!(!printed.contains("All steps were observed"), "{printed}");
    assert!(printed.contains("  seen:     Ready=False SourceUnavailable: "), "{printed}");
}

#[tokio::test]
#[ignore = "tier api: needs a kube-apiserver"]
async fn ctrl_c_ends_everything() {
    let directory = tempfile::tempdir().unwrap();
    let mut demo = demo(directory.path(), &[]);
    wait_for("the end of the show", LIMIT, async || {
        anyhow::ensure!(demo.log().contains("Ctrl-C ends the demo"), "{}", demo.log());
        Ok(())
    })
    .await
    .unwrap();
    let kubeconfig =
        demo.log().split("export KUBECONFIG='").nth(1).unwrap().split('\'').next().unwrap().to_owned();
    assert!(Path::new(&kubeconfig).exists());
    demo.signal("INT").unwrap();
    let (status, printed) = ended(demo).await;
    assert!(status.success(), "{printed}");
    assert!(!Path::new(&kubeconfig).exists());
    assert_eq!(files(directory.path()), ["log"]);
}

/// Starts the demo with the temporary directory `home`.
fn demo(home: &Path, arguments: &[&str]) -> Process {
    let program = Program::new(env!("CARGO_BIN_EXE_xtask")).arg("demo").args(arguments.iter().copied());
    program.env("TMPDIR", home).spawn(&home.join("log")).unwrap()
}

async fn ended(mut demo: Process) -> (ExitStatus, String) {
    let status = demo.wait_within(LIMIT).await.unwrap();
    let printed = demo.log();
    (status.unwrap_or_else(|| panic!("the demo does not end:\n{printed}")), printed)
}

fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

const LIMIT: Duration = Duration::from_secs(600);

/// The real operator, but Google is not where it looks for it.
const MISLED: &str = r#"#!/bin/sh
for argument; do
    shift
    case $argument in
    --iam-credentials-url=*) argument=--iam-credentials-url=http://127.0.0.1:1 ;;
    esac
    set -- "$@" "$argument"
done
exec OPERATOR "$@"
"#;
