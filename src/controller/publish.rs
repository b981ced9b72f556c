//! Output: gets a token and puts it into its Secret. The only place that asks sources and writes Secrets.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{
    context::Context,
    credentials::InCluster,
    mints::{Asked, NotObtained},
    obtain::obtain,
    secrets,
};
use crate::{
    api::Reason,
    clock,
    plan::{
        Problem,
        decide::{Facts, attempt_key, is_handled, is_worth_writing},
        grant::Authority,
        secret::{Observed, Ours, Owner, Record, conflict, desired, observe},
        validate::Wanted,
    },
    telemetry::metrics::{TokenRequest, Write},
    token::RawToken,
};

/// A token was minted.
#[allow(clippy::large_enum_variant)] // one a visit, and mostly the large one
pub(super) enum Minted {
    /// It is in the Secret.
    Published(Ours),
    /// It is no newer than the one that is there, which expires at the given time.
    Same(Timestamp),
    /// None was, for Google is not to be asked now.
    Later(Duration),
    /// It was dropped: meanwhile the binding was deleted, or went to another release.
    Dropped,
}

/// No token was published.
pub(super) struct Failed {
    pub problem: Problem,
    /// What stands under the Secret's name, where that was found out anew.
    pub secret: Option<Observed>,
    /// When it is tried again, where that is not for the binding alone to say.
    pub until: Option<Timestamp>,
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self { problem, secret: None, until: None }
    }
}

/// Gets the token, and writes it.
pub(super) async fn mint(
    ctx: &Context,
    owner: &Owner,
    wanted: &Wanted,
    facts: &Facts,
) -> Result<Minted, Failed> {
    let now = clock::now();
    let current = facts.secret.current(&wanted.spec_hash, now);
    let key = attempt_key(wanted, facts.credential.as_deref());
    let asked = Asked {
        owner,
        wanted,
        credential: facts.credential.as_deref(),
        // One that has failed already waits like the others.
        forced: !is_handled(wanted, facts.secret.record())
            && facts.attempts.as_ref().is_none_or(|tried| tried.pause.key != key),
        urgent: current.is_none_or(|record| record.life.expires.duration_since(now) < URGENT),
    };
    let mut is_own = false;
    let asking = async {
        is_own = true;
        let credentials = InCluster::new(ctx, owner);
        // The grant may have gone since the decision.
        let authority = Authority::of(wanted);
        let authorise = || ctx.authorise(owner, authority.as_ref());
        let obtained = obtain(&ctx.minter, &ctx.verifier, wanted, &credentials, authorise).await;
        let result = obtained.as_ref().map_or_else(|p| p.reason, |_| Reason::TokenFresh).as_str();
        ctx.metrics
            .token_requests
            .get_or_create(&TokenRequest { source: wanted.source.label(), result })
            .inc();
        obtained
    };
    // All the ways to a token, one beside the other, would take the stack of each visit.
    let obtained = match ctx.mints.get(asked, Box::pin(asking)).await {
        Ok(obtained) => obtained,
        Err(NotObtained::Later(pause)) => return Ok(Minted::Later(pause)),
        Err(NotObtained::Failed { problem, until }) => return Err(Failed { problem, secret: None, until }),
    };
    if !is_own {
        ctx.metrics.tokens_shared.inc();
    }
    let record = obtained.record(wanted);
    if let Some(current) = facts.secret.current(&wanted.spec_hash, clock::now())
        && !is_worth_writing(Some(current), &record, facts.secret.carries(&wanted.secret))
    {
        return Ok(Minted::Same(current.life.expires));
    }
    publish(ctx, owner, wanted, &record, &obtained.token, facts.secret.clone()).await
}

/// Writes `token` over exactly the Secret that was observed. Where it is another by now, looks again, twice at most.
async fn publish(
    ctx: &Context,
    owner: &Owner,
    wanted: &Wanted,
    record: &Record,
    token: &RawToken,
    mut observed: Observed,
) -> Result<Minted, Failed> {
    let name = &wanted.secret.name;
    for _ in 0..3 {
        // The grant may have gone while Google, or the API server, was asked; and the binding.
        ctx.authorise(owner, record.granted.as_ref()).await?;
        if !ctx.bindings.lives(&owner.namespace, &owner.name, &owner.uid) {
            return Ok(Minted::Dropped);
        }
        let existing: Option<ObjectMeta> = match &observed {
            Observed::Absent => None,
            Observed::Ours(ours) => Some(ours.metadata.clone()),
            Observed::Foreign(other) => {
                return Err(Failed { problem: conflict(name, other), secret: Some(observed), until: None });
            }
        };
        let secret = desired(owner, &wanted.secret, record, existing.as_ref(), token.expose());
        let written = match existing {
            None => secrets::create(&ctx.once, &secret).await,
            Some(_) => secrets::replace(&ctx.once, &secret).await,
        };
        drop(secret);
        let result = if written.is_ok() { "written" } else { "failed" };
        ctx.metrics.secret_writes.get_or_create(&Write { result }).inc();
        match written {
            Ok(meta) => {
                let record = Some(record.clone());
                let ours = Ours { metadata: meta.metadata, record, intact: true };
                return Ok(Minted::Published(ours));
            }
            Err(error) if matches!(error.code(), Some(404 | 409)) => {
                let live = secrets::metadata(&ctx.client, &owner.namespace, name)
                    .await
                    .map_err(|e| write_failed(&e))?;
                observed = observe(live.as_ref().map(|m| &m.metadata), &owner.uid, false);
                let newer = observed
                    .record()
                    .filter(|r| r.spec_hash == record.spec_hash && r.credential == record.credential)
                    .filter(|r| r.life.expires > record.life.expires);
                if let Some(newer) = newer {
                    return Ok(Minted::Same(newer.life.expires));
                }
            }
            Err(error) => return Err(write_failed(&error).into()),
        }
    }
    Err(Problem::transient(
        Reason::SecretUnavailable,
        format!("Secret {name} changes all the time: three writes in a row met another version"),
    )
    .into())
}

fn write_failed(error: &secrets::Error) -> Problem {
    match error.code() {
        Some(422) => Problem::slow(
            Reason::SecretUnavailable,
            format!(
                "{error}: its type or content can't be changed (is it immutable?); delete it and it comes back"
            ),
        ),
        Some(403) => Problem::slow(
            Reason::SecretUnavailable,
            format!("{error}: check the operator's rights, quotas and admission policies in this namespace"),
        ),
        _ => Problem::transient(Reason::SecretUnavailable, error.to_string()),
    }
}

/// A token that ends so soon is refreshed before others, where not all can be.
const URGENT: SignedDuration = SignedDuration::from_mins(10);
