#![allow(clippy::unwrap_used, clippy::panic)]
mod year;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Mutex, PoisonError},
};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use jiff::SignedDuration;
use k8s_openapi::ByteString;
use kube::client::Body;
use serde_json::json;
use tower::service_fn;

use super::*;

/// An API server that knows one Secret, and what is asked of it.
#[derive(Default)]
struct Server(Mutex<Known>);

#[derive(Default)]
struct Known {
    secret: Option<Secret>,
    version: u32,
    calls: Vec<String>,
    down: bool,
    /// What becomes of the next write.
    fault: Option<Fault>,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// It is not done.
    Refused,
    /// It is done, but nobody hears of it.
    Unheard,
}

#[tokio::test]
async fn two_replicas_that_start_together_share_one_authority() {
    let server = Arc::new(Server::default());
    let (mut a, mut b) = (keeper(&server), keeper(&server));
    let (first, second) = tokio::join!(a.visit(now()), b.visit(now()));
    first.unwrap();
    second.unwrap();
    assert_eq!(a.bundle.borrow().clone(), b.bundle.borrow().clone());
    assert_eq!(a.bundle.borrow().as_deref(), Some(server.text("ca.crt").as_str()));
    assert!(a.hot.is_loaded() && b.hot.is_loaded());
    // Both have seen none, one was faster, and it was only ever written once.
    assert_eq!(server.calls("POST"), 2);
    assert_eq!((server.calls("PUT"), server.version()), (0, 1));
}

#[tokio::test]
async fn nothing_is_written_while_all_is_well() {
    let server = Arc::new(Server::default());
    let mut keeper = keeper(&server);
    keeper.visit(now()).await.unwrap();
    let bundle = keeper.bundle.subscribe();
    keeper.visit(now()).await.unwrap();
    assert_eq!(server.version(), 1);
    assert!(!bundle.has_changed().unwrap());
}

#[tokio::test]
async fn secret_has_the_documented_shape() {
    let server = Arc::new(Server::default());
    keeper(&server).visit(now()).await.unwrap();
    let secret = server.lock().secret.clone().unwrap();
    assert_eq!(secret.type_.as_deref(), Some("Opaque"));
    assert_eq!(secret.metadata.name.as_deref(), Some("webhook-tls"));
    let keys: Vec<_> = secret.data.unwrap().into_keys().collect();
    assert_eq!(keys, ["ca.crt", "ca.key", "tls.crt", "tls.key"]);
}

#[tokio::test]
async fn damaged_and_empty_secrets_are_filled_anew_and_keep_their_metadata() {
    for data in [None, Some([("ca.crt".to_owned(), ByteString(b"garbage".to_vec()))])] {
        let server = Arc::new(Server::default());
        server.put(Secret {
            metadata: ObjectMeta {
                name: Some("webhook-tls".into()),
                labels: Some([("kept".to_owned(), "yes".to_owned())].into()),
                resource_version: Some("0".into()),
                ..ObjectMeta::default()
            },
            data: data.map(BTreeMap::from),
            ..Secret::default()
        });
        let mut keeper = keeper(&server);
        keeper.visit(now()).await.unwrap();
        assert!(server.text("ca.crt").starts_with("-----BEGIN CERTIFICATE-----"));
        assert_eq!(server.lock().secret.as_ref().unwrap().metadata.labels.as_ref().unwrap()["kept"], "yes");
        assert_eq!((server.calls("POST"), server.calls("PUT")), (0, 1));
    }
}

#[tokio::test]
async fn deleted_or_damaged_secret_gets_back_what_was_in_it() {
    let server = Arc::new(Server::default());
    let mut keeper = keeper(&server);
    keeper.visit(now()).await.unwrap();
    let before = server.lock().secret.clone().unwrap().data;
    let bundle = keeper.bundle.subscribe();
    server.lock().secret = None;
    keeper.visit(now()).await.unwrap();
    assert_eq!(server.lock().secret.clone().unwrap().data, before);
    server.lock().secret.as_mut().unwrap().data.as_mut().unwrap().remove("ca.key");
    keeper.visit(now()).await.unwrap();
    assert_eq!(server.lock().secret.clone().unwrap().data, before);
    assert!(!bundle.has_changed().unwrap());
}

