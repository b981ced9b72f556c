//! `idtoken-operator webhook`.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher},
};
use prometheus_client::metrics::gauge::Gauge;
use tokio_util::sync::CancellationToken;

use super::{
    namespaces::NamespaceArgs,
    process::{Started, TelemetryArgs, start},
};
use crate::{
    cache::{
        Parts, Scope, api,
        fill::{Fills, Progress, follow},
    },
    telemetry::{
        health::{Condition, Health},
        metrics::Metrics,
    },
    tls::{
        authority::{self, Lifetimes, service_names},
        files::Files,
        server::Limits,
    },
    webhook::{
        self, Certificate, Settings,
        index::{Index, Kept, Seen},
        lookup::CachedLookup,
    },
};

/// Mount tokens into pods that ask for them by annotation
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to listen for the API server; the path is /mutate
    #[arg(long, env = "IDTOKEN_OPERATOR_ADDR", default_value = "0.0.0.0:10250")]
    addr: SocketAddr,
    /// Namespace of the operator: its serving certificate is kept there
    #[arg(
        long,
        env = "IDTOKEN_OPERATOR_OPERATOR_NAMESPACE",
        value_name = "NAMESPACE",
        default_value = "idtoken-system"
    )]
    operator_namespace: String,
    /// Name of the Service in front of the webhook
    #[arg(
        long,
        env = "IDTOKEN_OPERATOR_SERVICE_NAME",
        value_name = "NAME",
        default_value = "idtoken-operator-webhook"
    )]
    service_name: String,
    /// Name of the MutatingWebhookConfiguration whose caBundle is kept
    #[arg(
        long,
        env = "IDTOKEN_OPERATOR_WEBHOOK_CONFIG_NAME",
        value_name = "NAME",
        default_value = "idtoken-operator"
    )]
    webhook_config_name: String,
    /// Secret that holds our own CA and serving certificate
    #[arg(
        long,
        env = "IDTOKEN_OPERATOR_TLS_SECRET_NAME",
        value_name = "NAME",
        default_value = "idtoken-operator-webhook-tls"
    )]
    tls_secret_name: String,
    /// Further DNS name or IP address for the serving certificate; repeatable
    #[arg(long, env = "IDTOKEN_OPERATOR_TLS_EXTRA_NAME", value_name = "NAME", value_delimiter = ',')]
    tls_extra_name: Vec<String>,
    /// Serving certificate chain (PEM), instead of our own CA; you keep caBundle
    #[arg(long, env = "IDTOKEN_OPERATOR_TLS_CERT_FILE", value_name = "FILE", requires = "tls_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Key of the serving certificate (PEM)
    #[arg(long, env = "IDTOKEN_OPERATOR_TLS_KEY_FILE", value_name = "FILE", requires = "tls_cert_file")]
    tls_key_file: Option<PathBuf>,
    #[command(flatten)]
    namespaces: NamespaceArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

pub(super) async fn run(args: Args, stop: CancellationToken) -> anyhow::Result<()> {
    let scope = args.namespaces.scope()?;
    let webhook_metrics = webhook::Metrics::default();
    let metrics = Metrics::with(|registry| webhook_metrics.register(registry));
    let refused = metrics.refused_watches.clone();
    let Started { client, health, .. } = start(&args.telemetry, metrics, args.awaited(), &stop).await?;
    // Until the last review is answered, bindings are known as they are.
    let watching = CancellationToken::new();
    let _ended = watching.clone().drop_guard();
    let (bindings, filling) =
        scope.each(|namespace| watch(&client, namespace, &refused, &health, watching.clone())).unzip();
    let fills = Fills::new(Vec::new(), filling.into_all().map(|progress| vec![progress]).collect());
    let synced = async move { fills.settled().await };
    let lookup = lookup(client.clone(), scope, bindings);
    let settings = Settings { addr: args.addr, certificate: args.certificate(), limits: Limits::default() };
    webhook::run(settings, client, Arc::new(lookup), synced, health, webhook_metrics, stop).await?;
    Ok(())
}

impl Args {
    /// What makes the webhook ready. Of a given certificate others see to caBundle.
    fn awaited(&self) -> &'static [Condition] {
        const AWAITED: [Condition; 4] = [
            Condition::CachesFilled,
            Condition::CertificateLoaded,
            Condition::Listening,
            Condition::Registered,
        ];
        if self.tls_cert_file.is_some() { &AWAITED[..3] } else { &AWAITED }
    }

    fn certificate(self) -> Certificate {
        match (self.tls_cert_file, self.tls_key_file) {
            (Some(certificate), Some(key)) => Certificate::Files(Files { certificate, key }),
            _ => Certificate::Own {
                authority: authority::Settings {
                    names: service_names(&self.service_name, &self.operator_namespace, &self.tls_extra_name),
                    namespace: self.operator_namespace,
                    secret: self.tls_secret_name,
                    lifetimes: Lifetimes::default(),
                    poll: TLS_POLL,
                },
                configuration: self.webhook_config_name,
            },
        }
    }
}

/// Starts the watch that fills an index of bindings.
fn watch(
    client: &Client,
    namespace: Option<&str>,
    refused: &Gauge,
    health: &Health,
    stop: CancellationToken,
) -> (Index, Progress) {
    let name = "the watch of bindings";
    let bindings = Index::default();
    let config = watcher::Config::default().page_size(PAGE);
    let mut write = bindings.writer(Kept::of);
    let events = watcher(api::<Seen>(client, namespace), config).default_backoff();
    let events = events.inspect_ok(move |event| write(event));
    let (events, progress) = follow(events, name, namespace, refused);
    let filled = events.take_until(stop.cancelled_owned()).for_each(|_| std::future::ready(()));
    tokio::spawn(health.vital(name, filled));
    (bindings, progress)
}

fn lookup(client: Client, scope: Scope, bindings: Parts<Index>) -> impl webhook::lookup::BindingLookup {
    CachedLookup::new(
        move |namespace: &str, name: &str| {
            bindings.of(namespace)?.get(namespace, name, |kept| kept.facts(name))
        },
        move |namespace: String, name: String| {
            // Elsewhere nothing may be read, and nobody fills what is there.
            let api = scope.contains(&namespace).then(|| Api::<Seen>::namespaced(client.clone(), &namespace));
            async move {
                let Some(api) = api else { return Ok(None) };
                Ok::<_, kube::Error>(api.get_opt(&name).await?.map(|seen| seen.facts()))
            }
        },
    )
}

/// Bindings in one answer of the first fill: as many as make no answer that memory would show.
const PAGE: u32 = 100;
/// How often each replica looks whether another one has renewed the certificate, or somebody has deleted it.
const TLS_POLL: Duration = Duration::from_secs(10);
