use std::sync::{
    Mutex as StdMutex,
    atomic::{AtomicUsize, Ordering},
};

use aws_lc_rs::{
    rsa::{KeyPair, KeySize},
    signature::KeyPair as _,
};
use axum::{extract::State, response::IntoResponse as _};
use futures::future::join_all;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::*;

/// Google's keys at `google`, nothing else anywhere.
fn urls(google: &str) -> KeyUrls {
    KeyUrls {
        google: google.parse().unwrap(),
        identity_platform: "http://127.0.0.1:1/identity-platform".parse().unwrap(),
        service_account: format!("{google}/{{email}}"),
    }
}

/// A server on the loopback that publishes what a test tells it to, and counts who asks.
struct Publisher {
    origin: String,
    answer: StdMutex<Answer>,
    requests: AtomicUsize,
}

#[derive(Clone)]
struct Answer {
    status: StatusCode,
    headers: Vec<(&'static str, &'static str)>,
    body: String,
    after: Duration,
}

impl Publisher {
    async fn start(answer: Answer) -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let publisher =
            Arc::new(Self { origin, answer: StdMutex::new(answer), requests: AtomicUsize::new(0) });
        let app = axum::Router::new().fallback(publish).with_state(publisher.clone());
        tokio::spawn(axum::serve(listener, app).into_future());
        publisher
    }

    fn jwks(&self) -> Jwks {
        Jwks::new(Http::new().unwrap(), urls(&self.origin))
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn publish(State(publisher): State<Arc<Publisher>>) -> axum::response::Response {
    publisher.requests.fetch_add(1, Ordering::SeqCst);
    let answer = publisher.answer.lock().unwrap().clone();
    tokio::time::sleep(answer.after).await;
    let mut response = (answer.status, answer.body).into_response();
    for (name, value) in answer.headers {
        response.headers_mut().append(name, HeaderValue::from_static(value));
    }
    response
}

/// The given keys, good for an hour.
fn good(keys: &[Value]) -> Answer {
    Answer {
        status: StatusCode::OK,
        headers: vec![("cache-control", "public, max-age=3600")],
        body: json!({"keys": keys}).to_string(),
        after: Duration::ZERO,
    }
}

fn failing(status: u16) -> Answer {
    Answer { status: StatusCode::from_u16(status).unwrap(), ..good(&[]) }
}

/// A key of `bits` bits, usable as far as anybody can tell who verifies nothing with it.
fn key(kid: &str, bits: usize) -> Value {
    let n = BASE64_URL_SAFE_NO_PAD.encode(vec![0xC1; bits / 8]);
    json!({"kty": "RSA", "alg": "RS256", "use": "sig", "kid": kid, "n": n, "e": "AQAB"})
}

/// `found`, `unknown` or `unavailable`.
async fn look(jwks: &Jwks, kid: &str) -> &'static str {
    match jwks.key(Issuer::Google, kid).await {
        KeyLookup::Found(_) => "found",
        KeyLookup::UnknownKid => "unknown",
        KeyLookup::Unavailable => "unavailable",
    }
}

/// Lets time pass at once. Requests run on real time: paused, their time-outs would come before their answers.
async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn keys_are_kept_for_max_age_less_age() {
    let headers = vec![("cache-control", "public, max-age=3600, must-revalidate"), ("age", "600")];
    let google = Publisher::start(Answer { headers, ..good(&[key("a", 2048)]) }).await;
    let jwks = google.jwks();
    assert_eq!(google.requests(), 0, "nothing is fetched before it is needed");
    assert_eq!(look(&jwks, "a").await, "found");
    pass(2990).await;
    assert_eq!(look(&jwks, "a").await, "found");
    assert_eq!(google.requests(), 1);
    pass(20).await;
    assert_eq!(look(&jwks, "a").await, "found");
    assert_eq!(google.requests(), 2);
}

