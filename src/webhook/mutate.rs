//! `POST /mutate`: asks the lookup, then [`plan::inject`](crate::plan::inject), and answers.
use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, task::Poll};

use bytes::Bytes;
use futures::{FutureExt as _, future::join_all, poll};
use http::{Method, Request as HttpRequest, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use jiff::Timestamp;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::sync::SemaphorePermit;

use super::{
    lookup::{BindingLookup, Lookup},
    review::{self, Answer, Request},
    room::{Read, Room, Unread},
};
use crate::plan::inject::{self, BindingFacts, Injection, Pod, Refusal};

/// How reviews ended: `injected`, `unchanged`, `refused`, `unavailable`, `malformed`, `unread` or `failed`.
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

/// The webhook's HTTP interface. Cloning shares it.
pub struct Webhook<L>(Arc<Parts<L>>);

struct Parts<L> {
    lookup: Arc<L>,
    outcomes: Outcomes,
    now: fn() -> Timestamp,
    room: Room,
}

impl<L> Clone for Webhook<L> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Why a pod is not allowed.
enum NotAllowed {
    /// It asks for something that makes no sense.
    Refused(Refusal),
    /// Whether there is the binding of that name can't be told.
    NotNow(String),
    /// Too many pods wait for bindings that are not known.
    Busy,
}

impl From<Refusal> for NotAllowed {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl<L: BindingLookup> Webhook<L> {
    /// `now` is the wall clock.
    pub fn new(lookup: Arc<L>, outcomes: Outcomes, now: fn() -> Timestamp) -> Self {
        Self(Arc::new(Parts { lookup, outcomes, now, room: Room::default() }))
    }

    /// Answers a request. (There is one path; a router would cost each of them more than it brings.) What takes too long is ended where
    /// it waits: for a body where it is read, for a binding by the lookup.
    pub async fn respond<B>(&self, request: HttpRequest<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        match (request.uri().path(), request.method()) {
            (PATH, &Method::POST) => self.0.serve(request.into_body()).await,
            (PATH, _) => plain(StatusCode::METHOD_NOT_ALLOWED, "reviews are sent by POST"),
            _ => plain(StatusCode::NOT_FOUND, "reviews are sent to /mutate"),
        }
    }
}

impl<L: BindingLookup> Parts<L> {
    /// A panic is answered like any failure of ours, so that the registration's failurePolicy decides, and nobody else who is served over
    /// the same connection is harmed.
    async fn serve<B>(&self, body: B) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let Read { text, mut permit } = match self.room.read(body).await {
            Ok(read) => read,
            Err(unread) => return self.unread(unread),
        };
        let reviewed = AssertUnwindSafe(self.review(&text, &mut permit)).catch_unwind().await;
        match reviewed.unwrap_or_else(|_| Err(self.failed())) {
            Ok(answer) => answer.into_response(),
            Err((status, words)) => plain(status, words),
        }
    }

    fn unread(&self, unread: Unread) -> Response<Full<Bytes>> {
        self.outcomes.add("unread");
        tracing::warn!(?unread, "a review was not read");
        let (status, words) = unread.told();
        plain(status, words)
    }

    fn failed(&self) -> (StatusCode, String) {
        self.outcomes.add("failed");
        tracing::error!("a review panicked; the pod was not decided on");
        (StatusCode::INTERNAL_SERVER_ERROR, "a bug in idtoken-operator: see the webhook's log".to_owned())
    }

    /// Nothing but the answer comes of it, so a dry run is a run like any other.
    async fn review(
        &self,
        body: &[u8],
        permit: &mut Option<SemaphorePermit<'_>>,
    ) -> Result<Answer, (StatusCode, String)> {
        let mut request = Request::parse(body).map_err(|error| {
            self.outcomes.add("malformed");
            (StatusCode::BAD_REQUEST, error.to_string())
        })?;
        let decided = if request.creates_pod() {
            self.decide(&mut request, body, permit).await
        } else {
            Ok(Injection::default())
        };
        self.answer(&request, decided)
    }

    async fn decide<'b>(
        &self,
        request: &mut Request<'b>,
        body: &'b [u8],
        permit: &mut Option<SemaphorePermit<'_>>,
    ) -> Result<Injection, NotAllowed> {
        let Request { namespace, object: pod, .. } = request;
        let asked = inject::request(pod)?;
        let names = asked.as_ref().map_or(&[][..], |asked| &asked.bindings);
        let mut bindings = pin!(self.bindings(namespace, names));
        let bindings = match poll!(bindings.as_mut()) {
            Poll::Ready(bindings) => bindings?,
            Poll::Pending => {
                // What waits has its body alone: what was read of it can be many times as large.
                *pod = Pod::default();
                // And it waits elsewhere: those whose bindings are known need not wait for it.
                permit.take();
                let _wait = self.room.wait(namespace, body.len()).ok_or(NotAllowed::Busy)?;
                let bindings = bindings.await?;
                *pod = Request::parse(body).map(|request| request.object).unwrap_or_default();
                bindings
            }
        };
        let known = |name: &str| bindings.iter().find(|(of, _)| *of == name)?.1.clone();
        Ok(inject::fulfil(pod, asked.as_ref(), &known, (self.now)())?)
    }

    /// What there is of each of those names. Where nobody can say whether there is one, the pod has to be sent again: a
    /// pod's volumes can't be mended later.
    async fn bindings<'n>(
        &self,
        namespace: &str,
        names: &'n [String],
    ) -> Result<Vec<(&'n str, Option<BindingFacts>)>, NotAllowed> {
        let find = async |name: &'n String| match self.lookup.find(namespace, name).await {
            Lookup::Found(facts) => Ok((name.as_str(), Some(facts))),
            Lookup::Missing => Ok((name.as_str(), None)),
            Lookup::Unavailable => Err(NotAllowed::NotNow(name.clone())),
        };
        join_all(names.iter().map(find)).await.into_iter().collect()
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
            Err(NotAllowed::Busy) => {
                self.outcomes.add("unavailable");
                tracing::warn!(
                    uid,
                    namespace,
                    name,
                    "pod not decided on: too many wait for bindings that are not known"
                );
                let message = "too many pods wait for bindings that are not known; try again".to_owned();
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

/// An answer that is no review.
fn plain(status: StatusCode, words: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(words.into()));
    *response.status_mut() = status;
    response
}

const PATH: &str = "/mutate";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

const RESULTS: [&str; 7] =
    ["injected", "unchanged", "refused", "unavailable", "malformed", "unread", "failed"];

#[cfg(test)]
mod tests;
