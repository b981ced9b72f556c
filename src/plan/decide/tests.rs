use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;

use super::*;
use crate::plan::{
    Retry,
    refresh::Lifetime,
    secret::{Other, Ours},
    source::{Audience, ServiceAccountEmail},
    validate::SecretSpec,
};

const UID: &str = "uid-1";

/// 60 percent of the hour after 10:00, less what `UID` hashes to.
const REFRESH: &str = "2026-01-01T10:34:22.101Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn email(text: &str) -> ServiceAccountEmail {
    ServiceAccountEmail::parse(text).unwrap()
}

fn wanted() -> Wanted {
    Wanted {
        audience: Audience::parse("https://orders.example.com").unwrap(),
        source: Source::MetadataServer,
        secret: SecretSpec {
            name: "orders-idtoken".to_owned(),
            key: "id_token".to_owned(),
            authorization_key: None,
            labels: [].into(),
            annotations: [].into(),
        },
        refresh_percent: 60,
        suspend: false,
        refresh_requested: None,
        spec_hash: "spec-1".to_owned(),
    }
}

/// A token of the hour after 10:00, made for the spec of [`wanted`].
fn record() -> Record {
    Record {
        issuer: "https://accounts.google.com".to_owned(),
        identity: Some("operator@p.iam.gserviceaccount.com".to_owned()),
        life: Lifetime { issued: at("2026-01-01T10:00:00Z"), expires: at("2026-01-01T11:00:00Z") },
        spec_hash: "spec-1".to_owned(),
        token_sha256: "00".to_owned(),
        refresh_handled: None,
        credential: None,
        granted: None,
        signature_checked: true,
    }
}

fn ours(record: Record) -> Observed {
    Observed::Ours(Ours { metadata: ObjectMeta::default(), record: Some(record), intact: true })
}

fn tampered(record: Record) -> Observed {
    Observed::Ours(Ours { metadata: ObjectMeta::default(), record: Some(record), intact: false })
}

fn facts(secret: Observed) -> Facts {
    Facts {
        uid: UID.to_owned(),
        secret,
        was_published: false,
        permitted: Ok(()),
        standing: Standing::Allowed,
        credential: None,
        attempts: None,
        ask_again: None,
        restore_not_before: None,
        not_granted_since: None,
        grace: SignedDuration::from_mins(2),
    }
}

fn unavailable() -> Problem {
    Problem::transient(Reason::SourceUnavailable, "HTTP 503")
}

fn not_granted() -> Problem {
    Problem::on_change(Reason::NotGranted, "no grant")
}

/// Something with the given key was done at 9:59 and rests until the given time.
fn pause(key: &str, until: &str) -> Pause {
    Pause { key: key.to_owned(), noted_at: at("2026-01-01T09:59:00Z"), until: at(until) }
}

/// What is wanted was asked for, and is not to be asked for again before the given time.
#[allow(clippy::unnecessary_wraps)] // as the facts hold it
fn again_at(until: &str) -> Option<Pause> {
    Some(pause("spec-1///{}{}", until))
}

/// A failure of what has the given key, not to be tried again before 10:50.
fn failed(key: &str) -> Attempts {
    Attempts { failures: 3, pause: pause(key, "2026-01-01T10:50:00Z"), problem: unavailable() }
}

#[test]
fn a_binding_without_a_secret_gets_its_first_token() {
    let decision = decide(&wanted(), &facts(Observed::Absent), at("2026-01-01T10:00:00Z"));
    assert_eq!(decision, Decision::Mint { restores: false });
}

#[test]
fn a_good_token_is_kept_until_its_refresh_so_that_a_restart_mints_nothing() {
    // Nothing is remembered here: all that is known stands in the Secret's metadata.
    let facts = facts(ours(record()));
    for now in ["2026-01-01T10:00:00Z", "2026-01-01T10:20:00Z", "2026-01-01T10:34:22.100Z"] {
        assert_eq!(decide(&wanted(), &facts, at(now)), Decision::Keep { next: at(REFRESH) }, "{now}");
    }
    for now in [REFRESH, "2026-01-01T10:59:59Z", "2026-01-01T11:00:00Z", "2026-01-02T00:00:00Z"] {
        assert_eq!(decide(&wanted(), &facts, at(now)), Decision::Mint { restores: false }, "{now}");
    }
}

