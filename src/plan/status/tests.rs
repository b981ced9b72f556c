use super::*;
use crate::plan::{Pause, refresh::Lifetime};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn record() -> Record {
    Record {
        issuer: "https://accounts.google.com".to_owned(),
        identity: Some("caller@p.iam.gserviceaccount.com".to_owned()),
        life: Lifetime { issued: at("2026-01-01T10:00:00Z"), expires: at("2026-01-01T11:00:00Z") },
        spec_hash: "spec-1".to_owned(),
        token_sha256: "256d04db4e5e4ac308751ed0885b722b758630567c53a7125ed9fbd068e5c3f6".to_owned(),
        refresh_handled: None,
        credential: None,
        granted: None,
        signature_checked: true,
    }
}

/// A visit that found nothing yet.
fn nothing() -> Report<'static> {
    Report {
        generation: Some(1),
        source: "impersonation",
        secret_name: "orders-idtoken",
        secret_resource_version: None,
        record: None,
        is_good: false,
        problem: None,
        suspended: false,
        failing_since: None,
        next_refresh: None,
        attempts: None,
        not_granted_since: None,
    }
}

/// A visit that found a good token.
fn good(record: &Record) -> Report<'_> {
    Report {
        secret_resource_version: Some("41"),
        record: Some(record),
        is_good: true,
        next_refresh: Some(at("2026-01-01T10:35:00Z")),
        ..nothing()
    }
}

/// A visit that failed, with no good token.
fn failed(problem: &Problem) -> Report<'_> {
    Report { problem: Some(problem), ..nothing() }
}

/// What a binding's status was before anything.
fn unseen() -> IdTokenBindingStatus {
    IdTokenBindingStatus::default()
}

/// `type=status reason transition generation` of each condition.
fn conditions(status: &IdTokenBindingStatus) -> Vec<String> {
    let line = |c: &Condition| {
        format!(
            "{}={} {} {} {}",
            c.type_,
            c.status,
            c.reason,
            c.last_transition_time.0,
            c.observed_generation.unwrap()
        )
    };
    status.conditions.iter().map(line).collect()
}

fn message<'s>(status: &'s IdTokenBindingStatus, type_: &str) -> &'s str {
    &status.conditions.iter().find(|c| c.type_ == type_).unwrap().message
}

/// `status reason` of `Stalled`.
fn stall(status: &IdTokenBindingStatus) -> String {
    let condition = status.conditions.iter().find(|c| c.type_ == "Stalled").unwrap();
    format!("{} {}", condition.status, condition.reason)
}

#[test]
fn the_first_visit_sets_every_condition() {
    let status = next(&unseen(), nothing(), at("2026-01-01T10:00:00Z"));
    assert_eq!(
        conditions(&status),
        [
            "Ready=Unknown Pending 2026-01-01T10:00:00Z 1",
            "Degraded=False Pending 2026-01-01T10:00:00Z 1",
            "Stalled=False Pending 2026-01-01T10:00:00Z 1",
        ]
    );
    assert_eq!(message(&status, "Ready"), "the first token is being fetched");
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!(status.source.as_deref(), Some("impersonation"));
    assert_eq!(status.secret_name.as_deref(), Some("orders-idtoken"));
    assert_eq!(status.secret_resource_version, None);
    assert_eq!(status.expiration_time, None);
}

#[test]
fn a_fresh_token_is_told_with_its_times() {
    let record = record();
    let status = next(&unseen(), good(&record), at("2026-01-01T10:00:01.9Z"));
    assert_eq!(
        serde_json::to_value(&status).unwrap(),
        serde_json::json!({
            "observedGeneration": 1,
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "TokenFresh", "observedGeneration": 1,
                 "message": "Secret orders-idtoken holds a verified token",
                 "lastTransitionTime": "2026-01-01T10:00:01Z"},
                {"type": "Degraded", "status": "False", "reason": "TokenFresh", "observedGeneration": 1,
                 "message": "", "lastTransitionTime": "2026-01-01T10:00:01Z"},
                {"type": "Stalled", "status": "False", "reason": "TokenFresh", "observedGeneration": 1,
                 "message": "", "lastTransitionTime": "2026-01-01T10:00:01Z"},
            ],
            "source": "impersonation",
            "secretName": "orders-idtoken",
            "secretResourceVersion": "41",
            "identity": "caller@p.iam.gserviceaccount.com",
            "issuer": "https://accounts.google.com",
            "issueTime": "2026-01-01T10:00:00Z",
            "expirationTime": "2026-01-01T11:00:00Z",
            "nextRefreshTime": "2026-01-01T10:35:00Z",
        })
    );
}

