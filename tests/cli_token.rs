//! `token mint` and `token inspect`: the program itself, against the simulator of Google's APIs.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[path = "cli_token/bad_files.rs"]
mod bad_files;
#[path = "cli_token/emulator.rs"]
mod emulator;
#[path = "common/google_flags.rs"]
mod google_flags;
#[path = "cli_token/inspect.rs"]
mod inspect;
#[path = "cli_token/mint.rs"]
mod mint;
#[path = "cli_token/sources.rs"]
mod sources;

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use idtoken_operator::token::http::{Http, Request};
use tempfile::TempDir;
use xtask::google::{Google, Options, Role};

const OPERATOR: &str = "operator@demo-project.iam.gserviceaccount.com";
const CALLER: &str = "caller@demo-project.iam.gserviceaccount.com";
const AUDIENCE: &str = "https://orders-abc-uc.a.run.app";

/// A simulator, and a home for the program.
struct Bench {
    google: Google,
    home: TempDir,
    /// The program's environment, beside HOME.
    environment: Vec<(String, String)>,
}

/// How the program ended.
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Bench {
    /// The metadata server's account may have ID tokens of the caller.
    async fn start() -> Self {
        Self::with(|options| options).await
    }

    async fn with(change: impl FnOnce(Options) -> Options) -> Self {
        // Half a minute more than an hour: what is left is `1 h` in words, however slow the machine.
        let id_token_lifetime = Duration::from_secs(3630);
        let options = Options { metadata_cache_margin: None, id_token_lifetime, ..Options::default() }
            .service_account(CALLER)
            .allow(&format!("serviceAccount:{OPERATOR}"), Role::OpenIdTokenCreator, CALLER);
        let google = Google::start(change(options)).await.unwrap();
        Self { google, home: tempfile::tempdir().unwrap(), environment: Vec::new() }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The program with those of Google's endpoints that its subcommand knows, on a thread that the simulator does not need.
    async fn run(&self, arguments: &[&str], stdin: &str) -> Ended {
        let apis = google_flags::apis(&self.google);
        let apis = apis.into_iter().filter(|_| arguments.first() == Some(&"mint"));
        let endpoints = apis.chain(google_flags::keys(&self.google)).filter(|_| !arguments.is_empty());
        let arguments: Vec<_> =
            ["token"].iter().chain(arguments).map(|a| (*a).to_owned()).chain(endpoints).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_idtoken-operator"));
        command.args(arguments).env_clear().env("HOME", self.home.path());
        command.envs(self.environment.iter().cloned());
        let stdin = stdin.to_owned();
        tokio::task::spawn_blocking(move || ended(command, &stdin)).await.unwrap()
    }

    /// Mints from `text`, given on standard input.
    async fn mint(&self, text: &str, flags: &[&str]) -> Ended {
        self.run(&[&["mint", "-f", "-"], flags].concat(), text).await
    }

    /// A token straight from the metadata server, with whatever fault it has.
    async fn token(&self) -> String {
        let path = "/computeMetadata/v1/instance/service-accounts/default/identity?format=full&audience=";
        let url = format!("{}{path}{AUDIENCE}", self.google.metadata_url());
        let flavor = "metadata-flavor".parse().unwrap();
        let request = Request::get(url.parse().unwrap()).header(flavor, "Google".parse().unwrap());
        let reply = Http::new().unwrap().call(request).await.unwrap();
        assert_eq!(reply.status, 200);
        String::from_utf8(reply.body.to_vec()).unwrap()
    }
}

impl Ended {
    /// Nothing that was issued may be printed.
    fn assert_silent(&self, google: &Google) {
        for token in google.issued_tokens() {
            assert!(!self.out.contains(&token) && !self.err.contains(&token), "{}{}", self.out, self.err);
        }
        assert!(!self.out.contains("eyJ") && !self.err.contains("eyJ"), "{}{}", self.out, self.err);
    }
}

/// Runs the program to its end.
fn ended(mut program: Command, stdin: &str) -> Ended {
    let pipes = program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes()); // the program may not read it
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