#[test]
fn a_suspended_binding_rests_whatever_else_holds() {
    let wanted = Wanted { suspend: true, ..wanted() };
    let foreign = || Observed::Foreign(Other::Else("Deployment x".to_owned()));
    for secret in [Observed::Absent, foreign(), ours(record()), tampered(record())] {
        let facts = Facts { attempts: Some(failed("spec-1///{}{}")), was_published: true, ..facts(secret) };
        assert_eq!(decide(&wanted, &facts, at("2026-01-01T12:00:00Z")), Decision::Rest);
    }
    let not_granted = Facts { permitted: Err(not_granted()), ..facts(foreign()) };
    assert_eq!(decide(&wanted, &not_granted, at("2026-01-01T12:00:00Z")), Decision::Rest);
}

#[test]
fn somebody_elses_secret_is_refused_before_anything_but_suspension() {
    let foreign = Observed::Foreign(Other::Else("Deployment shop".to_owned()));
    let facts = Facts {
        permitted: Err(not_granted()),
        attempts: Some(failed("spec-1///{}{}")),
        was_published: true,
        ..facts(foreign)
    };
    let Decision::Refuse(problem) = decide(&wanted(), &facts, at("2026-01-01T10:00:00Z")) else {
        panic!("must be refused")
    };
    assert_eq!(problem.reason, Reason::SecretConflict);
    assert_eq!(problem.retry, Retry::OnChange);
    assert_eq!(
        problem.message,
        "Secret orders-idtoken exists and is controlled by Deployment shop, so it was left alone; delete or rename it, \
         or create a binding with another spec.secret.name"
    );
}

#[test]
fn without_a_grant_nothing_is_minted_and_nothing_kept_quietly() {
    for secret in [Observed::Absent, ours(record()), tampered(record())] {
        let facts = Facts {
            permitted: Err(not_granted()),
            attempts: Some(failed("spec-1///{}{}")),
            was_published: true,
            ..facts(secret)
        };
        let decision = decide(&wanted(), &facts, at("2026-01-01T10:10:00Z"));
        assert_eq!(decision, Decision::Refuse(not_granted()));
    }
}

/// No grant allows what stands there.
fn lost(secret: Observed) -> Facts {
    Facts { standing: Standing::Lost(not_granted()), ..facts(secret) }
}

/// Since 10:05 no grant allows what stands there, and what is wanted.
fn ungranted(secret: Observed) -> Facts {
    let since = Some(at("2026-01-01T10:05:00Z"));
    Facts { permitted: Err(not_granted()), not_granted_since: since, was_published: true, ..lost(secret) }
}

#[test]
fn a_secret_that_no_grant_allows_is_removed_after_the_grace_also_of_a_suspended_binding() {
    let expired = || {
        let life = Lifetime { issued: at("2026-01-01T09:00:00Z"), expires: at("2026-01-01T10:00:00Z") };
        ours(Record { life, ..record() })
    };
    let other_spec = || ours(Record { spec_hash: "spec-0".to_owned(), ..record() });
    for secret in [ours(record()), tampered(record()), expired(), other_spec()] {
        for wanted in [wanted(), Wanted { suspend: true, ..wanted() }] {
            let facts = Facts { attempts: Some(failed("spec-1///{}{}")), ..ungranted(secret.clone()) };
            let decided = |now: &str| decide(&wanted, &facts, at(now));
            assert_eq!(decided("2026-01-01T10:06:59.999Z"), Decision::Refuse(not_granted()));
            for now in ["2026-01-01T10:07:00Z", "2026-01-01T10:40:00Z", "2027-01-01T00:00:00Z"] {
                assert_eq!(decided(now), Decision::Revoke(not_granted()), "{now}");
            }
        }
    }
}

#[test]
fn the_grace_begins_at_the_first_look_that_finds_no_grant() {
    let first = Facts { not_granted_since: None, ..ungranted(ours(record())) };
    let now = at("2026-01-01T10:05:00.1234567Z");
    assert_eq!(decide(&wanted(), &first, now), Decision::Refuse(not_granted()));
    assert_eq!(not_granted_since(&first, now), Some(at("2026-01-01T10:05:00.123Z")));
    let none = Facts { grace: SignedDuration::ZERO, ..first };
    assert_eq!(decide(&wanted(), &none, now), Decision::Revoke(not_granted()), "no grace at all");
}

