//! `idtoken-operator token inspect`.

use std::{fmt::Write as _, path::PathBuf};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    super::{endpoints::KeyArgs, process},
    io,
    jwt::{Jwt, Signature},
    words::{fields, harmless, moment, span},
};
use crate::{
    clock,
    token::http::Http,
    verify::{claims::MAX_CLOCK_SKEW_SECONDS, jwks::Jwks},
};

/// Show what a token says, how long it lives, and whether its issuer has signed it
///
/// The token itself is never printed. Blanks around it, `Bearer` before it and base64 around it are tolerated. The signature
/// is compared with the published keys of Google, Identity Platform or the service account that the token names as its issuer;
/// of other issuers it is not checked, which fails with --require-signature only. Exit code 1: the token is over, not yet valid, for
/// another audience, or its signature is wrong.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// File that holds the token; -: standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    /// The audience that the token must have
    #[arg(long, value_name = "AUDIENCE")]
    audience: Option<String>,
    /// Fail, too, when the signature can't be checked: of an unknown issuer, or without the issuer's keys
    #[arg(long)]
    require_signature: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    keys: KeyArgs,
}

const EXAMPLES: &str = "Examples:
  kubectl -n shop get secret orders-idtoken -o jsonpath='{.data.id_token}' | idtoken-operator token inspect
  idtoken-operator token inspect --audience https://orders-abc-uc.a.run.app \"$IDTOKEN_FILE\"
  gcloud auth print-identity-token | idtoken-operator token inspect --json | jq .claims";

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let keys = args.keys.key_urls()?;
    let text = io::read(&args.file, "a token", MAX_INPUT)?;
    let jwt =
        Jwt::parse(&text).map_err(|why| anyhow::anyhow!("{} holds no JWT: {why}", io::name(&args.file)))?;
    process::block_on(async |stop| {
        let http = Http::new().context("the system's CA certificates can't be loaded")?;
        let jwks = Jwks::new(http, keys);
        let Some(signature) = stop.run_until_cancelled(jwt.signature(&jwks)).await else {
            bail!("ended by a signal before the issuer's keys had come");
        };
        let mut found = Findings::of(&jwt, signature, args.audience.as_deref(), clock::now());
        if args.require_signature {
            found.complain_of_unchecked();
        }
        io::print(&if args.json { found.json(&jwt) } else { found.text(&jwt) })?;
        match found.complaints.as_slice() {
            [] => Ok(()),
            complaints => bail!("{}", complaints.join("; ")),
        }
    })
}

/// What is to be said of a token beside its claims.
struct Findings {
    issued: Option<Timestamp>,
    expires: Option<Timestamp>,
    signature: Signature,
    /// Whether the audience is the one that was asked about.
    audience: Option<bool>,
    now: Timestamp,
    /// Why the token is not good; none: nothing was found against it.
    complaints: Vec<String>,
}

impl Findings {
    fn of(jwt: &Jwt, signature: Signature, audience: Option<&str>, now: Timestamp) -> Self {
        let time = |claim: &str| {
            let seconds = jwt.claims.get(claim).and_then(Value::as_f64)?;
            #[allow(clippy::cast_possible_truncation)] // fractions of a second don't matter
            Timestamp::from_second(seconds as i64).ok()
        };
        let (issued, expires) = (time("iat"), time("exp"));
        let audience = audience.map(|wanted| (wanted, jwt.audiences().contains(&wanted)));
        let mut complaints = Vec::new();
        match expires {
            None => complaints.push("the token has no end (exp)".to_owned()),
            Some(end) if end <= now => {
                complaints.push(format!("the token expired {} ago", span(now.as_second() - end.as_second())));
            }
            Some(_) => {}
        }
        for (claim, from) in [("iat", issued), ("nbf", time("nbf"))] {
            let ahead = from.map_or(0, |from| from.as_second() - now.as_second());
            if ahead > MAX_CLOCK_SKEW_SECONDS {
                complaints.push(format!("the token is not valid yet: its {claim} is {} ahead", span(ahead)));
            }
        }
        if let Some((wanted, false)) = audience {
            let received: Vec<_> = jwt.audiences().into_iter().map(|aud| format!("{aud:?}")).collect();
            let received = if received.is_empty() { "none".to_owned() } else { received.join(", ") };
            complaints.push(format!("the token's audience is {received}, not {wanted:?}"));
        }
        if let Signature::Wrong(why) = &signature {
            complaints.push(format!("the signature is wrong: {why}"));
        }
        Self { issued, expires, signature, audience: audience.map(|(_, same)| same), now, complaints }
    }

    fn complain_of_unchecked(&mut self) {
        if let Signature::Unchecked(why) = &self.signature {
            self.complaints.push(format!("the signature is not checked: {why}"));
        }
    }

    fn text(&self, jwt: &Jwt) -> String {
        let when = |time: Option<Timestamp>| time.map_or("unknown".to_owned(), |time| moment(time, self.now));
        let mut text = format!("header\n{}claims\n{}", fields(&jwt.header), fields(&jwt.claims));
        let signature = match &self.signature {
            Signature::Good => {
                format!("good: by a key of {}", jwt.text("iss").map(harmless).unwrap_or_default())
            }
            Signature::Wrong(why) => format!("wrong: {why}"),
            Signature::Unchecked(why) => format!("not checked: {why}"),
        };
        let audience = self.audience.map(|same| if same { "as expected" } else { "another than expected" });
        let rows = [
            ("issued", Some(when(self.issued))),
            ("expires", Some(when(self.expires))),
            ("audience", audience.map(str::to_owned)),
            ("signature", Some(signature)),
        ];
        for (name, value) in rows {
            if let Some(value) = value {
                let _ = writeln!(text, "{name:<10} {value}"); // writing to a String can't fail
            }
        }
        text
    }

    fn json(&self, jwt: &Jwt) -> String {
        let (signature, detail) = match &self.signature {
            Signature::Good => ("good", None),
            Signature::Wrong(why) => ("wrong", Some(why)),
            Signature::Unchecked(why) => ("unchecked", Some(why)),
        };
        let value = json!({
            "header": jwt.header,
            "claims": jwt.claims,
            "issueTime": self.issued,
            "expirationTime": self.expires,
            "secondsLeft": self.expires.map(|end| end.as_second() - self.now.as_second()),
            "signature": signature,
            "signatureDetail": detail,
            "audienceMatches": self.audience,
            "problems": self.complaints,
        });
        format!("{value:#}\n")
    }
}

/// More than any token, and more than its base64.
const MAX_INPUT: usize = 64 * 1024;
