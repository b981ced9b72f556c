//! SIGTERM and SIGINT ask for an orderly end; the second one for an end at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What signals have asked for.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// Cancelled by the first: finish what has begun.
    pub stop: CancellationToken,
    /// Cancelled by the second: whoever sends it does not want to wait.
    pub now: CancellationToken,
}

/// Listens for SIGTERM and SIGINT from now on.
pub fn on_signals() -> std::io::Result<Signals> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let signals = Signals::default();
    let Signals { stop, now } = signals.clone();
    tokio::spawn(async move {
        for (asked, words) in [(stop, "ending: asked to by a signal"), (now, "ending at once: asked again")] {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            tracing::info!("{words}");
            asked.cancel();
        }
    });
    Ok(signals)
}
