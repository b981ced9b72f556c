//! How far watches have come in filling caches. What is not allowed to be read in one namespace keeps no other one waiting.

use std::time::Duration;

use futures::{
    Stream, StreamExt as _,
    future::{join_all, select_all},
};
use kube::runtime::watcher::{self, Event};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{sync::watch, time::Instant};

/// How far a watch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    /// There was no answer yet, or none that says more than "later".
    Pending,
    /// What is to be watched may not be read, or is not there. It is tried again all the same.
    Refused,
    /// All that there is has come. It stays at that.
    Filled,
}

/// How far a watch has come, for any number that wait for it.
#[derive(Clone, Debug)]
pub struct Progress {
    fill: watch::Receiver<Fill>,
    heard: watch::Receiver<Option<Instant>>,
    refused: watch::Receiver<bool>,
}

/// Passes `events` on, and follows them: logs each failure, a refusal once, and counts in `refused` the watches that are
/// refused now, as long as somebody takes from them. `what` is watched in `namespace`, or in all of them.
pub fn follow<K, S>(
    events: S,
    what: &'static str,
    namespace: Option<&str>,
    refused: &Gauge,
) -> (impl Stream<Item = watcher::Result<Event<K>>> + use<K, S>, Progress)
where
    S: Stream<Item = watcher::Result<Event<K>>>,
{
    let (fill, filling) = watch::channel(Fill::Pending);
    let (hear, heard) = watch::channel(None);
    let (tell, told) = watch::channel(false);
    let mut follower = Follower {
        what,
        namespace: namespace.map(str::to_owned),
        fill,
        heard: hear,
        refused: refused.clone(),
        told: tell,
    };
    (events.inspect(move |event| follower.see(event)), Progress { fill: filling, heard, refused: told })
}

struct Follower {
    what: &'static str,
    namespace: Option<String>,
    fill: watch::Sender<Fill>,
    heard: watch::Sender<Option<Instant>>,
    refused: Gauge,
    /// Whether this is refused now, and was logged.
    told: watch::Sender<bool>,
}

impl Follower {
    fn see<K>(&mut self, event: &watcher::Result<Event<K>>) {
        match event {
            Ok(Event::InitDone) => {
                self.fill.send_replace(Fill::Filled);
                self.allowed();
            }
            Ok(Event::Apply(_) | Event::Delete(_)) => self.allowed(),
            // The beginning of an attempt, whatever comes of it.
            Ok(Event::Init | Event::InitApply(_)) => {}
            Err(error) if is_refusal(error) => self.refused(error),
            Err(error) => {
                tracing::warn!(namespace = self.namespace, %error, "{} failed; it is tried again", self.what);
            }
        }
    }

    fn refused(&mut self, error: &watcher::Error) {
        self.fill.send_if_modified(|fill| {
            let first = *fill == Fill::Pending;
            if first {
                *fill = Fill::Refused;
            }
            first
        });
        if self.told.send_replace(true) {
            return;
        }
        self.refused.inc();
        let (namespace, what) = (&self.namespace, self.what);
        let mend = match namespace {
            Some(_) => {
                "until then this namespace is not served. Does it exist, and does a RoleBinding in it give the operator its Role?"
            }
            None => {
                "are the CRDs installed, and does a ClusterRoleBinding give the operator its ClusterRole?"
            }
        };
        tracing::warn!(namespace, %error, "{what} failed: it is refused. It is tried again; {mend}");
    }

    fn allowed(&mut self) {
        self.heard.send_replace(Some(Instant::now()));
        if self.told.send_replace(false) {
            self.refused.dec();
            tracing::info!(namespace = self.namespace, "{} is allowed again", self.what);
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if self.told.send_replace(false) {
            self.refused.dec();
        }
    }
}

impl Progress {
    /// Returns when everything that there is has come; never, if the watch ended before.
    pub async fn filled(&self) {
        self.reached(|fill| fill == Fill::Filled).await;
    }

    /// The same, or when it was refused first: whether it is filled.
    async fn settled(&self) -> bool {
        self.reached(|fill| fill != Fill::Pending).await == Fill::Filled
    }

    /// Whether something came through it within `time`. If not, it may be that nothing happened, or that the watch is refused or
    /// deaf: no sign of it tells them apart.
    #[must_use]
    pub fn heard_within(&self, time: Duration) -> bool {
        self.heard.borrow().is_some_and(|at| at.elapsed() <= time)
    }

    async fn reached(&self, goal: impl Fn(Fill) -> bool) -> Fill {
        let mut progress = self.fill.clone();
        let reached = progress.wait_for(|fill| goal(*fill)).await.map(|fill| *fill);
        match reached {
            Ok(fill) => fill,
            // The watch has ended: what looks after it says so.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Returns when each of `watches` is filled.
pub async fn filled(watches: &[Progress]) {
    join_all(watches.iter().map(Progress::filled)).await;
}

/// All watches that are needed.
#[derive(Clone, Debug)]
pub struct Fills {
    /// By every namespace.
    shared: Vec<Progress>,
    /// By one namespace each, or by all of them; in the order in which they begin.
    parts: Vec<Vec<Progress>>,
}

impl Fills {
    /// Of `shared` watches, and those of at least one part.
    #[must_use]
    pub fn new(shared: Vec<Progress>, parts: Vec<Vec<Progress>>) -> Self {
        Self { shared, parts }
    }

    /// Returns when one part can be served.
    pub async fn any(&self) {
        filled(&self.shared).await;
        select_all(self.parts.iter().map(|part| Box::pin(filled(part)))).await;
    }

    /// Whether one of the watches is refused now.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        let mut all = self.shared.iter().chain(self.parts.iter().flatten());
        all.any(|watch| *watch.refused.borrow())
    }

    /// Returns when every part can be served, but for those that are refused, as long as it is not all of them.
    pub async fn settled(&self) {
        filled(&self.shared).await;
        join_all(self.parts.iter().map(|part| settled(part))).await;
        self.any().await;
    }
}

/// Behind one that is refused the next does not begin.
async fn settled(part: &[Progress]) {
    for watch in part {
        if !watch.settled().await {
            return;
        }
    }
}

fn is_refusal(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    let (InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error)) = error else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if matches!(status.code, 403 | 404))
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, channel::mpsc};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::Status;