#[test]
fn a_clock_that_was_set_back_begins_the_grace_anew() {
    let now = at("2026-01-01T09:00:00Z");
    let facts = ungranted(ours(record()));
    assert_eq!(decide(&wanted(), &facts, now), Decision::Refuse(not_granted()));
    assert_eq!(not_granted_since(&facts, now), Some(now));
}

#[test]
fn since_when_it_is_not_granted_is_kept_until_that_is_over() {
    let now = at("2026-01-01T10:06:00Z");
    let since = Some(at("2026-01-01T10:05:00Z"));
    let unread = Problem::transient(Reason::SecretUnavailable, "HTTP 500");
    let leaving = || {
        let deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at("2026-01-01T10:04:00Z")));
        let metadata = ObjectMeta {
            deletion_timestamp,
            name: Some("orders-idtoken".to_owned()),
            finalizers: Some(vec!["example.com/backup".to_owned(), "example.com/audit".to_owned()]),
            ..ObjectMeta::default()
        };
        Observed::Ours(Ours { metadata, record: Some(record()), intact: true })
    };
    let table = [
        ("nothing changed", ungranted(ours(record())), since),
        ("granted again", Facts { standing: Standing::Allowed, ..ungranted(ours(record())) }, None),
        ("the Secret is gone", ungranted(Observed::Absent), None),
        ("somebody else's took its place", ungranted(Observed::Foreign(Other::Else("x".to_owned()))), None),
        ("it is being deleted, and a finalizer holds it up", ungranted(leaving()), None),
        (
            "the Secret could not be read",
            Facts { standing: Standing::Unknown, permitted: Err(unread), ..ungranted(Observed::Absent) },
            since,
        ),
    ];
    for (what, facts, expected) in table {
        assert_eq!(not_granted_since(&facts, now), expected, "{what}");
    }
    let message = "no grant allows Secret orders-idtoken any more and it was deleted, but its finalizers keep it readable: \
                   example.com/backup, example.com/audit; remove them, or see to it that whoever set them does. no grant";
    let held = Problem { message: message.to_owned(), ..not_granted() };
    for now in ["2026-01-01T10:06:00Z", "2026-01-01T11:00:00Z"] {
        assert_eq!(decide(&wanted(), &ungranted(leaving()), at(now)), Decision::Held(held.clone()), "{now}");
    }
    let replaced = Facts { permitted: Ok(()), ..ungranted(leaving()) };
    let later = at("2026-01-01T11:00:00Z");
    assert_eq!(decide(&wanted(), &replaced, later), Decision::Mint { restores: false });
}

#[test]
fn a_secret_that_is_still_granted_stays_although_its_binding_asks_for_something_else_that_is_not() {
    let held = ours(Record { spec_hash: "spec-0".to_owned(), ..record() });
    let edited = Facts { standing: Standing::Allowed, ..ungranted(held) };
    for now in ["2026-01-01T10:06:00Z", "2026-01-01T10:30:00Z", "2027-01-01T00:00:00Z"] {
        assert_eq!(decide(&wanted(), &edited, at(now)), Decision::Refuse(not_granted()), "{now}");
        assert_eq!(not_granted_since(&edited, at(now)), None);
    }
}

