//! Another mutating webhook beside ours, on the loopback: a test says what it does to pods, or to something else.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Json, Router, routing::post};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use idtoken_operator::tls::server::{Counters, Limits, serve};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A running webhook; it ends when this is dropped.
pub struct OtherWebhook {
    address: SocketAddr,
    certificate: String,
    calls: Arc<AtomicUsize>,
    _running: DropGuard,
}

impl OtherWebhook {
    /// Answers each pod with the JSON patch that `mutate` makes of it.
    pub async fn start(mutate: fn(&Value) -> Value) -> Self {
        Self::answering(move |object| {
            let patch = BASE64_STANDARD.encode(mutate(object).to_string());
            json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
        })
        .await
    }

    /// Answers with the `response` that is made of each object.
    pub async fn answering(answer: impl Fn(&Value) -> Value + Clone + Send + Sync + 'static) -> Self {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key);
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let review = move |Json(review): Json<Value>| async move {
            counted.fetch_add(1, Ordering::SeqCst);
            let request = &review["request"];
            let mut response = answer(&request["object"]);
            response["uid"] = request["uid"].clone();
            Json(json!({
                "apiVersion": "admission.k8s.io/v1",
                "kind": "AdmissionReview",
                "response": response,
            }))
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let app = Router::new().route("/mutate", post(review));
        tokio::spawn(serve(
            listener,
            Arc::new(config.unwrap()),
            hyper_util::service::TowerToHyperService::new(app),
            Limits::default(),
            Counters::default(),
            stop.clone(),
        ));
        Self { address, certificate: cert.pem(), calls, _running: stop.drop_guard() }
    }

    /// How often it was called.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// The `MutatingWebhookConfiguration` for all pods. The API server calls webhooks in the order of these names.
    pub fn registration(&self, name: &str) -> Value {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [{
                "name": "other.example.com",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
                "clientConfig": {
                    "url": format!("https://{}/mutate", self.address),
                    "caBundle": BASE64_STANDARD.encode(&self.certificate),
                },
            }],
        })
    }
}

/// The patch that a pod asks for by its label `other`.
pub fn by_label(pod: &Value) -> Value {
    let add = |path: &str, value: Value| json!({"op": "add", "path": path, "value": value});
    match pod["metadata"]["labels"]["other"].as_str().unwrap_or_default() {
        "mesh" => json!([
            add("/spec/containers/-", json!({"name": "mesh", "image": "mesh"})),
            add(
                "/spec/initContainers/-",
                json!({"name": "mesh-init", "image": "mesh", "restartPolicy": "Always"})
            ),
            add("/spec/volumes/-", json!({"name": "mesh", "emptyDir": {}})),
        ]),
        // Written back as it knows them, without what is not its own.
        "anew" => {
            let bare = |list: &str| -> Value {
                let bare = |c: &Value| json!({"name": c["name"], "image": c["image"]});
                pod["spec"][list].as_array().into_iter().flatten().map(bare).collect()
            };
            json!([
                {"op": "replace", "path": "/spec/containers", "value": bare("containers")},
                {"op": "replace", "path": "/spec/initContainers", "value": bare("initContainers")},
                {"op": "replace", "path": "/spec/volumes", "value": [{"name": "data", "emptyDir": {}}]},
            ])
        }
        "volume" => json!([add("/spec/volumes/-", json!({"name": "idtoken-2", "emptyDir": {}}))]),
        "same-name" => json!([add("/spec/volumes/-", json!({"name": "idtoken", "emptyDir": {}}))]),
        "status" => removal(pod, &["status"]),
        "annotations" => removal(pod, &["inject", "status"]),
        _ => json!([]),
    }
}

/// Takes those of our annotations away that are there.
fn removal(pod: &Value, keys: &[&str]) -> Value {
    let there = |key: &&&str| !pod["metadata"]["annotations"][format!("idtoken.dev/{key}")].is_null();
    let remove =
        |key: &&str| json!({"op": "remove", "path": format!("/metadata/annotations/idtoken.dev~1{key}")});
    keys.iter().filter(there).map(remove).collect()
}

/// A pod for which the other webhook behaves as named.
pub fn pod(behaviour: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": behaviour,
            "namespace": "shop",
            "labels": {"other": behaviour},
            "annotations": {"idtoken.dev/inject": "orders", "example.com/own": "x"},
        },
        "spec": {
            "initContainers": [{"name": "setup", "image": "app"}],
            "containers": [{"name": "app", "image": "app"}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    })
}