    use super::*;

    type Events = mpsc::UnboundedSender<watcher::Result<Event<ConfigMap>>>;

    /// A watch whose events the test makes, and what drives it.
    fn watch(refused: &Gauge) -> (Events, impl FnMut(), Progress) {
        let (events, stream) = mpsc::unbounded();
        let (stream, progress) = follow(stream, "the watch of things", Some("shop"), refused);
        let mut stream = Box::pin(stream);
        let drive = move || while stream.next().now_or_never().flatten().is_some() {};
        (events, drive, progress)
    }

    fn failure(code: u16) -> watcher::Result<Event<ConfigMap>> {
        let status = Status::failure("no", "No").with_code(code).boxed();
        Err(watcher::Error::InitialListFailed(kube::Error::Api(status)))
    }

    fn is_over(work: impl Future<Output = ()>) -> bool {
        work.now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_heard_of_for_long_may_be_deaf() {
        let minute = Duration::from_secs(60);
        let gauge = Gauge::default();
        let (events, mut drive, progress) = watch(&gauge);
        assert!(!progress.heard_within(minute), "nothing came yet");
        let mut hear = |event| {
            events.unbounded_send(event).unwrap();
            drive();
            progress.heard_within(minute)
        };
        assert!(!hear(Ok(Event::Init)) && hear(Ok(Event::InitDone)));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(hear(failure(403)));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!hear(failure(403)), "a refusal is no sign of life");
        assert!(hear(Ok(Event::Apply(ConfigMap::default()))));
    }

    #[test]
    fn a_refusal_settles_and_is_counted_until_it_is_over() {
        for code in [403, 404] {
            let gauge = Gauge::default();
            let (events, mut drive, progress) = watch(&gauge);
            assert_eq!(progress.settled().now_or_never(), None);
            for event in [Ok(Event::Init), failure(code), Ok(Event::Init), failure(code)] {
                events.unbounded_send(event).unwrap();
            }
            drive();
            assert_eq!((progress.settled().now_or_never(), gauge.get()), (Some(false), 1));
            assert!(!is_over(progress.filled()));
            for event in [Ok(Event::Init), Ok(Event::InitDone)] {
                events.unbounded_send(event).unwrap();
            }
            drive();
            assert!(is_over(progress.filled()));
            assert_eq!((progress.settled().now_or_never(), gauge.get()), (Some(true), 0));
            events.unbounded_send(failure(code)).unwrap();
            drive();
            assert_eq!(
                (progress.settled().now_or_never(), gauge.get()),
                (Some(true), 1),
                "what came is kept"
            );
            drop(drive);
            assert_eq!(gauge.get(), 0, "who no longer watches is refused nothing");
        }
    }

    #[test]
    fn other_failures_settle_nothing() {
        for code in [401, 429, 500, 503] {
            let gauge = Gauge::default();
            let (events, mut drive, progress) = watch(&gauge);
            events.unbounded_send(failure(code)).unwrap();
            drive();
            assert_eq!((progress.settled().now_or_never(), gauge.get()), (None, 0), "{code}");
        }
    }

    #[test]
    fn refused_parts_hold_up_nobody_unless_all_are() {
        let gauge = Gauge::default();
        let (shared, mut drive_shared, grants) = watch(&gauge);
        let (first, mut drive_first, shop) = watch(&gauge);
        let (second, mut drive_second, bank) = watch(&gauge);
        let (_never, _, behind) = watch(&gauge);
        let fills = Fills::new(vec![grants], vec![vec![shop], vec![bank, behind]]);
        second.unbounded_send(failure(403)).unwrap();
        drive_second();
        first.unbounded_send(failure(403)).unwrap();
        drive_first();
        shared.unbounded_send(Ok(Event::InitDone)).unwrap();
        drive_shared();
        assert!(!is_over(fills.any()) && !is_over(fills.settled()), "nobody can be served");
        assert!(fills.is_refused());
        first.unbounded_send(Ok(Event::InitDone)).unwrap();
        drive_first();
        assert!(is_over(fills.any()) && is_over(fills.settled()));
        assert!(fills.is_refused(), "the second part still is");
        second.unbounded_send(Ok(Event::InitDone)).unwrap();
        drive_second();
        assert!(!fills.is_refused());
    }

    #[test]
    fn parts_that_may_still_come_are_waited_for_and_so_is_what_all_need() {
        let gauge = Gauge::default();
        let (shared, mut drive_shared, grants) = watch(&gauge);
        let (first, mut drive_first, shop) = watch(&gauge);
        let (second, mut drive_second, bank) = watch(&gauge);
        let fills = Fills::new(vec![grants], vec![vec![shop], vec![bank]]);
        first.unbounded_send(Ok(Event::InitDone)).unwrap();
        drive_first();
        assert!(!is_over(fills.any()), "without grants all would be refused");
        shared.unbounded_send(Ok(Event::InitDone)).unwrap();
        drive_shared();
        assert!(is_over(fills.any()) && !is_over(fills.settled()));
        second.unbounded_send(Ok(Event::InitDone)).unwrap();
        drive_second();
        assert!(is_over(fills.settled()));
    }
}
