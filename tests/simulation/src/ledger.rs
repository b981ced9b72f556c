//! What was seen of the run by the models: not a word of it is the controller's own.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use idtoken_operator::api::SECRET_TYPE;
use jiff::Timestamp;
use serde_json::Value;

use crate::api_server::{Name, Resource};
use crate::availability::{Availability, Cause};
use crate::clock;
use crate::population::{Binding, Identity, Population};

/// The book.
#[derive(Debug)]
pub struct Ledger {
    /// When tokens could be had.
    pub availability: Availability,
    /// What must not have happened: how often, and the first of them in words.
    pub failures: BTreeMap<Rule, (u64, String)>,
    /// What was counted.
    pub counts: Counts,
    /// What is known of each binding, in the order of the population.
    pub bindings: Vec<Account>,
    google: Rate,
    api_server: Rate,
}

/// A rule that a run must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// No token expires, and no binding waits for its first one, where one could have been had.
    Late,
    /// A token that could be replaced in time is not kept until its last minutes.
    Left,
    /// Who does not hold the Lease writes nothing.
    Fence,
    /// What is not the operator's stays as it is, and what is granted stays.
    Foreign,
    /// A Secret holds the token that its binding wants.
    Wrong,
    /// No token is replaced by an older one.
    Older,
    /// A tenant that fails costs the others nothing.
    Fair,
    /// Google makes hardly more tokens than are needed.
    Mints,
    /// The API server gets hardly more writes than are needed.
    Writes,
    /// Nobody is asked for too much at once.
    Rate,
    /// The controller runs, and asks nothing that the models don't know.
    Run,
}

impl Rule {
    /// Its name in a report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Left => "left",
            Self::Fence => "fence",
            Self::Foreign => "foreign",
            Self::Wrong => "wrong",
            Self::Older => "older",
            Self::Fair => "fair",
            Self::Mints => "mints",
            Self::Writes => "writes",
            Self::Rate => "rate",
            Self::Run => "run",
        }
    }
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Tokens that Google signed.
    pub mints: u64,
    /// Those of them that nobody can use, since the machines' clock is far behind.
    pub unusable: u64,
    /// Secrets that were written.
    pub secret_writes: u64,
    /// Statuses of bindings that were written.
    pub status_writes: u64,
    /// Events that were sent.
    pub events: u64,
    /// The most writes of one replica that were under way at the API server at once.
    pub writes_at_once: u64,
    /// Requests that Google refused since there were too many.
    pub over_quota: u64,
    /// Tokens that expired, or bindings that waited long for their first one, when none could be had.
    pub unavoidable: u64,
    /// Requests to the API server, by kind.
    pub api_requests: BTreeMap<String, u64>,
}

/// What is known of a binding.
#[derive(Clone, Copy, Debug, Default)]
pub struct Account {
    /// The second in which it was made.
    pub created: Option<u64>,
    /// How long it waited for its first token, in seconds.
    pub waited: Option<u64>,
    /// When its token ends; 0: it has none.
    pub expires: u64,
    /// The least that a token had left when it was replaced, in seconds.
    pub least_left: Option<i64>,
}

/// Requests by the second.
#[derive(Clone, Debug, Default)]
pub struct Rate {
    second: u64,
    count: u64,
    peak: u64,
    total: u64,
}

impl Rate {
    fn count(&mut self, second: u64) {
        if second != self.second {
            (self.second, self.count) = (second, 0);
        }
        self.count += 1;
        self.total += 1;
        self.peak = self.peak.max(self.count);
    }

    /// The most in one second.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.peak
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }
}

/// A token as its Secret says.
struct Token {
    audience: String,
    email: String,
    expires: u64,
}

impl Ledger {
    /// Of a run of so many seconds with so many bindings.
    #[must_use]
    pub fn new(seconds: u64, bindings: usize) -> Self {
        Self {
            availability: Availability::new(seconds),
            failures: BTreeMap::new(),
            counts: Counts::default(),
            bindings: vec![Account::default(); bindings],
            google: Rate::default(),
            api_server: Rate::default(),
        }
    }

    /// Notes that `rule` is broken now.
    pub fn broken(&mut self, rule: Rule, how: impl FnOnce() -> String) {
        let at = clock::now();
        self.note(rule, || format!("{at}: {}", how()));
    }

