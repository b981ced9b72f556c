//! What was asked and what was issued: the part that tests assert on.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use aws_lc_rs::digest;
use http::HeaderMap;
use jiff::Timestamp;

use super::fault::Endpoint;
use super::keys::hex;
use super::serve::Call;
use super::state::lock;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it arrived, by the simulator's clock.
    pub at: Timestamp,
    /// What it asked for.
    pub endpoint: Endpoint,
    /// The HTTP method.
    pub method: String,
    /// Path and query as sent; an API key in them is replaced like a header's credentials.
    pub path_and_query: String,
    /// The headers in their order, names in lower case; credentials are replaced by a hash that is the same for the
    /// same value.
    pub headers: Vec<(String, String)>,
    /// The audience that was asked for, if any.
    pub audience: Option<String>,
    /// The answer's status; `None`: none was given (yet).
    pub status: Option<u16>,
}

impl Request {
    /// The first header of that name (in lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Requests, tokens handed out, and signatures made.
#[derive(Default)]
pub(super) struct Log(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    next: u64,
    requests: Vec<(u64, Request)>,
    issued: Vec<String>,
    known: HashSet<String>,
    minted: HashMap<Endpoint, u64>,
}

impl Log {
    /// Notes a request on arrival, so that one that never gets an answer is seen too; the number closes the entry.
    pub(super) fn open(&self, at: Timestamp, call: &Call) -> u64 {
        let request = Request {
            at,
            endpoint: call.endpoint,
            method: call.method.to_string(),
            path_and_query: redact_key(call),
            headers: redact(&call.headers),
            audience: call.audience(),
            status: None,
        };
        let mut entries = lock(&self.0);
        entries.next += 1;
        let number = entries.next;
        entries.requests.push((number, request));
        number
    }

    /// Adds the answer's status to an entry, unless it was cleared meanwhile.
    pub(super) fn close(&self, number: u64, status: u16) {
        if let Some((_, request)) = lock(&self.0).requests.iter_mut().rev().find(|(open, _)| *open == number)
        {
            request.status = Some(status);
        }
    }

    /// Notes a token that leaves the simulator.
    pub(super) fn issued(&self, token: &str) {
        let mut entries = lock(&self.0);
        if entries.known.insert(token.into()) {
            entries.issued.push(token.into());
        }
    }

    /// Notes one signature of an ID token.
    pub(super) fn minted(&self, endpoint: Endpoint) {
        *lock(&self.0).minted.entry(endpoint).or_default() += 1;
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        lock(&self.0).requests.iter().map(|(_, request)| request.clone()).collect()
    }

    pub(super) fn count(&self, endpoint: Endpoint) -> usize {
        lock(&self.0).requests.iter().filter(|(_, request)| request.endpoint == endpoint).count()
    }

    pub(super) fn clear_requests(&self) {
        lock(&self.0).requests.clear();
    }

    pub(super) fn issued_tokens(&self) -> Vec<String> {
        lock(&self.0).issued.clone()
    }

    pub(super) fn count_minted(&self, endpoint: Endpoint) -> u64 {
        lock(&self.0).minted.get(&endpoint).copied().unwrap_or_default()
    }
}

fn redact(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = if CREDENTIALS.contains(&name.as_str()) {
                hash(value.as_bytes())
            } else {
                String::from_utf8_lossy(value.as_bytes()).into_owned()
            };
            (name.to_string(), value)
        })
        .collect()
}

/// Path and query without the API key.
fn redact_key(call: &Call) -> String {
    let Some(query) = call.uri.query() else { return call.uri.path().into() };
    let redact = |part: &str| match part.split_once('=') {
        Some(("key", key)) => format!("key={}", hash(key.as_bytes())),
        _ => part.into(),
    };
    let parts: Vec<_> = query.split('&').map(redact).collect();
    format!("{}?{}", call.uri.path(), parts.join("&"))
}

fn hash(credential: &[u8]) -> String {
    format!("sha256:{}", &hex(digest::digest(&digest::SHA256, credential).as_ref())[..16])
}

/// Headers that carry credentials.
const CREDENTIALS: [&str; 3] = ["authorization", "proxy-authorization", "x-goog-api-key"];
