//! One mint for all bindings that need the same token, at a pace that Google bears.
//!
//! ```text
//! failed lately? ─▶ is it under way, or was it made just now? ─▶ may Google be asked now? ─▶ obtain
//! ```
//!
//! A token is shared by resolved principal and audience (see [`TokenKey`]), while it is fetched and for some minutes afterwards, by when all
//! who need it have come. Whoever is given one is authorised by itself before its own write.

mod table;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep};

use self::table::Table;
use super::obtain::Obtained;
use crate::{
    api::Reason,
    clock,
    plan::{
        Attempts, Pause, Problem, Retry,
        pace::Pace,
        principal::{Principal, Quota, TokenKey},
        refresh::{refresh_at, retry_at, spread},
        secret::Owner,
        validate::Wanted,
    },
};

/// What is known of mints: under way, made lately, failed lately; and how fast Google may be asked.
#[derive(Debug)]
pub(super) struct Mints {
    flights: Table<TokenKey, tokio::sync::Mutex<Option<Landed>>>,
    /// By namespace, so that nobody's failures hold up another tenant.
    failures: Table<(String, Scope), Mutex<Option<Failure>>>,
    paces: Table<Quota, Mutex<Pace>>,
    /// From when the paces' times are counted.
    since: Instant,
}

/// What came of the last mint of a token. It is locked while one is under way, on purpose: whoever comes waits for that answer.
#[derive(Debug)]
struct Landed {
    result: Result<Arc<Obtained>, NotObtained>,
    /// Of whom.
    namespace: String,
    /// Whether it was urgent for who asked.
    urgent: bool,
    begun: Instant,
    ended: Instant,
}

/// What fails.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Scope {
    /// The principal gets no answers, whatever it asks for.
    Principal(Principal),
    /// It gets no token for this audience.
    Token(TokenKey),
}

/// How often it has failed in a row, and when it is tried again.
#[derive(Debug)]
struct Failure {
    attempts: Attempts,
    /// Whether others than who failed want to try, too.
    is_awaited: bool,
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum NotObtained {
    /// It failed, or has failed lately. `until`: when it is tried again, where that is the same for all who need it.
    Failed { problem: Problem, until: Option<Timestamp> },
    /// Google is not to be asked for so long.
    Later(Duration),
}

/// Who asks, and for what.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub owner: &'a Owner,
    pub wanted: &'a Wanted,
    /// The state of the binding's own credential.
    pub credential: Option<&'a str>,
    /// Whether only a token will do that is made from now on.
    pub forced: bool,
    /// Whether the binding has no token, or only for a short time.
    pub urgent: bool,
}

impl Mints {
    pub(super) fn new() -> Self {
        let (flights, failures, paces) = Default::default();
        Self { flights, failures, paces, since: Instant::now() }
    }

    /// The token that is asked for: one that was made for another binding too, or what `obtain` gets.
    pub(super) async fn get(
        &self,
        asked: Asked<'_>,
        obtain: impl Future<Output = Result<Obtained, Problem>>,
    ) -> Result<Arc<Obtained>, NotObtained> {
        let namespace = &asked.owner.namespace;
        let Some(key) = TokenKey::of(namespace, asked.wanted, asked.credential) else {
            let result = self.paced(asked, obtain).await?;
            return result.map(Arc::new).map_err(|problem| NotObtained::Failed { problem, until: None });
        };
        if !asked.forced {
            self.pass_failures(asked.owner, &key, clock::now())?;
        }
        let came = Instant::now();
        let flight = self.flights.of(&key);
        let mut last = flight.lock().await;
        if let Some(landed) = last.as_ref().filter(|landed| landed.serves(asked, came, clock::now())) {
            return match &landed.result {
                // When another tenant tries again is for its own failures to say.
                Err(NotObtained::Failed { problem, .. }) if landed.namespace != *namespace => {
                    self.conclude(asked.owner, &key, Err(problem.clone()), clock::now())
                }
                result => result.clone(),
            };
        }
        let begun = Instant::now();
        let result = match self.paced(asked, obtain).await {
            Ok(result) => self.conclude(asked.owner, &key, result.map(Arc::new), clock::now()),
            Err(later) => Err(later),
        };
        // What one binding may not do says nothing of the others.
        if !result.as_ref().is_err_and(NotObtained::is_personal) {
            let (result, namespace) = (result.clone(), namespace.clone());
            *last = Some(Landed { result, namespace, urgent: asked.urgent, begun, ended: Instant::now() });
        }
        result
    }