#[test]
fn freshness_is_read_from_the_headers_within_bounds() {
    let table: [(&[(&str, &str)], u64); 14] = [
        (&[], 300),
        (&[("cache-control", "public, max-age=21600, must-revalidate, no-transform")], 21_600),
        (&[("cache-control", "public,max-age=600")], 600),
        (&[("cache-control", "Public, Max-Age=600")], 600),
        (&[("cache-control", "public"), ("cache-control", "max-age=600")], 600),
        (&[("cache-control", "max-age=600"), ("age", "100")], 500),
        (&[("cache-control", "max-age=600"), ("age", "600")], 60),
        (&[("cache-control", "max-age=600"), ("age", "9999")], 60),
        (&[("cache-control", "max-age=600"), ("age", "soon")], 600),
        (&[("cache-control", "max-age=0")], 60),
        (&[("cache-control", "max-age=99999999")], 86_400),
        (&[("cache-control", "max-age=-1")], 300),
        (&[("cache-control", "s-maxage=600")], 300),
        (&[("age", "100")], 300),
    ];
    for (headers, seconds) in table {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(http::HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        assert_eq!(freshness(&map), Duration::from_secs(seconds), "{headers:?}");
    }
}

#[tokio::test]
async fn an_unknown_kid_is_asked_for_at_most_once_a_minute() {
    let google = Publisher::start(good(&[key("a", 2048)])).await;
    let jwks = google.jwks();
    assert_eq!(look(&jwks, "a").await, "found");
    for kid in ["b", "c", "b", ""] {
        assert_eq!(look(&jwks, kid).await, "unknown");
    }
    assert_eq!(google.requests(), 1);
    pass(61).await;
    for kid in ["b", "c", "b", ""] {
        assert_eq!(look(&jwks, kid).await, "unknown");
    }
    assert_eq!(google.requests(), 2);
    pass(61).await;
    google.answers(failing(503));
    for kid in ["b", "c", "b", "a"] {
        let expected = if kid == "a" { "found" } else { "unknown" };
        assert_eq!(look(&jwks, kid).await, expected, "{kid}: a failing fetch counts too");
    }
    assert_eq!(google.requests(), 3);
}

#[tokio::test]
async fn fifty_callers_at_once_cause_one_fetch() {
    let slow = Answer { after: Duration::from_millis(100), ..good(&[key("a", 2048)]) };
    let google = Publisher::start(slow).await;
    let jwks = google.jwks();
    let seen = join_all((0..50).map(|_| look(&jwks, "a"))).await;
    assert_eq!(seen, ["found"; 50]);
    assert_eq!(google.requests(), 1);
    pass(3700).await;
    let seen = join_all((0..50).map(|i| look(&jwks, if i % 2 == 0 { "a" } else { "b" }))).await;
    assert_eq!(seen.iter().filter(|s| **s == "found").count(), 25);
    assert_eq!(google.requests(), 2);
}

#[tokio::test]
async fn fifty_callers_at_once_cause_one_failing_fetch() {
    let google = Publisher::start(Answer { after: Duration::from_millis(100), ..failing(503) }).await;
    let jwks = google.jwks();
    let seen = join_all((0..50).map(|_| look(&jwks, "a"))).await;
    assert_eq!(seen, ["unavailable"; 50]);
    assert_eq!(google.requests(), 1);
}

/// Nobody answers, and nobody waits for more than one time-out: not fifty callers one after another.
#[tokio::test(start_paused = true)]
async fn callers_share_one_time_out_of_a_silent_server() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let jwks = Jwks::new(Http::new().unwrap(), urls(&url));
    let begin = Instant::now();
    let seen = join_all((0..50).map(|_| look(&jwks, "a"))).await;
    assert_eq!(seen, ["unavailable"; 50]);
    assert!(begin.elapsed() < Duration::from_secs(11), "{:?}", begin.elapsed());
    drop(listener);
}

#[tokio::test]
async fn old_keys_serve_on_while_fetching_fails() {
    let google = Publisher::start(good(&[key("a", 2048)])).await;
    let jwks = google.jwks();
    assert_eq!(look(&jwks, "a").await, "found");
    let garbage = Answer { body: "<html></html>".to_owned(), ..good(&[]) };
    for bad in [failing(503), failing(404), failing(302), garbage, good(&[])] {
        google.answers(bad);
        pass(4000).await;
        assert_eq!(look(&jwks, "a").await, "found");
        assert_eq!(look(&jwks, "b").await, "unavailable", "old keys say nothing about a new one");
    }
    assert_eq!(google.requests(), 6, "one each, for each failure is followed by a pause");
    google.answers(good(&[key("b", 2048)]));
    pass(3).await;
    assert_eq!(look(&jwks, "b").await, "found");
    assert_eq!(look(&jwks, "a").await, "unknown", "it has been taken out of publication");
}

#[tokio::test]
async fn keys_never_had_are_unavailable_and_asked_for_again_after_a_pause() {
    let google = Publisher::start(failing(503)).await;
    let jwks = google.jwks();
    for _ in 0..5 {
        assert_eq!(look(&jwks, "a").await, "unavailable");
    }
    assert_eq!(google.requests(), 1);
    google.answers(good(&[key("a", 2048)]));
    pass(3).await;
    assert_eq!(look(&jwks, "a").await, "found");
    assert_eq!(google.requests(), 2);
}

#[tokio::test]
async fn another_issuers_keys_are_not_asked_for_and_a_server_that_is_not_there_has_none() {
    let google = Publisher::start(good(&[key("a", 2048)])).await;
    assert!(matches!(google.jwks().key(Issuer::IdentityPlatform("p"), "a").await, KeyLookup::Unavailable));
    assert_eq!(google.requests(), 0);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let jwks = Jwks::new(Http::new().unwrap(), urls(&url));
    assert_eq!(look(&jwks, "a").await, "unavailable");
}

