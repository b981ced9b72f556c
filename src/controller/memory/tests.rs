use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn status(secret: &str) -> IdTokenBindingStatus {
    IdTokenBindingStatus {
        secret_resource_version: Some(secret.to_owned()),
        ..IdTokenBindingStatus::default()
    }
}

/// A status was written in place of another one, while what is seen may be older: then the binding's version is 100 and more.
fn wrote(entry: &mut Entry, [seen, previous, next]: [&str; 3], now: Timestamp) {
    entry.wrote_status(&status(seen), &status(previous), status(next), Some(format!("10{next}")), now);
}

/// Milliseconds from the last restore to the next.
fn pause(entry: &Entry, last: &str) -> i128 {
    entry.restore_not_before("uid-1", at(last)).unwrap().duration_since(at(last)).as_millis()
}

#[test]
fn the_first_restore_is_immediate_and_each_further_one_waits_longer() {
    let mut entry = Entry::default();
    assert_eq!(entry.restore_not_before("uid-1", at("2026-01-01T10:00:00Z")), None);
    let mut pauses = Vec::new();
    for minute in 0..9 {
        let now = format!("2026-01-01T10:0{minute}:00Z");
        entry.restored(at(&now));
        pauses.push(pause(&entry, &now));
    }
    for (pause, seconds) in pauses.iter().zip([1, 2, 4, 8, 16, 32, 64, 120, 120]) {
        let bounds = seconds * 1000..=seconds * 1250;
        assert!(bounds.contains(pause), "{pauses:?}");
    }
}

#[test]
fn ten_quiet_minutes_are_a_new_beginning() {
    let mut entry = Entry::default();
    for time in ["2026-01-01T10:00:00Z", "2026-01-01T10:00:05Z", "2026-01-01T10:00:10Z"] {
        entry.restored(at(time));
    }
    entry.restored(at("2026-01-01T10:10:09Z"));
    assert!(pause(&entry, "2026-01-01T10:10:09Z") >= 8000);
    entry.restored(at("2026-01-01T10:20:09Z"));
    assert!(pause(&entry, "2026-01-01T10:20:09Z") <= 1250);
}

#[test]
fn a_status_that_was_replaced_is_known_to_be_old() {
    let mut entry = Entry::default();
    assert_eq!(entry.status(&status("1")), &status("1"));
    wrote(&mut entry, ["1", "1", "2"], at("2026-01-01T10:00:00Z"));
    assert_eq!(entry.status_written, Some(at("2026-01-01T10:00:00Z")));
    assert_eq!(entry.status(&status("1")), &status("2"), "an old copy");
    assert_eq!(entry.status(&status("2")), &status("2"), "our own write, come back");
    assert_eq!(entry.status(&status("3")), &status("3"), "somebody else's");
    entry.saw_status(&status("1"));
    assert_eq!(entry.status(&status("1")), &status("2"), "still an old copy");
    entry.saw_status(&status("2"));
    assert!(entry.written.is_none(), "it has come, and nothing is kept of it");
}

/// A binding with that UID and status.
fn binding(uid: &str, status: IdTokenBindingStatus) -> IdTokenBinding {
    let mut binding: IdTokenBinding = serde_json::from_value(serde_json::json!({
        "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding", "metadata": {"name": "orders", "uid": uid},
        "spec": {"audience": "https://orders.example", "source": {"metadataServer": {}}},
    }))
    .unwrap();
    binding.status = Some(status);
    binding
}

#[test]
fn only_what_lives_is_remembered() {
    let memory = Memory::default();
    let entry = Entry { status_written: Some(at("2026-01-01T10:00:00Z")), ..Entry::default() };
    memory.keep("alive", entry.clone());
    memory.keep("gone", entry);
    memory.sweep(&HashSet::from(["alive", "new"].map(Into::into)));
    assert_eq!(memory.of("alive", None).status_written, Some(at("2026-01-01T10:00:00Z")));
    assert_eq!(memory.of("alive", Some(1)).status_written, None, "from a term in which another one led");
    assert_eq!(memory.of("gone", None).status_written, None);
}

