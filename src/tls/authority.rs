//! Our own certificate authority: one CA and one serving certificate in a Secret that all replicas share.
//!
//! A CA is replaced with an overlap. First its successor is only published, beside it in the bundle:
//!
//! ```text
//! old CA   signs ─────────────────────┤ in the bundle until it expires ──────┤
//! new CA          in the bundle ──────┤ signs ─────────────────────────────────────────
//!                 └───── overlap ─────┘
//! ```
//!
//! so that at every moment whoever has any of the last bundles trusts whatever replica answers.
//!
//! What comes unplanned (somebody put another authority into the Secret, or the registration could not be written during the
//! whole overlap) is met by two further rules: a CA that this replica has served under stays in the bundle, and a certificate is
//! not presented before the registration is seen to trust its CA, as long as the present one is good.
mod certificate;
mod keeper;
mod stored;
#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};

pub use certificate::IssueError;
use certificate::{Certificate, Pair};
pub use keeper::{Settings, maintain};
pub use stored::{Stored, Unusable};

/// How long things live.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// Of a CA.
    pub authority: SignedDuration,
    /// Of a serving certificate, which is renewed after two thirds of it.
    pub leaf: SignedDuration,
    /// For how long a CA is published before it signs.
    pub overlap: SignedDuration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        let day = |days: i64| SignedDuration::from_hours(24 * days);
        Self { authority: day(730), leaf: day(90), overlap: day(1) }
    }
}

/// What the API server was seen to be told to trust.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registered {
    /// The bundle of each registered webhook, PEM. None at all: nobody calls.
    pub bundles: Vec<String>,
    /// Since when.
    pub since: Option<Timestamp>,
}

/// What to do with the Secret now.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Nothing until then.
    Keep {
        /// When to ask again.
        renew_at: Timestamp,
    },
    /// Write this.
    Write(Box<Stored>),
}

/// The names that the API server uses for a Service, and then `extra`: names or addresses for local runs.
#[must_use]
pub fn service_names(service: &str, namespace: &str, extra: &[String]) -> Vec<String> {
    let host = format!("{service}.{namespace}");
    [format!("{host}.svc"), format!("{host}.svc.cluster.local"), host]
        .into_iter()
        .chain(extra.iter().cloned())
        .collect()
}

/// Decides what becomes of `stored`, so that at `now` there is a certificate for all `names`.
///
/// A Secret that is gone or damaged gets back what this replica knows to have been in it: the other replicas serve that, and
/// the API server trusts it, so that no request fails meanwhile.
pub fn next(
    stored: Option<&Stored>,
    known: Option<&Stored>,
    names: &[String],
    now: Timestamp,
    lifetimes: &Lifetimes,
) -> Result<Step, IssueError> {
    let mut wanted = match stored.or(known) {
        Some(found) => found.clone(),
        None => Stored::new(Pair::authority(now, lifetimes.authority)?),
    };
    if let Some(known) = known {
        keep_trusting(&mut wanted, &known.signer.certificate, now);
    }
    hand_over(&mut wanted, now, lifetimes)?;
    if wanted.successor.is_none() && prepare_at(&wanted, lifetimes) <= now {
        wanted.successor = Some(Pair::authority(now, lifetimes.authority)?);
    }
    if !leaf_is_good(&wanted, names, now) {
        let not_after = (now + lifetimes.leaf).min(wanted.signer.certificate.not_after);
        wanted.leaf = Some(wanted.signer.sign(names, now, not_after)?);
    }
    wanted.retired.retain(|authority| now < authority.not_after);
    Ok(match stored {
        Some(stored) if *stored == wanted => Step::Keep { renew_at: due(&wanted, lifetimes) },
        _ => Step::Write(Box::new(wanted)),
    })
}

/// Whether the certificate of `stored` is to be presented from now on, in place of `present`.
fn may_replace(present: &Certificate, stored: &Stored, registered: &Registered, now: Timestamp) -> bool {
    let trust = |accepted: &dyn Fn(&Certificate) -> bool| {
        registered.bundles.iter().all(|bundle| stored::certificates(bundle).iter().any(accepted))
    };
    let settled = registered.since.is_none_or(|since| since + SETTLE <= now);
    let is_good = present.is_valid_at(now) && trust(&|authority| present.is_signed_by(authority));
    !is_good || settled && trust(&|authority| *authority == stored.signer.certificate)
}

/// Keeps a CA in the bundle under which this replica may still be serving.
fn keep_trusting(wanted: &mut Stored, authority: &Certificate, now: Timestamp) {
    if authority.is_valid_at(now) && !wanted.publishes(authority) {
        wanted.retired.push(authority.clone());
    }
}

/// Makes the successor the signer when its time has come, and replaces a signer that nobody would accept any more.
fn hand_over(wanted: &mut Stored, now: Timestamp, lifetimes: &Lifetimes) -> Result<(), IssueError> {
    if wanted.successor.as_ref().is_some_and(|successor| !successor.certificate.is_valid_at(now)) {
        wanted.successor = None;
    }
    let usable = wanted.signer.certificate.is_valid_at(now);
    let replacement = match &wanted.successor {
        Some(successor) if !usable || hand_over_at(wanted, successor, lifetimes) <= now => {
            wanted.successor.take()
        }
        None if !usable => Some(Pair::authority(now, lifetimes.authority)?),
        _ => None,
    };
    if let Some(replacement) = replacement {
        let retired = std::mem::replace(&mut wanted.signer, replacement);
        wanted.retired.push(retired.certificate);
    }
    Ok(())
}

fn hand_over_at(stored: &Stored, successor: &Pair, lifetimes: &Lifetimes) -> Timestamp {
    let published = successor.certificate.issued();
    // After a long time without any replica the overlap may not fit in before the old CA ends.
    let left = published.duration_until(stored.signer.certificate.not_after);
    published + lifetimes.overlap.min(left / 2)
}

/// Early enough that the present CA never has to sign a leaf shorter than it should be.
fn prepare_at(stored: &Stored, lifetimes: &Lifetimes) -> Timestamp {
    stored.signer.certificate.not_after - lifetimes.leaf - lifetimes.overlap
}

fn leaf_is_good(stored: &Stored, names: &[String], now: Timestamp) -> bool {
    stored.leaf.as_ref().is_some_and(|leaf| {
        leaf.certificate.is_valid_at(now)
            && now < leaf_renewal(stored, leaf)
            && leaf.certificate.covers(names)
            && leaf.certificate.is_signed_by(&stored.signer.certificate)
    })
}

fn leaf_renewal(stored: &Stored, leaf: &Pair) -> Timestamp {
    let leaf = &leaf.certificate;
    if leaf.not_after >= stored.signer.certificate.not_after {
        return leaf.not_after; // a new one would not live longer
    }
    leaf.issued() + leaf.issued().duration_until(leaf.not_after) * 2 / 3
}

/// The earliest moment at which [`next`] would do something.
fn due(stored: &Stored, lifetimes: &Lifetimes) -> Timestamp {
    let authority = match &stored.successor {
        Some(successor) => hand_over_at(stored, successor, lifetimes),
        None => prepare_at(stored, lifetimes),
    };
    let leaf = stored.leaf.iter().map(|leaf| leaf_renewal(stored, leaf));
    let retired = stored.retired.iter().map(|authority| authority.not_after);
    leaf.chain(retired).fold(authority, Timestamp::min)
}

/// How long after the registration was written every API server is taken to know it.
const SETTLE: SignedDuration = SignedDuration::from_secs(2);
