//! `POST /mutate`: asks the lookup, then [`plan::inject`](crate::plan::inject), and answers.
use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{self, DefaultBodyLimit, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::{FutureExt as _, future::join_all};
use jiff::Timestamp;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::time::timeout;

use super::{
    lookup::{BindingLookup, Lookup},
    review::{self, Answer, Request},
};
use crate::plan::inject::{self, BindingFacts, Injection, Refusal};

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
    Router::new()
        .route("/mutate", post(mutate::<L>))
        .layer(DefaultBodyLimit::max(BODY))
        .layer(middleware::from_fn(in_time))
        .with_state(Arc::new(Webhook { lookup, outcomes, now }))
}

struct Webhook<L> {
    lookup: Arc<L>,
    outcomes: Outcomes,
    now: fn() -> Timestamp,
}

/// Ends what takes too long, above all a body that comes in drops.
async fn in_time(request: extract::Request, next: Next) -> Response {
    let answer = timeout(WHOLE, next.run(request)).await;
    answer.unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response())
}

/// A panic is answered like any failure of ours, so that the registration's failurePolicy decides, and nobody else who is served over the
/// same connection is harmed.
async fn mutate<L: BindingLookup>(
    State(webhook): State<Arc<Webhook<L>>>,
    body: Bytes,
) -> Result<Json<Answer>, (StatusCode, String)> {
    let reviewed = AssertUnwindSafe(webhook.review(&body)).catch_unwind().await;
    reviewed.unwrap_or_else(|_| {
        webhook.outcomes.add("failed");
        tracing::error!("a review panicked; the pod was not decided on");
        Err((
            StatusCode::INTERNAL_SERVER_ERROR,
            "a bug in idtoken-operator: see the webhook's log".to_owned(),
        ))
    })
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
    /// Nothing but the answer comes of it, so a dry run is a run like any other.
    async fn review(&self, body: &[u8]) -> Result<Json<Answer>, (StatusCode, String)> {
        let request = Request::parse(body).map_err(|error| {
            self.outcomes.add("malformed");
            (StatusCode::BAD_REQUEST, error.to_string())
        })?;
        let decided =
            if request.creates_pod() { self.decide(&request).await } else { Ok(Injection::default()) };
        self.answer(&request, decided).map(Json)
    }

    async fn decide(&self, request: &Request) -> Result<Injection, NotAllowed> {
        let pod = &request.object;
        let names = inject::request(pod)?.map(|request| request.bindings).unwrap_or_default();
        let bindings = self.bindings(&request.namespace, names).await?;
        Ok(inject::inject(pod, &|name| bindings.get(name).cloned(), (self.now)())?)
    }

    /// The bindings of those names that there are. Where nobody can say whether there is one, the pod has to be sent again: a
    /// pod's volumes can't be mended later.
    async fn bindings(
        &self,
        namespace: &str,
        names: Vec<String>,
    ) -> Result<HashMap<String, BindingFacts>, NotAllowed> {
        let find = async |name: String| match self.lookup.find(namespace, &name).await {
            Lookup::Found(facts) => Ok(Some((name, facts))),
            Lookup::Missing => Ok(None),
            Lookup::Unavailable => Err(NotAllowed::NotNow(name)),
        };
        let found: Result<Vec<_>, _> = join_all(names.into_iter().map(find)).await.into_iter().collect();
        Ok(found?.into_iter().flatten().collect())
    }

    /// The error is no decision on the pod, but the lack of one: the registration's failurePolicy says what becomes of it.
    fn answer(
        &self,
        request: &Request,
        decided: Result<Injection, NotAllowed>,
    ) -> Result<Answer, (StatusCode, String)> {
        let Request { uid, namespace, name, .. } = request;
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
const BODY: usize = 3 * 1024 * 1024;

#[cfg(test)]
mod tests;
