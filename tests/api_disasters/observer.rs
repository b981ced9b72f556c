//! Looks on all the time, at the process's own word on its health, and at each version of each Secret.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::{task::JoinHandle, time::sleep};

use crate::common::{World, claims, http_get, token, whole::assert_whole};

/// It looks on until it is dropped.
pub struct Observer {
    /// What the process said but `ok`.
    ailments: Arc<Mutex<Vec<String>>>,
    health: JoinHandle<()>,
    secrets: JoinHandle<()>,
}

impl Observer {
    pub fn start(world: &World) -> Self {
        let ailments = Arc::<Mutex<Vec<_>>>::default();
        let health = tokio::spawn(watch_health(world.controller_port, ailments.clone()));
        let secrets = tokio::spawn(watch_secrets(world.client.clone()));
        Self { ailments, health, secrets }
    }

    /// Fails when there was anything bad to see up to now.
    pub fn assert_sound(&self) {
        assert_eq!(*self.ailments.lock().unwrap(), [""; 0], "it was well all the time");
        assert!(!self.health.is_finished(), "its health was asked for all the time");
        assert!(!self.secrets.is_finished(), "every Secret was whole whenever it was seen, and never older");
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.health.abort();
        self.secrets.abort();
    }
}

async fn watch_health(port: u16, ailments: Arc<Mutex<Vec<String>>>) {
    loop {
        match http_get(port, "/healthz").await {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => {}
            Ok(answer) => ailments.lock().unwrap().push(answer),
            Err(error) => ailments.lock().unwrap().push(format!("{error:#}")),
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Ends only when it sees a Secret that is not whole, or one whose token is older than what it had.
async fn watch_secrets(client: Client) {
    let mut issued = BTreeMap::<String, i64>::new();
    let ours = watcher::Config::default().fields("type=idtoken.dev/id-token");
    let events = watcher(Api::<Secret>::all(client), ours).default_backoff().applied_objects();
    let mut events = std::pin::pin!(events.filter_map(|event| std::future::ready(event.ok())));
    while let Some(secret) = events.next().await {
        assert_whole(&secret);
        let now = claims(&token(&secret))["iat"].as_i64().unwrap();
        let before = issued.insert(secret.metadata.uid.unwrap(), now);
        assert!(before.is_none_or(|before| before <= now), "{:?}: {before:?}, {now}", secret.metadata.name);
    }
}