#[test]
fn a_secret_that_no_grant_allows_goes_whatever_its_binding_asks_for_by_then() {
    let (within, after) = (at("2026-01-01T10:06:59Z"), at("2026-01-01T10:07:00Z"));
    let held = || ours(Record { spec_hash: "spec-0".to_owned(), ..record() });
    let missing = Problem::on_change(Reason::CredentialsNotFound, "Secret key does not exist");
    let own = Facts { permitted: Err(missing.clone()), ..ungranted(held()) };
    assert_eq!(decide(&wanted(), &own, within), Decision::Refuse(missing.clone()));
    assert_eq!(decide(&wanted(), &own, after), Decision::Revoke(missing));

    let denied = Facts { permitted: Ok(()), attempts: Some(failed("spec-1///{}{}")), ..ungranted(held()) };
    assert!(matches!(decide(&wanted(), &denied, within), Decision::Wait { .. }));
    assert_eq!(decide(&wanted(), &denied, after), Decision::Revoke(unavailable()));

    let new = Facts { attempts: None, ..denied };
    assert_eq!(decide(&wanted(), &new, within), Decision::Mint { restores: false });
    assert_eq!(
        decide(&wanted(), &new, after),
        Decision::Revoke(not_granted()),
        "that was tried for long enough"
    );

    let resting = Wanted { suspend: true, ..wanted() };
    assert_eq!(decide(&resting, &new, within), Decision::Refuse(not_granted()));
    assert_eq!(decide(&resting, &new, after), Decision::Revoke(not_granted()));

    let invalid = Problem::on_change(Reason::InvalidSpec, "spec.audience");
    let facts = Facts { permitted: Err(invalid.clone()), ..ungranted(held()) };
    let planned = Decision::Refuse(invalid.clone());
    assert_eq!(settle(planned.clone(), &facts, within), planned);
    assert_eq!(settle(planned, &facts, after), Decision::Revoke(invalid));
}

#[test]
fn what_can_not_be_looked_at_is_not_removed_and_its_grace_goes_on() {
    let unread = Problem::transient(Reason::SourceUnavailable, "grants can't be read");
    let facts =
        Facts { standing: Standing::Unknown, permitted: Err(unread.clone()), ..ungranted(ours(record())) };
    let now = at("2026-01-01T10:40:00Z");
    assert_eq!(decide(&wanted(), &facts, now), Decision::Refuse(unread.clone()));
    assert_eq!(not_granted_since(&facts, now), Some(at("2026-01-01T10:05:00Z")));
    let table = [
        (Ok(()), Standing::Allowed),
        (Err(not_granted()), Standing::Lost(not_granted())),
        (Err(unread), Standing::Unknown),
    ];
    for (asked, standing) in table {
        assert_eq!(Standing::of(&asked), standing);
    }
}

#[test]
fn a_loss_is_kept_quiet_for_five_seconds_and_never_beyond_half_of_the_grace() {
    for (grace, quiet) in [(120_000, 5_000), (10_000, 5_000), (4_000, 2_000), (1_000, 500), (0, 0)] {
        let quiet = SignedDuration::from_millis(quiet);
        assert_eq!(quiet_for(SignedDuration::from_millis(grace)), quiet, "{grace}");
    }
}

#[test]
fn a_removal_that_failed_is_tried_again_with_back_off() {
    let facts = Facts { attempts: Some(failed("revocation")), ..ungranted(ours(record())) };
    let wait = Decision::Wait { problem: unavailable(), until: Some(at("2026-01-01T10:50:00Z")) };
    assert_eq!(decide(&wanted(), &facts, at("2026-01-01T10:49:59Z")), wait);
    assert_eq!(decide(&wanted(), &facts, at("2026-01-01T10:50:00Z")), Decision::Revoke(not_granted()));
    // It holds up no mint, once that is granted again.
    let granted = Facts { permitted: Ok(()), standing: Standing::Allowed, ..facts };
    let now = at("2026-01-01T10:40:00Z");
    assert_eq!(decide(&wanted(), &granted, now), Decision::Mint { restores: false });
}

#[test]
fn a_good_token_is_kept_although_an_earlier_try_failed() {
    let facts = Facts { attempts: Some(failed("spec-1///{}{}")), ..facts(ours(record())) };
    let decision = decide(&wanted(), &facts, at("2026-01-01T10:10:00Z"));
    assert_eq!(decision, Decision::Keep { next: at(REFRESH) });
}

#[test]
fn after_a_failure_the_next_try_waits() {
    let wait = Decision::Wait { problem: unavailable(), until: Some(at("2026-01-01T10:50:00Z")) };
    for secret in [Observed::Absent, ours(record()), tampered(record())] {
        let facts = Facts { attempts: Some(failed("spec-1///{}{}")), was_published: true, ..facts(secret) };
        assert_eq!(decide(&wanted(), &facts, at("2026-01-01T10:49:59Z")), wait);
        assert!(matches!(decide(&wanted(), &facts, at("2026-01-01T10:50:00Z")), Decision::Mint { .. }));
    }
}

