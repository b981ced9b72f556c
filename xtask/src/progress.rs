//! Tells on stderr what takes long: what it is, that it still goes on, and how long it took.

use std::io::{IsTerminal as _, Write as _};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;

/// A long step under way. Finish it with [`Step::done`]; dropped before, it is reported as failed.
#[derive(Debug)]
pub struct Step {
    what: String,
    started: Instant,
    ticker: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Step {
    /// Announces a step. While it lasts, the elapsed time is shown: in place on a terminal, else a line every 10 s.
    pub fn start(what: impl Into<String>, expectation: &str) -> Self {
        let what = what.into();
        let started = Instant::now();
        if expectation.is_empty() {
            eprintln!("{what} …");
        } else {
            eprintln!("{what} ({expectation}) …");
        }
        let (stop, stopped) = channel();
        let label = what.clone();
        let ticker = std::thread::spawn(move || {
            let terminal = std::io::stderr().is_terminal();
            let interval = if terminal { TERMINAL_INTERVAL } else { LOG_INTERVAL };
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                show(&label, started.elapsed(), terminal);
            }
            if terminal {
                eprint!("\r\x1b[K");
            }
        });
        Self { what, started, ticker: Some((stop, ticker)) }
    }

    /// How long it has taken so far.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Reports success.
    pub fn done(mut self) {
        self.stop_ticking();
        eprintln!("{}: done in {}", self.what, human(self.elapsed()));
    }

    fn stop_ticking(&mut self) {
        if let Some((stop, ticker)) = self.ticker.take() {
            drop(stop);
            // A ticker that panicked (stderr closed) has nothing more to say.
            let _ = ticker.join();
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.ticker.is_some() {
            self.stop_ticking();
            eprintln!("{}: failed after {}", self.what, human(self.elapsed()));
        }
    }
}

/// A duration for people: `7 s`, `6 min 48 s`.
#[must_use]
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds / 60 {
        0 => format!("{seconds} s"),
        minutes => format!("{minutes} min {} s", seconds % 60),
    }
}

fn show(what: &str, elapsed: Duration, terminal: bool) {
    if terminal {
        eprint!("\r\x1b[K  {what}: {}", human(elapsed));
        let _ = std::io::stderr().flush();
    } else {
        eprintln!("  {what}: still at it after {}", human(elapsed));
    }
}

const TERMINAL_INTERVAL: Duration = Duration::from_secs(1);
const LOG_INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(human(Duration::from_millis(6_900)), "6 s");
        assert_eq!(human(Duration::from_secs(60)), "1 min 0 s");
        assert_eq!(human(Duration::from_secs(408)), "6 min 48 s");
    }
}
