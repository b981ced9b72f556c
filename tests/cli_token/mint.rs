//! `token mint`: each source, from a file.

use serde_json::Value;
use xtask::google::{Endpoint, Fault};

use super::{AUDIENCE, Bench};

/// The binding `orders`, with a source of its own.
pub(super) fn binding(source: &str) -> String {
    format!(
        "apiVersion: idtoken.dev/v1alpha1\nkind: IdTokenBinding\nmetadata: {{name: orders, namespace: shop}}\n\
         spec:\n  audience: {AUDIENCE}\n  source: {source}\n"
    )
}

const IMPERSONATION: &str = "{impersonation: {serviceAccount: caller@demo-project.iam.gserviceaccount.com}}";

#[tokio::test(flavor = "multi_thread")]
async fn the_claims_are_shown_and_the_token_is_not() {
    let bench = Bench::start().await;
    let ended = bench.mint(&binding(IMPERSONATION), &[]).await;
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{}", ended.out);
    for line in [
        "source     impersonation\nidentity   caller@demo-project.iam.gserviceaccount.com\n\
         issuer     https://accounts.google.com\naudience   https://orders-abc-uc.a.run.app\nissued     2",
        "Z (in 1 h)\nsignature  good: by a key of the issuer\nclaims\n  aud             https://orders-abc-uc.a.run.app\n",
        "  email           caller@demo-project.iam.gserviceaccount.com\n",
    ] {
        assert!(ended.out.contains(line), "no {line:?} in\n{}", ended.out);
    }
    ended.assert_silent(&bench.google);
    assert_eq!(bench.google.count(Endpoint::GenerateIdToken), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_is_the_token_and_nothing_else() {
    let bench = Bench::start().await;
    let ended = bench.mint(&binding("{metadataServer: {}}"), &["--raw"]).await;
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert!(bench.google.issued_tokens().contains(&ended.out), "no newline, in a pipe: {:?}", ended.out);
    let inspected = bench.run(&["inspect", "--audience", AUDIENCE], &ended.out).await;
    assert_eq!(inspected.code, 0, "{}", inspected.err);
    let both = bench.mint(&binding("{metadataServer: {}}"), &["--raw", "--json"]).await;
    assert_eq!(both.code, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_for_programs() {
    let bench = Bench::start().await;
    let ended = bench.mint(&binding("{metadataServer: {}}"), &["--json"]).await;
    let value: Value = serde_json::from_str(&ended.out).unwrap();
    for (field, expected) in [
        ("source", "metadataServer"),
        ("identity", "operator@demo-project.iam.gserviceaccount.com"),
        ("issuer", "https://accounts.google.com"),
        ("audience", AUDIENCE),
    ] {
        assert_eq!(value[field], expected);
    }
    assert_eq!((&value["signature"], &value["claims"]["email_verified"]), (&"good".into(), &true.into()));
    let fields: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        fields,
        [
            "audience",
            "claims",
            "expirationTime",
            "identity",
            "issueTime",
            "issuer",
            "secondsLeft",
            "signature",
            "source"
        ]
    );
    assert!((3600..=3630).contains(&value["secondsLeft"].as_i64().unwrap()), "{value}");
    ended.assert_silent(&bench.google);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_has_its_reason_and_ends_with_1() {
    let bench = Bench::start().await;
    bench.google.set_fault(Endpoint::GenerateIdToken, Fault::TooManyRequests { retry_after: None });
    let ended = bench.mint(&binding(IMPERSONATION), &["--raw"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (1, ""));
    assert!(ended.err.starts_with("error: QuotaExceeded: "), "{}", ended.err);
    bench.google.set_fault(Endpoint::GenerateIdToken, Fault::WrongAudience);
    let ended = bench.mint(&binding(IMPERSONATION), &["--raw"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (1, ""), "a token that is not the right one is not printed");
    assert!(
        ended.err.starts_with("error: TokenRejected: impersonation: the token's audience is "),
        "{}",
        ended.err
    );
    ended.assert_silent(&bench.google);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_can_not_be_checked_is_said() {
    let bench = Bench::start().await;
    bench.google.set_fault(Endpoint::Jwks, Fault::Unavailable);
    let ended = bench.mint(&binding("{metadataServer: {}}"), &[]).await;
    assert_eq!(ended.code, 0);
    assert_eq!(ended.err, "warning: the signature was not checked: the issuer's keys can't be fetched\n");
    assert!(ended.out.contains("\nsignature  not checked\n"), "{}", ended.out);
    let json = bench.mint(&binding("{metadataServer: {}}"), &["--json"]).await;
    let value: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((json.code, &value["signature"]), (0, &"unchecked".into()));
    for form in ["--json", "--raw"] {
        let ended = bench.mint(&binding("{metadataServer: {}}"), &["--require-signature", form]).await;
        assert_eq!((ended.code, ended.out.as_str()), (1, ""), "a failure prints nothing on standard output");
        assert!(ended.err.starts_with("error: TokenRejected: "), "{}", ended.err);
        ended.assert_silent(&bench.google);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_ends_with_2_and_help_has_examples() {
    let bench = Bench::start().await;
    let binding = binding("{metadataServer: {}}");
    for usage in
        [&["mint"][..], &["inspect", "--nonsense"], &["inspect", "--sts-url=https://x.example.com"], &[]]
    {
        assert_eq!(bench.run(usage, "").await.code, 2, "{usage:?}");
    }
    for (flag, message) in [
        (
            "--jwks-url=https://x.example.com=https://x.example.com/jwks",
            "error: --jwks-url \"https://x.example.com=https://x.example.com/jwks\" is not valid: tokens come from ",
        ),
        (
            "--jwks-url=gserviceaccount.com=https://x.example.com/jwks",
            "error: --jwks-url \"gserviceaccount.com=https://x.example.com/jwks\" is not valid: write {email} where the address belongs\n",
        ),
        (
            "--universe-domain=X",
            "error: --universe-domain \"X\" is not valid: write a domain such as googleapis.com\n",
        ),
    ] {
        for command in [&["mint", "-f", "-", flag][..], &["inspect", flag]] {
            let ended = bench.run(command, &binding).await;
            assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{command:?}: {}", ended.err);
            assert!(ended.err.starts_with(message), "{command:?}: {}", ended.err);
        }
    }
    let program = env!("CARGO_BIN_EXE_idtoken-operator");
    for (arguments, message) in [
        (
            ["token", "mint", "-f", "-", "--sts-url=http://sts.example.com"].as_slice(),
            "error: --sts-url \"http://sts.example.com\" is not valid: use https: credentials would cross the network in the clear\n",
        ),
        (
            &["controller", "--oauth-token-url=x?y"],
            "error: --oauth-token-url \"x?y\" is not valid: write https://HOST[:PORT][/PATH]\n",
        ),
        (
            &["controller", "--namespace=Shop"],
            "error: --namespace \"Shop\" can't be the name of a namespace: at most 63 lower-case letters, digits and '-'\n",
        ),
    ] {
        let mut command = std::process::Command::new(program);
        command.args(arguments).env_clear();
        let ended = super::ended(command, &binding);
        assert_eq!((ended.code, ended.err.as_str()), (2, message), "{arguments:?}");
    }
    for command in ["mint", "inspect"] {
        let help = bench.run(&[command, "--help"], "").await;
        assert_eq!(help.code, 0);
        assert!(help.out.contains("Examples:\n  "), "{}", help.out);
    }
}