#[test]
fn a_status_that_was_written_is_remembered_until_it_is_seen() {
    let memory = Memory::default();
    let mut entry = Entry::default();
    wrote(&mut entry, ["1", "1", "2"], at("2026-01-01T10:00:00Z"));
    memory.keep("u", entry);
    memory.saw(&binding("u", status("1")));
    assert_eq!(memory.of("u", None).status(&status("1")), &status("2"), "the watch is behind");
    memory.saw(&binding("u", status("2")));
    assert!(memory.of("u", None).written.is_none());
}

#[test]
fn the_version_to_write_over_is_that_of_the_newest_status_known() {
    let seen = |secret: &str, version: &str| {
        let mut binding = binding("u", status(secret));
        binding.metadata.resource_version = Some(version.to_owned());
        binding
    };
    let mut entry = Entry::default();
    assert_eq!(entry.newest(&seen("1", "101")).1, Some("101"));
    wrote(&mut entry, ["1", "1", "2"], at("2026-01-01T10:00:00Z"));
    assert_eq!(entry.newest(&seen("1", "101")).1, Some("102"), "the watch is behind");
    assert_eq!(entry.newest(&seen("2", "107")).1, Some("107"), "labelled by somebody after our write");
    assert_eq!(entry.newest(&seen("3", "108")).1, Some("108"), "somebody else's status");
}

#[test]
fn a_chain_of_old_copies_is_known_too() {
    let mut entry = Entry::default();
    let now = at("2026-01-01T10:00:00Z");
    wrote(&mut entry, ["1", "1", "2"], now);
    wrote(&mut entry, ["1", "2", "3"], now);
    for old in ["1", "2", "3"] {
        assert_eq!(entry.status(&status(old)), &status("3"));
    }
    wrote(&mut entry, ["9", "9", "10"], now);
    assert_eq!(entry.status(&status("2")), &status("2"), "somebody else began anew");
}

#[test]
fn what_a_write_replaced_is_old_although_the_watch_has_not_brought_it_yet() {
    let mut entry = Entry::default();
    let now = at("2026-01-01T10:00:00Z");
    wrote(&mut entry, ["1", "1", "2"], now);
    wrote(&mut entry, ["1", "somebody's", "3"], now);
    for old in ["1", "2", "somebody's"] {
        assert_eq!(entry.status(&status(old)), &status("3"), "{old}");
    }
}

#[test]
fn a_lasting_failure_counts_from_its_first_of_the_kind_and_generation() {
    let mut entry = Entry::default();
    let denied = Problem::slow(crate::api::Reason::SourceDenied, "403");
    let missing = Problem::on_change(crate::api::Reason::NotGranted, "no grant");
    let passing = Problem::transient(crate::api::Reason::SourceUnavailable, "503");
    let (ten, eleven, twelve) =
        (at("2026-01-01T10:00:00Z"), at("2026-01-01T11:00:00Z"), at("2026-01-01T12:00:00Z"));
    assert_eq!(entry.failing_since(Some(&passing), Some(1), ten), None);
    assert_eq!(entry.failing_since(Some(&denied), Some(1), eleven), Some(eleven), "not since the other kind");
    assert_eq!(entry.failing_since(Some(&missing), Some(1), twelve), Some(eleven), "another of the kind");
    assert_eq!(entry.failing_since(Some(&denied), Some(2), twelve), Some(twelve), "another generation");
    assert_eq!(entry.failing_since(None, Some(2), twelve), None);
}

#[test]
fn since_when_a_secret_is_not_granted_is_remembered_although_it_could_not_be_written_down() {
    let mut entry = Entry::default();
    let (noted, none) = (Some(at("2026-01-01T10:00:00Z")), IdTokenBindingStatus::default());
    let written = IdTokenBindingStatus { not_granted_since: noted, ..none.clone() };
    assert_eq!(entry.not_granted_since(&written), noted, "from another process");
    entry.note_loss(Some(at("2026-01-01T10:01:00Z")));
    assert_eq!(entry.not_granted_since(&none), Some(at("2026-01-01T10:01:00Z")));
    entry.note_loss(None);
    assert_eq!(entry.not_granted_since(&written), None, "it is granted again, and that could not be written");
}