    /// Drops what nobody needs any more, above all tokens.
    pub(super) fn sweep(&self) {
        let (now, elapsed) = (clock::now(), self.since.elapsed());
        self.flights.retain(|flight| {
            let landed = flight.try_lock();
            landed.is_ok_and(|last| last.as_ref().is_some_and(|landed| landed.ended.elapsed() < KEPT))
        });
        self.failures.retain(|failure| {
            lock(failure).as_ref().is_some_and(|failure| {
                let forgotten =
                    failure.attempts.pause.until.saturating_add(REMEMBERED).unwrap_or(Timestamp::MAX);
                now < forgotten
            })
        });
        // One that was not used for so long is as it was in the beginning.
        self.paces.retain(|pace| lock(pace).last_used() + PACE_KEPT > elapsed);
    }

    /// Asks Google, once its quota allows that.
    async fn paced(
        &self,
        asked: Asked<'_>,
        obtain: impl Future<Output = Result<Obtained, Problem>>,
    ) -> Result<Result<Obtained, Problem>, NotObtained> {
        let quota = Quota::of(&asked.owner.namespace, &asked.wanted.source);
        let pace = self.paces.of_or(&quota, || Mutex::new(Pace::new(most(&quota))));
        let began = self.since.elapsed();
        loop {
            let now = self.since.elapsed();
            let Err(until) = lock(&pace).take(now, asked.urgent) else { break };
            if until.saturating_sub(began) > PATIENCE {
                return Err(NotObtained::Later(until.saturating_sub(now)));
            }
            sleep(until.saturating_sub(now)).await;
        }
        let result = obtain.await;
        let now = self.since.elapsed();
        match &result {
            Ok(_) => lock(&pace).answered(now),
            Err(Problem { reason: Reason::QuotaExceeded, retry, .. }) => {
                let retry_after = match retry {
                    Retry::Transient { retry_after } => retry_after.map(Duration::from_secs),
                    _ => None,
                };
                lock(&pace).refused(now, retry_after);
            }
            Err(_) => {}
        }
        Ok(result)
    }

    /// Refuses what has failed lately. When its time has come, lets one try and has the others wait for what comes of it.
    fn pass_failures(&self, owner: &Owner, key: &TokenKey, now: Timestamp) -> Result<(), NotObtained> {
        for scope in [Scope::Token(key.clone()), Scope::Principal(key.principal.clone())] {
            let is_probe = matches!(scope, Scope::Principal(_));
            let Some(failure) = self.failures.get(&(owner.namespace.clone(), scope)) else { continue };
            let mut failure = lock(&failure);
            let Some(Failure { attempts: Attempts { pause, problem, .. }, is_awaited }) = failure.as_mut()
            else {
                continue;
            };
            if pause.holds("", now) {
                *is_awaited = true;
                let until = pause.until.saturating_add(spread(&owner.uid, SPREAD)).unwrap_or(Timestamp::MAX);
                return Err(NotObtained::Failed { problem: problem.clone(), until: Some(until) });
            }
            if is_probe {
                *pause = Pause::until(now.saturating_add(PROBE).unwrap_or(Timestamp::MAX), now);
            }
        }
        Ok(())
    }