#[test]
fn another_spec_or_forced_refresh_does_not_wait_for_the_failure_of_the_last() {
    let now = at("2026-01-01T10:40:00Z");
    let failed_before = Facts { attempts: Some(failed("spec-0//{}{}")), ..facts(Observed::Absent) };
    assert_eq!(decide(&wanted(), &failed_before, now), Decision::Mint { restores: false });
    let failed_before = Facts { attempts: Some(failed("spec-1///{}{}")), ..facts(Observed::Absent) };
    let forced = Wanted { refresh_requested: Some("t1".to_owned()), ..wanted() };
    assert_eq!(decide(&forced, &failed_before, now), Decision::Mint { restores: false });
    let failed_forced = Facts { attempts: Some(failed("spec-1//t1/{}{}")), ..facts(Observed::Absent) };
    assert!(matches!(decide(&forced, &failed_forced, now), Decision::Wait { .. }));
}

#[test]
fn a_changed_spec_is_served_at_once_although_the_old_token_is_good() {
    let changed = Wanted { spec_hash: "spec-2".to_owned(), ..wanted() };
    let decision = decide(&changed, &facts(ours(record())), at("2026-01-01T10:01:00Z"));
    assert_eq!(decision, Decision::Mint { restores: false });
}

#[test]
fn a_forced_refresh_happens_once() {
    let now = at("2026-01-01T10:01:00Z");
    let forced = Wanted { refresh_requested: Some("2026-01-01T10:00:30Z".to_owned()), ..wanted() };
    assert_eq!(decide(&forced, &facts(ours(record())), now), Decision::Mint { restores: false });
    let handled = Record { refresh_handled: Some("2026-01-01T10:00:30Z".to_owned()), ..record() };
    assert_eq!(decide(&forced, &facts(ours(handled.clone())), now), Decision::Keep { next: at(REFRESH) });
    // The annotation taken away is no new wish; another value is one.
    assert_eq!(decide(&wanted(), &facts(ours(handled.clone())), now), Decision::Keep { next: at(REFRESH) });
    let again = Wanted { refresh_requested: Some("again".to_owned()), ..wanted() };
    assert_eq!(decide(&again, &facts(ours(handled)), now), Decision::Mint { restores: false });
}

#[test]
fn a_forced_refresh_does_not_wait_until_a_cached_token_can_be_expected_to_change() {
    let forced = Wanted { refresh_requested: Some("now".to_owned()), ..wanted() };
    let facts = Facts { ask_again: again_at("2026-01-01T10:55:00Z"), ..facts(ours(record())) };
    assert_eq!(decide(&forced, &facts, at("2026-01-01T10:40:00Z")), Decision::Mint { restores: false });
}

#[test]
fn the_same_token_again_is_kept_until_a_fresh_one_can_be_expected() {
    let again = Facts { ask_again: again_at("2026-01-01T10:55:03Z"), ..facts(ours(record())) };
    let now = at("2026-01-01T10:40:00Z");
    assert_eq!(decide(&wanted(), &again, now), Decision::Keep { next: at("2026-01-01T10:55:03Z") });
    assert_eq!(
        decide(&wanted(), &again, at("2026-01-01T10:55:03Z")),
        Decision::Mint { restores: false },
        "then it is asked for"
    );
    // What is left over from an earlier token never brings a refresh forward.
    let stale = Facts { ask_again: again_at("2026-01-01T10:02:00Z"), ..facts(ours(record())) };
    let now = at("2026-01-01T10:03:00Z");
    assert_eq!(decide(&wanted(), &stale, now), Decision::Keep { next: at(REFRESH) });
}

#[test]
fn a_forced_refresh_that_got_an_older_token_is_not_asked_for_again_at_once() {
    let forced = Wanted { refresh_requested: Some("now".to_owned()), ..wanted() };
    let asked = Some(pause("spec-1//now/{}{}", "2026-01-01T10:55:00Z"));
    let facts = Facts { ask_again: asked, ..facts(ours(record())) };
    let now = at("2026-01-01T10:05:00Z");
    assert_eq!(decide(&forced, &facts, now), Decision::Keep { next: at("2026-01-01T10:55:00Z") });
}

