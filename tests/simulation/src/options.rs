//! What can be said on the command line.

use clap::{Parser, ValueEnum as _};

use crate::faults::Kind;
use crate::world::Plan;

/// Run the controller in virtual time through bad days, against models of the API server and of Google
///
/// It is the product's own code that runs, all of it; what is modelled is what it talks to. Fails where a token expired, or was not
/// there, though one could have been had; where somebody wrote who was not the leader; where a foreign Secret was touched, a
/// Secret got the wrong or an older token, one tenant's failures held up the others, or far more tokens, writes or requests at once were
/// asked for than are needed. docs/simulation.md says it precisely.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask simulate", bin_name = "cargo xtask simulate", version = None)]
#[command(after_help = "Examples:
  cargo xtask simulate                                   a day of 1,000 bindings with every fault
  cargo xtask simulate --bindings 50000 --hours 24       a large fleet (an hour)
  cargo xtask simulate --seeds 200 --bindings 60 --hours 6
                                                         200 days, each with faults of its own
  cargo xtask simulate --seed 17 --faults sleep,google-outage
  cargo xtask simulate --faults none                     a good day: what is least")]
pub struct Options {
    /// How many bindings; a tenth of them are those of the tenant that may fail
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=200_000))]
    bindings: u32,
    /// How long, in virtual hours
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=240))]
    hours: u64,
    /// What goes wrong, at times drawn from the seed: a list of the kinds below, `all` or `none`
    ///
    /// google-outage (20 minutes), api-outage (5 minutes), leader-loss (about once an hour), clock-step, sleep, quota-storm,
    /// failing-tenant, watch-cut, slow-api, conflicts, gone
    #[arg(long, value_name = "KINDS", default_value = "all", value_parser = kinds)]
    faults: Kinds,
    /// What everything is drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run as many seeds, from --seed on, on all processors; only failures and a summary are told
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub seeds: u64,
    /// How many tokens Google makes in a minute before it answers 429
    #[arg(long, value_name = "NUMBER", default_value_t = 60_000)]
    quota: u64,
    /// Write the report as JSON to standard output: an array with an object for each seed
    #[arg(long)]
    pub json: bool,
}

/// Kinds of faults.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kinds(Vec<Kind>);

impl Options {
    /// The run of each seed.
    pub fn plans(&self) -> impl Iterator<Item = Plan> {
        let seconds = self.hours * 3600;
        (self.seed..self.seed.saturating_add(self.seeds)).map(move |seed| Plan {
            seed,
            bindings: usize::try_from(self.bindings).unwrap_or(usize::MAX),
            seconds,
            until: seconds,
            faults: self.faults.0.clone(),
            quota: self.quota,
            defect: None,
        })
    }
}

fn kinds(text: &str) -> Result<Kinds, String> {
    match text {
        "all" => return Ok(Kinds(Kind::value_variants().to_vec())),
        "none" => return Ok(Kinds(Vec::new())),
        _ => {}
    }
    let of = |name: &str| {
        let known = Kind::value_variants().iter().find(|kind| kind.name() == name).copied();
        known.ok_or_else(|| {
            let names: Vec<_> = Kind::value_variants().iter().map(|kind| kind.name()).collect();
            format!("{name:?} is no fault; write some of {}, or all, or none", names.join(","))
        })
    };
    let mut kinds = text.split(',').map(of).collect::<Result<Vec<_>, _>>()?;
    kinds.sort_unstable();
    kinds.dedup();
    Ok(Kinds(kinds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_all_none_or_some() {
        assert_eq!(kinds("all").unwrap().0.len(), 11);
        assert_eq!(kinds("none").unwrap().0, []);
        assert_eq!(kinds("sleep,api-outage,sleep").unwrap().0, [Kind::ApiOutage, Kind::Sleep]);
        assert_eq!(
            kinds("sleep,rain").unwrap_err(),
            "\"rain\" is no fault; write some of google-outage,api-outage,leader-loss,clock-step,sleep,quota-storm,failing-tenant,\
             watch-cut,slow-api,conflicts,gone, or all, or none"
        );
    }

    #[test]
    fn each_seed_is_a_run_of_its_own() {
        let options = Options::parse_from([
            "simulate",
            "--seed",
            "7",
            "--seeds",
            "3",
            "--hours",
            "2",
            "--bindings",
            "20",
        ]);
        let plans: Vec<_> = options.plans().map(|plan| (plan.seed, plan.seconds, plan.bindings)).collect();
        assert_eq!(plans, [(7, 7200, 20), (8, 7200, 20), (9, 7200, 20)]);
        assert!(Options::try_parse_from(["simulate", "--bindings", "5"]).is_err());
    }
}
