//! Calls of the API with somebody's credentials, and what is said to them.

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;

use super::{OPERATOR_NAMESPACE, World};

/// A call of the API, and what is said to it; `""`: it is allowed.
pub struct Attempt {
    method: &'static str,
    path: String,
    body: Value,
    pub refusal: String,
}

impl Attempt {
    pub fn new(method: &'static str, path: &str, body: Value, refusal: &str) -> Self {
        Self { method, path: path.to_owned(), body, refusal: refusal.to_owned() }
    }

    pub async fn by(&self, client: &Client) -> Result<Value, String> {
        let content =
            if self.method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if self.body.is_null() { Vec::new() } else { serde_json::to_vec(&self.body).unwrap() };
        let request = http::Request::builder().method(self.method).uri(&self.path);
        match client.request::<Value>(request.header("content-type", content).body(body).unwrap()).await {
            Ok(answer) => Ok(answer),
            Err(kube::Error::Api(status)) => Err(status.message.clone()),
            Err(error) => panic!("{} {}: {error}", self.method, self.path),
        }
    }

    pub fn about(&self) -> String {
        format!("{} {} {}", self.method, self.path, self.body)
    }
}

pub fn post(path: &str, body: Value, refusal: &str) -> Attempt {
    Attempt::new("POST", path, body, refusal)
}

/// A client with the credentials of an account of the operator's namespace.
pub async fn client(world: &World, account: &str) -> Client {
    let file = world.cluster.kubeconfig_for_service_account(OPERATOR_NAMESPACE, account).await.unwrap();
    let file = Kubeconfig::read_from(file).unwrap();
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}
