//! `token inspect`.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;
use xtask::google::{Endpoint, Fault};

use super::{AUDIENCE, Bench};

#[tokio::test(flavor = "multi_thread")]
async fn a_good_token_is_shown_and_never_printed() {
    let bench = Bench::start().await;
    let token = bench.token().await;
    let ended = bench.run(&["inspect", "--audience", AUDIENCE], &token).await;
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{}", ended.out);
    for line in [
        "header\n  alg  RS256\n  kid  ",
        "\n  typ  JWT\nclaims\n",
        "  aud             https://orders-abc-uc.a.run.app\n",
        "  email           operator@demo-project.iam.gserviceaccount.com\n",
        "  email_verified  true\n",
        "  iss             https://accounts.google.com\n",
        "Z (in 1 h)\n",
        "\naudience   as expected\nsignature  good: by a key of https://accounts.google.com\n",
    ] {
        assert!(ended.out.contains(line), "no {line:?} in\n{}", ended.out);
    }
    ended.assert_silent(&bench.google);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_bearer_and_a_secrets_data_are_taken() {
    let bench = Bench::start().await;
    let token = bench.token().await;
    let file = bench.file("token", &format!("{token}\n"));
    let from_file = bench.run(&["inspect", file.to_str().unwrap()], "").await;
    let bearer = bench.run(&["inspect", "-"], &format!("  Bearer {token}\r\n")).await;
    let secret = bench.run(&["inspect"], &BASE64_STANDARD.encode(&token)).await;
    for ended in [from_file, bearer, secret] {
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert!(ended.out.contains("\nsignature  good: by a key of https://accounts.google.com\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_place_of_a_files_name_is_not_quoted() {
    let bench = Bench::start().await;
    let token = bench.token().await;
    for argument in [token.clone(), format!("Bearer {token}"), BASE64_STANDARD.encode(&token)] {
        let ended = bench.run(&["inspect", &argument], "").await;
        assert_eq!((ended.code, ended.out.as_str()), (1, ""));
        assert_eq!(ended.err, "error: the argument is no file; give a token on standard input\n");
    }
    let unquoted = bench.run(&["inspect", "Bearer", &token], "").await;
    assert_eq!((unquoted.code, unquoted.out.as_str()), (2, ""));
    assert_eq!(unquoted.err, "error: a token stands on the command line; give it on standard input\n");
    let missing = bench.run(&["inspect", "missing"], "").await;
    assert_eq!(missing.err, "error: missing can't be read: No such file or directory (os error 2)\n");
    let binding = bench.run(&["mint", "-f", "{kind: IdTokenBinding}"], "").await;
    assert_eq!(binding.err, "error: the argument is no file; give a binding on standard input\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_token_is_said_and_ends_with_1() {
    let bench = Bench::start().await;
    let table = [
        (Fault::ExpiredToken, "error: the token expired 10 min"),
        (Fault::FutureIat, "error: the token is not valid yet: its iat is "),
        (Fault::WrongAudience, "error: the token's audience is \""),
        (Fault::BadSignature, "error: the signature is wrong: it does not fit the issuer's key\n"),
        (
            Fault::UnknownKey,
            "error: the signature is wrong: it is by a key that the issuer does not publish\n",
        ),
        (
            Fault::AlgNone,
            "error: the signature is wrong: this issuer signs with RS256, and the token's algorithm is another\n",
        ),
    ];
    for (fault, expected) in table {
        bench.google.set_fault(Endpoint::MetadataIdentity, fault.clone());
        let token = bench.token().await;
        let ended = bench.run(&["inspect", "--audience", AUDIENCE], &token).await;
        assert_eq!(ended.code, 1, "{fault:?}: {}", ended.out);
        assert!(ended.err.starts_with(expected), "{fault:?}: {}", ended.err);
        assert!(ended.out.contains("\n  email_verified  true\n"), "the claims are shown: {}", ended.out);
        ended.assert_silent(&bench.google);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_complaints_are_all_told() {
    let bench = Bench::start().await;
    bench.google.set_fault(Endpoint::MetadataIdentity, Fault::ExpiredToken);
    let token = bench.token().await;
    let ended = bench.run(&["inspect", "--audience", "https://other.example.com"], &token).await;
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("; the token's audience is \"https://orders-abc-uc.a.run.app\", not \"https://other.example.com\"\n"), "{}", ended.err);
    assert!(ended.out.contains("\naudience   another than expected\n"), "{}", ended.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_can_not_be_told_is_a_failure_on_demand_only() {
    let bench = Bench::start().await;
    bench.google.set_fault(Endpoint::MetadataIdentity, Fault::WrongIssuer);
    let token = bench.token().await;
    let ended = bench.run(&["inspect"], &token).await;
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert!(
        ended.out.contains(
            "\nsignature  not checked: unknown issuer: known are Google, Identity Platform and service accounts\n"
        ),
        "{}",
        ended.out
    );
    bench.google.clear_faults();
    bench.google.set_fault(Endpoint::Jwks, Fault::Unavailable);
    let token = bench.token().await;
    let ended = bench.run(&["inspect"], &token).await;
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert!(
        ended.out.contains("\nsignature  not checked: the issuer's keys can't be fetched\n"),
        "{}",
        ended.out
    );
    let ended = bench.run(&["inspect", "--require-signature"], &token).await;
    assert_eq!(ended.code, 1, "{}", ended.out);
    assert_eq!(ended.err, "error: the signature is not checked: the issuer's keys can't be fetched\n");
    bench.google.clear_faults();
    let ended = bench.run(&["inspect", "--require-signature"], &token).await;
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_for_programs() {
    let bench = Bench::start().await;
    let token = bench.token().await;
    let ended = bench.run(&["inspect", "--json", "--audience", "other"], &token).await;
    assert_eq!(ended.code, 1, "the exit code is the same");
    let value: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(value["header"]["alg"], "RS256");
    assert_eq!(value["claims"]["aud"], AUDIENCE);
    let fields: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        fields,
        [
            "audienceMatches",
            "claims",
            "expirationTime",
            "header",
            "issueTime",
            "problems",
            "secondsLeft",
            "signature",
            "signatureDetail"
        ]
    );
    assert_eq!((&value["signature"], &value["signatureDetail"]), (&"good".into(), &Value::Null));
    assert_eq!(value["audienceMatches"], false);
    assert_eq!(
        value["problems"],
        serde_json::json!(["the token's audience is \"https://orders-abc-uc.a.run.app\", not \"other\""])
    );
    assert!((3600..=3630).contains(&value["secondsLeft"].as_i64().unwrap()), "{value}");
    ended.assert_silent(&bench.google);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_token_is_refused_without_a_word_of_it() {
    let bench = Bench::start().await;
    let missing = bench.home.path().join("missing");
    let table: [(&[&str], &str, &str); 5] = [
        (
            &["inspect"],
            "hunter2",
            "error: standard input holds no JWT: it has no three parts with dots between them\n",
        ),
        (&["inspect"], "", "error: standard input holds no JWT: it is empty\n"),
        (
            &["inspect"],
            "hunter2.a.b",
            "error: standard input holds no JWT: its header is no JSON object in base64url\n",
        ),
        (
            &["inspect"],
            &"a".repeat(70_000),
            "error: standard input is larger than 64 KB: it holds something else than a token\n",
        ),
        (
            &["inspect", missing.to_str().unwrap()],
            "",
            "/missing can't be read: No such file or directory (os error 2)\n",
        ),
    ];
    for (arguments, stdin, expected) in table {
        let ended = bench.run(arguments, stdin).await;
        assert_eq!((ended.code, ended.out.as_str()), (1, ""));
        assert!(ended.err.ends_with(expected), "{}", ended.err);
        assert!(!ended.err.contains("hunter2"), "{}", ended.err);
    }
}
