//! Takes a Secret back that no grant allows any more. The only place that deletes one.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{context::Context, secrets};
use crate::{
    api::Reason,
    plan::{
        Problem,
        secret::{Observed, Owner, held_authority, observe},
        validate::Wanted,
    },
    telemetry::metrics::Write,
};

/// What became of it.
#[allow(clippy::large_enum_variant)] // one a revocation
pub(super) enum Revoked {
    /// This stands under the name now: nothing of ours.
    Gone(Observed),
    /// It is deleted, but finalizers hold it up.
    Held(ObjectMeta),
    /// Nothing was done, since a grant allows it, which the watches have not brought yet.
    Allowed,
}

/// Asks the API server itself what stands in Secret `secret` and whether it is still not granted, and then removes just that. What
/// the binding asks for has no say, and so it does not matter whether its newest version is known: `wanted` tells only what a Secret
/// holds that was made for it.
pub(super) async fn revoke(
    ctx: &Context,
    owner: &Owner,
    secret: &str,
    wanted: Option<&Wanted>,
) -> Result<Revoked, Problem> {
    let Owner { namespace, name: binding, .. } = owner;
    let failed = |error: secrets::Error| stays(secret, &error.to_string(), error.code() == Some(403));
    let found = secrets::metadata(&ctx.client, namespace, secret).await.map_err(failed)?;
    let observed = observe(found.as_ref().map(|found| &found.metadata), &owner.uid, false);
    let Observed::Ours(ours) = &observed else { return Ok(Revoked::Gone(observed)) };
    let held = held_authority(&observed, wanted);
    let (grants, now) = (&ctx.caches.grants, Duration::ZERO);
    let live = ctx.live_grants.authorise(&ctx.client, grants, owner, held.as_ref(), now).await;
    if live.map_err(|error| stays(secret, &error, false))?.is_ok() {
        tracing::warn!(
            namespace,
            name = binding,
            "a grant allows it, although the watches say none does; its Secret stays"
        );
        return Ok(Revoked::Allowed);
    }
    let deleted = secrets::delete(&ctx.once, namespace, &ours.metadata).await;
    let result = match &deleted {
        Ok(None) => "removed",
        Ok(Some(_)) => "held",
        Err(_) => "failed",
    };
    ctx.metrics.secret_writes.get_or_create(&Write { result }).inc();
    if let Some(held) = deleted.map_err(failed)? {
        let finalizers = held.finalizers.clone().unwrap_or_default().join(", ");
        tracing::warn!(namespace, name = binding, secret, finalizers, "the Secret is deleted, but held");
        return Ok(Revoked::Held(held));
    }
    tracing::info!(namespace, name = binding, secret, "the Secret was removed: no grant allows it any more");
    Ok(Revoked::Gone(Observed::Absent))
}

fn stays(secret: &str, error: &str, is_forbidden: bool) -> Problem {
    let message = format!("no grant allows Secret {secret} any more, but it could not be removed: {error}");
    if is_forbidden {
        let mend = "check the operator's rights and admission policies in this namespace";
        return Problem::slow(Reason::SecretUnavailable, format!("{message}; {mend}"));
    }
    Problem::transient(Reason::SecretUnavailable, message)
}
