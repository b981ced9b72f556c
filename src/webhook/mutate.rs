//! `POST /mutate`: asks the lookup, then [`plan::inject`](crate::plan::inject), and answers.
use std::{collections::HashMap, panic::AssertUnwindSafe, pin::pin, sync::Arc, task::Poll, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody as _},
    extract::{self, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use futures::{FutureExt as _, future::join_all, poll};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use jiff::Timestamp;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{
    lookup::{BindingLookup, Lookup},
    review::{self, Answer, Request},
};
use crate::plan::inject::{self, BindingFacts, Injection, Pod, Refusal};

/// How reviews ended: `injected`, `unchanged`, `refused`, `unavailable`, `malformed` or `failed`.
#[derive(Debug, Clone, Default)]
pub struct Outcomes(Family<Outcome, Counter>);

impl Outcomes {
    /// Makes the counter known.
    pub fn register(&self, registry: &mut Registry) {
        // From the start at 0, so that the first of each kind is seen as an increase.
        for result in RESULTS {
            self.0.get_or_create(&Outcome { result }).inc_by(0);
        }
        registry.register("webhook_reviews", "Pod admission reviews by result", self.0.clone());
    }

    /// How many ended in `result`.
    #[must_use]
    pub fn count(&self, result: &'static str) -> u64 {
        self.0.get_or_create(&Outcome { result }).get()
    }

    fn add(&self, result: &'static str) {
        self.0.get_or_create(&Outcome { result }).inc();
    }
}

/// The webhook's HTTP interface. `now` is the wall clock.
pub fn router<L: BindingLookup>(lookup: Arc<L>, outcomes: Outcomes, now: fn() -> Timestamp) -> Router {
    let webhook = Webhook { lookup, outcomes, now, room: Room::default() };
    Router::new().route("/mutate", post(mutate::<L>)).with_state(Arc::new(webhook))
}

struct Webhook<L> {
    lookup: Arc<L>,
    outcomes: Outcomes,
    now: fn() -> Timestamp,
    room: Room,
}

/// How many bytes of bodies may be in memory at the same time.
struct Room {
    small: Semaphore,
    large: Semaphore,
}

impl Default for Room {
    fn default() -> Self {
        Self { small: Semaphore::new(SMALL_ROOM), large: Semaphore::new(LARGE_ROOM) }
    }
}

impl Room {
    /// Waits until there is room for a body of at most so many bytes. Small ones, which nearly all are, never wait for large ones.
    async fn enter(&self, most: Option<u64>) -> Option<SemaphorePermit<'_>> {
        let most = most.and_then(|length| length.try_into().ok());
        let length = most.map_or(BODY, |length: u32| length.min(BODY));
        let semaphore = if length <= SMALL { &self.small } else { &self.large };
        semaphore.acquire_many(length).await.ok()
    }
}

/// Ends what takes too long, above all a body that comes in drops. (Not layers of axum's: each of them takes memory for each request.)
async fn mutate<L: BindingLookup>(
    State(webhook): State<Arc<Webhook<L>>>,
    request: extract::Request,
) -> Response {
    let answer = timeout(WHOLE, webhook.serve(request.into_body())).await;
    answer.unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response())
}