#[test]
fn an_unchecked_signature_is_told() {
    let unchecked = Record { signature_checked: false, ..record() };
    let status = next(&unseen(), good(&unchecked), at("2026-01-01T10:00:01Z"));
    assert_eq!(
        message(&status, "Ready"),
        "Secret orders-idtoken holds a verified token; its signature is unknown: the issuer's keys could not be \
         fetched, only the claims were checked"
    );
}

#[test]
fn a_failed_refresh_degrades_and_leaves_ready_as_it_was() {
    let record = record();
    let fresh = next(&unseen(), good(&record), at("2026-01-01T10:00:01Z"));
    let problem = Problem::transient(Reason::SourceUnavailable, "generateIdToken: HTTP 503");
    let report = Report { problem: Some(&problem), ..good(&record) };
    let status = next(&fresh, report, at("2026-01-01T10:36:00Z"));
    assert_eq!(
        conditions(&status),
        [
            "Ready=True TokenFresh 2026-01-01T10:00:01Z 1",
            "Degraded=True SourceUnavailable 2026-01-01T10:36:00Z 1",
            "Stalled=False TokenFresh 2026-01-01T10:00:01Z 1",
        ]
    );
    assert_eq!(message(&status, "Degraded"), "generateIdToken: HTTP 503");
    assert_eq!(status.expiration_time, Some(at("2026-01-01T11:00:00Z")));
}

#[test]
fn an_expired_token_is_not_ready_for_the_reason_of_the_failure() {
    let record = record();
    let fresh = next(&unseen(), good(&record), at("2026-01-01T10:00:01Z"));
    let problem = Problem::transient(Reason::QuotaExceeded, "generateIdToken: HTTP 429");
    let degraded =
        next(&fresh, Report { problem: Some(&problem), ..good(&record) }, at("2026-01-01T10:36:00Z"));
    let expired = Report { is_good: false, problem: Some(&problem), ..good(&record) };
    let status = next(&degraded, expired, at("2026-01-01T11:00:00Z"));
    assert_eq!(
        conditions(&status),
        [
            "Ready=False QuotaExceeded 2026-01-01T11:00:00Z 1",
            "Degraded=False QuotaExceeded 2026-01-01T11:00:00Z 1",
            "Stalled=False QuotaExceeded 2026-01-01T10:00:01Z 1",
        ]
    );
    assert_eq!(message(&status, "Ready"), "generateIdToken: HTTP 429");
    assert_eq!(status.expiration_time, Some(at("2026-01-01T11:00:00Z")), "what is there is still told");
}

#[test]
fn transitions_move_with_the_status_alone_and_every_generation_is_told() {
    let record = record();
    let unavailable = Problem::transient(Reason::SourceUnavailable, "a");
    let denied = Problem::slow(Reason::SourceDenied, "b");
    let first = next(&unseen(), failed(&unavailable), at("2026-01-01T10:00:00Z"));
    let second = next(&first, Report { generation: Some(2), ..failed(&denied) }, at("2026-01-01T10:05:00Z"));
    assert_eq!(
        conditions(&second),
        [
            "Ready=False SourceDenied 2026-01-01T10:00:00Z 2",
            "Degraded=False SourceDenied 2026-01-01T10:00:00Z 2",
            "Stalled=False SourceDenied 2026-01-01T10:00:00Z 2",
        ]
    );
    assert_eq!(second.observed_generation, Some(2));
    let third = next(&second, Report { generation: Some(3), ..good(&record) }, at("2026-01-01T10:06:00Z"));
    assert_eq!(
        conditions(&third),
        [
            "Ready=True TokenFresh 2026-01-01T10:06:00Z 3",
            "Degraded=False TokenFresh 2026-01-01T10:00:00Z 3",
            "Stalled=False TokenFresh 2026-01-01T10:00:00Z 3",
        ]
    );
}

