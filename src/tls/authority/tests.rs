#![allow(clippy::unwrap_used, clippy::panic)]
use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp, ToSpan};
use k8s_openapi::ByteString;
use proptest::prelude::*;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

use super::*;

#[test]
fn names_of_a_service() {
    assert_eq!(
        service_names("webhook", "idtoken", &["127.0.0.1".to_owned()]),
        ["webhook.idtoken.svc", "webhook.idtoken.svc.cluster.local", "webhook.idtoken", "127.0.0.1"]
    );
}

#[test]
fn first_authority_serves_every_name() {
    let stored = settle(None, at("2026-11-22T12:00:00Z"));
    for name in
        ["webhook.idtoken.svc", "webhook.idtoken.svc.cluster.local", "webhook.idtoken", "127.0.0.1", "::1"]
    {
        assert!(trusts(&stored.bundle(), &stored, name, at("2026-11-22T12:00:00Z")), "{name}");
    }
    assert!(!trusts(&stored.bundle(), &stored, "other.idtoken.svc", at("2026-11-22T12:00:00Z")));
    assert_eq!(stored.signer.certificate.not_after, at("2028-11-21T12:00:00Z"));
    assert_eq!(stored.leaf.unwrap().certificate.not_after, at("2027-02-20T12:00:00Z"));
}

#[test]
fn nothing_is_done_until_two_thirds_of_the_leaf() {
    let stored = settle(None, at("2026-11-22T12:00:00Z"));
    let renew_at = at("2027-01-21T12:00:00Z");
    assert_eq!(step(&stored, at("2026-11-22T12:00:00Z")), Step::Keep { renew_at });
    assert_eq!(step(&stored, at("2027-01-21T11:59:59Z")), Step::Keep { renew_at });

    let renewed = settle(Some(stored.clone()), renew_at);
    assert_eq!(renewed.bundle(), stored.bundle());
    assert_eq!(renewed.leaf.unwrap().certificate.not_after, at("2027-04-21T12:00:00Z"));
}

#[test]
fn successor_is_published_a_day_before_it_signs() {
    let old = settle(None, at("2026-11-22T12:00:00Z"));
    let before = settle(Some(old), at("2028-08-22T11:00:00Z"));
    assert_eq!(before.successor, None);

    let overlap = settle(Some(before.clone()), at("2028-08-22T12:00:00Z"));
    assert!(overlap.bundle().starts_with(&before.bundle()) && overlap.bundle() != before.bundle());
    assert_eq!(overlap.leaf, before.leaf);
    assert_eq!(
        step(&overlap, at("2028-08-23T11:59:59Z")),
        Step::Keep { renew_at: at("2028-08-23T12:00:00Z") }
    );

    let after = settle(Some(overlap.clone()), at("2028-08-23T12:00:00Z"));
    let now = at("2028-08-23T12:00:00Z");
    assert!(!trusts(&before.bundle(), &after, NAME, now), "the new CA signs");
    assert!(trusts(&overlap.bundle(), &after, NAME, now));
    assert!(trusts(&after.bundle(), &overlap, NAME, now), "replicas that have not reloaded yet");

    let much_later = settle(Some(after.clone()), at("2028-11-21T11:59:59Z"));
    assert_eq!(much_later.retired.len(), 1);
    let expired = settle(Some(much_later), at("2028-11-21T12:00:00Z"));
    assert_eq!(expired.retired, []);
    assert_eq!(expired.signer, after.signer);
}

#[test]
fn after_a_long_absence_half_of_what_is_left_is_overlap() {
    let old = settle(None, at("2026-11-22T12:00:00Z"));
    let late = settle(Some(old), at("2028-11-21T08:00:00Z"));
    assert_eq!(
        late.leaf.as_ref().unwrap().certificate.not_after,
        at("2028-11-21T12:00:00Z"),
        "never outlives its CA"
    );
    assert_eq!(step(&late, at("2028-11-21T08:00:00Z")), Step::Keep { renew_at: at("2028-11-21T10:00:00Z") });
    let after = settle(Some(late.clone()), at("2028-11-21T10:00:00Z"));
    assert!(trusts(&late.bundle(), &after, NAME, at("2028-11-21T10:00:00Z")));
}

