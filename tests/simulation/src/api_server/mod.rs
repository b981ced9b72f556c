//! A model of the API server, as far as the controller looks: versions and preconditions, lists and watches that are resumed or can't
//! be, answers of metadata alone, statuses by version or by server-side apply, Leases, and Events that are counted.

mod refusal;
mod request;
mod store;
mod watch;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Either, Full, StreamBody};
use kube::client::Body as RequestBody;
use serde_json::{Value, json};
use tokio::time::sleep;
use tower::BoxError;

pub use refusal::Refusal;
pub use store::{Name, Resource, Store};

use crate::clock;
use crate::faults::{Down, Fault};
use crate::random::Random;
use crate::replica::Link;
use crate::world::World;
use request::{Ask, wants_metadata};
use watch::Watched;

/// What an answer holds: all of it, or what a watch brings.
pub type Body = Either<Full<Bytes>, StreamBody<BoxStream<'static, Result<Frame<Bytes>, Broken>>>>;

/// The model.
pub struct ApiServer {
    world: Arc<World>,
    store: Mutex<Store>,
    random: Mutex<Random>,
    cuts: tokio::sync::watch::Sender<u64>,
}

/// A connection that ended.
#[derive(Clone, Copy, Debug)]
pub struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("connection reset by peer")
    }
}

impl std::error::Error for Broken {}

/// A replica's way to the model.
#[derive(Clone)]
pub struct Connection {
    /// The model.
    pub server: Arc<ApiServer>,
    /// Who asks.
    pub link: Link,
}

impl tower::Service<Request<RequestBody>> for Connection {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let Self { server, link } = self.clone();
        Box::pin(server.answer(link, request))
    }
}

impl ApiServer {
    /// Empty.
    #[must_use]
    pub fn new(world: Arc<World>) -> Arc<Self> {
        let random = Mutex::new(Random::of(world.seed, "API server"));
        Arc::new(Self { world, store: Mutex::default(), random, cuts: tokio::sync::watch::Sender::new(0) })
    }

    /// What it holds.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all watches.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Ends all watches, and forgets what they would resume from.
    pub fn compact(&self) {
        self.store().compact();
        self.cut();
    }

    /// Who holds the Lease.
    #[must_use]
    pub fn leader(&self) -> Option<String> {
        let name = Name { namespace: LEASE.0.to_owned(), name: LEASE.1.to_owned() };
        let holder = self.store().get(Resource::Lease, &name)?["spec"]["holderIdentity"].as_str()?.to_owned();
        (!holder.is_empty()).then_some(holder)
    }

    fn cuts(&self) -> tokio::sync::watch::Receiver<u64> {
        self.cuts.subscribe()
    }