#[test]
fn conditions_of_others_stay() {
    let mut before = unseen();
    before.conditions.push(Condition {
        type_: "example.com/Audited".to_owned(),
        status: "True".to_owned(),
        reason: "Checked".to_owned(),
        message: String::new(),
        observed_generation: Some(1),
        last_transition_time: Time(at("2026-01-01T09:00:00Z")),
    });
    let status = next(&before, nothing(), at("2026-01-01T10:00:00Z"));
    assert_eq!(conditions(&status)[0], "example.com/Audited=True Checked 2026-01-01T09:00:00Z 1");
    assert_eq!(status.conditions.len(), 4);
}

#[test]
fn what_only_the_object_can_mend_is_stalled_at_once() {
    for reason in
        [Reason::InvalidSpec, Reason::SecretConflict, Reason::SelfImpersonation, Reason::Unsupported]
    {
        let problem = Problem::on_change(reason, "mend it");
        let status = next(&unseen(), failed(&problem), at("2026-01-01T10:00:00Z"));
        assert_eq!(stall(&status), format!("True {}", reason.as_str()));
        assert_eq!(message(&status, "Stalled"), "mend it");
        assert_eq!(
            stalls_at(Some(at("2026-01-01T10:00:00Z")), &problem, at("2026-01-01T10:00:00Z")),
            None,
            "it has already"
        );
    }
}

#[test]
fn a_conflict_that_passes_by_itself_is_not_stalled() {
    let problem = Problem::transient(Reason::SecretConflict, "it is restored at …");
    let status = next(&unseen(), failed(&problem), at("2026-01-01T10:00:00Z"));
    assert_eq!(stall(&status), "False SecretConflict");
    let later = next(&status, failed(&problem), at("2026-01-01T12:00:00Z"));
    assert_eq!(stall(&later), "False SecretConflict");
}

#[test]
fn what_iam_or_a_grant_may_heal_is_stalled_after_ten_minutes() {
    for (reason, expected) in [
        (Reason::NotGranted, "True NotGranted"),
        (Reason::SourceDenied, "True SourceDenied"),
        (Reason::CredentialsNotFound, "True CredentialsNotFound"),
        (Reason::CredentialsNotAllowed, "True CredentialsNotAllowed"),
        (Reason::NoServiceAccountForIdToken, "True NoServiceAccountForIdToken"),
    ] {
        let problem = Problem::slow(reason, "mend it");
        let since = Some(at("2026-01-01T10:00:00Z"));
        let first =
            next(&unseen(), Report { failing_since: since, ..failed(&problem) }, at("2026-01-01T10:00:00Z"));
        assert!(stall(&first).starts_with("False "), "{reason}");
        let due = Some(at("2026-01-01T10:10:00Z"));
        assert_eq!(stalls_at(since, &problem, at("2026-01-01T10:00:00Z")), due);
        let before =
            next(&first, Report { failing_since: since, ..failed(&problem) }, at("2026-01-01T10:09:59Z"));
        assert!(stall(&before).starts_with("False "), "{reason}");
        let after =
            next(&before, Report { failing_since: since, ..failed(&problem) }, at("2026-01-01T10:10:00Z"));
        assert_eq!(stall(&after), expected);
        assert_eq!(stalls_at(since, &problem, at("2026-01-01T10:10:00Z")), None);
    }
}

#[test]
fn the_ten_minutes_of_a_failing_refresh_begin_with_its_first_failure() {
    let record = record();
    let problem = Problem::slow(Reason::SourceDenied, "HTTP 403");
    let fresh = next(&unseen(), good(&record), at("2026-01-01T10:00:00Z"));
    let since = Some(at("2026-01-01T10:36:00Z"));
    let failing = Report { problem: Some(&problem), failing_since: since, ..good(&record) };
    let degraded = next(&fresh, failing, at("2026-01-01T10:36:00Z"));
    assert_eq!(stall(&degraded), "False TokenFresh");
    assert_eq!(stalls_at(since, &problem, at("2026-01-01T10:36:00Z")), Some(at("2026-01-01T10:46:00Z")));
    let stalled = next(&degraded, failing, at("2026-01-01T10:46:00Z"));
    assert_eq!(
        conditions(&stalled),
        [
            "Ready=True TokenFresh 2026-01-01T10:00:00Z 1",
            "Degraded=True SourceDenied 2026-01-01T10:36:00Z 1",
            "Stalled=True SourceDenied 2026-01-01T10:46:00Z 1",
        ]
    );
    let healed = next(&stalled, good(&record), at("2026-01-01T10:50:00Z"));
    assert_eq!(
        conditions(&healed),
        [
            "Ready=True TokenFresh 2026-01-01T10:00:00Z 1",
            "Degraded=False TokenFresh 2026-01-01T10:50:00Z 1",
            "Stalled=False TokenFresh 2026-01-01T10:50:00Z 1",
        ]
    );
}

