//! Which binding is visited when: as soon as something happens to it, or when it is due; by one visit at a time; in the order of need
//! (see [`plan::turns`](crate::plan::turns)).

use std::{
    collections::{BTreeSet, HashMap},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{
    api::IdTokenBinding,
    plan::turns::{Rank, Ticket, Turns},
};

/// What is to be visited. Cloning shares it.
#[derive(Clone, Debug)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Somebody may have to be called.
    moved: Notify,
    /// How many wait for their turn.
    line: Gauge,
}

/// A binding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name {
    pub namespace: Box<str>,
    pub name: Box<str>,
}

#[derive(Debug)]
struct State {
    turns: Turns,
    bindings: HashMap<Arc<Name>, Place>,
    /// Those that rest, by when they are due.
    due: BTreeSet<(Instant, Arc<Name>)>,
    /// Those in line, by the numbers of their tickets.
    line: HashMap<u64, Arc<Name>>,
    /// From when need is counted: on a clock that makes no steps.
    began: Instant,
    /// When a visit ended last.
    ended: Instant,
}

/// Where a binding is.
#[derive(Debug)]
enum Place {
    /// It rests until then.
    Resting(Instant),
    /// It is in line, and due since then.
    InLine(Instant),
    /// It is visited, and due since then; and whether something has happened to it meanwhile.
    Visited(Instant, bool),
}

/// A visit under way: where it ends, panics included, another one may begin.
#[derive(Debug)]
pub(super) struct Visit {
    queue: Queue,
    name: Arc<Name>,
    ticket: Ticket,
    next: Option<Duration>,
}

/// What a look at the queue shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lag {
    /// How long the one that waits the longest has been due.
    pub worst: Duration,
    /// For how long no visit has ended although one was due all the time; `None`: they go on.
    pub stalled: Option<Duration>,
}

impl Name {
    pub(super) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub(super) fn of(binding: &IdTokenBinding) -> Self {
        let meta = &binding.metadata;
        Self::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }
}

impl Queue {
    /// Of which so many may be visited at once. `line` shows how many wait for that.
    pub(super) fn new(places: NonZeroUsize, line: Gauge) -> Self {
        let state = State {
            turns: Turns::new(places),
            bindings: HashMap::new(),
            due: BTreeSet::new(),
            line: HashMap::new(),
            began: Instant::now(),
            ended: Instant::now(),
        };
        Self(Arc::new(Shared { state: Mutex::new(state), moved: Notify::new(), line }))
    }

    /// Something has happened to a binding.
    pub(super) fn wake(&self, name: Name) {
        self.lock().wake(name, Instant::now());
        self.0.moved.notify_one();
    }

    /// The same for those of `names` that the queue does not know; says how many they are.
    pub(super) fn adopt(&self, names: impl IntoIterator<Item = Name>) -> usize {
        let (mut state, now, mut adopted) = (self.lock(), Instant::now(), 0);
        for name in names {
            if !state.bindings.contains_key(&name) {
                state.wake(name, now);
                adopted += 1;
            }
        }
        drop(state);
        self.0.moved.notify_one();
        adopted
    }

    /// Waits for the next visit. `rank` says how urgent one is that asks at some time of the queue's own; `None`: there is no such
    /// binding, or it is for another process to visit. For one caller.
    pub(super) async fn next(&self, rank: impl Fn(&Name, Duration) -> Option<Rank>) -> Visit {
        loop {
            let due = {
                let mut state = self.lock();
                state.line_up(&rank, Instant::now());
                let called = state.call();
                self.0.line.set(i64::try_from(state.line.len()).unwrap_or(i64::MAX));
                if let Some((name, ticket)) = called {
                    return Visit { queue: self.clone(), name, ticket, next: Some(AFTER_PANIC) };
                }
                state.due.first().map(|(at, _)| *at)
            };
            let moved = self.0.moved.notified();
            match due {
                None => moved.await,
                Some(at) => tokio::select! { () = moved => {} () = sleep_until(at) => {} },
            }
        }
    }

    /// Looks whether visits are made when they are due.
    pub(super) fn look(&self) -> Lag {
        let (state, now) = (self.lock(), Instant::now());
        let since = |place: &Place| match place {
            Place::Resting(at) | Place::InLine(at) | Place::Visited(at, _) => {
                now.saturating_duration_since(*at)
            }
        };
        let worst = state.bindings.values().map(since).max().unwrap_or_default();
        let idle = now.saturating_duration_since(state.ended);
        Lag { worst, stalled: Some(worst.min(idle)).filter(|time| *time >= STALLED) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&mut self, name: Name, now: Instant) {
        let name = Arc::new(name);
        match self.bindings.get_mut(&name) {
            Some(Place::InLine(_)) => {}
            Some(Place::Visited(_, again)) => *again = true,
            Some(Place::Resting(at)) if *at <= now => {}
            Some(Place::Resting(at)) => {
                self.due.remove(&(*at, name.clone()));
                self.rest(name, now);
            }
            None => self.rest(name, now),
        }
    }

    fn rest(&mut self, name: Arc<Name>, until: Instant) {
        self.due.insert((until, name.clone()));
        self.bindings.insert(name, Place::Resting(until));
    }

    /// Puts those in line that are due.
    fn line_up(&mut self, rank: &impl Fn(&Name, Duration) -> Option<Rank>, now: Instant) {
        let asked = now.saturating_duration_since(self.began);
        while self.due.first().is_some_and(|(at, _)| *at <= now) {
            let Some((at, name)) = self.due.pop_first() else { break };
            let Some(rank) = rank(&name, asked) else {
                self.bindings.remove(&name);
                continue;
            };
            let ticket = self.turns.ask(&name.namespace, rank);
            self.line.insert(ticket.number(), name.clone());
            self.bindings.insert(name, Place::InLine(at));
        }
    }

    /// Calls one whose turn it is.
    fn call(&mut self) -> Option<(Arc<Name>, Ticket)> {
        let ticket = self.turns.call()?;
        let name = self.line.remove(&ticket.number())?;
        let place = self.bindings.get_mut(&name)?;
        if let Place::InLine(since) = *place {
            *place = Place::Visited(since, false);
        }
        Some((name, ticket))
    }
}

impl Visit {
    /// Whom it is for.
    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// It is over, and the next one is due after `pause`. `None`: only something that happens makes one.
    pub(super) fn ends(mut self, pause: Option<Duration>) {
        self.next = pause;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        let now = Instant::now();
        state.turns.leave(&self.ticket);
        state.ended = now;
        let again = matches!(state.bindings.remove(&self.name), Some(Place::Visited(_, true)));
        let next = if again { Some(Duration::ZERO) } else { self.next };
        if let Some(pause) = next {
            state.rest(self.name.clone(), now + pause.min(LONGEST));
        }
        drop(state);
        self.queue.0.moved.notify_one();
    }
}

/// Beyond every time-out that a visit has, taken together; and less than what a visit is given at most, so that it is seen where all hang.
const STALLED: Duration = Duration::from_secs(5 * 60);
/// Far off is as good as never.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const AFTER_PANIC: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
