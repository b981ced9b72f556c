//! Input: everything that a decision needs, gathered before it is made.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{
    context::Context,
    credentials::InCluster,
    memory::{Entry, seen},
    secrets,
};
use crate::{
    api::{IdTokenBinding, IdTokenBindingStatus, Reason},
    plan::{
        Problem,
        decide::{Facts, Standing, refusal_key},
        grant::Authority,
        refresh::Lifetime,
        secret::{Observed, Owner, Record, held_authority, is_intact, observe},
        status::refused_before,
        validate::Wanted,
    },
    verify::{
        claims::{Rejected, check, parse},
        expect::Expectation,
    },
};

/// Gathers the facts. A Secret that can't be read is a fact too, unless the last word on it was that its token is good:
/// that stays the last word, and the visit is tried again.
pub(super) async fn dereference(
    ctx: &Context,
    binding: &IdTokenBinding,
    owner: &Owner,
    wanted: &Wanted,
    entry: &Entry,
) -> Result<Facts, secrets::Error> {
    let (status, now) = (entry.status(seen(binding)), crate::clock::now());
    let looked = async {
        let secret = observe_secret(ctx, owner, wanted, status).await?;
        let known = secret.record().and_then(|record| record.credential.clone());
        let credential = InCluster::new(ctx, owner).version(&wanted.source, known.as_deref()).await?;
        Ok((secret, credential))
    };
    let unavailable =
        |error: &secrets::Error| Err(Problem::transient(Reason::SecretUnavailable, error.to_string()));
    let (secret, credential, was_read) = match looked.await {
        Ok((secret, credential)) => (secret, credential, true),
        Err(error) if status.expiration_time.is_some_and(|at| at > now) => return Err(error),
        Err(error) => (Observed::Absent, unavailable(&error), false),
    };
    let authority = Authority::of(wanted);
    let allowed = ctx.authorise(owner, authority.as_ref()).await;
    let standing = match held_authority(&secret, Some(wanted)) {
        _ if !was_read => Standing::Unknown,
        None => Standing::Allowed,
        held if held == authority => Standing::of(&allowed),
        held => Standing::of(&ctx.authorise(owner, held.as_ref()).await),
    };
    let (credential, permitted) = match credential {
        Ok(credential) => (credential, allowed),
        Err(problem) => (None, Err(problem)),
    };
    let key = refusal_key(wanted, credential.as_deref());
    Ok(Facts {
        uid: owner.uid.clone(),
        secret,
        was_published: status.secret_resource_version.is_some() || entry.has_restored(),
        permitted,
        standing,
        credential,
        attempts: entry.attempts.as_deref().cloned().or_else(|| refused_before(status, &key)),
        ask_again: entry.ask_again.as_deref().cloned(),
        restore_not_before: entry.restore_not_before(&owner.uid, now),
        not_granted_since: entry.not_granted_since(status),
        grace: ctx.grace,
    })
}

/// Gathers what there is to know of a binding whose spec is invalid, and so says nothing of its Secret: what became of the one that
/// it had last.
pub(super) async fn dereference_invalid(
    ctx: &Context,
    binding: &IdTokenBinding,
    owner: &Owner,
    problem: &Problem,
    entry: &Entry,
) -> Facts {
    let status = entry.status(seen(binding));
    let name = status.secret_name.as_deref().unwrap_or_default();
    let cached = ctx.caches.namespaced.secrets.get(&owner.namespace, name);
    let secret = observe(cached.as_ref(), &owner.uid, true);
    let held = held_authority(&secret, None);
    Facts {
        uid: owner.uid.clone(),
        secret,
        was_published: false,
        permitted: Err(problem.clone()),
        standing: Standing::of(&ctx.authorise(owner, held.as_ref()).await),
        credential: None,
        attempts: entry.attempts.as_deref().cloned(),
        ask_again: None,
        restore_not_before: None,
        not_granted_since: entry.not_granted_since(status),
        grace: ctx.grace,
    }
}

/// The Secret, from the cache where that is what we last wrote or checked; else read live, and its data compared once.
async fn observe_secret(
    ctx: &Context,
    owner: &Owner,
    wanted: &Wanted,
    status: &IdTokenBindingStatus,
) -> Result<Observed, secrets::Error> {
    let name = &wanted.secret.name;
    let known =
        status.secret_resource_version.as_deref().filter(|_| status.secret_name.as_ref() == Some(name));
    let unchanged = |meta: &ObjectMeta| known.is_some() && meta.resource_version.as_deref() == known;
    let cached = ctx.caches.namespaced.secrets.get(&owner.namespace, name);
    if let Some(meta) = cached.as_ref().filter(|meta| unchanged(meta)) {
        return Ok(observe(Some(meta), &owner.uid, true));
    }
    // Who was never looked at has none of ours; whether there is another one the API server says when ours is created.
    if status.conditions.is_empty() && cached.is_none() {
        return Ok(Observed::Absent);
    }
    // The cache may lag behind, and it knows our Secrets only.
    let Some(live) = secrets::metadata(&ctx.client, &owner.namespace, name).await? else {
        return Ok(Observed::Absent);
    };
    let observed = observe(Some(&live.metadata), &owner.uid, unchanged(&live.metadata));
    match observed {
        Observed::Ours(ours) if !ours.intact => compare(ctx, owner, wanted).await,
        other => Ok(other),
    }
}

/// Reads our Secret once, because somebody else wrote it or because our note of it was lost.
async fn compare(ctx: &Context, owner: &Owner, wanted: &Wanted) -> Result<Observed, secrets::Error> {
    let Some(secret) = secrets::read(&ctx.client, &owner.namespace, &wanted.secret.name).await? else {
        return Ok(Observed::Absent);
    };
    let observed = observe(Some(&secret.metadata), &owner.uid, false);
    let Observed::Ours(mut ours) = observed else { return Ok(observed) };
    if let (Some(record), Some(data)) = (&ours.record, &secret.data) {
        let token = data.get(&wanted.secret.key).and_then(|v| std::str::from_utf8(&v.0).ok());
        ours.intact = is_intact(data, record, &wanted.secret)
            && match token {
                Some(token) if record.spec_hash == wanted.spec_hash => {
                    is_believable(ctx, wanted, token, record).await
                }
                other => other.is_some(),
            };
    }
    Ok(Observed::Ours(ours))
}

/// Whoever can change the token can change its hash beside it, and the times: so the token itself must bear looking at, and
/// say what the annotations say.
async fn is_believable(ctx: &Context, wanted: &Wanted, token: &str, record: &Record) -> bool {
    let expected = Expectation::of(&wanted.source, &wanted.audience, record.identity.as_deref());
    let now = crate::clock::now();
    let verified = match ctx.verifier.verify(token, &expected, now).await {
        Ok(outcome) => Ok(outcome.verified),
        Err(Rejected::KeysUnavailable) => parse(token).and_then(|t| check(&t.claims, &expected, now)),
        Err(why) => Err(why),
    };
    match verified {
        Ok(claims) => {
            let life = Lifetime { issued: claims.issued, expires: claims.expires };
            life == record.life && claims.issuer == record.issuer && Some(claims.identity) == record.identity
        }
        // Old age is no tampering, and neither is a clock of ours that is slow.
        Err(Rejected::Expired(at)) => at == record.life.expires,
        Err(Rejected::NotYetValid(_)) => true,
        Err(_) => false,
    }
}
