mod users;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::verify::expect::Issuer;

/// 2026-01-01T10:00:00Z
const NOW: i64 = 1_767_261_600;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn now() -> Timestamp {
    "2026-01-01T10:00:00Z".parse().unwrap()
}

fn expected() -> Expectation<'static> {
    Expectation {
        issuer: Issuer::Google,
        audience: "https://orders.example.com",
        identity: Identity::Email("caller@p.iam.gserviceaccount.com"),
    }
}

fn header() -> Value {
    json!({"alg": "RS256", "kid": "key-1", "typ": "JWT"})
}

/// What Google says of a service account, with `changes` put over it; a `null` takes a claim away.
fn payload(changes: &Value) -> Value {
    let mut claims = json!({
        "iss": "https://accounts.google.com",
        "aud": "https://orders.example.com",
        "azp": "112010400000000710080",
        "sub": "112010400000000710080",
        "email": "caller@p.iam.gserviceaccount.com",
        "email_verified": true,
        "iat": NOW,
        "exp": NOW + HOUR,
    });
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            other => claims[name] = other.clone(),
        }
    }
    claims
}

fn base64url(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(text)
}

/// A token of the given texts; its signature is four bytes, for nobody checks it here.
fn jwt(header: &str, payload: &str) -> String {
    format!("{}.{}.c2lnbg", base64url(header), base64url(payload))
}

fn parse_error(raw: &str) -> Rejected {
    parse(raw).map(|_| ()).unwrap_err()
}

/// Parses and checks a token whose claims have `changes`.
fn judge(changes: &Value) -> Result<Verified, Rejected> {
    judge_as(changes, &expected())
}

fn judge_as(changes: &Value, expected: &Expectation<'_>) -> Result<Verified, Rejected> {
    let raw = jwt(&header().to_string(), &payload(changes).to_string());
    check(&parse(&raw)?.claims, expected, now())
}

const BAD_PART: Rejected = Rejected::Malformed("a part is no strict base64url");
const BAD_HEADER: Rejected = Rejected::Malformed("its header is no JSON object of the right types");
const BAD_PAYLOAD: Rejected =
    Rejected::Malformed("its payload is no JSON object with claims of the right types");

#[test]
fn googles_token_is_taken_apart_and_accepted() {
    let raw = jwt(&header().to_string(), &payload(&json!({})).to_string());
    let parsed = parse(&raw).unwrap();
    assert_eq!(parsed.kid, "key-1");
    assert_eq!(parsed.signature, b"sign");
    assert_eq!(format!("{}.c2lnbg", parsed.signing_input), raw);
    assert_eq!(
        check(&parsed.claims, &expected(), now()),
        Ok(Verified {
            issuer: "https://accounts.google.com".to_owned(),
            identity: "caller@p.iam.gserviceaccount.com".to_owned(),
            issued: "2026-01-01T10:00:00Z".parse().unwrap(),
            expires: "2026-01-01T11:00:00Z".parse().unwrap(),
        })
    );
}

#[test]
fn both_forms_of_googles_issuer_are_accepted_and_no_other() {
    for issuer in ["https://accounts.google.com", "accounts.google.com"] {
        assert_eq!(judge(&json!({"iss": issuer})).unwrap().issuer, issuer);
    }
    for issuer in [
        "http://accounts.google.com",
        "https://accounts.google.com/",
        "https://accounts.google.com.evil.com",
        "HTTPS://ACCOUNTS.GOOGLE.COM",
        "https://securetoken.google.com/p",
        "",
    ] {
        let rejected = Rejected::Issuer {
            received: issuer.to_owned(),
            expected: "https://accounts.google.com".to_owned(),
        };
        assert_eq!(judge(&json!({"iss": issuer})), Err(rejected));
    }
}