    /// Notes that the run as a whole has broken `rule`, once it is over.
    pub fn broken_by_all(&mut self, rule: Rule, how: impl FnOnce() -> String) {
        self.note(rule, || format!("in all: {}", how()));
    }

    fn note(&mut self, rule: Rule, first: impl FnOnce() -> String) {
        self.failures.entry(rule).or_insert_with(|| (0, first())).0 += 1;
    }

    /// Notes that the run itself went wrong.
    pub fn fail(&mut self, how: String) {
        self.broken(Rule::Run, || how);
    }

    /// A binding was made.
    pub fn created(&mut self, position: usize) {
        self.bindings[position].created = Some(clock::second());
    }

    /// A replica that lives has renewed its Lease.
    pub fn led(&mut self, second: u64) {
        self.availability.led(second);
    }

    /// The API server was asked for something.
    pub fn api_request(&mut self, second: u64, label: String) {
        self.api_server.count(second);
        *self.counts.api_requests.entry(label).or_default() += 1;
    }

    /// Google was asked for something.
    pub fn google_request(&mut self, second: u64) {
        self.google.count(second);
    }

    /// Google signed a token.
    pub fn minted(&mut self, second: u64) {
        self.counts.mints += 1;
        self.counts.unusable += u64::from(self.availability.is_lacking(Cause::Clock, second));
    }

    /// A replica has so many writes under way.
    pub fn writing(&mut self, at_once: u64) {
        self.counts.writes_at_once = self.counts.writes_at_once.max(at_once);
    }

    /// Google refused somebody since there were too many.
    pub fn over_quota(&mut self, second: u64) {
        self.counts.over_quota += 1;
        self.availability.lacks(Cause::Quota, second, second + 1);
    }

    /// An Event was sent.
    pub fn event(&mut self) {
        self.counts.events += 1;
    }

    /// Requests to Google and to the API server.
    #[must_use]
    pub fn rates(&self) -> (&Rate, &Rate) {
        (&self.google, &self.api_server)
    }

    /// `writer` wrote a status when `leader` held the Lease.
    pub fn status_written(&mut self, writer: &str, leader: Option<&str>) {
        self.counts.status_writes += 1;
        self.fenced("a status", writer, leader);
    }

    /// Something was deleted. Nothing is ever to be, since no grant goes.
    pub fn deleted(&mut self, resource: Resource, name: &Name) {
        self.broken(Rule::Foreign, || format!("{resource:?} {}/{} was deleted", name.namespace, name.name));
    }

    /// `writer` wrote a Secret when `leader` held the Lease.
    pub fn secret_written(
        &mut self,
        population: &Population,
        writer: &str,
        leader: Option<&str>,
        before: Option<&Value>,
        now: &Value,
    ) {
        self.counts.secret_writes += 1;
        self.fenced("a Secret", writer, leader);
        let name = now["metadata"]["name"].as_str().unwrap_or_default();
        let owner =
            |secret: &Value| secret["metadata"]["ownerReferences"][0]["uid"].as_str().map(str::to_owned);
        let Some(position) = owner(now).and_then(|uid| population.of_uid(&uid)) else {
            return self.broken(Rule::Foreign, || format!("Secret {name} was written and is no binding's"));
        };
        if before.is_some_and(|before| owner(before) != owner(now)) {
            return self.broken(Rule::Foreign, || format!("Secret {name} was taken from its owner"));
        }
        let binding = &population.bindings[position];
        let Some(token) = token(now).filter(|token| token.is_for(binding) && stands_right(now, binding))
        else {
            return self.broken(Rule::Wrong, || {
                format!("Secret {name} does not hold a token of {} for {}", binding.email(), binding.audience)
            });
        };
        self.published(binding, position, token.expires, population.is_healthy(binding));
    }

    /// A binding has a new token.
    fn published(&mut self, binding: &Binding, position: usize, expires: u64, is_healthy: bool) {
        let (now, account) = (clock::second(), self.bindings[position]);
        if expires < account.expires {
            self.broken(Rule::Older, || format!("{} got an older token than it had", binding.name));
        }
        if is_healthy {
            self.judge(binding, position, now);
        }
        let left = i64::try_from(account.expires).unwrap_or(0) - i64::try_from(now).unwrap_or(0);
        let account = &mut self.bindings[position];
        if account.expires == 0 {
            account.waited = Some(now - account.created.unwrap_or(now));
        } else {
            account.least_left = Some(account.least_left.map_or(left, |least| least.min(left)));
        }
        account.expires = expires;
    }

