//! The admission webhook: a TLS server that mounts tokens into pods which ask for them.
pub mod index;
pub mod lookup;
pub mod mutate;
pub mod registration;
pub mod review;
mod room;

use std::{convert::Infallible, future::Future, io, net::SocketAddr, sync::Arc};

use hyper::service::service_fn;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    telemetry::health::{Condition, Health},
    tls::{
        authority,
        files::{Files, FilesError, Follower},
        resolver::{HotCert, server_config},
        server::{self, Counters, Limits},
    },
};
use lookup::BindingLookup;

/// How the webhook is run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen. `0.0.0.0:10250` by default: the port that private GKE clusters let through.
    pub addr: SocketAddr,
    /// Where the serving certificate comes from.
    pub certificate: Certificate,
    /// The bounds of the server.
    pub limits: Limits,
}

/// Where the serving certificate comes from.
#[derive(Debug, Clone)]
pub enum Certificate {
    /// Our own CA.
    Own {
        /// Where it is kept.
        authority: authority::Settings,
        /// The `MutatingWebhookConfiguration` that is to trust it.
        configuration: String,
    },
    /// The user, or cert-manager: they see to caBundle too.
    Files(Files),
}

/// What the webhook counts.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// How reviews ended.
    pub outcomes: mutate::Outcomes,
    /// What happened below.
    pub server: Counters,
}

impl Metrics {
    /// Makes all of it known.
    pub fn register(&self, registry: &mut Registry) {
        self.outcomes.register(registry);
        self.server.register(registry, "webhook");
    }
}

/// Why the webhook could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is not to be had.
    #[error("listening on {addr}: {source}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The given certificate can't be used.
    #[error("serving certificate: {0}")]
    Files(#[from] FilesError),
    /// The TLS library refuses its configuration.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Runs the webhook until `cancel`, then drains. Tells `health` when the server listens, has a certificate, is registered and
/// `synced` (the first fill of the lookup's cache) is over.
pub async fn run<L: BindingLookup>(
    settings: Settings,
    client: Client,
    lookup: Arc<L>,
    synced: impl Future<Output = ()> + Send + 'static,
    health: Health,
    metrics: Metrics,
    cancel: CancellationToken,
) -> Result<(), Error> {
    let Settings { addr, certificate, limits } = settings;
    let hot = Arc::new(HotCert::default());
    let listener = TcpListener::bind(addr).await.map_err(|source| Error::Listen { addr, source })?;
    let config = Arc::new(server_config(hot.clone())?);
    let tasks = TaskTracker::new();
    health.met(Condition::Listening);
    let loaded = follow(certificate, client, hot, &tasks, &health, &cancel).await?;
    tracing::info!(addr = %listener.local_addr().unwrap_or(addr), "webhook listening");
    let (loaded, filled) = (tell(loaded, health.clone()), health.clone());
    tasks.spawn(cancel.clone().run_until_cancelled_owned(loaded));
    tasks.spawn(cancel.clone().run_until_cancelled_owned(async move {
        synced.await;
        filled.met(Condition::CachesFilled);
    }));

    let webhook = mutate::Webhook::new(lookup, metrics.outcomes, crate::clock::now);
    let app = service_fn(move |request| {
        let webhook = webhook.clone();
        async move { Ok::<_, Infallible>(webhook.respond(request).await) }
    });
    let accept = server::serve(listener, config, app, limits, metrics.server, cancel);
    health.vital("the accept loop", accept).await;
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Starts what keeps the certificate. The result holds a value once there is one.
async fn follow(
    certificate: Certificate,
    client: Client,
    hot: Arc<HotCert>,
    tasks: &TaskTracker,
    health: &Health,
    cancel: &CancellationToken,
) -> Result<watch::Receiver<Option<String>>, FilesError> {
    let (sender, bundle) = watch::channel(None);
    match certificate {
        Certificate::Files(files) => {
            let follower = Follower::start(files, hot).await?;
            sender.send_replace(Some(String::new()));
            tasks.spawn(health.vital("the certificate keeper", follower.run(cancel.clone())));
        }
        Certificate::Own { authority, configuration } => {
            let (seen, registered) = watch::channel(authority::Registered::default());
            let keeper =
                authority::maintain(client.clone(), authority, hot, sender, registered, cancel.clone());
            tasks.spawn(health.vital("the certificate keeper", keeper));
            let (bundle, health) = (bundle.clone(), health.clone());
            let registrar =
                registration::maintain(client, configuration, bundle, seen, health.clone(), cancel.clone());
            tasks.spawn(health.vital("the registration", registrar));
        }
    }
    Ok(bundle)
}

async fn tell(mut loaded: watch::Receiver<Option<String>>, health: Health) {
    if loaded.wait_for(Option::is_some).await.is_ok() {
        health.met(Condition::CertificateLoaded);
    }
}