#[test]
fn each_required_claim_is_missed_by_name() {
    for claim in ["iss", "sub", "aud", "exp", "iat", "email", "email_verified"] {
        assert_eq!(judge(&json!({claim: null})), Err(Rejected::Missing(claim)));
    }
    assert_eq!(judge(&json!({"sub": ""})), Err(Rejected::Missing("sub")));
    assert_eq!(judge(&json!({"email": ""})), Err(Rejected::Missing("email")));
    // A claim that is there and null is not there.
    let null = jwt(&header().to_string(), r#"{"iss": null}"#);
    assert_eq!(check(&parse(&null).unwrap().claims, &expected(), now()), Err(Rejected::Missing("iss")));
    let nothing = jwt(&header().to_string(), "{}");
    assert_eq!(check(&parse(&nothing).unwrap().claims, &expected(), now()), Err(Rejected::Missing("iss")));
}

#[test]
fn exactly_one_audience_is_accepted() {
    assert!(judge(&json!({"aud": ["https://orders.example.com"]})).is_ok(), "an array of one");
    let table = [
        (json!("https://orders.example.com/"), "https://orders.example.com/"),
        (json!("https://ORDERS.example.com"), "https://ORDERS.example.com"),
        (json!("https://other.example.com"), "https://other.example.com"),
        (json!(""), ""),
        (json!([]), ""),
        (
            json!(["https://orders.example.com", "https://other.example.com"]),
            "https://orders.example.com, https://other.example.com",
        ),
        (
            json!(["https://orders.example.com", "https://orders.example.com"]),
            "https://orders.example.com, https://orders.example.com",
        ),
    ];
    for (audience, received) in table {
        let rejected = Rejected::Audience {
            received: received.to_owned(),
            expected: "https://orders.example.com".to_owned(),
        };
        assert_eq!(judge(&json!({"aud": audience})), Err(rejected));
    }
}

#[test]
fn times_are_held_to_the_second() {
    let end = |text: &str| text.parse::<Timestamp>().unwrap();
    let table: [(Value, Option<Rejected>); 16] = [
        (json!({"iat": NOW - HOUR, "exp": NOW + 1}), None),
        (json!({"iat": NOW - HOUR, "exp": NOW}), Some(Rejected::Expired(end("2026-01-01T10:00:00Z")))),
        (json!({"iat": NOW - HOUR, "exp": NOW - 1}), Some(Rejected::Expired(end("2026-01-01T09:59:59Z")))),
        (json!({"iat": 0, "exp": 0}), Some(Rejected::Expired(end("1970-01-01T00:00:00Z")))),
        (json!({"iat": NOW + 60}), None),
        (json!({"iat": NOW + 61}), Some(Rejected::NotYetValid("iat"))),
        (json!({"nbf": NOW - 300}), None),
        (json!({"nbf": NOW + 60}), None),
        (json!({"nbf": NOW + 61}), Some(Rejected::NotYetValid("nbf"))),
        (json!({"iat": NOW + 30, "exp": NOW + 31}), None),
        (json!({"iat": NOW + 30, "exp": NOW + 30}), Some(Rejected::Lifetime(0))),
        (json!({"iat": NOW + 30, "exp": NOW + 20}), Some(Rejected::Lifetime(-10))),
        (json!({"exp": NOW + DAY}), None),
        (json!({"exp": NOW + DAY + 1}), Some(Rejected::Lifetime(86_401))),
        (json!({"exp": i64::MAX}), Some(Rejected::Malformed("a time is out of range"))),
        (json!({"iat": i64::MIN}), Some(Rejected::Malformed("a time is out of range"))),
    ];
    for (changes, rejected) in table {
        assert_eq!(judge(&changes).err(), rejected, "{changes}");
    }
}

#[test]
fn times_that_are_no_whole_numbers_are_refused() {
    for claim in ["exp", "iat", "nbf"] {
        for value in
            [json!(1_767_265_200.0), json!(1_767_265_200.5), json!("1767265200"), json!([1]), json!(true)]
        {
            assert_eq!(judge(&json!({claim: value})), Err(BAD_PAYLOAD), "{claim} {value}");
        }
        let exponent = format!("{{\"{claim}\": 1.7e9}}");
        assert_eq!(parse_error(&jwt(&header().to_string(), &exponent)), BAD_PAYLOAD);
        let huge = format!("{{\"{claim}\": 99999999999999999999}}");
        assert_eq!(parse_error(&jwt(&header().to_string(), &huge)), BAD_PAYLOAD);
    }
}

#[test]
fn the_email_is_held_to_the_rule() {
    let other = Rejected::Email {
        received: "Caller@p.iam.gserviceaccount.com".to_owned(),
        expected: "caller@p.iam.gserviceaccount.com".to_owned(),
    };
    let changed = json!({"email": "Caller@p.iam.gserviceaccount.com"});
    assert_eq!(judge(&changed), Err(other));
    assert_eq!(judge(&json!({"email_verified": false})), Err(Rejected::EmailUnverified));

    let any = Expectation { identity: Identity::AnyEmail, ..expected() };
    assert!(judge_as(&changed, &any).is_ok());
    assert_eq!(judge_as(&json!({"email_verified": false}), &any), Err(Rejected::EmailUnverified));
    assert_eq!(judge_as(&json!({"email_verified": null}), &any), Err(Rejected::Missing("email_verified")));
    assert_eq!(judge_as(&json!({"email": null}), &any), Err(Rejected::Missing("email")));
}

#[test]
fn claims_of_wrong_types_are_refused() {
    for changes in [
        json!({"email_verified": "true"}),
        json!({"email_verified": 1}),
        json!({"iss": ["https://accounts.google.com"]}),
        json!({"iss": {"url": "https://accounts.google.com"}}),
        json!({"sub": 112_010_400}),
        json!({"aud": {"0": "https://orders.example.com"}}),
        json!({"aud": [["https://orders.example.com"]]}),
        json!({"aud": [7]}),
        json!({"email": ["caller@p.iam.gserviceaccount.com"]}),
    ] {
        assert_eq!(judge(&changes), Err(BAD_PAYLOAD), "{changes}");
    }
}

#[test]
fn a_repeated_claim_or_header_field_is_refused() {
    let twice = payload(&json!({})).to_string().replacen('{', r#"{"iss":"https://accounts.google.com","#, 1);
    assert_eq!(parse_error(&jwt(&header().to_string(), &twice)), BAD_PAYLOAD);
    let twice = payload(&json!({})).to_string().replacen('{', r#"{"aud":"https://evil.example.com","#, 1);
    assert_eq!(parse_error(&jwt(&header().to_string(), &twice)), BAD_PAYLOAD);
    let header = r#"{"alg":"none","alg":"RS256","kid":"key-1"}"#;
    assert_eq!(parse_error(&jwt(header, "{}")), BAD_HEADER);
}

#[test]
fn only_rs256_with_a_kid_and_no_extensions_is_accepted() {
    let long = "k".repeat(257);
    let table = [
        (json!({"alg": "none", "kid": "k"}), Rejected::Algorithm),
        (json!({"alg": "None", "kid": "k"}), Rejected::Algorithm),
        (json!({"alg": "HS256", "kid": "k"}), Rejected::Algorithm),
        (json!({"alg": "RS512", "kid": "k"}), Rejected::Algorithm),
        (json!({"alg": "PS256", "kid": "k"}), Rejected::Algorithm),
        (json!({"alg": "ES256", "kid": "k"}), Rejected::Algorithm),
        (json!({"alg": "rs256", "kid": "k"}), Rejected::Algorithm),
        (json!({"alg": "", "kid": "k"}), Rejected::Algorithm),
        (json!({"kid": "k"}), BAD_HEADER),
        (json!({"alg": null, "kid": "k"}), BAD_HEADER),
        (json!({"alg": ["RS256"], "kid": "k"}), BAD_HEADER),
        (json!({"alg": "RS256"}), Rejected::NoKid),
        (json!({"alg": "RS256", "kid": null}), Rejected::NoKid),
        (json!({"alg": "RS256", "kid": ""}), Rejected::NoKid),
        (json!({"alg": "RS256", "kid": long}), Rejected::NoKid),
        (json!({"alg": "RS256", "kid": 7}), BAD_HEADER),
        (json!({"alg": "RS256", "kid": "k", "crit": ["exp"]}), Rejected::Critical),
        (json!({"alg": "RS256", "kid": "k", "crit": []}), Rejected::Critical),
        (json!({"alg": "RS256", "kid": "k", "crit": null}), Rejected::Critical),
    ];
    for (header, rejected) in table {
        assert_eq!(parse_error(&jwt(&header.to_string(), "{}")), rejected, "{header}");
    }
    assert!(parse(&jwt(&json!({"alg": "RS256", "kid": "k".repeat(256)}).to_string(), "{}")).is_ok());
}

#[test]
fn an_unsigned_token_as_none_makes_it_is_refused() {
    let token = format!("{}.{}.", base64url(r#"{"alg":"none"}"#), base64url("{}"));
    assert_eq!(parse_error(&token), Rejected::Algorithm);
}

#[test]
fn a_part_must_be_a_json_object() {
    for no_object in ["", "null", "7", "\"x\"", "[]", "{", "{}x", "\u{0}"] {
        assert_eq!(parse_error(&jwt(no_object, "{}")), BAD_HEADER, "{no_object:?}");
        assert_eq!(parse_error(&jwt(&header().to_string(), no_object)), BAD_PAYLOAD, "{no_object:?}");
    }
    // Serde's derive reads a list as the fields in their order.
    assert_eq!(parse_error(&jwt(r#"["RS256", "key-1", null]"#, "{}")), BAD_HEADER);
    let list = r#"["https://accounts.google.com", "1", "a", 2, 1, 1, "e", true]"#;
    assert_eq!(parse_error(&jwt(&header().to_string(), list)), BAD_PAYLOAD);
}

#[test]
fn base64url_is_strict() {
    let (h, p) = (base64url(&header().to_string()), base64url("{}"));
    let good = format!("{h}.{p}.c2lnbg");
    assert!(parse(&good).is_ok());
    for (bad, what) in [
        (format!("{h}.{p}.c2lnbg=="), "padding"),
        (format!("{h}.{p}=.c2lnbg"), "padding of the payload"),
        (format!("{h}.{p}.c2lnbh"), "stray bits in the signature"),
        (format!("{h}.e31.c2lnbg"), "stray bits in the payload"),
        (format!("{h}.{p}.c2ln+g"), "base64 of the other alphabet"),
        (format!("{h}.{p}.c2lnbg\n"), "a newline at the end"),
        (format!(" {h}.{p}.c2lnbg"), "a blank at the start"),
        (format!("{h}.{p} .c2lnbg"), "a blank in between"),
        (format!("{h}.{p}.c2ln\nbg"), "a line break"),
        (format!("{h}.{p}.c2lnb"), "a single left-over letter"),
        (format!("{h}.{p}.c2lnbg.c2lnbg"), "four parts"),
        (format!("{h}.{p}.c2lnbgé"), "beyond ASCII"),
    ] {
        assert_eq!(parse_error(&bad), BAD_PART, "{what}");
    }
    for bad in ["", "a", "a.b", "Bearer eyJh", "<html></html>"] {
        assert_eq!(parse_error(bad), Rejected::Malformed("it has no three parts"), "{bad:?}");
    }
    assert!(matches!(parse_error(".."), Rejected::Malformed(_)));
}

#[test]
fn more_than_16_kb_is_not_looked_at() {
    let fill = |bytes: usize| {
        let head = format!("{}.{}.", base64url(&header().to_string()), base64url("{}"));
        format!("{head}{}", "A".repeat(bytes - head.len()))
    };
    assert!(!matches!(parse(&fill(16_384)), Err(Rejected::Malformed("it is larger than 16 KB"))));
    assert_eq!(parse_error(&fill(16_385)), Rejected::Malformed("it is larger than 16 KB"));
}

#[test]
fn messages_say_what_was_received_shortened() {
    let rejected = judge(&json!({"aud": "https://other.example.com"})).unwrap_err();
    assert_eq!(
        rejected.to_string(),
        "the token's audience is \"https://other.example.com\", expected \"https://orders.example.com\""
    );
    let long = judge(&json!({"iss": "x".repeat(5000)})).unwrap_err().to_string();
    assert!(long.len() < 300, "{}", long.len());
    let control = judge(&json!({"email": "a\nb"})).unwrap_err().to_string();
    assert_eq!(control, "the token's email is \"a\\nb\", expected \"caller@p.iam.gserviceaccount.com\"");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(raw in any::<String>()) {
        let _ = parse(&raw);
    }

    #[test]
    fn no_three_parts_make_it_panic(header in any::<String>(), payload in any::<String>(), signature in "[A-Za-z0-9_-]{0,40}") {
        let _ = parse(&format!("{}.{}.{signature}", base64url(&header), base64url(&payload)));
    }

    #[test]
    fn no_times_make_it_panic(iat in any::<i64>(), exp in any::<i64>(), nbf in any::<i64>()) {
        let times = json!({"iat": iat, "exp": exp, "nbf": nbf});
        if let Ok(verified) = judge(&times) {
            prop_assert!(verified.expires > now());
            prop_assert!(verified.expires > verified.issued);
        }
    }

    #[test]
    fn no_other_audience_is_accepted(audience in any::<String>()) {
        prop_assume!(audience != "https://orders.example.com");
        let rejected = judge(&json!({"aud": audience})).is_err();
        prop_assert!(rejected);
    }
}