/// As after the Secret was deleted and a new replica was faster than those which know what was in it.
#[tokio::test]
async fn another_authority_is_waited_for_until_the_api_server_trusts_it() {
    let server = Arc::new(Server::default());
    let mut old = keeper(&server);
    old.visit(now()).await.unwrap();
    let first = old.bundle.borrow().clone().unwrap();
    let (registration, registered) = watch::channel(registered(&first, now()));
    old.registered = registered;
    let presented = old.presented.clone();

    server.lock().secret = None;
    let mut new = keeper(&server);
    new.visit(now()).await.unwrap();
    let second = new.bundle.borrow().clone().unwrap();
    assert!(!second.contains(&first));

    let later = now() + SignedDuration::from_secs(10);
    assert_eq!(old.visit(later).await.unwrap(), later + SignedDuration::from_secs(2), "looks again soon");
    let both = old.bundle.borrow().clone().unwrap();
    assert_eq!(both, format!("{second}{first}"), "what it serves stays trusted");
    assert_eq!(server.text("ca.crt"), both);
    assert_eq!(old.presented, presented, "the new CA is not registered yet");
    registration.send_replace(self::registered(&both, later));
    old.visit(later + SignedDuration::from_secs(1)).await.unwrap();
    assert_eq!(old.presented, presented, "not every API server need know of it yet");
    old.visit(later + SignedDuration::from_secs(2)).await.unwrap();
    assert_eq!(old.presented, new.presented);

    // The API server trusts the other alone: nothing is gained by waiting.
    let mut third = keeper(&server);
    third.presented = presented;
    third.registered = watch::channel(self::registered(&second, later)).1;
    third.visit(later).await.unwrap();
    assert_eq!(third.presented, new.presented);
}

#[tokio::test]
async fn certificate_of_a_ca_that_could_not_be_registered_waits_as_long_as_the_present_one_is_good() {
    let server = Arc::new(Server::default());
    let mut keeper = keeper(&server);
    keeper.visit(now()).await.unwrap();
    let first = keeper.bundle.borrow().clone().unwrap();
    keeper.registered = watch::channel(registered(&first, now())).1;
    let day = |days: i64| now() + SignedDuration::from_hours(24 * days);
    for days in [60, 120, 180, 240, 300, 360, 420, 480, 540, 600] {
        keeper.visit(day(days)).await.unwrap();
    }
    let presented = keeper.presented.clone().unwrap();
    assert_eq!(presented.not_after, day(690));
    keeper.visit(day(639)).await.unwrap();
    assert_eq!(server.lock().secret.as_ref().unwrap().data.as_ref().unwrap().len(), 6, "a successor");
    for days in [640, 645, 689] {
        keeper.visit(day(days)).await.unwrap();
        assert_eq!(keeper.presented.as_ref(), Some(&presented), "{days}");
    }
    keeper.visit(day(690)).await.unwrap();
    assert_ne!(keeper.presented.as_ref(), Some(&presented), "it has expired");
}

