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

use super::{IssueError, Lifetimes, Step, Stored, next};
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

/// Makes, renews and reads the authority until `cancel`; publishes its certificate to `hot` and then its CAs to `bundle`.
pub async fn maintain(
    client: Client,
    settings: Settings,
    hot: Arc<HotCert>,
    bundle: watch::Sender<Option<String>>,
    cancel: CancellationToken,
) {
    let api = Api::namespaced(client, &settings.namespace);
    let mut keeper = Keeper { api, settings, hot, bundle, published: None };
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
    published: Option<Stored>,
}

impl Keeper {
    async fn keep(&mut self) {
        let mut backoff = DefaultBackoff::default();
        loop {
            let pause = match self.visit().await {
                Ok(renew_at) => {
                    backoff.reset();
                    self.pause(clock::now(), renew_at)
                }
                Err(error) => {
                    tracing::warn!(secret = self.settings.secret, %error, "certificate authority not kept; trying again");
                    backoff.next().unwrap_or(self.settings.poll)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One look at the Secret, with all that follows from it. Says when the next is due.
    async fn visit(&mut self) -> Result<Timestamp, VisitError> {
        for _ in 0..CONFLICTS {
            let secret = call("reading it", self.api.get_opt(&self.settings.secret)).await?;
            let stored = secret.as_ref().and_then(|secret| self.parse(secret));
            match self.step(stored.as_ref(), clock::now())? {
                Step::Keep { renew_at } => {
                    self.publish(stored)?;
                    return Ok(renew_at);
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

    /// A Secret that is gone or damaged gets back what was in it, if this replica knows: the other replicas serve that, and
    /// the API server trusts it, so that no request fails meanwhile.
    fn step(&self, stored: Option<&Stored>, now: Timestamp) -> Result<Step, IssueError> {
        match (stored, &self.published) {
            (None, Some(known)) => Ok(Step::Write(Box::new(known.clone()))),
            (stored, _) => next(stored, &self.settings.names, now, &self.settings.lifetimes),
        }
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

    fn publish(&mut self, stored: Option<Stored>) -> Result<(), CertificateError> {
        if stored == self.published {
            return Ok(());
        }
        if let Some(stored) = &stored {
            if let Some((chain, key)) = stored.serving() {
                self.hot.publish(chain.as_bytes(), key.as_bytes())?;
            }
            self.bundle.send_replace(Some(stored.bundle()));
        }
        self.published = stored;
        Ok(())
    }

    fn pause(&self, now: Timestamp, renew_at: Timestamp) -> Duration {
        let left = Duration::try_from(now.duration_until(renew_at)).unwrap_or_default();
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
/// Two replicas that start together settle it within one; the rest is for bad luck.
const CONFLICTS: usize = 5;

#[cfg(test)]
mod tests;