#[test]
fn a_failure_that_outlasts_its_token_is_still_stalled() {
    let record = record();
    let problem = Problem::slow(Reason::SourceDenied, "HTTP 403");
    let since = Some(at("2026-01-01T10:36:00Z"));
    let failing = Report { problem: Some(&problem), failing_since: since, ..good(&record) };
    let degraded = next(&unseen(), failing, at("2026-01-01T10:36:00Z"));
    let stalled = next(&degraded, failing, at("2026-01-01T10:46:00Z"));
    assert_eq!(stall(&stalled), "True SourceDenied");
    let expired =
        next(&stalled, Report { failing_since: since, ..failed(&problem) }, at("2026-01-01T11:00:00Z"));
    assert_eq!(
        conditions(&expired),
        [
            "Ready=False SourceDenied 2026-01-01T11:00:00Z 1",
            "Degraded=False SourceDenied 2026-01-01T11:00:00Z 1",
            "Stalled=True SourceDenied 2026-01-01T10:46:00Z 1",
        ]
    );
}

#[test]
fn what_heals_by_itself_is_never_stalled() {
    for reason in
        [Reason::SourceUnavailable, Reason::QuotaExceeded, Reason::TokenRejected, Reason::SecretUnavailable]
    {
        let problem = Problem::transient(reason, "wait");
        let first = next(&unseen(), failed(&problem), at("2026-01-01T10:00:00Z"));
        let later = next(&first, failed(&problem), at("2026-01-02T10:00:00Z"));
        assert_eq!(stall(&later), format!("False {}", reason.as_str()));
        assert_eq!(stalls_at(None, &problem, at("2026-01-01T10:00:00Z")), None);
    }
}

#[test]
fn a_suspended_binding_says_so_and_is_neither_degraded_nor_stalled() {
    let record = record();
    let kept = Report { suspended: true, next_refresh: None, ..good(&record) };
    let status = next(&unseen(), kept, at("2026-01-01T10:00:00Z"));
    assert_eq!(
        conditions(&status),
        [
            "Ready=True Suspended 2026-01-01T10:00:00Z 1",
            "Degraded=False Suspended 2026-01-01T10:00:00Z 1",
            "Stalled=False Suspended 2026-01-01T10:00:00Z 1",
        ]
    );
    assert_eq!(message(&status, "Ready"), "spec.suspend is true: the token is not refreshed");
    let expired = next(&status, Report { is_good: false, ..kept }, at("2026-01-01T11:00:00Z"));
    assert_eq!(conditions(&expired)[0], "Ready=False Suspended 2026-01-01T11:00:00Z 1");
    assert_eq!(message(&expired, "Ready"), "spec.suspend is true and there is no valid token");
}

#[test]
fn a_suspended_binding_that_is_no_longer_granted_says_so() {
    let (record, problem) = (record(), Problem::on_change(Reason::NotGranted, "no grant"));
    let since = Some(at("2026-01-01T10:00:00Z"));
    let kept = Report { suspended: true, problem: Some(&problem), not_granted_since: since, ..good(&record) };
    let status = next(&unseen(), kept, at("2026-01-01T10:00:00Z"));
    assert_eq!(
        conditions(&status),
        [
            "Ready=True Suspended 2026-01-01T10:00:00Z 1",
            "Degraded=True NotGranted 2026-01-01T10:00:00Z 1",
            "Stalled=False Suspended 2026-01-01T10:00:00Z 1",
        ]
    );
    assert_eq!(status.not_granted_since, since);
    let removed = Report { suspended: true, ..failed(&problem) };
    let status = next(&status, removed, at("2026-01-01T10:02:00Z"));
    assert_eq!(conditions(&status)[0], "Ready=False NotGranted 2026-01-01T10:02:00Z 1");
    assert_eq!((message(&status, "Ready"), status.not_granted_since), ("no grant", None));
}

