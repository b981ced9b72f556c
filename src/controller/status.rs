//! Output: the status and the event of a visit. The only place that writes statuses.

use std::time::Duration;

use http::header;
use jiff::Timestamp;
use kube::{
    Api, Resource as _,
    api::ListParams,
    runtime::events::{Event, EventType},
};

use super::{
    apply::Outcome,
    context::Context,
    memory::{Entry, seen},
    secrets::{self, METADATA_ONLY, bounded},
};
use crate::{
    api::{FIELD_MANAGER, IdTokenBinding, IdTokenBindingStatus},
    cache::light::Light,
    plan::{
        secret::{Observed, Owner},
        source::source_name,
        status::{self, Report},
        validate::Wanted,
    },
    telemetry::metrics::Write,
};

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A call failed. No secret was sent: what the API server says of it may be told.
    #[error("{}{}", .0, .0.said())]
    Call(#[from] secrets::Error),
    /// Others were faster, each time.
    #[error(
        "update the status of IdTokenBinding {namespace}/{name}: it changes all the time, {TRIES} writes in a row met another version"
    )]
    Contested { namespace: String, name: String },
}

/// Writes what came of a visit, where it differs from what stands there, and sends an event where the outcome changed. Where the binding
/// is another version by now, looks again, so that nothing is lost that others have written into its status.
pub(super) async fn status(
    ctx: &Context,
    binding: &IdTokenBinding,
    owner: &Owner,
    wanted: Option<&Wanted>,
    outcome: &Outcome,
    entry: &mut Entry,
) -> Result<(), Error> {
    let now = crate::clock::now();
    let failing_since = entry.failing_since(outcome.problem.as_ref(), binding.metadata.generation, now);
    let (previous, version) = entry.newest(binding);
    let (mut previous, mut version) = (previous.clone(), version.map(str::to_owned));
    for _ in 0..TRIES {
        let attempts = entry.attempts.as_deref();
        let report = Report { failing_since, attempts, ..report(binding, &previous, wanted, outcome, now) };
        let next = status::next(&previous, report, now);
        if !status::is_worth_writing(&previous, &next, entry.status_written, now) {
            return Ok(());
        }
        let newest = match replace(ctx, owner, version.as_deref(), &next).await? {
            Replaced::Written { version } => version,
            Replaced::Gone => return Ok(()),
            Replaced::Conflict => {
                let Some(live) = live(ctx, owner).await? else { return Ok(()) };
                let (status, newest) = (live.status.unwrap_or_default(), live.metadata.resource_version);
                if status != next {
                    (previous, version) = (status, newest);
                    continue;
                }
                newest // The client sent it twice: the first time it was written, and the answer was lost.
            }
        };
        let event = status::event(&previous, &next, outcome.problem.as_ref());
        entry.wrote_status(seen(binding), &previous, next, newest, now);
        if let Some(event) = event {
            log(owner, &event);
            announce(ctx, binding, event).await;
        }
        return Ok(());
    }
    Err(Error::Contested { namespace: owner.namespace.clone(), name: owner.name.clone() })
}

fn report<'a>(
    binding: &'a IdTokenBinding,
    previous: &'a IdTokenBindingStatus,
    wanted: Option<&'a Wanted>,
    outcome: &'a Outcome,
    now: Timestamp,
) -> Report<'a> {
    let is_good = wanted.is_some_and(|w| outcome.secret.current(&w.spec_hash, now).is_some());
    Report {
        generation: binding.metadata.generation,
        source: source_name(&binding.spec.source),
        // An invalid spec names none; the one that was there last is still to be looked after.
        secret_name: wanted.map_or(previous.secret_name.as_deref().unwrap_or_default(), |w| &w.secret.name),
        secret_resource_version: match &outcome.secret {
            // Of a Secret that somebody changed it must not be noted: the next visit would take it for our own work.
            Observed::Ours(ours) if ours.intact => Some(ours.resource_version()),
            _ => None,
        },
        record: outcome.secret.record(),
        is_good,
        problem: outcome.problem.as_ref(),
        suspended: wanted.is_some_and(|w| w.suspend),
        failing_since: None,
        not_granted_since: outcome.not_granted_since,
        next_refresh: outcome.next,
        attempts: None,
    }
}

