//! Takes a Secret back that no grant allows any more. The only place that deletes one.

use super::{context::Context, secrets};
use crate::{
    api::Reason,
    plan::{
        Problem,
        secret::{Observed, Owner, observe},
        validate::Wanted,
    },
    telemetry::metrics::Write,
};

/// Asks the API server itself whether it is still not granted, and then removes just the Secret that it answers to be ours. Gives
/// what stands under the name then; `None`: nothing was done, since a grant allows it, which the watches have not brought yet.
pub(super) async fn revoke(
    ctx: &Context,
    owner: &Owner,
    wanted: &Wanted,
) -> Result<Option<Observed>, Problem> {
    let Owner { namespace, name: binding, .. } = owner;
    let live = ctx.live_grants.authorise(&ctx.client, &ctx.caches.grants, owner, wanted).await;
    if live.map_err(|error| stays(wanted, &error, false))?.is_ok() {
        tracing::warn!(
            namespace,
            name = binding,
            "a grant allows it, although the watches say none does; its Secret stays"
        );
        return Ok(None);
    }
    let failed = |error: secrets::Error| stays(wanted, &error.to_string(), error.code() == Some(403));
    let secret = secrets::metadata(&ctx.client, namespace, &wanted.secret.name).await.map_err(failed)?;
    let observed = observe(secret.as_ref().map(|secret| &secret.metadata), &owner.uid, false);
    let Observed::Ours(ours) = &observed else { return Ok(Some(observed)) };
    let deleted = secrets::delete(&ctx.client, namespace, &ours.metadata).await;
    let result = if deleted.is_ok() { "removed" } else { "failed" };
    ctx.metrics.secret_writes.get_or_create(&Write { result }).inc();
    deleted.map_err(failed)?;
    let secret = &wanted.secret.name;
    tracing::info!(namespace, name = binding, secret, "the Secret was removed: no grant allows it any more");
    Ok(Some(Observed::Absent))
}

fn stays(wanted: &Wanted, error: &str, is_forbidden: bool) -> Problem {
    let secret = &wanted.secret.name;
    let message = format!("no grant allows Secret {secret} any more, but it could not be removed: {error}");
    if is_forbidden {
        let mend = "check the operator's rights and admission policies in this namespace";
        return Problem::slow(Reason::SecretUnavailable, format!("{message}; {mend}"));
    }
    Problem::transient(Reason::SecretUnavailable, message)
}
