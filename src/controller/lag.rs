//! Whether visits are made when they are due. The process notices by itself when none are: a restart heals that, and nothing else does.

use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio_util::sync::CancellationToken;

use super::{fence::Fence, queue::Queue};
use crate::telemetry::health::Health;

/// Looks at `queue` until `stop`, and tells what it sees: `health`, and in seconds `lag`. Only who leads makes visits.
pub(super) async fn watch(queue: Queue, fence: Fence, lag: Gauge, health: Health, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        if fence.pass().is_none() {
            lag.set(0);
            health.stalled(QUEUE, None);
            continue;
        }
        let seen = queue.look();
        lag.set(i64::try_from(seen.worst.as_secs()).unwrap_or(i64::MAX));
        health.stalled(QUEUE, seen.stalled);
    }
    health.stalled(QUEUE, None);
}

const QUEUE: &str = "the queue of visits";
const LOOK_EVERY: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use tokio::{
        sync::watch,
        time::{Instant, sleep},
    };

    use super::super::{
        fence::{Moment, Role},
        queue::Name,
    };
    use super::*;
    use crate::plan::turns::Rank;

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_stands_still_ends_the_health_of_who_leads_until_it_goes_on() {
        let queue = Queue::new(NonZeroUsize::MIN, Gauge::default());
        let (lag, stop) = (Gauge::default(), CancellationToken::new());
        let health = Health::awaiting(&[], stop.clone());
        let (elect, role) = watch::channel(Role::Leader { until: Moment::now().after(HOUR), term: 1 });
        let looks = super::watch(queue.clone(), Fence::of(role), lag.clone(), health.clone(), stop.clone());
        let looks = tokio::spawn(looks);
        let after = async |seconds| {
            sleep(Duration::from_secs(seconds)).await;
            (lag.get(), health.alive(Instant::now()))
        };
        assert_eq!(after(1).await, (0, Ok(())));
        queue.wake(Name::new("shop", "orders"));
        let visit = queue.next(|_, asked| Some(Rank::Without(asked))).await;
        assert_eq!(after(299).await, (284, Ok(())), "it was looked at 15 s ago");
        let stalled = Err("the queue of visits has stood still for 314 s".to_owned());
        assert_eq!(after(16).await, (314, stalled.clone()));
        elect.send_replace(Role::Follower);
        assert_eq!(after(15).await, (0, Ok(())), "another one makes the visits");
        elect.send_replace(Role::Leader { until: Moment::now().after(HOUR), term: 3 });
        assert_eq!(after(15).await.1, Err("the queue of visits has stood still for 344 s".to_owned()));
        visit.ends(None);
        assert_eq!(after(15).await, (0, Ok(())));
        stop.cancel();
        looks.await.unwrap();
    }

    const HOUR: Duration = Duration::from_secs(3600);
}
