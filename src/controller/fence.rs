//! Lets only a leader act, and only as long as nobody else may have become one.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use futures::{Stream, stream};
use jiff::Timestamp;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::clock;

/// A moment by two clocks: one that nobody sets, but that stands still while the machine sleeps, and one that goes on then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    steady: Instant,
    wall: Timestamp,
}

impl Moment {
    /// This one.
    pub(super) fn now() -> Self {
        Self { steady: Instant::now(), wall: clock::now() }
    }

    /// So much later.
    pub(super) fn after(self, time: Duration) -> Self {
        Self { steady: self.steady + time, wall: self.wall.checked_add(time).unwrap_or(Timestamp::MAX) }
    }

    /// Whether it has come by neither clock at `now`. One that was set back says so for too long; the other one does not.
    fn is_ahead(self, now: Self) -> bool {
        now.steady < self.steady && now.wall < self.wall
    }
}

/// What an election says of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Another one leads, or nobody is known to.
    Follower,
    /// This one leads.
    Leader {
        /// Not any longer than this, unless it is renewed.
        until: Moment,
        /// Which of all terms.
        term: i32,
    },
}

impl Role {
    /// Which term it is, if it leads at `now`.
    pub(super) fn term(self, now: Moment) -> Option<i32> {
        match self {
            Self::Leader { until, term } if until.is_ahead(now) => Some(term),
            _ => None,
        }
    }
}

/// Stands before everything that has an effect outside of the process.
#[derive(Clone, Debug)]
pub(super) struct Fence(Option<watch::Receiver<Role>>);

/// The right to act in one term. It ends with the term, whenever that is.
#[derive(Clone, Debug)]
pub(super) struct Pass(Option<(watch::Receiver<Role>, i32)>);

impl Fence {
    /// Where there is no election.
    pub(super) fn open() -> Self {
        Self(None)
    }

    /// Opened by an election.
    pub(super) fn of(role: watch::Receiver<Role>) -> Self {
        Self(Some(role))
    }

    /// The right to act now, if this is the leader.
    pub(super) fn pass(&self) -> Option<Pass> {
        let Some(role) = &self.0 else { return Some(Pass(None)) };
        let term = role.borrow().term(Moment::now())?;
        Some(Pass(Some((role.clone(), term))))
    }

    /// The term of each beginning of leadership, from now on; also where it had lapsed and went on in the same term, since what
    /// was due in between was not done. Ends never, also where nobody elects.
    pub(super) fn terms(&self) -> impl Stream<Item = i32> + Send + use<> {
        stream::unfold((self.0.clone(), None), async |(role, led)| {
            let (Some(mut role), mut led) = (role, led) else { return std::future::pending().await };
            loop {
                let (now, seen) = (Moment::now(), *role.borrow_and_update());
                // What was seen last, as of now: a renewal that came after its end is a beginning.
                let before = led.and_then(|led: Role| led.term(now));
                led = Some(seen);
                if let Some(term) = seen.term(now).filter(|term| Some(*term) != before) {
                    return Some((term, (Some(role), led)));
                }
                if role.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        })
    }
}

impl Pass {
    /// Which term it is; `None` where there is no election.
    pub(super) fn term(&self) -> Option<i32> {
        self.0.as_ref().map(|(_, term)| *term)
    }

