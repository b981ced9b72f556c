//! A watch: what happens from a revision on, as lines of JSON, until its time is over or it is cut.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http_body::Frame;
use http_body_util::{Either, StreamBody};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::refusal::Refusal;
use super::request::{Follow, Selector};
use super::store::Resource;
use super::{ApiServer, Body, Broken, text};
use crate::replica::{Link, Network};

/// What is watched, for whom.
pub(super) struct Watched {
    pub(super) server: Arc<ApiServer>,
    pub(super) link: Link,
    pub(super) resource: Resource,
    pub(super) selector: Selector,
    pub(super) metadata_only: bool,
}

struct Following {
    watched: Watched,
    position: u64,
    news: watch::Receiver<u64>,
    cuts: watch::Receiver<u64>,
    ends: Instant,
}

/// What a watch did next.
enum Step {
    Lines(String),
    Quiet,
    Over,
    Broken,
}

impl Watched {
    /// The body of the answer.
    pub(super) fn body(self, follow: &Follow) -> Body {
        let (news, now) = {
            let store = self.server.store();
            (store.news(self.resource), store.revision())
        };
        let following = Following {
            position: follow.revision.unwrap_or(now),
            news,
            cuts: self.server.cuts(),
            ends: Instant::now() + Duration::from_secs(follow.seconds),
            watched: self,
        };
        Either::Right(StreamBody::new(frames(following)))
    }

    /// What happened after `position`, and where that ends; a refusal where nobody remembers.
    fn after(&self, position: u64) -> Result<(String, u64), Refusal> {
        let store = self.server.store();
        let changes = store.since(self.resource, position).ok_or_else(Refusal::expired)?;
        let mut lines = String::new();
        for change in changes.filter(|change| self.selector.matches(&change.object)) {
            lines.push_str(&event(change.what, &text(&change.object, self.metadata_only)));
        }
        Ok((lines, store.revision()))
    }

    fn bookmark(&self, position: u64) -> String {
        let (version, kind) = self.resource.kind();
        let object = json!({"apiVersion": version, "kind": kind, "metadata": {"resourceVersion": position.to_string()}});
        event("BOOKMARK", &object.to_string())
    }
}

impl Following {
    async fn step(&mut self) -> Step {
        let mut network = self.watched.link.network();
        tokio::select! {
            biased;
            _ = self.cuts.changed() => return Step::Broken,
            () = lost(&mut network) => {
                self.watched.link.reachable().await;
                return Step::Broken;
            }
            () = sleep_until(self.ends) => return Step::Over,
            _ = self.news.changed() => {}
            () = sleep(BOOKMARK) => return Step::Lines(self.watched.bookmark(self.position)),
        }
        sleep(self.watched.server.watch_delay()).await;
        self.tell()
    }

    fn tell(&mut self) -> Step {
        self.news.borrow_and_update();
        match self.watched.after(self.position) {
            Ok((lines, position)) => {
                self.position = position;
                if lines.is_empty() { Step::Quiet } else { Step::Lines(lines) }
            }
            Err(refusal) => {
                self.ends = Instant::now();
                Step::Lines(event("ERROR", &refusal.body().to_string()))
            }
        }
    }
}

async fn lost(network: &mut watch::Receiver<Network>) {
    let _ = network.wait_for(|network| *network != Network::Up).await; // the link holds the sender
}

fn frames(following: Following) -> BoxStream<'static, Result<Frame<Bytes>, Broken>> {
    // First what happened since the list.
    let frames = futures::stream::unfold((Some(following), true), |(following, first)| async move {
        let mut following = following?;
        let mut step = if first { following.tell() } else { following.step().await };
        while let Step::Quiet = step {
            step = following.step().await;
        }
        match step {
            Step::Lines(lines) => Some((Ok(Frame::data(lines.into())), (Some(following), false))),
            Step::Broken => Some((Err(Broken), (None, false))),
            Step::Over | Step::Quiet => None,
        }
    });
    frames.boxed()
}

fn event(what: &str, object: &str) -> String {
    format!("{{\"type\":\"{what}\",\"object\":{object}}}\n")
}

const BOOKMARK: Duration = Duration::from_secs(60);