#[test]
fn an_expired_authority_is_replaced() {
    let old = settle(None, at("2026-11-22T12:00:00Z"));
    let now = at("2030-01-01T00:00:00Z");
    let new = settle(Some(old.clone()), now);
    assert_ne!(new.signer, old.signer);
    assert_eq!(new.retired, []);
    assert!(trusts(&new.bundle(), &new, NAME, now));
}

#[test]
fn an_authority_of_the_future_is_replaced() {
    let future = settle(None, at("2030-01-01T00:00:00Z"));
    let now = at("2026-11-22T12:00:00Z");
    let new = settle(Some(future), now);
    assert!(trusts(&new.bundle(), &new, NAME, now));
}

#[test]
fn other_names_give_another_leaf_of_the_same_authority() {
    let now = at("2026-11-22T12:00:00Z");
    let stored = settle(None, now);
    let Step::Write(new) =
        next(Some(&stored), None, &["renamed.idtoken.svc".to_owned()], now, &LIFETIMES).unwrap()
    else {
        panic!("kept");
    };
    assert!(trusts(&stored.bundle(), &new, "renamed.idtoken.svc", now));
    assert_eq!(step(&stored, now), Step::Keep { renew_at: at("2027-01-21T12:00:00Z") });
}

#[test]
fn what_is_written_is_read_back() {
    let stored = settle(None, at("2026-11-22T12:00:00Z"));
    let keys = |stored: &Stored| stored.data().into_keys().collect::<Vec<_>>();
    assert_eq!(keys(&stored), ["ca.crt", "ca.key", "tls.crt", "tls.key"]);
    assert_eq!(Stored::parse(&stored.data()).unwrap(), stored);

    let overlap = settle(Some(stored), at("2028-08-22T12:00:00Z"));
    assert_eq!(keys(&overlap), ["ca.crt", "ca.key", "next.crt", "next.key", "tls.crt", "tls.key"]);
    assert_eq!(Stored::parse(&overlap.data()).unwrap(), overlap);
    let after = settle(Some(overlap), at("2028-08-23T12:00:00Z"));
    assert_eq!(Stored::parse(&after.data()).unwrap(), after);
}

#[test]
fn damage_is_recognised() {
    let now = at("2026-11-22T12:00:00Z");
    let (mine, other) = (settle(None, now), settle(None, now));
    let with = |key: &str, value: &[u8]| {
        let mut data = mine.data();
        data.insert(key.to_owned(), ByteString(value.to_vec()));
        Stored::parse(&data)
    };
    assert_eq!(with("ca.crt", b"garbage"), Err(Unusable::Certificate));
    assert_eq!(with("ca.crt", b"\xff\xfe"), Err(Unusable::Certificate));
    assert_eq!(with("ca.key", b""), Err(Unusable::Key));
    assert_eq!(with("ca.key", &other.data()["ca.key"].0), Err(Unusable::Key));
    assert_eq!(with("tls.key", &other.data()["tls.key"].0).unwrap().leaf, None);
    assert_eq!(with("tls.crt", b"").unwrap().leaf, None);

    let mut foreign = mine.clone();
    foreign.leaf.clone_from(&other.leaf);
    let mended = settle(Some(foreign), now);
    assert!(trusts(&mine.bundle(), &mended, NAME, now), "a leaf of another CA is replaced");
}

#[test]
fn a_successor_that_is_not_published_does_not_count() {
    let overlap = settle(Some(settle(None, at("2026-11-22T12:00:00Z"))), at("2028-08-22T12:00:00Z"));
    let mut data = overlap.data();
    data.insert("ca.crt".to_owned(), ByteString(overlap.signer.certificate.pem().into_bytes()));
    assert_eq!(Stored::parse(&data).unwrap().successor, None);
}

