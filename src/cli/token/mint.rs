//! `idtoken-operator token mint`.

use std::{fmt::Write as _, path::PathBuf};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use serde_json::json;

use super::{
    super::{WrongUsage, endpoints::EndpointArgs, identity::IdentityArgs, process},
    in_file::InFile,
    io,
    jwt::Jwt,
    words::{fields, harmless, moment},
};
use crate::{
    clock,
    controller::obtain::obtain,
    plan::{
        Problem,
        manifest::Manifest,
        secret::Record,
        validate::{Wanted, validate},
    },
    token::{
        RawToken,
        endpoints::{Endpoints, parse},
        http::Http,
        mint::Minter,
        operator::Operator,
    },
    verify::{Verifier, jwks::Jwks},
};

/// Get a token as the controller would, from a file with a binding, without a cluster
///
/// FILE holds the IdTokenBinding and, as further YAML documents, the Secrets and the ServiceAccount that it names; the Secrets need
/// the label that they need in the cluster. IdTokenGrants are not asked. The token is verified and its claims are shown; the token
/// itself is printed with --raw only. Nothing is written anywhere.
///
/// The operator's identity, for the sources that use it, is found as Google's libraries do: the file that
/// GOOGLE_APPLICATION_CREDENTIALS names, gcloud's application-default credentials, the metadata server.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// YAML file with the binding and what it names; -: standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Print the token and nothing else, to a file or a pipe without a newline behind it
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Print JSON, without the token
    #[arg(long)]
    json: bool,
    /// Refuse a token whose signature can't be checked because the issuer's keys can't be fetched
    #[arg(long, conflicts_with = "identity_platform_emulator")]
    require_signature: bool,
    /// Token of the Kubernetes ServiceAccount, for the source kubernetesServiceAccount: here is no cluster to ask for one
    #[arg(long, value_name = "FILE")]
    subject_token_file: Option<PathBuf>,
    /// The Firebase Auth emulator in place of Identity Platform, such as http://127.0.0.1:9099. Nobody signs its tokens, and no real
    /// service takes them
    #[arg(long, value_name = "URL")]
    identity_platform_emulator: Option<String>,
    #[command(flatten)]
    identity: IdentityArgs,
    #[command(flatten)]
    endpoints: EndpointArgs,
}

const EXAMPLES: &str = "Examples:
  idtoken-operator token mint -f binding.yaml
  curl -H \"Authorization: Bearer $(idtoken-operator token mint -f binding.yaml --raw)\" https://orders-abc-uc.a.run.app
  kubectl -n shop get itb/orders secret/caller-key -o yaml | idtoken-operator token mint -f -";

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let name = io::name(&args.file);
    let text = io::read(&args.file, "a binding", MAX_INPUT)?;
    let manifest = Manifest::parse(&text).map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
    let document = manifest.document;
    let wanted = validate(&manifest.binding)
        .map_err(|problem| anyhow::anyhow!("{name}: document {document}: {}", said(&problem)))?;
    let (mut endpoints, keys) = (args.endpoints.endpoints()?, args.endpoints.key_urls()?);
    if let Some(emulator) = &args.identity_platform_emulator {
        sign_in_at(emulator, &mut endpoints)?;
    }
    let credentials = InFile::new(&name, &manifest, args.subject_token_file);
    process::block_on(async |stop| {
        let http = Http::new().context("the system's CA certificates can't be loaded")?;
        let operator = Operator::new(&http, &endpoints, args.identity.sources(true)?);
        let minter = Minter::new(&http, &endpoints, operator);
        let jwks = Jwks::new(http, keys);
        let verifier = match args.identity_platform_emulator {
            None => Verifier::new(jwks, args.require_signature),
            Some(_) => Verifier::unsigned(jwks),
        };
        let obtaining = obtain(&minter, &verifier, &wanted, &credentials, || std::future::ready(Ok(())));
        let Some(obtained) = stop.run_until_cancelled(obtaining).await else {
            bail!("ended by a signal before the token had come");
        };
        let obtained = obtained.map_err(|problem| anyhow::anyhow!(said(&problem)))?;
        let (token, record) = (&obtained.token, obtained.record(&wanted));
        let parts =
            Jwt::parse(token.expose()).map_err(|why| anyhow::anyhow!("the token can't be shown: {why}"))?;
        let minted = Minted { wanted: &wanted, record, parts };
        if let Some(warning) = minted.warning() {
            eprintln!("warning: {warning}");
        }
        io::print(&if args.raw {
            raw(token)
        } else if args.json {
            minted.json(clock::now())
        } else {
            minted.text(clock::now())
        })
    })
}

