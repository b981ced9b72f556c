//! A model of Google: the metadata server, IAM Credentials and the published keys. Signatures are real.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode, header};
use idtoken_operator::token::http::{CallError, Transport};
use serde_json::{Value, json};
use tokio::time::sleep;
use xtask::google::SigningKey;

use crate::clock;
use crate::faults::{Denial, Down, Fault};
use crate::population::{OPERATOR, tenant_name};
use crate::random::Random;
use crate::replica::Link;
use crate::world::{Defect, World};

/// The model.
pub struct Google {
    world: Arc<World>,
    key: Arc<SigningKey>,
    state: Mutex<State>,
}

struct State {
    random: Random,
    /// A minute, and how many tokens were asked for in it.
    minute: (u64, u64),
    /// By audience: what the metadata server hands out until five minutes before its end.
    cached: HashMap<String, (String, i64)>,
}

/// A replica's way to the model.
pub struct Wire {
    /// The model.
    pub google: Arc<Google>,
    /// Who asks.
    pub link: Link,
}

impl Transport for Wire {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Bytes>, CallError>> {
        let (google, link) = (self.google.clone(), self.link.clone());
        Box::pin(async move {
            link.alive().await;
            google.answer(&request).await
        })
    }
}

impl Google {
    /// With a key to sign by.
    #[must_use]
    pub fn new(world: Arc<World>, key: Arc<SigningKey>) -> Arc<Self> {
        let random = Random::of(world.seed, "Google");
        let state = Mutex::new(State { random, minute: (0, 0), cached: HashMap::new() });
        Arc::new(Self { world, key, state })
    }

    async fn answer(&self, request: &Request<Bytes>) -> Result<Response<Bytes>, CallError> {
        self.world.ledger().google_request(clock::second());
        let latency = Duration::from_millis(self.state().random.within(20..250));
        let (schedule, second) = (&self.world.schedule, clock::second());
        match schedule.now(second, |fault| if let Fault::Google(down) = fault { Some(down) } else { None }) {
            Some(Down::Refused) => return Err(CallError::Connect("Connection refused".to_owned())),
            Some(Down::Silent) => return std::future::pending().await,
            Some(Down::Unavailable) => {
                sleep(latency).await;
                return Ok(refusal(503, "UNAVAILABLE", "The service is currently unavailable."));
            }
            None => {}
        }
        let path = request.uri().path();
        let answer = if let Some(what) = path.strip_prefix(METADATA) {
            self.metadata(what, request.uri().query().unwrap_or_default())
        } else if let Some(account) =
            path.strip_prefix(ACCOUNTS).and_then(|rest| rest.strip_suffix(":generateIdToken"))
        {
            match self.generate(account, request) {
                Some(answer) => answer,
                None => return std::future::pending().await,
            }
        } else {
            let keys = json!({"keys": [self.key.jwk()]});
            let mut answer = Response::new(Bytes::from(keys.to_string()));
            answer
                .headers_mut()
                .insert(header::CACHE_CONTROL, header::HeaderValue::from_static("public, max-age=20000"));
            answer
        };
        sleep(latency).await;
        Ok(answer)
    }

    fn metadata(&self, what: &str, query: &str) -> Response<Bytes> {
        match what {
            "email" => Response::new(Bytes::from_static(OPERATOR.as_bytes())),
            "token" => {
                let expires = clock::now().as_second() + LIFE;
                Response::new(Bytes::from(json!({"access_token": format!("access-{expires}"), "expires_in": LIFE, "token_type": "Bearer"}).to_string()))
            }
            _ => {
                let audience =
                    query.split('&').find_map(|pair| pair.strip_prefix("audience=")).unwrap_or_default();
                let audience = audience.replace("%3A", ":").replace("%2F", "/");
                let now = clock::now().as_second();
                let cached = self.state().cached.get(&audience).filter(|(_, until)| *until > now).cloned();
                let token = cached.map_or_else(
                    || {
                        let token = self.mint(OPERATOR, &audience);
                        self.state().cached.insert(audience, (token.clone(), now + LIFE - 300));
                        token
                    },
                    |(token, _)| token,
                );
                Response::new(Bytes::from(token))
            }
        }
    }

    /// `None`: there is no answer.
    fn generate(&self, account: &str, request: &Request<Bytes>) -> Option<Response<Bytes>> {
        if let Some(answer) = self.over_quota() {
            return Some(answer);
        }
        let bearer = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let expires = bearer.and_then(|bearer| bearer.strip_prefix("Bearer access-")?.parse::<i64>().ok());
        if expires.is_none_or(|expires| expires <= clock::now().as_second()) {
            return Some(refusal(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."));
        }
        let failing = self.world.population.failing.map(|tenant| format!("@{}.iam.", tenant_name(tenant)));
        if let Some(denial) =
            self.world.schedule.denial.filter(|_| failing.is_some_and(|domain| account.contains(&domain)))
        {
            return match denial {
                Denial::Denied => Some(refusal(
                    403,
                    "PERMISSION_DENIED",
                    "Permission 'iam.serviceAccounts.getOpenIdToken' denied on resource (or it may not exist).",
                )),
                Denial::Missing => Some(refusal(404, "NOT_FOUND", "Not found; Gaia id not found for email")),
                Denial::Unavailable => {
                    Some(refusal(503, "UNAVAILABLE", "The service is currently unavailable."))
                }
                Denial::Silent => None,
            };
        }
        let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let token = self.mint(account, body["audience"].as_str().unwrap_or_default());
        Some(Response::new(Bytes::from(json!({"token": token}).to_string())))
    }

    /// The answer of who has asked for too many tokens.
    fn over_quota(&self) -> Option<Response<Bytes>> {
        let second = clock::second();
        let storm = self.world.schedule.now(second, |fault| (fault == Fault::Storm).then_some(())).is_some();
        let mut state = self.state();
        if state.minute.0 != second / 60 {
            state.minute = (second / 60, 0);
        }
        state.minute.1 += 1;
        let is_refused = state.minute.1 > self.world.quota || storm && state.random.happens(90);
        if !is_refused {
            return None;
        }
        let says_when = state.random.happens(50);
        drop(state);
        self.world.ledger().over_quota(second);
        let mut answer = refusal(
            429,
            "RESOURCE_EXHAUSTED",
            "Quota exceeded for quota metric 'Generate credentials requests'.",
        );
        if says_when {
            let seconds = 60 - second % 60;
            answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
        }
        Some(answer)
    }

    fn mint(&self, email: &str, audience: &str) -> String {
        let now = clock::now().as_second();
        self.world.ledger().minted(clock::second());
        let is_other = self.world.defect == Some(Defect::OtherAudience);
        let audience = if is_other { "https://other.example.com" } else { audience };
        self.key.sign(&json!({
            "iss": "https://accounts.google.com", "aud": audience, "azp": "1", "sub": "112233445566778899000",
            "email": email, "email_verified": true, "iat": now, "exp": now + LIFE,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refusal(code: u16, status: &str, message: &str) -> Response<Bytes> {
    let body = json!({"error": {"code": code, "message": message, "status": status}});
    let mut answer = Response::new(Bytes::from(body.to_string()));
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer
}

/// Seconds that a token lives.
pub const LIFE: i64 = 3600;
const METADATA: &str = "/computeMetadata/v1/instance/service-accounts/default/";
const ACCOUNTS: &str = "/v1/projects/-/serviceAccounts/";
