//! Output: the status and the event of a visit. The only place that writes statuses.

use std::time::Duration;

use http::header;
use jiff::Timestamp;
use kube::{
    Resource as _,
    runtime::events::{Event, EventType},
};

use super::{
    apply::Outcome,
    context::Context,
    memory::{Entry, seen},
};
use crate::{
    api::{FIELD_MANAGER, IdTokenBinding, IdTokenBindingStatus},
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
    /// The API server's answer, or none.
    #[error("update the status of IdTokenBinding {0}: {1}")]
    Api(String, Box<kube::Error>),
    /// No answer in time.
    #[error("update the status of IdTokenBinding {0}: no answer in time")]
    Timeout(String),
}

/// Writes what came of a visit, where it differs from what stands there, and sends an event where the outcome changed.
pub(super) async fn status(
    ctx: &Context,
    binding: &IdTokenBinding,
    owner: &Owner,
    wanted: Option<&Wanted>,
    outcome: &Outcome,
    entry: &mut Entry,
) -> Result<(), Error> {
    let now = crate::clock::now();
    let previous = entry.status(seen(binding)).clone();
    let failing_since = entry.failing_since(outcome.problem.as_ref(), binding.metadata.generation, now);
    let attempts = entry.attempts.as_deref();
    let report = Report { failing_since, attempts, ..report(binding, &previous, wanted, outcome, now) };
    let next = status::next(&previous, report, now);
    if !status::is_worth_writing(&previous, &next, entry.status_written, now) {
        return Ok(());
    }
    if !write(ctx, owner, &next).await? {
        return Ok(()); // the binding is gone
    }
    entry.wrote_status(seen(binding), next.clone(), now);
    if let Some(event) = status::event(&previous, &next, outcome.problem.as_ref()) {
        log(owner, &event);
        announce(ctx, binding, event).await;
    }
    Ok(())
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

/// The answer to a write, of which nothing is read.
#[derive(serde::Deserialize)]
struct Written {}

/// Whether there was still a binding to write to.
async fn write(ctx: &Context, owner: &Owner, status: &IdTokenBindingStatus) -> Result<bool, Error> {
    let name = || format!("{}/{}", owner.namespace, owner.name);
    let body = serde_json::json!({
        "apiVersion": IdTokenBinding::api_version(&()),
        "kind": IdTokenBinding::kind(&()),
        // The UID keeps a status from landing on a new binding of the same name.
        "metadata": {"name": owner.name, "uid": owner.uid},
        "status": status,
    });
    let collection = IdTokenBinding::url_path(&(), Some(&owner.namespace));
    let call = async {
        let request = http::Request::patch(format!(
            "{collection}/{}/status?force=true&fieldManager={FIELD_MANAGER}",
            owner.name
        ))
        // It comes back whole, and is not read: its metadata alone would cost the API server no less.
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, "application/apply-patch+yaml")
        .body(body.to_string().into_bytes())
        .map_err(kube::Error::HttpError)?;
        ctx.client.request::<Written>(request).await
    };
    let answer = tokio::time::timeout(TIMEOUT, call).await;
    let result = if matches!(answer, Ok(Ok(_))) { "written" } else { "failed" };
    ctx.metrics.status_writes.get_or_create(&Write { result }).inc();
    match answer {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(kube::Error::Api(s))) if s.code == 404 => Ok(false),
        Ok(Err(error)) => Err(Error::Api(name(), Box::new(error))),
        Err(_) => Err(Error::Timeout(name())),
    }
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
