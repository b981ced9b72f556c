use std::{
    future::IntoFuture as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::{Router, response::IntoResponse as _, routing::get, serve::ListenerExt as _};

use super::*;
use crate::token::http::{CallError, Reply, Request};

/// A server on the loopback that counts its connections.
pub(super) async fn serve(app: Router) -> (Uri, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = connections.clone();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let listener = listener.tap_io(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    tokio::spawn(axum::serve(listener, app).into_future());
    (uri, connections)
}

async fn error(request: Request) -> CallError {
    Http::new().unwrap().call(request).await.unwrap_err()
}

#[tokio::test]
async fn connections_are_reused_also_by_clones() {
    let (uri, connections) = serve(Router::new().route("/", get(|| async { "x" }))).await;
    let http = Http::new().unwrap();
    for _ in 0..10 {
        let reply = http.clone().call(Request::get(uri.clone())).await.unwrap();
        assert_eq!(reply.body.as_slice(), b"x");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn silence_ends_with_the_time_out() {
    let (listener, uri) = silent();
    let begin = tokio::time::Instant::now();
    let limit = Duration::from_millis(100);
    let error = error(Request::get(uri).timeout(limit)).await;
    assert!(matches!(error, CallError::Timeout(after) if after == limit), "{error:?}");
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(CallError::Timeout(Duration::from_secs(15)).to_string(), "no answer within 15 s");
    drop(listener);
}

#[tokio::test]
async fn a_body_that_never_ends_ends_with_the_time_out() {
    let body = || async {
        axum::body::Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>())
    };
    let (uri, _) = serve(Router::new().route("/", get(body))).await;
    let error = error(Request::get(uri).timeout(Duration::from_millis(100))).await;
    assert!(matches!(error, CallError::Timeout(_)), "{error:?}");
}

#[tokio::test]
async fn a_late_answer_is_a_time_out_and_an_early_one_is_not() {
    let bench = Bench::start(Options::default()).await;
    let url: Uri = bench.google.jwks_url().parse().unwrap();
    bench.google.set_fault(Endpoint::Jwks, Fault::Latency(Duration::from_millis(300)));
    let error = error(Request::get(url.clone()).timeout(Duration::from_millis(50))).await;
    assert!(matches!(error, CallError::Timeout(_)), "{error:?}");
    let in_time = Request::get(url).timeout(Duration::from_secs(10));
    assert_eq!(Http::new().unwrap().call(in_time).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_refused_connection_is_told() {
    let (listener, uri) = silent();
    drop(listener);
    let error = error(Request::get(uri)).await;
    assert_eq!(error.to_string(), "connection failed: Connection refused (os error 111)");
}

#[tokio::test]
async fn bodies_are_bounded() {
    let body = |bytes: usize| get(move || async move { "x".repeat(bytes) });
    let app = Router::new().route("/fits", body(256 * 1024)).route("/over", body(256 * 1024 + 1));
    let (uri, _) = serve(app).await;
    let at = |path: &str| Request::get(format!("{uri}{path}").parse().unwrap());
    assert_eq!(Http::new().unwrap().call(at("fits")).await.unwrap().body.len(), 262_144);
    let error = error(at("over")).await;
    assert_eq!(error.to_string(), "the answer is larger than 256 KB");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = || async { (StatusCode::FOUND, [(header::LOCATION, "/there")]).into_response() };
    let there = || async { "a token meant for nobody" };
    let (uri, _) = serve(Router::new().route("/", get(elsewhere)).route("/there", get(there))).await;
    let reply = Http::new().unwrap().call(Request::get(uri)).await.unwrap();
    assert_eq!(reply.status, 302);
    assert_eq!(reply.body.len(), 0);
}

#[test]
fn a_retry_after_is_a_number_of_seconds_or_a_date() {
    let now = "2026-11-22T12:00:00Z".parse().unwrap();
    let reply = |value: Option<&'static str>| {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(value));
        }
        Reply { status: StatusCode::TOO_MANY_REQUESTS, headers, body: Zeroizing::default() }
    };
    for (text, seconds) in [("30", 30), (" 0 ", 0), ("Sun, 22 Nov 2026 12:01:30 GMT", 90)] {
        assert_eq!(reply(Some(text)).retry_after(now), Some(seconds), "{text}");
    }
    for other in
        [None, Some("Wed, 21 Oct 2026 07:28:00 GMT"), Some("-1"), Some("1.5"), Some(""), Some("soon")]
    {
        assert_eq!(reply(other).retry_after(now), None, "{other:?}");
    }
}

#[test]
fn requests_and_replies_do_not_print_what_they_carry() {
    let uri: Uri = "http://127.0.0.1:1/x".parse().unwrap();
    let body = serde_json::json!({"assertion": "secret"});
    let request = Request::post_json(uri.clone(), &body).bearer("secret").unwrap();
    assert_eq!(format!("{request:?}"), "Request(POST http://127.0.0.1:1/x, [redacted])");
    let reply =
        Reply { status: StatusCode::OK, headers: HeaderMap::new(), body: Zeroizing::new(b"secret".to_vec()) };
    assert_eq!(format!("{reply:?}"), "Reply(200 OK, [redacted])");
    let error = Request::get(uri).bearer("sec\nret").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the request can't be built: the access token has characters that no header can hold"
    );
}
