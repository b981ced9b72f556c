//! A gateway before the emulator, which notes what is asked. Refresh tokens that come through it are good for one refresh
//! and can be forgotten; the emulator's own are good for ever.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header::CONTENT_TYPE},
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

use super::common::http_client;

/// A running gateway; it ends when this is dropped.
pub(crate) struct Gateway {
    origin: String,
    sessions: Arc<Mutex<Sessions>>,
    server: JoinHandle<()>,
}

/// What has passed.
struct Sessions {
    emulator: String,
    asked: Vec<String>,
    /// The emulator's refresh tokens by ours.
    refresh_tokens: HashMap<String, String>,
    count: usize,
}

impl Gateway {
    /// Starts one before the emulator at `origin`.
    pub(crate) async fn start(origin: &str) -> Self {
        let sessions = Arc::new(Mutex::new(Sessions {
            emulator: origin.to_owned(),
            asked: Vec::new(),
            refresh_tokens: HashMap::new(),
            count: 0,
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(forward).with_state(sessions.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { origin, sessions, server }
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// The last part of each path that was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.sessions.lock().unwrap().asked)
    }

    /// Ends every session.
    pub(crate) fn forget(&self) {
        self.sessions.lock().unwrap().refresh_tokens.clear();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Sessions {
    /// The request as the emulator is to have it.
    fn inward(&mut self, path: &str, body: String) -> String {
        self.asked.push(path.rsplit(['/', ':']).next().unwrap().to_owned());
        let own =
            body.split_once("refresh_token=").and_then(|(_, handle)| self.refresh_tokens.remove(handle));
        match own {
            Some(own) => format!("grant_type=refresh_token&refresh_token={}", escaped(&own)),
            None => body,
        }
    }

    /// The answer as the client is to have it.
    fn outward(&mut self, mut answer: Value) -> Value {
        for name in ["refreshToken", "refresh_token"] {
            if let Some(own) = answer[name].as_str() {
                self.count += 1;
                let handle = format!("once-{}", self.count);
                self.refresh_tokens.insert(handle.clone(), own.to_owned());
                answer[name] = handle.into();
            }
        }
        answer
    }
}

async fn forward(
    State(sessions): State<Arc<Mutex<Sessions>>>,
    request: Request,
) -> (StatusCode, [(&'static str, &'static str); 1], String) {
    let (head, body) = request.into_parts();
    let body: Bytes = to_bytes(body, 1 << 20).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let content_type = head.headers[CONTENT_TYPE].to_str().unwrap().to_owned();
    let (url, body) = {
        let mut sessions = sessions.lock().unwrap();
        (format!("{}{}", sessions.emulator, head.uri), sessions.inward(head.uri.path(), body))
    };
    let headers = [("content-type", content_type.as_str())];
    let (status, answer) = http_client::send(Method::POST, &url, &headers, body).await.unwrap();
    let answer = sessions.lock().unwrap().outward(serde_json::from_str(&answer).unwrap());
    (StatusCode::from_u16(status).unwrap(), [("content-type", "application/json")], answer.to_string())
}

/// Base64 in a form.
fn escaped(text: &str) -> String {
    text.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
}
