//! What the kubelet is to know: whether the process has started, lives, and can serve.
//!
//! - *Started* and *ready* wait for [`Condition`]s, each of which is met once and stays met. So that an outage of the API server
//!   or of Google, which no restart heals, takes nobody out of service.
//! - *Alive* looks at the tasks without which the process is of no use ([`Health::vital`]): one that has ended or panicked,
//!   or is no longer polled, is healed by a restart alone. So is work that stands still although its task lives ([`Health::stalled`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

/// Something that has to happen once before the process is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// The watches have brought everything that there is.
    CachesFilled,
    /// There is a serving certificate.
    CertificateLoaded,
    /// The port is open.
    Listening,
    /// The API server was told to trust our certificate.
    Registered,
}

impl Condition {
    /// Whether the start is not over without it. The registration is not part of it: whether there is one is up to somebody else.
    fn is_part_of_start(self) -> bool {
        self != Self::Registered
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CachesFilled => "the caches are not filled yet",
            Self::CertificateLoaded => "there is no serving certificate yet",
            Self::Listening => "the port is not open yet",
            Self::Registered => "the MutatingWebhookConfiguration does not hold our caBundle yet",
        })
    }
}

/// The state of the process. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Health(Arc<State>);

#[derive(Debug)]
struct State {
    awaited: Mutex<BTreeSet<Condition>>,
    tasks: Mutex<Vec<Task>>,
    /// What stands still although its tasks live, and for how long.
    stalled: Mutex<BTreeMap<&'static str, Duration>>,
    stop: CancellationToken,
}

/// A vital task, as last heard of.
#[derive(Debug)]
struct Task {
    name: &'static str,
    beat: Instant,
    ended: bool,
}

impl Health {
    /// Of a process that is ready once all of `conditions` are met, until `stop`.
    #[must_use]
    pub fn awaiting(conditions: &[Condition], stop: CancellationToken) -> Self {
        let awaited = Mutex::new(conditions.iter().copied().collect());
        Self(Arc::new(State { awaited, tasks: Mutex::default(), stalled: Mutex::default(), stop }))
    }

    /// Notes that `condition` is met, for good.
    pub fn met(&self, condition: Condition) {
        if lock(&self.0.awaited).remove(&condition) {
            tracing::debug!(?condition, "met");
        }
    }

    /// Has an eye on `work`: as long as it should run, which is until the end of the process was asked for, its end or a
    /// pause in which nothing polls it means that the process is not alive.
    pub fn vital<F: Future>(&self, name: &'static str, work: F) -> impl Future<Output = F::Output> + use<F> {
        let pulse = self.pulse(name);
        async move {
            let mut work = pin!(work);
            let mut ticks = interval(BEAT);
            loop {
                tokio::select! {
                    biased;
                    done = &mut work => return done,
                    _ = ticks.tick() => pulse.beat(),
                }
            }
        }
    }

    /// Whether the start is over.
    pub fn started(&self) -> Result<(), String> {
        self.all_met(Condition::is_part_of_start)
    }

    /// Whether requests should come here.
    pub fn ready(&self) -> Result<(), String> {
        if self.0.stop.is_cancelled() {
            return Err("the process is ending".to_owned());
        }
        self.all_met(|_| true)
    }

    /// Whether all vital tasks go on at `now`.
    pub fn alive(&self, now: Instant) -> Result<(), String> {
        let tasks = lock(&self.0.tasks);
        let mut dead: Vec<_> = tasks.iter().filter_map(|task| task.complaint(now)).collect();
        let stalled = lock(&self.0.stalled);
        dead.extend(
            stalled.iter().map(|(name, time)| format!("{name} has stood still for {} s", time.as_secs())),
        );
        if dead.is_empty() { Ok(()) } else { Err(dead.join("; ")) }
    }

    /// Notes how long `name` has stood still although its task lives; `None`: it goes on.
    pub fn stalled(&self, name: &'static str, time: Option<Duration>) {
        let mut stalled = lock(&self.0.stalled);
        match time {
            Some(time) => {
                if stalled.insert(name, time).is_none() {
                    tracing::error!(what = name, "stands still; /healthz says so from now on");
                }
            }
            None => _ = stalled.remove(name),
        }
    }

    fn all_met(&self, which: impl Fn(Condition) -> bool) -> Result<(), String> {
        let awaited = lock(&self.0.awaited);
        let missing: Vec<_> =
            awaited.iter().filter(|condition| which(**condition)).map(ToString::to_string).collect();
        if missing.is_empty() { Ok(()) } else { Err(missing.join("; ")) }
    }

