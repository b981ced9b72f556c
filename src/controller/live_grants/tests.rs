use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use kube::{client::Body, runtime::reflector::store};
use serde_json::{Value, json};
use tower::service_fn;

use super::*;
use crate::{api::IdTokenBinding, plan::validate::validate};

const NOW: Duration = Duration::ZERO;
const MINUTE: Duration = Duration::from_secs(60);

fn owner() -> Owner {
    Owner { name: "orders".into(), namespace: "shop".into(), uid: "uid-1".into() }
}

fn authority() -> Option<Authority> {
    let binding: IdTokenBinding = serde_json::from_value(json!({
        "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding", "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {"audience": "https://orders.a.run.app", "source": {"metadataServer": {}}},
    }))
    .unwrap();
    Authority::of(&validate(&binding).unwrap())
}

fn grant(namespaces: &Value) -> Value {
    json!({"apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenGrant", "metadata": {"name": "shop"},
        "spec": {"namespaces": namespaces, "identities": ["operator"], "audiences": ["https://*.a.run.app"]}})
}

/// An API server that has `grants`, and the namespace shop with `labels`, and notes what it is asked.
fn server(grants: Value, labels: Value, asked: Arc<std::sync::Mutex<Vec<String>>>) -> Client {
    let service = service_fn(move |request: Request<Body>| {
        let uri = request.uri().to_string();
        asked.lock().unwrap().push(uri.clone());
        let items = if uri.contains("idtokengrants") {
            grants.clone()
        } else {
            json!([{"metadata": {"name": "shop", "labels": labels}}])
        };
        let (status, body) = match grants.as_str() {
            Some(words) => (
                500,
                json!({"kind": "Status", "status": "Failure", "message": words, "reason": "InternalError", "code": 500}),
            ),
            None => (200, json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})),
        };
        let body = Full::new(Bytes::from(body.to_string()));
        async move { Ok::<_, std::convert::Infallible>(Response::builder().status(status).body(body).unwrap()) }
    });
    Client::new(service, "default")
}

/// What the watches brought: nothing.
fn empty() -> Grants {
    Grants::Watched { grants: store().0, namespaces: store().0, watches: Vec::new() }
}

async fn authorise(grants: Value, labels: Value) -> (Result<bool, String>, Vec<String>) {
    let asked = Arc::default();
    let client = server(grants, labels, Arc::clone(&asked));
    let live = LiveGrants::default().authorise(&client, &empty(), &owner(), authority().as_ref(), NOW).await;
    let asked = asked.lock().unwrap().clone();
    (live.map(|verdict| verdict.is_ok()), asked)
}

const GRANTS: &str = "/apis/idtoken.dev/v1alpha1/idtokengrants?";
const NAMESPACE: &str = "/api/v1/namespaces?&fieldSelector=metadata.name%3Dshop";

#[tokio::test]
async fn what_the_api_server_has_counts_and_not_what_the_watches_brought() {
    let named = authorise(json!([grant(&json!({"names": ["shop"]}))]), json!({})).await;
    assert_eq!(named, (Ok(true), vec![GRANTS.to_owned()]));
    let other = authorise(json!([grant(&json!({"names": ["bank"]}))]), json!({})).await;
    assert_eq!(other, (Ok(false), vec![GRANTS.to_owned()]));
    assert_eq!(authorise(json!([]), json!({})).await, (Ok(false), vec![GRANTS.to_owned()]));
}

#[tokio::test]
async fn labels_are_asked_for_where_a_grant_selects_by_them() {
    let team = grant(&json!({"selector": {"matchLabels": {"team": "orders"}}}));
    let both = vec![GRANTS.to_owned(), NAMESPACE.to_owned()];
    assert_eq!(authorise(json!([team]), json!({"team": "orders"})).await, (Ok(true), both.clone()));
    assert_eq!(authorise(json!([team]), json!({"team": "carts"})).await, (Ok(false), both));
}

#[tokio::test]
async fn what_can_not_be_looked_at_is_neither_granted_nor_not() {
    let (verdict, _) = authorise(json!("etcd is gone"), json!({})).await;
    let error = verdict.unwrap_err();
    assert!(error.starts_with("list IdTokenGrants: ") && error.contains("etcd is gone"), "{error}");
}

#[tokio::test]
async fn many_that_ask_at_once_share_a_list_that_began_after_they_asked() {
    let (asked, live) = (Arc::<std::sync::Mutex<Vec<String>>>::default(), LiveGrants::default());
    let client = server(json!([grant(&json!({"names": ["shop"]}))]), json!({}), Arc::clone(&asked));
    let (source, owner, authority, allowed) = (empty(), owner(), authority(), AtomicUsize::new(0));
    let one = async || {
        let verdict = live.authorise(&client, &source, &owner, authority.as_ref(), NOW).await.unwrap();
        allowed.fetch_add(usize::from(verdict.is_ok()), Ordering::Relaxed);
    };
    futures::future::join_all((0..100).map(|_| one())).await;
    assert_eq!(allowed.load(Ordering::Relaxed), 100);
    let lists = asked.lock().unwrap().len();
    assert!((1..=2).contains(&lists), "{lists}");
    one().await;
    assert_eq!(asked.lock().unwrap().len(), lists + 1, "an earlier list is too old for who asks later");
}

#[tokio::test(start_paused = true)]
async fn one_look_a_minute_is_enough_for_who_may_be_a_minute_behind_and_a_failed_one_is_made_again_soon() {
    let (asked, live) = (Arc::<std::sync::Mutex<Vec<String>>>::default(), LiveGrants::default());
    let selecting = json!([grant(&json!({"selector": {"matchLabels": {"team": "orders"}}}))]);
    let client = server(selecting, json!({"team": "orders"}), Arc::clone(&asked));
    let (source, owner, authority) = (empty(), owner(), authority());
    let ask = async |age| live.authorise(&client, &source, &owner, authority.as_ref(), age).await;
    for _ in 0..10 {
        assert_eq!(ask(MINUTE).await, Ok(Ok(())));
        tokio::time::advance(Duration::from_secs(6)).await;
    }
    assert_eq!(*asked.lock().unwrap(), [GRANTS, "/api/v1/namespaces?"]);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(ask(MINUTE).await, Ok(Ok(())));
    assert_eq!(asked.lock().unwrap().len(), 4);

    let (asked, live) = (Arc::<std::sync::Mutex<Vec<String>>>::default(), LiveGrants::default());
    let client = server(json!("etcd is gone"), json!({}), Arc::clone(&asked));
    let ask = async || live.authorise(&client, &source, &owner, authority.as_ref(), MINUTE).await.is_err();
    assert!(ask().await && ask().await);
    assert_eq!(asked.lock().unwrap().len(), 1);
    tokio::time::advance(Duration::from_secs(6)).await;
    assert!(ask().await);
    assert_eq!(asked.lock().unwrap().len(), 2);
}
