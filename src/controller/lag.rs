//! Whether visits are made when they are due. The process notices by itself when none are: a restart heals that, and nothing else does.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::context::Context;
use crate::telemetry::health::Health;

/// Looks at the queue until `stop`, and tells what it sees.
pub(super) async fn watch(ctx: Arc<Context>, health: Health, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        if ctx.fence.pass().is_none() {
            ctx.metrics.schedule_lag_seconds.set(0);
            health.stalled(QUEUE, None);
            continue;
        }
        let lag = ctx.queue.look();
        ctx.metrics.schedule_lag_seconds.set(i64::try_from(lag.worst.as_secs()).unwrap_or(i64::MAX));
        health.stalled(QUEUE, lag.stalled);
    }
    health.stalled(QUEUE, None);
}

const QUEUE: &str = "the queue of visits";
const LOOK_EVERY: Duration = Duration::from_secs(15);