    fn pulse(&self, name: &'static str) -> Pulse {
        let mut tasks = lock(&self.0.tasks);
        tasks.push(Task { name, beat: Instant::now(), ended: false });
        Pulse { health: self.clone(), index: tasks.len() - 1 }
    }
}

impl Task {
    fn complaint(&self, now: Instant) -> Option<String> {
        let silence = now.duration_since(self.beat);
        match self {
            Self { name, ended: true, .. } => Some(format!("{name} has ended")),
            Self { name, .. } if silence > STUCK => {
                Some(format!("{name} has been stuck for {} s", silence.as_secs()))
            }
            _ => None,
        }
    }
}

/// Held by a vital task. Going, also in a panic, it tells of the end.
struct Pulse {
    health: Health,
    index: usize,
}

impl Pulse {
    fn beat(&self) {
        self.note(|task| task.beat = Instant::now());
    }

    fn note(&self, change: impl FnOnce(&mut Task)) {
        if let Some(task) = lock(&self.health.0.tasks).get_mut(self.index) {
            change(task);
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        if self.health.0.stop.is_cancelled() {
            return;
        }
        self.note(|task| {
            task.ended = true;
            tracing::error!(
                task = task.name,
                "a task that must go on has ended; /healthz says so from now on"
            );
        });
    }
}

/// What is held is replaced whole: a panic elsewhere can't leave half of it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const BEAT: Duration = Duration::from_secs(2);
/// Far beyond what a throttled processor explains.
const STUCK: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn health(conditions: &[Condition]) -> (Health, CancellationToken) {
        let stop = CancellationToken::new();
        (Health::awaiting(conditions, stop.clone()), stop)
    }

    #[test]
    fn what_stands_still_is_named_until_it_goes_on() {
        let (health, _) = health(&[]);
        health.stalled("the queue", Some(Duration::from_secs(300)));
        health.stalled("the queue", Some(Duration::from_secs(315)));
        let now = Instant::now();
        assert_eq!(health.alive(now), Err("the queue has stood still for 315 s".to_owned()));
        health.stalled("the queue", None);
        assert_eq!(health.alive(now), Ok(()));
    }

    #[test]
    fn start_and_readiness_name_what_is_missing() {
        let (health, stop) =
            health(&[Condition::CachesFilled, Condition::CertificateLoaded, Condition::Registered]);
        assert_eq!(
            health.started().unwrap_err(),
            "the caches are not filled yet; there is no serving certificate yet"
        );
        health.met(Condition::CertificateLoaded);
        health.met(Condition::CachesFilled);
        assert_eq!(health.started(), Ok(()));
        assert_eq!(
            health.ready().unwrap_err(),
            "the MutatingWebhookConfiguration does not hold our caBundle yet"
        );
        health.met(Condition::Registered);
        assert_eq!(health.ready(), Ok(()));
        stop.cancel();
        assert_eq!(health.ready().unwrap_err(), "the process is ending");
        assert_eq!(health.started(), Ok(()), "what has started has started");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_task_is_alive() {
        let (health, _stop) = health(&[]);
        let task = tokio::spawn(health.vital("the watch", std::future::pending::<()>()));
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(health.alive(Instant::now()), Ok(()));
        assert!(!task.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn end_and_panic_of_a_task_are_told() {
        let (health, _stop) = health(&[]);
        assert_eq!(tokio::spawn(health.vital("the watch", async { 7 })).await.unwrap(), 7);
        let panics = async {
            tokio::task::yield_now().await;
            panic!("no");
        };
        assert!(tokio::spawn(health.vital("the loop", panics)).await.unwrap_err().is_panic());
        drop(health.vital("the keeper", std::future::pending::<()>()));
        assert_eq!(
            health.alive(Instant::now()).unwrap_err(),
            "the watch has ended; the loop has ended; the keeper has ended"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn end_that_was_asked_for_is_no_failure() {
        let (health, stop) = health(&[]);
        let task = tokio::spawn(health.vital("the watch", stop.clone().cancelled_owned()));
        stop.cancel();
        task.await.unwrap();
        assert_eq!(health.alive(Instant::now()), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn task_that_nobody_polls_is_stuck_after_thirty_seconds() {
        let (health, _stop) = health(&[]);
        let mut task = Box::pin(health.vital("the loop", std::future::pending::<()>()));
        assert!(futures::poll!(&mut task).is_pending());
        let begin = Instant::now();
        assert_eq!(health.alive(begin + Duration::from_secs(30)), Ok(()));
        assert_eq!(
            health.alive(begin + Duration::from_millis(31_500)).unwrap_err(),
            "the loop has been stuck for 31 s"
        );
    }
}