    /// Notes what came of a request.
    fn conclude(
        &self,
        owner: &Owner,
        key: &TokenKey,
        result: Result<Arc<Obtained>, Problem>,
        now: Timestamp,
    ) -> Result<Arc<Obtained>, NotObtained> {
        let of = |scope| (owner.namespace.clone(), scope);
        let (principal, token) = (of(Scope::Principal(key.principal.clone())), of(Scope::Token(key.clone())));
        let problem = match result {
            Ok(token_obtained) => {
                self.failures.remove(&principal);
                self.failures.remove(&token);
                return Ok(token_obtained);
            }
            Err(problem) => problem,
        };
        let is_all = problem.reason == Reason::SourceUnavailable;
        let scope = if is_all {
            principal
        } else {
            // It has got an answer.
            self.failures.remove(&principal);
            token
        };
        if matches!(problem.retry, Retry::OnChange | Retry::OnNewCredential) {
            return Err(NotObtained::Failed { problem, until: None });
        }
        let failure = self.failures.of(&scope);
        let mut failure = lock(&failure);
        let before = failure.as_ref();
        let failures = before.map_or(0, |before| before.attempts.failures).saturating_add(1);
        let mut until = retry_at(now, problem.retry, failures, &owner.uid).unwrap_or(Timestamp::MAX);
        if is_all {
            // What keeps all of them waiting is looked at often enough.
            let is_told = matches!(problem.retry, Retry::Transient { retry_after: Some(_) });
            let longest = if is_told { LONGEST_TOLD } else { LONGEST };
            until = until.min(now.saturating_add(longest).unwrap_or(Timestamp::MAX));
        }
        // Others come before who has failed: one of them may fare better.
        let behind =
            if before.is_some_and(|before| before.is_awaited) { SPREAD } else { SignedDuration::ZERO };
        let attempts = Attempts { failures, pause: Pause::until(until, now), problem: problem.clone() };
        *failure = Some(Failure { attempts, is_awaited: false });
        Err(NotObtained::Failed {
            problem,
            until: Some(until.saturating_add(behind).unwrap_or(Timestamp::MAX)),
        })
    }
}

impl Landed {
    /// Whether it will do for somebody who came at `came`.
    fn serves(&self, asked: Asked<'_>, came: Instant, now: Timestamp) -> bool {
        if asked.forced {
            return self.begun >= came;
        }
        let is_fresh = |token: &Arc<Obtained>| {
            token.signature_checked
                && refresh_at(token.life, asked.wanted.refresh_percent, &asked.owner.uid) > now
        };
        if matches!(self.result, Err(NotObtained::Later(_))) && asked.urgent && !self.urgent {
            return false;
        }
        // Who has waited for an answer takes the one that came.
        self.ended >= came || self.ended.elapsed() < KEPT && self.result.as_ref().is_ok_and(is_fresh)
    }
}

impl NotObtained {
    /// Whether another binding that needs the same token may fare better.
    fn is_personal(&self) -> bool {
        match self {
            Self::Failed { problem, .. } => {
                matches!(problem.reason, Reason::NotGranted | Reason::SelfImpersonation)
            }
            Self::Later(_) => false,
        }
    }
}

/// Requests a second to Google. Of IAM Credentials' 60,000 a minute and project half, since others may use that too; of STS's 6,000 a third.
fn most(quota: &Quota) -> u16 {
    match quota {
        Quota::Operator | Quota::MetadataServer => 500,
        Quota::Namespace(_) => 33,
    }
}

/// What is locked is changed in one step: a panic elsewhere can't leave half of it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a token is there for others. Bindings that share one refresh it within a twentieth of its life: three minutes of an hour.
const KEPT: Duration = Duration::from_secs(5 * 60);
/// How long failures in a row are remembered after the time at which another try was due.
const REMEMBERED: SignedDuration = SignedDuration::from_mins(20);
const PACE_KEPT: Duration = Duration::from_secs(60 * 60);
/// How long a visit waits for the quota before others come first.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a try that may be the first good one has, before others try too.
const PROBE: SignedDuration = SignedDuration::from_secs(5);
/// The longest that one failure keeps all audiences of a principal waiting.
const LONGEST: SignedDuration = SignedDuration::from_secs(150);
/// The same where a `Retry-After` says for how long, as it is believed of a quota.
const LONGEST_TOLD: SignedDuration = SignedDuration::from_mins(5);
/// Over which those who wait for one try come back.
const SPREAD: SignedDuration = SignedDuration::from_secs(5);

#[cfg(test)]
mod tests;