#[test]
fn a_clock_that_was_set_back_voids_what_was_to_wait() {
    let now = at("2026-01-01T09:00:00Z");
    let attempts = Facts { attempts: Some(failed("spec-1///{}{}")), ..facts(Observed::Absent) };
    assert_eq!(decide(&wanted(), &attempts, now), Decision::Mint { restores: false });
}

#[test]
fn other_labels_are_written_although_the_token_is_good() {
    let mut labelled = wanted();
    labelled.secret.labels.insert("team".to_owned(), "orders".to_owned());
    let now = at("2026-01-01T10:01:00Z");
    assert_eq!(decide(&labelled, &facts(ours(record())), now), Decision::Mint { restores: false });
}

#[test]
fn asking_again_later_never_keeps_an_expired_token() {
    let again = Facts { ask_again: again_at("2026-01-01T11:30:00Z"), ..facts(ours(record())) };
    let decision = decide(&wanted(), &again, at("2026-01-01T11:00:00Z"));
    assert_eq!(decision, Decision::Mint { restores: false });
}

#[test]
fn a_deleted_or_tampered_secret_is_restored_at_once() {
    let now = at("2026-01-01T10:01:00Z");
    let deleted = Facts { was_published: true, ..facts(Observed::Absent) };
    assert_eq!(decide(&wanted(), &deleted, now), Decision::Mint { restores: true });
    assert_eq!(decide(&wanted(), &facts(tampered(record())), now), Decision::Mint { restores: true });
}

#[test]
fn a_secret_whose_annotations_were_wiped_counts_for_nothing() {
    let wiped = Observed::Ours(Ours { metadata: ObjectMeta::default(), record: None, intact: false });
    let decision = decide(&wanted(), &facts(wiped), at("2026-01-01T10:01:00Z"));
    assert_eq!(decision, Decision::Mint { restores: true });
}

#[test]
fn a_secret_fought_over_is_restored_with_back_off() {
    let until = at("2026-01-01T10:02:00Z");
    let deleted = Facts { was_published: true, restore_not_before: Some(until), ..facts(Observed::Absent) };
    let changed = Facts { restore_not_before: Some(until), ..facts(tampered(record())) };
    for facts in [deleted, changed] {
        let decision = decide(&wanted(), &facts, at("2026-01-01T10:01:59Z"));
        let Decision::Wait { problem, until: Some(again) } = decision else {
            panic!("must wait: {decision:?}")
        };
        assert_eq!(again, until);
        assert_eq!(problem.reason, Reason::SecretConflict);
        assert_eq!(problem.retry, Retry::Transient { retry_after: None });
        assert_eq!(
            problem.message,
            "Secret orders-idtoken is deleted or changed by somebody else again and again; it is restored at \
             2026-01-01T10:02:00Z"
        );
        assert_eq!(decide(&wanted(), &facts, until), Decision::Mint { restores: true });
    }
}

#[test]
fn the_back_off_of_restores_holds_up_nothing_else() {
    let until = Some(at("2026-01-01T11:30:00Z"));
    let first = Facts { restore_not_before: until, ..facts(Observed::Absent) };
    let now = at("2026-01-01T10:40:00Z");
    assert_eq!(decide(&wanted(), &first, now), Decision::Mint { restores: false });
    let due = Facts { restore_not_before: until, ..facts(ours(record())) };
    assert_eq!(decide(&wanted(), &due, now), Decision::Mint { restores: false });
}

#[test]
fn a_try_is_told_apart_by_spec_and_forced_refresh() {
    assert_eq!(attempt_key(&wanted(), None), "spec-1///{}{}");
    assert_eq!(attempt_key(&wanted(), Some("v1")), "spec-1/v1//{}{}");
    let forced = Wanted { refresh_requested: Some("2026-01-01".to_owned()), ..wanted() };
    assert_eq!(attempt_key(&forced, None), "spec-1//2026-01-01/{}{}");
}

