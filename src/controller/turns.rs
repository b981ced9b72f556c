//! Waiting for one's turn, before anything of a visit takes memory: see [`plan::turns`](crate::plan::turns).

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot;

use crate::plan::turns::{self, Rank, Ticket};

/// The places in which visits are made.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    turns: turns::Turns,
    waiting: HashMap<u64, oneshot::Sender<()>>,
    line: Gauge,
}

/// A place, or one in line, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    of: Turns,
    ticket: Ticket,
}

impl Turns {
    /// So many `places`. `line` shows how many wait for one.
    pub(super) fn new(places: NonZeroUsize, line: Gauge) -> Self {
        let state = State { turns: turns::Turns::new(places), waiting: HashMap::new(), line };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Waits for a place. Who stops waiting is out of the line.
    pub(super) async fn turn(&self, tenant: &str, rank: Rank) -> Turn {
        let (called, wait) = oneshot::channel();
        let turn = {
            let mut state = self.lock();
            let ticket = state.turns.ask(tenant, rank);
            state.waiting.insert(ticket.number(), called);
            state.call();
            Turn { of: self.clone(), ticket }
        };
        // The sender stays in line as long as the turn is there.
        let _ = wait.await;
        turn
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Calls those whose turn it is.
    fn call(&mut self) {
        while let Some(ticket) = self.turns.call() {
            // Who has left is out of the line; between its call and its end a place may be held by nobody who works.
            self.waiting.remove(&ticket.number()).map(|called| called.send(()));
        }
        self.line.set(i64::try_from(self.waiting.len()).unwrap_or(i64::MAX));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.of.lock();
        state.waiting.remove(&self.ticket.number());
        state.turns.leave(&self.ticket);
        state.call();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;
    use tokio::time::sleep;

    use super::*;

    fn turns(places: usize) -> (Turns, Gauge) {
        let line = Gauge::default();
        (Turns::new(NonZeroUsize::new(places).unwrap(), line.clone()), line)
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_work_at_once_as_there_are_places() {
        let (turns, line) = turns(2);
        let work = |seconds| {
            let turns = turns.clone();
            tokio::spawn(async move {
                let _turn = turns.turn("shop", Rank::New).await;
                sleep(Duration::from_secs(seconds)).await;
            })
        };
        let all: Vec<_> = [10, 10, 10, 10].map(work).into();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(line.get(), 2);
        let begun = tokio::time::Instant::now();
        futures::future::join_all(all).await;
        assert_eq!(begun.elapsed().as_secs(), 19);
        assert_eq!(line.get(), 0);
        assert!(turns.lock().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_keeps_nobody_back() {
        let (turns, line) = turns(1);
        let first = turns.turn("shop", Rank::New).await;
        let mut second = Box::pin(turns.turn("shop", Rank::New));
        let mut third = Box::pin(turns.turn("shop", Rank::Failing));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        assert_eq!(line.get(), 2);
        drop(second);
        assert_eq!(line.get(), 1);
        drop(first);
        drop(third.await);
        turns.turn("shop", Rank::New).now_or_never().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_called_and_never_comes_gives_the_place_back() {
        let (turns, _) = turns(1);
        let first = turns.turn("shop", Rank::New).await;
        let mut second = Box::pin(turns.turn("shop", Rank::New));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first); // calls the second, which is never polled again
        drop(second);
        turns.turn("shop", Rank::New).now_or_never().unwrap();
    }
}
