//! What came of a run, in figures.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::costs::{self, Costs, Figure};
use crate::ledger::{Account, Rule};
use crate::population::Binding;
use crate::world::{Plan, World};

/// The report.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What all else follows from.
    pub seed: u64,
    /// How many bindings there were.
    pub bindings: usize,
    /// How long it lasted.
    pub hours: f64,
    /// What went wrong, in words.
    pub faults: Vec<String>,
    /// The rules that were broken.
    pub broken: Vec<Broken>,
    /// Bindings without a token when none could be had.
    pub unavoidable: u64,
    /// The least that a token of a healthy binding had left when it was replaced, in seconds; negative: it had expired.
    pub worst_remaining_seconds: Option<i64>,
    /// Tokens that Google signed, but for the next ones.
    pub mints: Figure,
    /// Those that nobody could use, since the machines' clock was far behind.
    pub unusable_mints: u64,
    /// Writes of Secrets.
    pub secret_writes: Figure,
    /// Writes of bindings' statuses.
    pub status_writes: Figure,
    /// The most writes of one replica that were under way at once.
    pub writes_at_once: u64,
    /// Events that were sent.
    pub events: u64,
    /// 429 by Google.
    pub over_quota: u64,
    /// Requests to Google.
    pub google: Requests,
    /// Requests to the API server.
    pub api_server: Requests,
    /// Requests to the API server, by kind.
    pub api_requests: BTreeMap<String, u64>,
    /// How long the healthy bindings waited for their first token.
    pub first_token: Waits,
    /// The same of the tenant that waited longest.
    pub slowest_tenant: Waits,
    /// How long it took, in seconds of this machine.
    pub took_seconds: f64,
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// Its name.
    pub rule: &'static str,
    /// How often.
    pub times: u64,
    /// The first time, in words.
    pub first: String,
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// All of them.
    pub total: u64,
    /// The most in one second.
    pub peak_per_second: u64,
}

/// Seconds that bindings waited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waits {
    /// How many bindings.
    pub bindings: u64,
    /// Half of them waited no longer.
    pub median_seconds: u64,
    /// None waited longer.
    pub worst_seconds: u64,
    /// How many had none at the end.
    pub none: u64,
}

impl Report {
    /// Of a run that is over.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // hours
    pub fn of(plan: &Plan, world: &World, took: std::time::Duration) -> Self {
        let ledger = world.ledger();
        let healthy: Vec<(&Binding, &Account)> = costs::healthy(world, &ledger).collect();
        let Costs { mints, secret_writes, status_writes, .. } = Costs::of(world, &ledger);
        let (google, api_server) = ledger.rates();
        let requests =
            |rate: &crate::ledger::Rate| Requests { total: rate.total(), peak_per_second: rate.peak() };
        let mut by_tenant: HashMap<usize, Vec<&Account>> = HashMap::new();
        for (binding, account) in &healthy {
            by_tenant.entry(binding.tenant).or_default().push(account);
        }
        let tenants = by_tenant.values().map(|accounts| Waits::of(accounts.iter().copied(), world.until));
        Self {
            seed: plan.seed,
            bindings: plan.bindings,
            hours: world.until as f64 / 3600.0,
            faults: world.schedule.planned.iter().map(ToString::to_string).chain(denial(world)).collect(),
            broken: broken(&ledger.failures),
            unavoidable: ledger.counts.unavoidable,
            worst_remaining_seconds: healthy.iter().filter_map(|(_, account)| account.least_left).min(),
            mints,
            unusable_mints: ledger.counts.unusable,
            secret_writes,
            status_writes,
            writes_at_once: ledger.counts.writes_at_once,
            events: ledger.counts.events,
            over_quota: ledger.counts.over_quota,
            google: requests(google),
            api_server: requests(api_server),
            api_requests: ledger.counts.api_requests.clone(),
            first_token: Waits::of(healthy.iter().map(|(_, account)| *account), world.until),
            slowest_tenant: tenants.max_by_key(|waits| (waits.none, waits.worst_seconds)).unwrap_or_default(),
            took_seconds: took.as_secs_f64(),
        }
    }

    /// Whether all rules were kept.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.broken.is_empty()
    }

    /// The rules that were broken, one line each.
    #[must_use]
    pub fn complaints(&self) -> String {
        let mut text = String::new();
        for Broken { rule, times, first } in &self.broken {
            let _ = writeln!(text, "seed {}: {rule}, {times} times, first {first}", self.seed); // to a String
        }
        text
    }
}

impl Waits {
    fn of<'a>(accounts: impl Iterator<Item = &'a Account>, end: u64) -> Self {
        let all: Vec<&Account> = accounts.collect();
        let waited = |account: &&Account| account.waited.unwrap_or(end - account.created.unwrap_or(end));
        let mut waits: Vec<u64> = all.iter().map(waited).collect();
        waits.sort_unstable();
        Self {
            bindings: all.iter().map(|_| 1).sum(),
            median_seconds: waits.get(waits.len() / 2).copied().unwrap_or_default(),
            worst_seconds: waits.last().copied().unwrap_or_default(),
            none: all.iter().filter(|account| account.waited.is_none()).map(|_| 1).sum(),
        }
    }
}

fn broken(failures: &BTreeMap<Rule, (u64, String)>) -> Vec<Broken> {
    let of = |(rule, (times, first)): (&Rule, &(u64, String))| Broken {
        rule: rule.name(),
        times: *times,
        first: first.clone(),
    };
    failures.iter().map(of).collect()
}

fn denial(world: &World) -> Option<String> {
    world.schedule.denial.map(|denial| format!("all day one tenant {denial:?}"))
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median_seconds, worst_seconds, none, .. } = self;
        write!(f, "median {median_seconds} s, worst {worst_seconds} s, {none} without one at the end")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = if self.is_kept() { "all rules kept" } else { "BROKEN" };
        let (seed, bindings, hours) = (self.seed, self.bindings, self.hours);
        writeln!(f, "seed {seed}: {bindings} bindings, {hours} h in {:.1} s: {kept}", self.took_seconds)?;
        f.write_str(&self.complaints())?;
        let worst =
            self.worst_remaining_seconds.map_or("none was replaced".to_owned(), |left| format!("{left} s"));
        writeln!(f, "  least left of a token      {worst}")?;
        writeln!(f, "  without one, unavoidably   {}", self.unavoidable)?;
        writeln!(f, "  mints                      {}", self.mints)?;
        writeln!(f, "    while the clock is wrong {}", self.unusable_mints)?;
        writeln!(f, "  writes of Secrets          {}", self.secret_writes)?;
        writeln!(f, "  writes of statuses         {}", self.status_writes)?;
        writeln!(f, "  events                     {}", self.events)?;
        let Requests { total, peak_per_second } = self.google;
        let refused = self.over_quota;
        writeln!(
            f,
            "  requests to Google         {total}, at most {peak_per_second} a second; 429: {refused}"
        )?;
        let Requests { total, peak_per_second } = self.api_server;
        let writes = self.writes_at_once;
        writeln!(
            f,
            "  requests to the API server {total}, at most {peak_per_second} a second; writes at once: {writes}"
        )?;
        writeln!(f, "  wait for the first token   {}", self.first_token)?;
        writeln!(f, "    of the slowest tenant    {}", self.slowest_tenant)
    }
}