    /// Does `work` as long as the right to it lasts; `None`: it was given up in the middle. The right is looked at before each
    /// step: a process that was stopped for a while finds out before it sends anything.
    pub(super) async fn protect<T>(self, work: impl Future<Output = T>) -> Option<T> {
        let Some((role, term)) = self.0 else { return Some(work.await) };
        let (mut work, mut over) = (pin!(work), pin!(over(role.clone(), term)));
        poll_fn(|cx| {
            let holds = role.borrow().term(Moment::now()) == Some(term);
            if !holds || over.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            work.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

/// Returns at the end of `term`.
async fn over(mut role: watch::Receiver<Role>, term: i32) {
    loop {
        let until = match *role.borrow_and_update() {
            Role::Leader { until, term: now } if now == term && until.is_ahead(Moment::now()) => until.steady,
            _ => return,
        };
        tokio::select! {
            () = sleep_until(until) => {}
            changed = role.changed() => if changed.is_err() { return sleep_until(until).await },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use futures::StreamExt as _;

    use super::*;

    fn leader(seconds: u64, term: i32) -> Role {
        Role::Leader { until: Moment::now().after(Duration::from_secs(seconds)), term }
    }

    /// A leader whose machine has slept since, past its deadline: the steady clock knows of none of it.
    fn slept(term: i32) -> Role {
        let until = Moment::now().after(Duration::from_secs(10));
        Role::Leader { until: Moment { wall: clock::now(), ..until }, term }
    }

    /// Counts seconds for ever.
    async fn work(done: Arc<AtomicU32>) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            done.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_election_all_may_act() {
        let pass = Fence::open().pass().unwrap();
        assert_eq!(pass.protect(async { 7 }).await, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_may_not_and_a_leader_may_until_its_deadline() {
        let (role, watched) = watch::channel(Role::Follower);
        let fence = Fence::of(watched);
        assert!(fence.pass().is_none());
        role.send_replace(leader(10, 1));
        let done = Arc::new(AtomicU32::default());
        let begin = Instant::now();
        assert_eq!(fence.pass().unwrap().protect(work(done.clone())).await, None);
        assert_eq!(begin.elapsed(), Duration::from_secs(10), "that nobody renewed it is enough");
        assert!((9..=10).contains(&done.load(Ordering::SeqCst)));
        assert!(fence.pass().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_carry_work_on_and_another_term_ends_it() {
        let (role, watched) = watch::channel(leader(10, 1));
        let fence = Fence::of(watched);
        let work = tokio::spawn(fence.pass().unwrap().protect(work(Arc::default())));
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(8)).await;
            assert!(!work.is_finished());
            role.send_replace(leader(10, 1));
        }
        role.send_replace(leader(10, 2));
        assert_eq!(work.await.unwrap(), None, "in between another one may have led");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_long_stop_not_one_more_step_is_done() {
        let (_role, watched) = watch::channel(leader(10, 1));
        let (wake, woken) = tokio::sync::oneshot::channel::<()>();
        let done = Arc::new(AtomicU32::default());
        let count = done.clone();
        let work = Fence::of(watched).pass().unwrap().protect(async move {
            let _ = woken.await;
            count.fetch_add(1, Ordering::SeqCst);
        });
        let mut work = Box::pin(work);
        assert!(futures::poll!(&mut work).is_pending());
        tokio::time::advance(Duration::from_secs(60)).await;
        wake.send(()).unwrap();
        assert_eq!(work.await, None);
        assert_eq!(done.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_came_while_the_machine_slept_has_come() {
        let (role, watched) = watch::channel(leader(10, 1));
        let fence = Fence::of(watched);
        let mut terms = Box::pin(fence.terms());
        assert_eq!(terms.next().await, Some(1));
        let mut work = Box::pin(fence.pass().unwrap().protect(work(Arc::default())));
        assert!(futures::poll!(&mut work).is_pending());
        role.send_replace(slept(1));
        assert_eq!(futures::poll!(&mut work), Poll::Ready(None));
        assert!(fence.pass().is_none());
        assert!(futures::poll!(terms.next()).is_pending());
        role.send_replace(leader(10, 1));
        assert!(fence.pass().is_some());
        assert_eq!(futures::poll!(terms.next()), Poll::Ready(Some(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_back_prolongs_nothing() {
        let until = Moment::now().after(Duration::from_secs(10));
        let early = Moment { wall: until.wall - Duration::from_secs(3600), ..until };
        assert!(!until.is_ahead(early), "the steady one has come");
        assert!(until.is_ahead(Moment { steady: until.steady - Duration::from_millis(1), ..early }));
    }

    #[tokio::test(start_paused = true)]
    async fn each_beginning_of_a_term_is_told_once() {
        let (role, watched) = watch::channel(Role::Follower);
        let fence = Fence::of(watched);
        let mut terms = Box::pin(fence.terms());
        assert!(futures::poll!(terms.next()).is_pending());
        role.send_replace(leader(10, 4));
        assert_eq!(terms.next().await, Some(4));
        role.send_replace(leader(10, 4));
        assert!(futures::poll!(terms.next()).is_pending(), "a renewal is no beginning");
        role.send_replace(Role::Follower);
        assert!(futures::poll!(terms.next()).is_pending());
        role.send_replace(leader(10, 4));
        assert_eq!(terms.next().await, Some(4), "the same term, but there was a pause");
        role.send_replace(leader(10, 6));
        assert_eq!(terms.next().await, Some(6));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_after_the_deadline_is_a_beginning_of_the_same_term() {
        let (role, watched) = watch::channel(leader(10, 4));
        let fence = Fence::of(watched);
        let mut terms = Box::pin(fence.terms());
        assert_eq!(terms.next().await, Some(4));
        // The one call for a renewal is answered a second too late.
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(futures::poll!(terms.next()).is_pending() && fence.pass().is_none());
        role.send_replace(leader(8, 4));
        assert_eq!(futures::poll!(terms.next()), Poll::Ready(Some(4)), "what was due meanwhile waits for it");
        tokio::time::advance(Duration::from_secs(7)).await;
        role.send_replace(leader(10, 4));
        assert!(futures::poll!(terms.next()).is_pending(), "this one came in time");
    }
}
