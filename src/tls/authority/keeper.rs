//! Keeps the Secret, and hands on what it holds.
use std::{fmt::Display, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    api::PostParams,
    runtime::{utils::Backoff, watcher::DefaultBackoff},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    IssueError, Lifetimes, Registered, SETTLE, Step, Stored, certificate::Certificate, may_replace, next,
};
use crate::{
    clock,
    tls::resolver::{CertificateError, HotCert},
};

/// Where the authority is kept and what it certifies.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The operator's namespace.
    pub namespace: String,
    /// The Secret in it.
    pub secret: String,
    /// Names and addresses of the server: [`service_names`](super::service_names).
    pub names: Vec<String>,
    /// How long things live.
    pub lifetimes: Lifetimes,
    /// How often to look whether another replica was faster, or the Secret is gone.
    pub poll: Duration,
}

/// Makes, renews and reads the authority until `cancel`; publishes its certificate to `hot` and its CAs to `bundle`. In
/// `registered` it sees which CAs the API server trusts.
pub async fn maintain(
    client: Client,
    settings: Settings,
    hot: Arc<HotCert>,
    bundle: watch::Sender<Option<String>>,
    registered: watch::Receiver<Registered>,
    cancel: CancellationToken,
) {
    let api = Api::namespaced(client, &settings.namespace);
    let mut keeper = Keeper { api, settings, hot, bundle, registered, known: None, presented: None };
    cancel.run_until_cancelled(keeper.keep()).await;
}

#[derive(Debug, thiserror::Error)]
enum VisitError {
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error(transparent)]
    Publish(#[from] CertificateError),
    #[error("{action} took too long")]
    Late { action: &'static str },
    /// Only what the API server says: a response that can't be read could hold a key.
    #[error("{action}: {}", describe(source))]
    Call { action: &'static str, source: Box<kube::Error> },
    #[error("somebody else keeps changing it")]
    Contended,
}

struct Keeper {
    api: Api<Secret>,
    settings: Settings,
    hot: Arc<HotCert>,
    bundle: watch::Sender<Option<String>>,
    registered: watch::Receiver<Registered>,
    /// What was in the Secret.
    known: Option<Stored>,
    /// What handshakes are answered with.
    presented: Option<Certificate>,
}

impl Keeper {
    async fn keep(&mut self) {
        let mut backoff = DefaultBackoff::default();
        loop {
            let pause = match self.visit(clock::now()).await {
                Ok(due) => {
                    backoff.reset();
                    self.pause(clock::now(), due)
                }
                Err(error) => {
                    tracing::warn!(secret = self.settings.secret, %error, "certificate authority not kept; trying again");
                    backoff.next().unwrap_or(self.settings.poll)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // Another bundle may be that of a replica which has found, or made, another authority.
                Ok(()) = self.registered.changed() => tokio::time::sleep(SPACING).await,
            }
        }
    }

    /// One look at the Secret, with all that follows from it. Says when the next is due.
    async fn visit(&mut self, now: Timestamp) -> Result<Timestamp, VisitError> {
        for _ in 0..CONFLICTS {
            let secret = call("reading it", self.api.get_opt(&self.settings.secret)).await?;
            let stored = secret.as_ref().and_then(|secret| self.parse(secret));
            let Settings { names, lifetimes, .. } = &self.settings;
            match next(stored.as_ref(), self.known.as_ref(), names, now, lifetimes)? {
                Step::Keep { renew_at } => {
                    let is_presented = self.publish(stored, now)?;
                    return Ok(if is_presented { renew_at } else { now + SETTLE });
                }
                // Published by the next round, which reads what was really written.
                Step::Write(wanted) => match self.write(secret, &wanted).await {
                    Err(VisitError::Call { source, .. }) if is_conflict(&source) => {
                        tracing::debug!("another replica was faster");
                    }
                    written => written?,
                },
            }
        }
        Err(VisitError::Contended)
    }

    fn parse(&self, secret: &Secret) -> Option<Stored> {
        let data = secret.data.as_ref().filter(|data| !data.is_empty())?;
        Stored::parse(data)
            .inspect_err(|reason| {
                let secret = &self.settings.secret;
                tracing::warn!(secret, %reason, "certificate authority is damaged");
            })
            .ok()
    }

    async fn write(&self, present: Option<Secret>, wanted: &Stored) -> Result<(), VisitError> {
        let params = PostParams::default();
        let written = match present {
            Some(mut secret) => {
                // Carries the resourceVersion that was read.
                secret.data = Some(wanted.data());
                call("updating it", self.api.replace(&self.settings.secret, &params, &secret)).await?
            }
            None => call("creating it", self.api.create(&params, &self.secret(wanted))).await?,
        };
        tracing::info!(
            secret = self.settings.secret,
            version = written.metadata.resource_version,
            authority_until = %wanted.signer.certificate.not_after,
            leaf_until = wanted.leaf.as_ref().map(|leaf| leaf.certificate.not_after.to_string()),
            successor = wanted.successor.is_some(),
            "certificate authority written"
        );
        Ok(())
    }

    fn secret(&self, wanted: &Stored) -> Secret {
        Secret {
            metadata: ObjectMeta {
                name: Some(self.settings.secret.clone()),
                labels: Some(
                    [("app.kubernetes.io/managed-by".to_owned(), "idtoken-operator".to_owned())].into(),
                ),
                ..ObjectMeta::default()
            },
            data: Some(wanted.data()),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        }
    }

    /// Whether its certificate is presented now; if not, the present one is good, and the API server must know of its CA first.
    fn publish(&mut self, stored: Option<Stored>, now: Timestamp) -> Result<bool, CertificateError> {
        let Some(stored) = stored else { return Ok(true) };
        let leaf = stored.leaf.as_ref().map(|leaf| &leaf.certificate);
        let is_new = leaf != self.presented.as_ref();
        let registered = self.registered.borrow_and_update().clone();
        let waits = is_new
            && self.presented.as_ref().is_some_and(|leaf| !may_replace(leaf, &stored, &registered, now));
        if is_new
            && !waits
            && let Some((chain, key)) = stored.serving()
        {
            self.hot.publish(chain.as_bytes(), key.as_bytes())?;
            self.presented = leaf.cloned();
        }
        if self.known.as_ref() != Some(&stored) {
            self.bundle.send_replace(Some(stored.bundle()));
            self.known = Some(stored);
        }
        Ok(!waits)
    }

    fn pause(&self, now: Timestamp, due: Timestamp) -> Duration {
        let left = Duration::try_from(now.duration_until(due)).unwrap_or_default();
        left.clamp(Duration::from_secs(1), self.settings.poll.max(Duration::from_secs(1)))
    }
}

async fn call<T>(action: &'static str, call: impl Future<Output = kube::Result<T>>) -> Result<T, VisitError> {
    match timeout(CALL, call).await {
        Ok(result) => result.map_err(|source| VisitError::Call { action, source: Box::new(source) }),
        Err(_) => Err(VisitError::Late { action }),
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

fn describe(error: &kube::Error) -> Box<dyn Display + '_> {
    match error {
        kube::Error::SerdeError(_) => Box::new("the answer can't be read"),
        kube::Error::Api(status) => Box::new(&status.message),
        other => Box::new(other),
    }
}

/// For one call to the API server, retries included.
const CALL: Duration = Duration::from_secs(10);
/// Between a change of the registration and the look that it causes.
const SPACING: Duration = Duration::from_millis(100);
/// Two replicas that start together settle it within one; the rest is for bad luck.
const CONFLICTS: usize = 5;

#[cfg(test)]
mod tests;