#[test]
fn the_operator_never_impersonates_itself_in_whatever_case_or_place() {
    let operator = "Operator@P.iam.gserviceaccount.com";
    let (itself, other) = ("operator@p.iam.gserviceaccount.com", "caller@p.iam.gserviceaccount.com");
    let source = |target: &str, delegates: &[&str]| Source::Impersonation {
        service_account: email(target),
        delegates: delegates.iter().map(|d| email(d)).collect(),
    };
    for refused in [source(itself, &[]), source(other, &[itself]), source(other, &[other, itself])] {
        let problem = refuse_self(&refused, operator).unwrap_err();
        assert_eq!(problem.reason, Reason::SelfImpersonation);
        assert_eq!(problem.retry, Retry::OnChange);
        assert!(
            problem.message.starts_with("Operator@P.iam.gserviceaccount.com is the operator's own identity")
        );
    }
    assert_eq!(refuse_self(&source(other, &["middle@p.iam.gserviceaccount.com"]), operator), Ok(()));
    assert_eq!(refuse_self(&source("operator@q.iam.gserviceaccount.com", &[]), operator), Ok(()));
    assert_eq!(refuse_self(&Source::MetadataServer, operator), Ok(()));
}

#[test]
fn an_older_token_is_never_written_over_a_newer() {
    let expiring = |expires: &str, handled: Option<&str>| {
        let life = Lifetime { issued: at("2026-01-01T10:00:00Z"), expires: at(expires) };
        Record { life, refresh_handled: handled.map(str::to_owned), ..record() }
    };
    let current = expiring("2026-01-01T11:00:00Z", Some("a"));
    let table = [
        ("2026-01-01T11:00:01Z", Some("a"), true, true, "newer"),
        ("2026-01-01T11:00:00Z", Some("a"), true, false, "the same"),
        ("2026-01-01T11:00:00Z", Some("b"), true, true, "the same, which answers a forced refresh"),
        ("2026-01-01T11:00:00Z", Some("a"), false, true, "the same, with other labels"),
        ("2026-01-01T10:59:59Z", Some("a"), true, false, "older"),
        ("2026-01-01T10:59:59Z", Some("b"), false, false, "older, although forced and with other labels"),
    ];
    for (expires, handled, carries, expected, what) in table {
        let minted = expiring(expires, handled);
        assert_eq!(is_worth_writing(Some(&current), &minted, carries), expected, "{what}");
    }
    assert!(is_worth_writing(None, &expiring("2026-01-01T10:30:00Z", None), true), "nothing is there");
}