#[test]
fn a_broken_spec_leaves_the_secrets_name_out() {
    let problem = Problem::on_change(Reason::InvalidSpec, "x");
    let report = Report { source: "", secret_name: "", ..failed(&problem) };
    let status = next(&unseen(), report, at("2026-01-01T10:00:00Z"));
    assert_eq!((status.source, status.secret_name), (None, None));
}

#[test]
fn an_unchanged_status_is_not_written() {
    let record = record();
    let first = next(&unseen(), good(&record), at("2026-01-01T10:00:00Z"));
    assert!(is_worth_writing(&unseen(), &first, None, at("2026-01-01T10:00:00Z")));
    let second = next(&first, good(&record), at("2026-01-01T10:20:00.5Z"));
    assert_eq!(first, second);
    assert!(!is_worth_writing(&first, &second, None, at("2026-01-01T10:20:00Z")));
}

#[test]
fn a_new_token_is_always_written() {
    let record = record();
    let first = next(&unseen(), good(&record), at("2026-01-01T10:00:00Z"));
    let report = Report { secret_resource_version: Some("42"), ..good(&record) };
    let second = next(&first, report, at("2026-01-01T10:00:01Z"));
    let just_now = Some(at("2026-01-01T10:00:00Z"));
    assert!(is_worth_writing(&first, &second, just_now, at("2026-01-01T10:00:01Z")));
}

#[test]
fn words_and_times_of_a_lasting_failure_are_written_every_fifteen_minutes() {
    let record = record();
    let written = Some(at("2026-01-01T10:00:00Z"));
    let problem = |text: &str| Problem::transient(Reason::SourceUnavailable, text);
    let (a, b) = (problem("a"), problem("b"));
    let degraded = |problem, next_refresh| Report {
        problem: Some(problem),
        next_refresh: Some(at(next_refresh)),
        ..good(&record)
    };
    for (first, second) in [
        (failed(&a), failed(&b)),
        (degraded(&a, "2026-01-01T10:00:05Z"), degraded(&a, "2026-01-01T10:00:09Z")),
        (degraded(&a, "2026-01-01T10:00:05Z"), degraded(&b, "2026-01-01T10:00:09Z")),
    ] {
        let first = next(&unseen(), first, at("2026-01-01T10:00:00Z"));
        let second = next(&first, second, at("2026-01-01T10:00:07Z"));
        assert_ne!(first, second);
        let worth = |last, now| is_worth_writing(&first, &second, last, at(now));
        assert!(!worth(written, "2026-01-01T10:14:59Z"));
        assert!(worth(written, "2026-01-01T10:15:00Z"));
        assert!(worth(None, "2026-01-01T10:00:07Z"), "after a restart");
    }
}

#[test]
fn pending_is_told_once_and_never_over_another_word() {
    let (now, record) = (at("2026-01-01T10:00:00Z"), record());
    let pending = |previous: &IdTokenBindingStatus| next(previous, nothing(), now);
    let fresh = next(&unseen(), good(&record), now);
    assert!(!is_worth_writing(&fresh, &pending(&fresh), None, now));
    let mut audited = unseen();
    audited.conditions.push(Condition { type_: "Audited".to_owned(), ..fresh.conditions[0].clone() });
    assert!(!is_told(&audited) && is_told(&fresh));
    assert!(is_worth_writing(&audited, &pending(&audited), None, now));
}

#[test]
fn another_reason_or_generation_of_a_failure_is_written_at_once() {
    let first_problem = Problem::transient(Reason::SourceUnavailable, "a");
    let other_problem = Problem::transient(Reason::QuotaExceeded, "a");
    let first = next(&unseen(), failed(&first_problem), at("2026-01-01T10:00:00Z"));
    let other_reason = next(&first, failed(&other_problem), at("2026-01-01T10:00:01Z"));
    let report = Report { generation: Some(2), ..failed(&first_problem) };
    let other_generation = next(&first, report, at("2026-01-01T10:00:01Z"));
    let just_now = Some(at("2026-01-01T10:00:00Z"));
    for changed in [other_reason, other_generation] {
        assert!(is_worth_writing(&first, &changed, just_now, at("2026-01-01T10:00:01Z")));
    }
}

