//! What is kept of a user who signed in, or could not: in memory only.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::{
    plan::{Retry, secret::sha256_hex},
    token::{Error, RawToken},
};

/// One user's session with one state of its Secrets. Locked across the calls, on purpose: whoever comes meanwhile shares what
/// comes of them.
#[derive(Default)]
pub(super) struct Session {
    pub(super) refresh_token: Option<Zeroizing<String>>,
    last: Option<Answer>,
    held: Option<Held>,
    /// The forced refreshes that have had their try, as hashes: their texts are as long as anybody likes.
    requests: HashSet<String>,
}

struct Answer {
    result: Result<RawToken, Error>,
    at: Instant,
}

/// A failure that answers everybody; `until` a time, or until the Secrets change.
struct Held {
    error: Error,
    until: Option<Instant>,
}

impl Session {
    /// What answers whoever `asked` then without another call: an answer that came since, or a failure that is held. Each wrong
    /// password counts towards the lock of the user's account, so past the latter only a new forced refresh (`request`) gets.
    pub(super) fn answer(
        &mut self,
        asked: Instant,
        request: Option<&str>,
    ) -> Option<Result<RawToken, Error>> {
        let is_new = self.is_new(request);
        if let Some(Answer { result, at }) = &self.last
            && *at > asked
        {
            return Some(result.clone());
        }
        if is_new {
            return None;
        }
        self.held.as_ref().and_then(|held| held.error_at(Instant::now())).map(Err)
    }

    /// Holds what a sign-in said, where that is "not now".
    pub(super) fn hold(&mut self, error: &Error) {
        if let Error::Quota { retry_after: Some(seconds), .. } = error {
            let until = Instant::now() + Duration::from_secs(*seconds).min(LONGEST_HELD);
            self.held = Some(Held { error: error.clone(), until: Some(until) });
        }
    }

    /// Notes what came of the calls.
    pub(super) fn note(&mut self, result: &Result<RawToken, Error>) {
        match result {
            Ok(_) => self.held = None,
            Err(error) if error.retry() == Retry::OnNewCredential => {
                self.held = Some(Held { error: error.clone(), until: None });
            }
            Err(_) => {}
        }
        self.last = Some(Answer { result: result.clone(), at: Instant::now() });
    }

    /// Whether the forced refresh has not had its try yet. After too many of them nobody is helped by another one.
    fn is_new(&mut self, request: Option<&str>) -> bool {
        let hash = request.map(|request| sha256_hex(request.as_bytes()));
        hash.is_some_and(|hash| self.requests.len() < MAX_REQUESTS && self.requests.insert(hash))
    }
}

impl Held {
    /// The failure, with the time that is left; `None`: it is over.
    fn error_at(&self, now: Instant) -> Option<Error> {
        let Some(until) = self.until else { return Some(self.error.clone()) };
        let left = until.checked_duration_since(now).filter(|left| !left.is_zero())?;
        Some(match self.error.clone() {
            Error::Quota { action, detail, .. } => {
                let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
                Error::Quota { action, detail, retry_after: Some(seconds) }
            }
            error => error,
        })
    }
}

/// Whatever the answer says: somebody may have lifted it meanwhile.
const LONGEST_HELD: Duration = Duration::from_secs(3600);
const MAX_REQUESTS: usize = 1000;