fn said(problem: &Problem) -> String {
    format!("{}: {}", problem.reason, problem.message)
}

/// A newline is for people: in a file or a header it would belong to the token.
fn raw(token: &RawToken) -> String {
    let end = if io::is_terminal() { "\n" } else { "" };
    format!("{}{end}", token.expose())
}

/// Has the emulator at `url` asked in place of Identity Platform.
fn sign_in_at(url: &str, endpoints: &mut Endpoints) -> Result<(), WrongUsage> {
    let origin = |host: &str| {
        let url = format!("{}/{host}", url.trim_end_matches('/'));
        parse("--identity-platform-emulator", &url, false).map_err(WrongUsage)
    };
    endpoints.identity_toolkit = origin("identitytoolkit.googleapis.com")?;
    endpoints.secure_token = origin("securetoken.googleapis.com")?;
    Ok(())
}

/// What is shown of a token.
struct Minted<'a> {
    wanted: &'a Wanted,
    record: Record,
    parts: Jwt,
}

impl Minted<'_> {
    /// Whether it says of itself that nobody signed it.
    fn is_unsigned(&self) -> bool {
        self.parts.header.get("alg").is_some_and(|alg| alg == "none")
    }

    fn warning(&self) -> Option<&'static str> {
        match (self.record.signature_checked, self.is_unsigned()) {
            (true, _) => None,
            (false, true) => Some("nobody signed this token of the emulator, and no real service takes it"),
            (false, false) => Some("the signature was not checked: the issuer's keys can't be fetched"),
        }
    }

    fn text(&self, now: Timestamp) -> String {
        let Self { wanted, record, .. } = self;
        let signature = match (record.signature_checked, self.is_unsigned()) {
            (true, _) => "good: by a key of the issuer",
            (false, true) => "none",
            (false, false) => "not checked",
        };
        let rows = [
            ("source", wanted.source.label().to_owned()),
            ("identity", harmless(record.identity.as_deref().unwrap_or_default())),
            ("issuer", harmless(&record.issuer)),
            ("audience", harmless(wanted.audience.as_str())),
            ("issued", moment(record.life.issued, now)),
            ("expires", moment(record.life.expires, now)),
            ("signature", signature.to_owned()),
        ];
        let mut text = rows.iter().fold(String::new(), |mut text, (name, value)| {
            let _ = writeln!(text, "{name:<10} {value}"); // writing to a String can't fail
            text
        });
        text.push_str("claims\n");
        text.push_str(&fields(&self.parts.claims));
        text
    }

    fn json(&self, now: Timestamp) -> String {
        let Record { issuer, identity, life, signature_checked, .. } = &self.record;
        let signature = match (signature_checked, self.is_unsigned()) {
            (true, _) => "good",
            (false, true) => "none",
            (false, false) => "unchecked",
        };
        let value = json!({
            "source": self.wanted.source.label(),
            "identity": identity,
            "issuer": issuer,
            "audience": self.wanted.audience.as_str(),
            "issueTime": life.issued,
            "expirationTime": life.expires,
            "secondsLeft": life.expires.as_second() - now.as_second(),
            "signature": signature,
            "claims": self.parts.claims,
        });
        format!("{value:#}\n")
    }
}

/// Many Secrets of Kubernetes' largest size.
const MAX_INPUT: usize = 16 * 1024 * 1024;