#[tokio::test(start_paused = true)]
async fn outage_is_survived_by_trying_again() {
    let server = Arc::new(Server::default());
    server.lock().down = true;
    let Keeper { api, settings, hot, bundle, registered, .. } = keeper(&server);
    let (mut seen, cancel) = (bundle.subscribe(), CancellationToken::new());
    let task = tokio::spawn(maintain(api.into_client(), settings, hot, bundle, registered, cancel.clone()));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!((3..100).contains(&server.calls("GET")), "{}", server.calls("GET"));
    server.lock().down = false;
    timeout(Duration::from_secs(61), seen.wait_for(Option::is_some)).await.unwrap().unwrap();
    cancel.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn pause_ends_when_something_is_due() {
    let keeper = keeper(&Arc::new(Server::default()));
    let now = now();
    assert_eq!(keeper.pause(now, now + SignedDuration::from_hours(1)), Duration::from_secs(60));
    assert_eq!(keeper.pause(now, now + SignedDuration::from_secs(7)), Duration::from_secs(7));
    assert_eq!(keeper.pause(now, now - SignedDuration::from_secs(7)), Duration::from_secs(1));
}

#[tokio::test]
async fn messages_of_unreadable_answers_are_left_out() {
    let secret = serde_json::from_str::<u8>("\"PRIVATE KEY\"").unwrap_err();
    let error = VisitError::Call { action: "reading it", source: Box::new(kube::Error::SerdeError(secret)) };
    assert_eq!(error.to_string(), "reading it: the answer can't be read");
}

fn keeper(server: &Arc<Server>) -> Keeper {
    let answers = server.clone();
    let service = service_fn(move |request| {
        let server = answers.clone();
        async move { Ok::<_, Infallible>(server.answer(request).await) }
    });
    Keeper {
        api: Api::namespaced(Client::new(service, "idtoken"), "idtoken"),
        settings: Settings {
            namespace: "idtoken".into(),
            secret: "webhook-tls".into(),
            names: vec!["webhook.idtoken.svc".into()],
            lifetimes: Lifetimes::default(),
            poll: Duration::from_secs(60),
        },
        hot: Arc::default(),
        bundle: watch::Sender::new(None),
        registered: watch::channel(Registered::default()).1,
        known: None,
        presented: None,
    }
}

fn registered(bundle: &str, since: Timestamp) -> Registered {
    Registered { bundles: vec![bundle.to_owned()], since: Some(since) }
}

fn now() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

impl Server {
    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        tokio::task::yield_now().await; // so that two replicas really meet
        self.lock().calls.push(head.method.to_string());
        if self.lock().down {
            return failure(StatusCode::FORBIDDEN);
        }
        let fault = if head.method == Method::GET { None } else { self.lock().fault.take() };
        if matches!(fault, Some(Fault::Refused)) {
            return failure(StatusCode::INTERNAL_SERVER_ERROR);
        }
        let answer = self.obey(head.method, &body);
        if fault.is_some() { failure(StatusCode::INTERNAL_SERVER_ERROR) } else { answer }
    }

    fn obey(&self, method: Method, body: &[u8]) -> Response<Body> {
        let present = self.lock().secret.clone();
        match (method, present) {
            (Method::GET, None) => failure(StatusCode::NOT_FOUND),
            (Method::GET, Some(secret)) => success(&secret),
            (Method::POST, Some(_)) => failure(StatusCode::CONFLICT),
            (Method::POST, None) => success(&self.put(serde_json::from_slice(body).unwrap())),
            (Method::PUT, Some(present)) => {
                let secret: Secret = serde_json::from_slice(body).unwrap();
                if secret.metadata.resource_version != present.metadata.resource_version {
                    return failure(StatusCode::CONFLICT);
                }
                success(&self.put(secret))
            }
            (method, _) => panic!("unexpected {method}"),
        }
    }

    fn put(&self, mut secret: Secret) -> Secret {
        let mut known = self.lock();
        known.version += 1;
        secret.metadata.resource_version = Some(known.version.to_string());
        known.secret = Some(secret.clone());
        secret
    }

    fn calls(&self, method: &str) -> usize {
        self.lock().calls.iter().filter(|call| *call == method).count()
    }

    fn version(&self) -> u32 {
        self.lock().version
    }

    fn text(&self, key: &str) -> String {
        let data = self.lock().secret.clone().unwrap().data.unwrap();
        String::from_utf8(data[key].0.clone()).unwrap()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn success(secret: &Secret) -> Response<Body> {
    Response::new(Body::from(serde_json::to_vec(secret).unwrap()))
}

fn failure(code: StatusCode) -> Response<Body> {
    let reason = code.canonical_reason().unwrap().replace(' ', "");
    let status = json!({"kind": "Status", "status": "Failure", "code": code.as_u16(), "reason": reason, "message": "no"});
    Response::builder().status(code).body(Body::from(status.to_string().into_bytes())).unwrap()
}
