//! Small days of the whole controller.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use simulation::faults::Kind;
use simulation::report::Report;
use simulation::seeds::one;
use simulation::world::{Defect, Plan};
use xtask::google::SigningKey;

fn day(hours: u64, faults: &[Kind], defect: Option<Defect>) -> Report {
    let seconds = hours * 3600;
    let plan = Plan {
        seed: 1,
        bindings: 12,
        seconds,
        until: seconds,
        faults: faults.to_vec(),
        quota: 60_000,
        defect,
    };
    let key = Arc::new(SigningKey::generate("simulation", idtoken_operator::clock::now()).unwrap());
    one(&plan, &key, &AtomicU64::new(0)).unwrap()
}

fn broken(report: &Report) -> Vec<&str> {
    report.broken.iter().map(|broken| broken.rule).collect()
}

#[test]
fn a_good_day_needs_two_writes_for_a_binding_and_one_for_a_new_token() {
    let report = day(2, &[], None);
    assert_eq!(report.complaints(), "");
    assert_eq!((report.unavoidable, report.first_token.none, report.over_quota), (0, 0, 0));
    assert!(report.worst_remaining_seconds.unwrap() > 300, "{report}");
    // A Secret and a status for each token, the first one too.
    assert_eq!(report.status_writes.number, report.secret_writes.number, "{report}");
    assert!(report.secret_writes.number <= report.secret_writes.minimum * 5 / 4, "{report}");
}

#[test]
fn a_bad_day_breaks_no_rule() {
    let kinds =
        [Kind::ApiOutage, Kind::LeaderLoss, Kind::GoogleOutage, Kind::Gone, Kind::Sleep, Kind::Conflicts];
    let report = day(3, &kinds, None);
    assert_eq!(report.complaints(), "");
    assert!(report.faults.len() >= 3, "{:?}", report.faults);
}

#[test]
fn who_is_not_elected_is_found_out() {
    let report = day(1, &[], Some(Defect::NoElection));
    assert!(broken(&report).contains(&"fence"), "{report}");
}

#[test]
fn tokens_that_do_not_come_are_missed() {
    let report = day(6, &[], Some(Defect::OtherAudience));
    assert_eq!(broken(&report), ["late", "mints"], "{report}");
    assert_eq!(report.secret_writes.number, 0);
}