#[test]
fn an_event_is_sent_when_the_outcome_changes_and_only_then() {
    let record = record();
    let (now, later) = (at("2026-01-01T10:00:00Z"), at("2026-01-01T10:35:00Z"));
    let pending = next(&unseen(), nothing(), now);
    assert_eq!(event(&unseen(), &pending, None), None, "nothing has come of it yet");

    let fresh = next(&pending, good(&record), now);
    let expected = Event {
        is_warning: false,
        reason: Reason::TokenFresh,
        note: "Secret orders-idtoken holds a verified token".to_owned(),
    };
    for before in [&unseen(), &pending] {
        assert_eq!(event(before, &fresh, None), None, "a first token without trouble");
    }
    let refreshed = Report { secret_resource_version: Some("42"), ..good(&record) };
    let refreshed = next(&fresh, refreshed, later);
    assert_eq!(event(&fresh, &refreshed, None), None, "a refresh like the last");

    let problem = Problem::transient(Reason::SourceUnavailable, "HTTP 503");
    let degraded = next(&refreshed, Report { problem: Some(&problem), ..good(&record) }, later);
    let warning = Event { is_warning: true, reason: Reason::SourceUnavailable, note: "HTTP 503".to_owned() };
    assert_eq!(event(&refreshed, &degraded, Some(&problem)), Some(warning));
    let worded = Problem::transient(Reason::SourceUnavailable, "HTTP 500");
    let again = next(&degraded, Report { problem: Some(&worded), ..good(&record) }, later);
    assert_eq!(event(&degraded, &again, Some(&worded)), None, "other words only");
    let healed = next(&again, good(&record), later);
    assert_eq!(event(&again, &healed, None), Some(expected));
    let suspended = next(&healed, Report { suspended: true, ..good(&record) }, later);
    assert_eq!(event(&healed, &suspended, None), None, "who suspends knows it");
}

#[test]
fn a_problem_says_when_trying_again_makes_sense() {
    assert_eq!(
        Problem::transient(Reason::SourceUnavailable, "x").retry,
        Retry::Transient { retry_after: None }
    );
    assert_eq!(Problem::slow(Reason::SourceDenied, "x").retry, Retry::Slowly);
    assert_eq!(Problem::on_change(Reason::NotGranted, "x").retry, Retry::OnChange);
}

/// So a password that was refused is not sent again by another replica, nor after a restart.
#[test]
fn a_refused_credential_is_noted_and_known_again_by_its_very_try() {
    let problem = Problem::refused("sign-in: HTTP 400 INVALID_LOGIN_CREDENTIALS");
    let pause =
        Pause { key: "spec-1/v1//".to_owned(), noted_at: at("2026-01-01T10:00:00Z"), until: Timestamp::MAX };
    let attempts = Attempts { failures: 1, pause, problem: problem.clone() };
    let report = Report { attempts: Some(&attempts), ..failed(&problem) };
    let status = next(&unseen(), report, at("2026-01-01T10:00:00Z"));
    assert_eq!(
        conditions(&status),
        [
            "Ready=False CredentialsRefused 2026-01-01T10:00:00Z 1",
            "Degraded=False CredentialsRefused 2026-01-01T10:00:00Z 1",
            "Stalled=True CredentialsRefused 2026-01-01T10:00:00Z 1",
        ]
    );
    let known = refused_before(&status, "spec-1/v1//").unwrap();
    assert_eq!(known.problem, problem);
    assert!(known.pause.holds("spec-1/v1//", at("2036-01-01T10:00:00Z")));
    assert_eq!(refused_before(&status, "spec-1/v2//"), None, "another credential is tried");
    let denied = Attempts { problem: Problem::slow(Reason::SourceDenied, "HTTP 403"), ..attempts };
    let report = Report { attempts: Some(&denied), ..failed(&denied.problem) };
    let status = next(&unseen(), report, at("2026-01-01T10:00:00Z"));
    assert_eq!(refused_before(&status, "spec-1/v1//"), None, "what may heal is tried again");
}