#[test]
fn debug_prints_no_key() {
    let overlap = settle(Some(settle(None, at("2026-11-22T12:00:00Z"))), at("2028-08-22T12:00:00Z"));
    let printed = format!("{overlap:?}");
    assert!(printed.contains("[redacted]"));
    let data = overlap.data();
    for name in ["ca.key", "next.key", "tls.key"] {
        let line = std::str::from_utf8(&data[name].0).unwrap().lines().nth(1).unwrap();
        assert!(!printed.contains(line), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Replicas may be behind by one state: each must be trusted by whoever has the bundle before or after its own.
    #[test]
    fn trust_is_never_lost_between_two_looks(pauses in prop::collection::vec(1i64..119, 1..60)) {
        let minutes = Lifetimes {
            authority: SignedDuration::from_mins(40),
            leaf: SignedDuration::from_mins(9),
            overlap: SignedDuration::from_mins(2),
        };
        let mut now = at("2026-11-22T12:00:00Z");
        let mut before = settle_with(None, now, &minutes);
        for pause in pauses {
            now += SignedDuration::from_secs(pause);
            let after = settle_with(Some(before.clone()), now, &minutes);
            prop_assert!(trusts(&after.bundle(), &after, NAME, now));
            prop_assert!(trusts(&before.bundle(), &after, NAME, now), "bundle behind");
            prop_assert!(trusts(&after.bundle(), &before, NAME, now), "replica behind");
            let leaf = &after.leaf.as_ref().unwrap().certificate;
            prop_assert!(leaf.not_after <= after.signer.certificate.not_after);
            before = after;
        }
    }

    /// Whatever the clock does, the authority is good again at once.
    #[test]
    fn any_jump_of_the_clock_is_survived(jumps in prop::collection::vec(-40_000i64..40_000, 1..8)) {
        let mut now = at("2026-11-22T12:00:00Z");
        let mut stored = settle(None, now);
        for hours in jumps {
            now += hours.hours();
            stored = settle(Some(stored), now);
            prop_assert!(trusts(&stored.bundle(), &stored, NAME, now));
        }
    }
}

/// What is stored at `now` once nothing more is to be done; as the replicas do it, which write and look again.
fn settle(stored: Option<Stored>, now: Timestamp) -> Stored {
    settle_with(stored, now, &LIFETIMES)
}

fn settle_with(mut stored: Option<Stored>, now: Timestamp, lifetimes: &Lifetimes) -> Stored {
    for _ in 0..3 {
        match next(stored.as_ref(), None, &served(), now, lifetimes).unwrap() {
            Step::Write(wanted) => stored = Some(*wanted),
            Step::Keep { renew_at } => {
                assert!(renew_at > now);
                return stored.unwrap();
            }
        }
    }
    panic!("never settles");
}

fn step(stored: &Stored, now: Timestamp) -> Step {
    next(Some(stored), None, &served(), now, &LIFETIMES).unwrap()
}

/// What a TLS client with `bundle` makes of the serving certificate of `stored`: rustls decides.
fn trusts(bundle: &str, stored: &Stored, name: &str, now: Timestamp) -> bool {
    trusts_leaf(bundle, &stored.serving().unwrap().0, name, now)
}

pub(super) fn trusts_leaf(bundle: &str, leaf: &str, name: &str, now: Timestamp) -> bool {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(authority.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let leaf = CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_second().try_into().unwrap()));
    verifier.verify_server_cert(&leaf, &[], &ServerName::try_from(name).unwrap(), &[], now).is_ok()
}

fn served() -> Vec<String> {
    ["webhook.idtoken.svc", "webhook.idtoken.svc.cluster.local", "webhook.idtoken", "127.0.0.1", "::1"]
        .map(str::to_owned)
        .to_vec()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

const NAME: &str = "webhook.idtoken.svc";
const LIFETIMES: Lifetimes = Lifetimes {
    authority: SignedDuration::from_hours(730 * 24),
    leaf: SignedDuration::from_hours(90 * 24),
    overlap: SignedDuration::from_hours(24),
};