    /// Whether the token that a binding has, or lacks, should have been another one before the second `now`.
    pub fn judge(&mut self, binding: &Binding, position: usize, now: u64) {
        let Account { created: Some(created), expires, .. } = self.bindings[position] else { return };
        if expires == 0 {
            if now > created + TOGETHER
                && let Some(available) = self.possible(created, now)
            {
                let waited = format!("waited for its first token for {} s", now - created);
                self.late(Rule::Late, binding, &waited, available);
            }
            return;
        }
        let due = created.max(expires - lead(binding));
        if now > expires {
            if let Some(available) = self.possible(due, now) {
                let had = format!("had an expired token for {} s", now - expires);
                self.late(Rule::Late, binding, &had, available);
            }
        } else if expires - now < LAST {
            let available = self.availability.longest(due, now);
            if available >= LAST {
                let kept = format!("kept a token until {} s before its end", expires - now);
                self.late(Rule::Left, binding, &kept, available);
            }
        }
    }

    /// For how many seconds together a token could be had, if that is long enough. If not, that is noted.
    fn possible(&mut self, from: u64, until: u64) -> Option<u64> {
        let available =
            Some(self.availability.longest(from, until)).filter(|available| *available >= TOGETHER);
        self.counts.unavoidable += u64::from(available.is_none());
        available
    }

    fn late(&mut self, rule: Rule, binding: &Binding, how: &str, available: u64) {
        let (tenant, name) = (binding.namespace(), &binding.name);
        self.broken(rule, || {
            format!("{tenant}/{name} {how}, though one could be had for {available} s together")
        });
    }

    fn fenced(&mut self, what: &str, writer: &str, leader: Option<&str>) {
        if leader != Some(writer) {
            self.broken(Rule::Fence, || format!("{writer} wrote {what} while {leader:?} held the Lease"));
        }
    }
}

/// How long before its end a token is due to be replaced, in seconds: as its binding says, and not before there is another one. The
/// machines' clock may be a minute behind.
fn lead(binding: &Binding) -> u64 {
    let due = 3600 * (100 - binding.refresh_percent) / 100 - 60;
    match binding.identity {
        Identity::Account(_) => due,
        // The metadata server hands out the same one until five minutes before its end.
        Identity::Operator => due.min(285),
    }
}

impl Token {
    fn is_for(&self, binding: &Binding) -> bool {
        self.audience == binding.audience && self.email == binding.email()
    }
}

fn stands_right(secret: &Value, binding: &Binding) -> bool {
    let metadata = &secret["metadata"];
    secret["type"] == SECRET_TYPE
        && metadata["name"] == binding.secret().as_str()
        && metadata["namespace"] == binding.namespace().as_str()
}

/// The token in a Secret.
fn token(secret: &Value) -> Option<Token> {
    let text = BASE64_STANDARD.decode(secret["data"]["id_token"].as_str()?).ok()?;
    let payload = text.split(|byte| *byte == b'.').nth(1)?;
    let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    let expires = Timestamp::from_second(claims["exp"].as_i64()?).ok()?;
    let since_start = expires.duration_since(clock::at(std::time::Duration::ZERO)).as_secs();
    Some(Token {
        audience: claims["aud"].as_str()?.to_owned(),
        email: claims["email"].as_str()?.to_owned(),
        expires: u64::try_from(since_start).ok()?,
    })
}

/// For so many seconds together everything must be there for a token to be had: the longest pause between two attempts (150 s, and 10 s
/// for those who wait for another's), the time-out of a request that Google left without an answer just before (30 s), and three writes
/// that meet another version, with the pause after them.
pub const TOGETHER: u64 = 200;
/// Seconds before its end in which a token that was due long before is late: an outage of so long must not cost anybody his token. Also
/// for how long together another one could be had.
const LAST: u64 = 600;

#[cfg(test)]
mod tests;
