//! Watches the statuses of all bindings, as somebody would who needs their tokens. It runs beside the floor, too, so that it costs
//! both the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use jiff::Timestamp;
use kube::Client;
use serde::Deserialize;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::clock::now;

/// A watch under way; it ends when this is dropped.
pub(super) struct Observer {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    bindings: HashMap<String, Binding>,
    ready: usize,
    /// When the last binding became ready.
    last_ready: Option<Instant>,
    wave: Wave,
    /// Why it no longer watches.
    failure: Option<String>,
}

/// The refreshes since [`Observer::begin_wave`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wave {
    /// Bindings whose next token has come.
    pub(super) refreshed: usize,
    /// How long after the time that the status had promised the last word of it came: the worst, and all together.
    pub(super) worst_lag: Duration,
    pub(super) total_lag: Duration,
    /// Bindings whose old token had expired by then.
    pub(super) expired: usize,
}

#[derive(Clone, Debug, Default)]
struct Binding {
    ready: bool,
    expires: Option<Timestamp>,
    next: Option<Timestamp>,
    refreshed: bool,
}

#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Object,
}

#[derive(Debug, Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Metadata,
    /// Of an error it is a word.
    #[serde(default)]
    status: Option<Status>,
    message: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    resource_version: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Status {
    Binding(BindingStatus),
    Else(serde::de::IgnoredAny),
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BindingStatus {
    #[serde(default)]
    conditions: Vec<Condition>,
    expiration_time: Option<Timestamp>,
    next_refresh_time: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl Observer {
    /// Starts to watch from now on.
    pub(super) async fn start(client: &Client) -> anyhow::Result<Self> {
        let list = client.request_text(get("limit=1")?).await?;
        let list: Value = serde_json::from_str(&list)?;
        let version = list["metadata"]["resourceVersion"].as_str().context("a list without a version")?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (client, version, noted) = (client.clone(), version.to_owned(), seen.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = follow(client, version, &noted).await {
                lock(&noted).failure = Some(format!("{error:#}"));
            }
        });
        Ok(Self { seen, task })
    }

    /// When the last of `count` bindings became ready; `None`: not all are.
    pub(super) fn all_ready(&self, count: u32) -> anyhow::Result<Option<Instant>> {
        let seen = self.seen()?;
        Ok(seen.last_ready.filter(|_| seen.ready >= count as usize))
    }

    /// The first and the last time at which a binding is to be refreshed.
    pub(super) fn schedule(&self) -> Option<(Timestamp, Timestamp)> {
        let seen = lock(&self.seen);
        let times = || seen.bindings.values().filter_map(|binding| binding.next);
        times().min().zip(times().max())
    }

    /// Counts refreshes from now on.
    pub(super) fn begin_wave(&self) {
        let mut seen = lock(&self.seen);
        seen.wave = Wave::default();
        seen.bindings.values_mut().for_each(|binding| binding.refreshed = false);
    }

    /// The wave, once `count` bindings have their next token.
    pub(super) fn wave(&self, count: u32) -> anyhow::Result<Option<Wave>> {
        Ok(Some(self.seen()?.wave.clone()).filter(|wave| wave.refreshed >= count as usize))
    }

    /// Bindings that are ready.
    pub(super) fn ready(&self) -> usize {
        lock(&self.seen).ready
    }

    fn seen(&self) -> anyhow::Result<MutexGuard<'_, Seen>> {
        let seen = lock(&self.seen);
        let failure = seen.failure.as_deref().or_else(|| self.task.is_finished().then_some("it has ended"));
        ensure!(failure.is_none(), "the benchmark's own watch of bindings: {}", failure.unwrap_or_default());
        Ok(seen)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    fn note(&mut self, event: Event, at: Instant, now: Timestamp) {
        let Some(Status::Binding(status)) = event.object.status else { return };
        let binding = self.bindings.entry(event.object.metadata.name).or_default();
        let ready = status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True");
        if ready && !binding.ready {
            self.ready += 1;
            self.last_ready = Some(at);
        } else if binding.ready && !ready {
            self.ready -= 1;
        }
        binding.ready = ready;
        if status.expiration_time > binding.expires {
            if let (Some(expired), false) = (binding.expires, binding.refreshed) {
                let lag = binding.next.map_or(Duration::ZERO, |next| since(next, now));
                self.wave.refreshed += 1;
                self.wave.total_lag += lag;
                self.wave.worst_lag = self.wave.worst_lag.max(lag);
                self.wave.expired += usize::from(now > expired);
                binding.refreshed = true;
            }
            binding.expires = status.expiration_time;
        }
        binding.next = status.next_refresh_time;
    }
}

/// Notes what happens after `version`. The API server ends a watch that it finds slow: it goes on from what was seen last.
async fn follow(client: Client, mut version: String, seen: &Mutex<Seen>) -> anyhow::Result<()> {
    loop {
        let watch =
            format!("watch=true&resourceVersion={version}&allowWatchBookmarks=true&timeoutSeconds=7200");
        let mut lines = client.request_stream(get(&watch)?).await?.lines();
        while let Ok(Some(line)) = lines.try_next().await {
            let event: Event = serde_json::from_str(&line)?;
            ensure!(event.kind != "ERROR", "{}", event.object.message.unwrap_or_default());
            version.clone_from(&event.object.metadata.resource_version);
            lock(seen).note(event, Instant::now(), now());
        }
        sleep(PAUSE).await;
    }
}

/// Nothing, where it is yet to come.
fn since(earlier: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(earlier).try_into().unwrap_or_default()
}

fn get(query: &str) -> anyhow::Result<http::Request<Vec<u8>>> {
    let path = format!("/apis/idtoken.dev/v1alpha1/idtokenbindings?{query}");
    Ok(http::Request::get(path).body(Vec::new())?)
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Before a watch that has ended is asked for again.
const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn note(seen: &mut Seen, name: &str, ready: &str, expires: &str, next: &str, now: &str) {
        let event = json!({"type": "MODIFIED", "object": {
            "metadata": {"name": name, "managedFields": []},
            "status": {
                "conditions": [{"type": "Stalled", "status": "True"}, {"type": "Ready", "status": ready}],
                "expirationTime": expires, "nextRefreshTime": next,
            },
        }});
        seen.note(serde_json::from_value(event).unwrap(), Instant::now(), now.parse().unwrap());
    }

    #[test]
    fn readiness_is_counted_once_a_binding_and_taken_back() {
        let mut seen = Seen::default();
        let mut say = |name, ready| {
            note(
                &mut seen,
                name,
                ready,
                "2026-01-01T01:00:00Z",
                "2026-01-01T00:36:00Z",
                "2026-01-01T00:00:01Z",
            );
            seen.ready
        };
        assert_eq!([say("a", "Unknown"), say("a", "True"), say("a", "True"), say("b", "True")], [0, 1, 1, 2]);
        assert_eq!(say("a", "False"), 1);
        assert_eq!(seen.wave, Wave::default(), "a first token is no refresh");
    }

    #[test]
    fn a_refresh_lags_behind_the_time_that_the_status_had_promised() {
        let mut seen = Seen::default();
        for name in ["a", "b", "c"] {
            note(
                &mut seen,
                name,
                "True",
                "2026-01-01T00:10:00Z",
                "2026-01-01T00:06:00Z",
                "2026-01-01T00:00:00Z",
            );
        }
        let mut refresh = |name, at| {
            note(&mut seen, name, "True", "2026-01-01T01:00:00Z", "2026-01-01T00:36:00Z", at);
        };
        refresh("a", "2026-01-01T00:06:00.25Z");
        refresh("a", "2026-01-01T00:09:00Z"); // the same token, said again
        refresh("b", "2026-01-01T00:05:59Z");
        refresh("c", "2026-01-01T00:10:01Z");
        let expected = Wave {
            refreshed: 3,
            worst_lag: Duration::from_secs(241),
            total_lag: Duration::from_millis(241_250),
            expired: 1,
        };
        assert_eq!(seen.wave, expected);
    }

    #[test]
    fn a_bookmark_and_an_error_are_no_bindings() {
        let mut seen = Seen::default();
        for event in [
            json!({"type": "BOOKMARK", "object": {"kind": "IdTokenBinding", "metadata": {"resourceVersion": "7"}}}),
            json!({"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "message": "too old"}}),
        ] {
            seen.note(serde_json::from_value(event).unwrap(), Instant::now(), Timestamp::UNIX_EPOCH);
        }
        assert!(seen.bindings.is_empty());
    }
}