/// What came of a write.
enum Replaced {
    /// `metadata.resourceVersion` of the binding with its new status.
    Written { version: Option<String> },
    /// It is another version by now, or another binding, or none.
    Conflict,
    /// There is no such binding any more.
    Gone,
}

/// Replaces the status of the binding whose `metadata.resourceVersion` is `version`. That is the way which costs the API server least
/// (docs/performance.md), and one that arrives late, from who led before perhaps, is refused.
async fn replace(
    ctx: &Context,
    owner: &Owner,
    version: Option<&str>,
    status: &IdTokenBindingStatus,
) -> Result<Replaced, secrets::Error> {
    // The API server takes nothing but the status from it, whatever else would be there.
    let body = serde_json::json!({
        "apiVersion": IdTokenBinding::api_version(&()),
        "kind": IdTokenBinding::kind(&()),
        "metadata": {
            "name": owner.name,
            "namespace": owner.namespace,
            // Keeps a status from landing on a new binding of the same name.
            "uid": owner.uid,
            "resourceVersion": version,
        },
        "status": status,
    });
    let collection = IdTokenBinding::url_path(&(), Some(&owner.namespace));
    let call = async {
        let request =
            http::Request::put(format!("{collection}/{}/status?fieldManager={FIELD_MANAGER}", owner.name))
                .header(header::ACCEPT, METADATA_ONLY)
                .header(header::CONTENT_TYPE, "application/json")
                .body(body.to_string().into_bytes())
                .map_err(kube::Error::HttpError)?;
        ctx.client.request::<Light<IdTokenBinding>>(request).await
    };
    let answer = bounded("update the status of IdTokenBinding", &owner.namespace, &owner.name, call).await;
    let result = if answer.is_ok() { "written" } else { "failed" };
    ctx.metrics.status_writes.get_or_create(&Write { result }).inc();
    match answer {
        Ok(written) => Ok(Replaced::Written { version: written.metadata.resource_version }),
        Err(error) => match error.code() {
            Some(404) => Ok(Replaced::Gone),
            Some(409) => Ok(Replaced::Conflict),
            _ => Err(error),
        },
    }
}

/// The binding as it is now, if it is still for this process and stays: a list of one, because lists are what the controller may read of bindings.
async fn live(ctx: &Context, owner: &Owner) -> Result<Option<IdTokenBinding>, secrets::Error> {
    let api = Api::<IdTokenBinding>::namespaced(ctx.client.clone(), &owner.namespace);
    let named =
        ListParams::default().fields(&format!("metadata.name={}", owner.name)).labels_from(&ctx.selector);
    let list = bounded("read IdTokenBinding", &owner.namespace, &owner.name, api.list(&named)).await?;
    let is_it = |b: &IdTokenBinding| b.metadata.uid.as_ref() == Some(&owner.uid);
    Ok(list.into_iter().find(|b| is_it(b) && b.metadata.deletion_timestamp.is_none()))
}

fn log(owner: &Owner, event: &status::Event) {
    let (namespace, name, reason) = (&owner.namespace, &owner.name, event.reason.as_str());
    if event.is_warning {
        tracing::warn!(namespace, name, reason, "{}", event.note);
    } else {
        tracing::info!(namespace, name, reason, "{}", event.note);
    }
}

/// Events are a courtesy: one that can't be sent is logged, nothing more.
async fn announce(ctx: &Context, binding: &IdTokenBinding, event: status::Event) {
    let reference = binding.object_ref(&());
    let event = Event {
        type_: if event.is_warning { EventType::Warning } else { EventType::Normal },
        reason: event.reason.as_str().to_owned(),
        note: Some(event.note.chars().take(1000).collect()),
        action: "Refresh".to_owned(),
        secondary: None,
    };
    match tokio::time::timeout(TIMEOUT, ctx.recorder.publish(&event, &reference)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "an event can't be sent"),
        Err(_) => tracing::warn!("an event can't be sent: time-out"),
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);
/// Writes of one status that may meet another version, before the visit is made again.
const TRIES: u32 = 3;