async fn read(body: Body) -> Result<Bytes, (StatusCode, String)> {
    let whole = Limited::new(body, BODY as usize).collect().await.map_err(|error| {
        let is_too_long = error.is::<LengthLimitError>();
        let status = if is_too_long { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
        (status, error.to_string())
    });
    Ok(whole?.to_bytes())
}

/// Why a pod is not allowed.
enum NotAllowed {
    /// It asks for something that makes no sense.
    Refused(Refusal),
    /// Whether there is the binding of that name can't be told.
    NotNow(String),
}

impl From<Refusal> for NotAllowed {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl<L: BindingLookup> Webhook<L> {
    /// A panic is answered like any failure of ours, so that the registration's failurePolicy decides, and nobody else who is served over
    /// the same connection is harmed.
    async fn serve(&self, body: Body) -> Response {
        let _permits = self.room.enter(body.size_hint().upper()).await;
        let body = match read(body).await {
            Ok(body) => body,
            Err(failure) => return failure.into_response(),
        };
        let reviewed = AssertUnwindSafe(self.review(&body)).catch_unwind().await;
        reviewed.map_or_else(|_| self.failed().into_response(), IntoResponse::into_response)
    }

    fn failed(&self) -> (StatusCode, &'static str) {
        self.outcomes.add("failed");
        tracing::error!("a review panicked; the pod was not decided on");
        (StatusCode::INTERNAL_SERVER_ERROR, "a bug in idtoken-operator: see the webhook's log")
    }

    /// Nothing but the answer comes of it, so a dry run is a run like any other.
    async fn review(&self, body: &[u8]) -> Result<Answer, (StatusCode, String)> {
        let mut request = Request::parse(body).map_err(|error| {
            self.outcomes.add("malformed");
            (StatusCode::BAD_REQUEST, error.to_string())
        })?;
        let decided = if request.creates_pod() {
            self.decide(&mut request, body).await
        } else {
            Ok(Injection::default())
        };
        self.answer(&request, decided)
    }

    async fn decide<'b>(&self, request: &mut Request<'b>, body: &'b [u8]) -> Result<Injection, NotAllowed> {
        let Request { namespace, object: pod, .. } = request;
        let asked = inject::request(pod)?;
        let names = asked.as_ref().map_or(&[][..], |asked| &asked.bindings);
        let mut bindings = pin!(self.bindings(namespace, names));
        let bindings = match poll!(bindings.as_mut()) {
            Poll::Ready(bindings) => bindings?,
            Poll::Pending => {
                // What waits has its body alone: what was read of it can be many times as large.
                *pod = Pod::default();
                let bindings = bindings.await?;
                *pod = Request::parse(body).map(|request| request.object).unwrap_or_default();
                bindings
            }
        };
        Ok(inject::fulfil(pod, asked.as_ref(), &|name| bindings.get(name).cloned(), (self.now)())?)
    }

    /// The bindings of those names that there are. Where nobody can say whether there is one, the pod has to be sent again: a
    /// pod's volumes can't be mended later.
    async fn bindings<'n>(
        &self,
        namespace: &str,
        names: &'n [String],
    ) -> Result<HashMap<&'n str, BindingFacts>, NotAllowed> {
        let find = async |name: &'n String| match self.lookup.find(namespace, name).await {
            Lookup::Found(facts) => Ok(Some((name.as_str(), facts))),
            Lookup::Missing => Ok(None),
            Lookup::Unavailable => Err(NotAllowed::NotNow(name.clone())),
        };
        let found: Result<Vec<_>, _> = join_all(names.iter().map(find)).await.into_iter().collect();
        Ok(found?.into_iter().flatten().collect())
    }

    /// The error is no decision on the pod, but the lack of one: the registration's failurePolicy says what becomes of it.
    fn answer(
        &self,
        request: &Request<'_>,
        decided: Result<Injection, NotAllowed>,
    ) -> Result<Answer, (StatusCode, String)> {
        let (uid, namespace, name) = (&*request.uid, &*request.namespace, &*request.name);
        match decided {
            Ok(injection) => {
                let result = if injection.patch.is_empty() { "unchanged" } else { "injected" };
                self.outcomes.add(result);
                tracing::debug!(uid, namespace, name, result, "pod reviewed");
                Ok(review::allowed(uid, injection))
            }
            Err(NotAllowed::NotNow(binding)) => {
                self.outcomes.add("unavailable");
                tracing::warn!(
                    uid,
                    namespace,
                    name,
                    binding,
                    "pod not decided on: its binding can't be read"
                );
                let message = format!("IdTokenBinding {binding} can't be read at the moment; try again");
                Err((StatusCode::SERVICE_UNAVAILABLE, message))
            }
            Err(NotAllowed::Refused(refusal)) => {
                self.outcomes.add("refused");
                tracing::info!(uid, namespace, name, %refusal, "pod refused");
                Ok(review::denied(uid, refusal.to_string()))
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

const RESULTS: [&str; 6] = ["injected", "unchanged", "refused", "unavailable", "malformed", "failed"];

/// The most that the API server is told to wait (the chart's `webhook.timeoutSeconds`), and twice the default.
const WHOLE: Duration = Duration::from_secs(10);

/// What the API server itself accepts from a client.
const BODY: u32 = 3 * 1024 * 1024;
/// A body that is no larger is small; those of most pods have some kilobytes.
const SMALL: u32 = 64 * 1024;
/// Bytes of small bodies at the same time.
const SMALL_ROOM: usize = 4 * 1024 * 1024;
/// Bytes of large ones: one of the largest at least.
const LARGE_ROOM: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests;