/// A time of the two hours after 10:00, or none.
fn moment() -> impl Strategy<Value = Option<Timestamp>> {
    proptest::option::of((0_i64..7200).prop_map(|s| Timestamp::from_second(1_767_261_600 + s).unwrap()))
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let secret = prop_oneof![
        Just(Observed::Absent),
        Just(Observed::Foreign(Other::Else("x".to_owned()))),
        Just(ours(record())),
        Just(ours(Record { spec_hash: "spec-0".to_owned(), ..record() })),
        Just(tampered(record())),
    ];
    let standing =
        prop_oneof![Just(Standing::Allowed), Just(Standing::Lost(not_granted())), Just(Standing::Unknown),];
    (secret, any::<bool>(), any::<bool>(), moment(), moment(), moment(), moment(), standing).prop_map(
        |(secret, granted, was_published, failed_until, ask_again, restore_not_before, since, standing)| {
            Facts {
                standing,
                not_granted_since: since,
                permitted: if granted { Ok(()) } else { Err(not_granted()) },
                was_published,
                attempts: failed_until.map(|until| {
                    let failed = failed("spec-1///{}{}");
                    Attempts { pause: Pause { until, ..failed.pause }, ..failed }
                }),
                ask_again: ask_again.map(|until| Pause { until, ..pause("spec-1///{}{}", REFRESH) }),
                restore_not_before,
                ..facts(secret)
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_decision_waits_for_the_past_and_none_oversteps(facts in any_facts(), now in moment()) {
        let now = now.unwrap_or_else(|| at("2026-01-01T10:00:00Z"));
        match decide(&wanted(), &facts, now) {
            Decision::Rest => prop_assert!(false, "nobody suspended it"),
            Decision::Keep { next } => {
                prop_assert!(next > now);
                prop_assert_eq!(&facts.secret, &ours(record()));
                prop_assert!(now < at("2026-01-01T11:00:00Z"));
                prop_assert!(facts.permitted.is_ok());
            }
            Decision::Wait { until, .. } => {
                prop_assert!(until.is_some_and(|t| t > now));
                prop_assert!(facts.permitted.is_ok());
            }
            Decision::Refuse(problem) => {
                let foreign = matches!(facts.secret, Observed::Foreign(_));
                prop_assert_eq!(problem.reason == Reason::SecretConflict, foreign);
                prop_assert!(foreign || facts.permitted.is_err());
            }
            Decision::Revoke(problem) => {
                let known = [Reason::NotGranted, Reason::SourceUnavailable, Reason::SecretConflict];
                prop_assert!(known.contains(&problem.reason));
                prop_assert_eq!(&facts.standing, &Standing::Lost(not_granted()));
                prop_assert!(matches!(facts.secret, Observed::Ours(_)));
                let since = facts.not_granted_since.unwrap();
                prop_assert!(since <= now && now.duration_since(since) >= facts.grace);
            }
            Decision::Held(_) => prop_assert!(false, "nobody deleted it"),
            Decision::Mint { .. } => {
                let foreign = matches!(facts.secret, Observed::Foreign(_));
                prop_assert!(!foreign && facts.permitted.is_ok());
            }
        }
    }
}

#[test]
fn another_credential_is_used_at_once_and_the_good_token_stays_until_then() {
    let of = |credential: &str| Record { credential: Some(credential.to_owned()), ..record() };
    let now = at("2026-01-01T10:05:00Z");
    let same = Facts { credential: Some("v1".to_owned()), ..facts(ours(of("v1"))) };
    assert!(matches!(decide(&wanted(), &same, now), Decision::Keep { .. }));
    let other = Facts { credential: Some("v2".to_owned()), ..facts(ours(of("v1"))) };
    assert_eq!(decide(&wanted(), &other, now), Decision::Mint { restores: false });
    assert!(is_worth_writing(Some(&of("v1")), &of("v2"), true), "of another credential, whatever its end");
    assert!(!is_worth_writing(Some(&of("v1")), &of("v1"), true));
}

#[test]
fn a_refused_credential_is_never_tried_again_but_another_one_is() {
    let pause = Pause { until: Timestamp::MAX, ..pause("spec-1/v1/", "2026-01-01T10:00:00Z") };
    let refused = Attempts { failures: 1, pause, problem: Problem::refused("wrong password") };
    let with = |credential: &str| Facts {
        credential: Some(credential.to_owned()),
        attempts: Some(refused.clone()),
        ..facts(Observed::Absent)
    };
    let later = at("2036-01-01T10:00:00Z");
    let wait = Decision::Wait { problem: Problem::refused("wrong password"), until: None };
    assert_eq!(decide(&wanted(), &with("v1"), later), wait);
    assert_eq!(decide(&wanted(), &with("v2"), later), Decision::Mint { restores: false });
}

#[test]
fn no_jwt_is_signed_for_an_api_of_googles() {
    let wanted = |audience: &str, source: Source| Wanted {
        audience: Audience::parse(audience).unwrap(),
        source,
        ..wanted()
    };
    let signed = || Source::SignedJwt { service_account: email("caller@p.iam.gserviceaccount.com") };
    let refused = refuse_api(&wanted("https://iam.googleapis.com/", signed()), "googleapis.com").unwrap_err();
    assert_eq!(refused.reason, Reason::InvalidSpec);
    assert_eq!(
        refused.message,
        "spec.audience \"https://iam.googleapis.com/\" is not valid: name the URL of your own service: a JWT signed for an API of Google's is a credential for that API"
    );
    assert!(refuse_api(&wanted("https://iam.s3nsapis.fr/", signed()), "s3nsapis.fr").is_err());
    assert_eq!(refuse_api(&wanted("https://iam.s3nsapis.fr/", signed()), "googleapis.com"), Ok(()));
    assert_eq!(refuse_api(&wanted("https://app.example.com/*", signed()), "googleapis.com"), Ok(()));
    let id_token = wanted("https://iam.googleapis.com/", Source::MetadataServer);
    assert_eq!(refuse_api(&id_token, "googleapis.com"), Ok(()));
}