#[tokio::test]
async fn a_rotated_key_is_found_within_a_minute_and_the_old_one_meanwhile() {
    let google = Publisher::start(good(&[key("old", 2048)])).await;
    let jwks = google.jwks();
    assert_eq!(look(&jwks, "old").await, "found");
    google.answers(good(&[key("new", 2048), key("old", 2048)]));
    pass(61).await;
    assert_eq!(look(&jwks, "new").await, "found");
    assert_eq!(look(&jwks, "old").await, "found");
    assert_eq!(google.requests(), 2);
    google.answers(good(&[key("new", 2048)]));
    pass(3700).await;
    assert_eq!(look(&jwks, "new").await, "found");
    assert_eq!(look(&jwks, "old").await, "unknown");
}

#[test]
fn unusable_keys_are_ignored_and_usable_ones_beside_them_found() {
    let changed = |name: &str, value: Value| {
        let mut jwk = key("bad", 2048);
        match value {
            Value::Null => drop(jwk.as_object_mut().unwrap().remove(name)),
            other => jwk[name] = other,
        }
        jwk
    };
    let short = [vec![0; 128], vec![0xC1; 128]].concat(); // 1024 bits that look like 2048
    let just_short = [vec![0x7F], vec![0xC1; 255]].concat(); // 2047 bits
    let unusable = [
        ("1024 bits", key("bad", 1024)),
        ("9000 bits", key("bad", 9000)),
        ("1024 bits behind zeros", changed("n", json!(BASE64_URL_SAFE_NO_PAD.encode(short)))),
        ("2047 bits", changed("n", json!(BASE64_URL_SAFE_NO_PAD.encode(just_short)))),
        ("no bits", changed("n", json!(""))),
        ("zero", changed("n", json!("AAAA"))),
        ("n is no base64url", changed("n", json!("+/+/"))),
        ("no n", changed("n", Value::Null)),
        ("no e", changed("e", Value::Null)),
        ("EC", json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "bad", "x": "AQ", "y": "AQ"})),
        ("EC by name alone", changed("kty", json!("EC"))),
        ("oct", json!({"kty": "oct", "kid": "bad", "k": "c2VjcmV0"})),
        ("for encryption", changed("use", json!("enc"))),
        ("for RS512", changed("alg", json!("RS512"))),
        ("no kid", changed("kid", Value::Null)),
        ("empty kid", changed("kid", json!(""))),
        ("kid is a number", changed("kid", json!(7))),
        ("no object", json!("x")),
    ];
    for (what, jwk) in unusable {
        let alone = json!({"keys": [jwk.clone()]}).to_string();
        assert!(parse(alone.as_bytes()).is_none(), "{what}");
        let beside = json!({"keys": [jwk, key("good", 2048)]}).to_string();
        let keys = parse(beside.as_bytes()).unwrap();
        assert_eq!(keys.keys().collect::<Vec<_>>(), ["good"], "{what}");
    }
    for body in ["", "null", "{}", r#"{"keys": {}}"#, r#"{"keys": []}"#, "[]"] {
        assert!(parse(body.as_bytes()).is_none(), "{body}");
    }
}

#[test]
fn use_and_alg_may_be_left_out() {
    let mut plain = key("a", 4096);
    plain.as_object_mut().unwrap().retain(|name, _| name != "alg" && name != "use");
    assert!(parse(json!({"keys": [plain]}).to_string().as_bytes()).is_some());
}

#[test]
fn a_key_verifies_its_own_signature_and_no_other() {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let public = pair.public_key();
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let jwk = json!({
        "kty": "RSA", "kid": "a",
        "n": encode(public.modulus().big_endian_without_leading_zero()),
        "e": encode(public.exponent().big_endian_without_leading_zero()),
    });
    let keys = parse(json!({"keys": [jwk]}).to_string().as_bytes()).unwrap();
    let sign = |padding| {
        let mut signature = vec![0; 256];
        pair.sign(padding, &aws_lc_rs::rand::SystemRandom::new(), b"message", &mut signature).unwrap();
        signature
    };
    let good = sign(&aws_lc_rs::signature::RSA_PKCS1_SHA256);
    assert!(keys["a"].verifies(b"message", &good));
    assert!(!keys["a"].verifies(b"massage", &good));
    assert!(!keys["a"].verifies(b"message", &good[..255]));
    assert!(!keys["a"].verifies(b"message", b""));
    assert!(!keys["a"].verifies(b"message", &sign(&aws_lc_rs::signature::RSA_PKCS1_SHA512)));
    assert!(!keys["a"].verifies(b"message", &sign(&aws_lc_rs::signature::RSA_PSS_SHA256)));
}