    async fn answer(
        self: Arc<Self>,
        link: Link,
        request: Request<RequestBody>,
    ) -> Result<Response<Body>, BoxError> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let metadata_only = wants_metadata(&head);
        let ask = match Ask::read(&head, &body) {
            Ok(ask) => ask,
            Err(refusal) => {
                self.world.ledger().fail(format!(
                    "the model of the API server lacks something: {}",
                    refusal.body()["message"]
                ));
                return Ok(refused(&refusal));
            }
        };
        link.pass().await?;
        self.world.ledger().api_request(clock::second(), ask.label());
        if let Some(down) = self.down() {
            return match down {
                Down::Refused => Err(Broken.into()),
                Down::Silent => {
                    self.up().await;
                    Err(Broken.into())
                }
                Down::Unavailable => Ok(refused(&Refusal::unavailable())),
            };
        }
        let leader = self.leader();
        let is_write = ask.is_write();
        let work = self.clone().carry_out(link.clone(), ask, leader, metadata_only);
        let answer =
            if is_write { tokio::spawn(self.clone().written(link.clone(), work)).await? } else { work.await };
        link.pass().await?;
        if self.down().is_some() {
            return Err(Broken.into());
        }
        Ok(answer)
    }

    /// Counts a write while it is under way.
    async fn written<T>(self: Arc<Self>, link: Link, work: impl Future<Output = T>) -> T {
        self.world.ledger().writing(link.writes.fetch_add(1, Ordering::Relaxed) + 1);
        let answer = work.await;
        link.writes.fetch_sub(1, Ordering::Relaxed);
        answer
    }

    /// As it was when it was sent, so is who was the leader then.
    async fn carry_out(
        self: Arc<Self>,
        link: Link,
        ask: Ask,
        leader: Option<String>,
        metadata_only: bool,
    ) -> Response<Body> {
        sleep(self.latency()).await;
        let answer = match ask {
            Ask::Collection(resource, selector, Some(follow)) => {
                let watched = Watched { server: self.clone(), link, resource, selector, metadata_only };
                return Response::new(watched.body(&follow));
            }
            Ask::Collection(resource, selector, None) => Ok(self.list(resource, &selector, metadata_only)),
            ask => self.object(&link, ask, leader.as_deref()).map(|object| text(&object, metadata_only)),
        };
        sleep(self.latency()).await;
        match answer {
            Ok(text) => answered(StatusCode::OK, text),
            Err(refusal) => refused(&refusal),
        }
    }

    fn list(&self, resource: Resource, selector: &request::Selector, metadata_only: bool) -> String {
        let (objects, revision) = self.store().list(resource, selector);
        let (version, kind) = resource.kind();
        let (version, kind) =
            if metadata_only { ("meta.k8s.io/v1", "PartialObjectMetadata") } else { (version, kind) };
        let items: Vec<String> = objects.iter().map(|object| text(object, metadata_only)).collect();
        format!(
            r#"{{"apiVersion":"{version}","kind":"{kind}List","metadata":{{"resourceVersion":"{revision}"}},"items":[{}]}}"#,
            items.join(",")
        )
    }

    /// One object, changed or not.
    fn object(&self, link: &Link, ask: Ask, leader: Option<&str>) -> Result<Arc<Value>, Refusal> {
        let mut store = self.store();
        Ok(match ask {
            Ask::Get(resource, name) => {
                let object = store.get(resource, &name).cloned();
                object.ok_or_else(|| Refusal::missing(resource, &name))?
            }
            Ask::Create(resource, name, object) => {
                let made = store.create(resource, name, object)?;
                self.note(link, resource, None, &made, leader);
                made
            }
            Ask::Replace(resource, name, object) => {
                if resource == Resource::Secret && self.is_contested() {
                    store.touch(resource, &name);
                }
                let before = store.get(resource, &name).cloned();
                let now = store.replace(resource, name, object)?;
                self.note(link, resource, before.as_deref(), &now, leader);
                now
            }
            Ask::ApplyStatus(resource, name, body) | Ask::ReplaceStatus(resource, name, body) => {
                if resource == Resource::Binding && self.is_contested() {
                    store.touch(resource, &name);
                }
                let before = store.get(resource, &name).cloned();
                let now = store.set_status(resource, name, &body)?;
                if before.is_none_or(|before| !Arc::ptr_eq(&before, &now)) && resource == Resource::Binding {
                    self.world.ledger().status_written(&link.identity, leader);
                }
                now
            }
            Ask::Delete(resource, name) => {
                let gone = store.delete(resource, &name)?;
                self.world.ledger().deleted(resource, &name);
                gone
            }
            Ask::Event => {
                self.world.ledger().event();
                let metadata = json!({"name": "x", "namespace": "x"});
                Arc::new(json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": metadata}))
            }
            Ask::Collection(..) => return Err(Refusal::unknown("a collection as an object")),
        })
    }

    /// Tells the ledger of a write.
    fn note(
        &self,
        link: &Link,
        resource: Resource,
        before: Option<&Value>,
        now: &Value,
        leader: Option<&str>,
    ) {
        match resource {
            Resource::Secret => {
                self.world.ledger().secret_written(
                    &self.world.population,
                    &link.identity,
                    leader,
                    before,
                    now,
                );
            }
            Resource::Lease if link.is_up() && now["spec"]["holderIdentity"] == *link.identity => {
                self.world.ledger().led(clock::second());
            }
            _ => {}
        }
    }

    fn down(&self) -> Option<Down> {
        let down = |fault| if let Fault::Api(down) = fault { Some(down) } else { None };
        self.world.schedule.now(clock::second(), down)
    }

    /// Returns when the API server is there again, and resets the connections that it no longer knows.
    async fn up(&self) {
        while self.down().is_some() {
            sleep(Duration::from_secs(1)).await;
        }
    }

    fn slowness(&self) -> Option<u64> {
        let slow = |fault| if let Fault::Slow(millis) = fault { Some(millis) } else { None };
        self.world.schedule.now(clock::second(), slow)
    }

    fn is_contested(&self) -> bool {
        let share = |fault| if let Fault::Conflicts(percent) = fault { Some(percent) } else { None };
        let share = self.world.schedule.now(clock::second(), share);
        share.is_some_and(|percent| self.random().happens(percent))
    }

    /// Of one direction.
    fn latency(&self) -> Duration {
        let most = self.slowness().unwrap_or(10);
        Duration::from_millis(self.random().within(1..most / 2 + 2))
    }

    fn watch_delay(&self) -> Duration {
        let most = self.slowness().map_or(50, |millis| 10 * millis);
        Duration::from_millis(self.random().within(5..most))
    }

    fn random(&self) -> MutexGuard<'_, Random> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An object in JSON, whole or its metadata alone.
fn text(object: &Value, metadata_only: bool) -> String {
    if !metadata_only {
        return object.to_string();
    }
    let metadata = &object["metadata"];
    format!(r#"{{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadata","metadata":{metadata}}}"#)
}

fn refused(refusal: &Refusal) -> Response<Body> {
    answered(refusal.status(), refusal.body().to_string())
}

fn answered(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response
}

/// Namespace and name of the Lease.
pub const LEASE: (&str, &str) = ("idtoken-system", "idtoken-operator-controller");
