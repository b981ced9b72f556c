//! `idtoken-operator controller`.

use std::path::PathBuf;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::{
    endpoints::EndpointArgs,
    process::{TelemetryArgs, start},
};
use crate::{
    controller::{self, Parts},
    telemetry::{health::Condition, metrics::Metrics},
    token::{http::Http, mint::Minter, operator::Operator},
    verify::{Verifier, jwks::Jwks},
};

/// Keep the Secret of every `IdTokenBinding` filled
///
/// In a cluster it uses the pod's ServiceAccount, outside the kubeconfig. Towards Google it is the service account key
/// that `GOOGLE_APPLICATION_CREDENTIALS` names, where that is set, else who the metadata server says it is.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Refuse tokens whose signature can't be checked because the issuer's keys can't be fetched
    #[arg(long, env = "IDTOKEN_OPERATOR_REQUIRE_SIGNATURE")]
    require_signature: bool,
    /// A service account key as the operator's identity, instead of the metadata server
    #[arg(long, env = "GOOGLE_APPLICATION_CREDENTIALS", value_name = "FILE")]
    google_application_credentials: Option<PathBuf>,
    #[command(flatten)]
    endpoints: EndpointArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

pub(super) async fn run(args: Args, stop: CancellationToken) -> anyhow::Result<()> {
    let endpoints = args.endpoints.endpoints()?;
    let jwks = args.endpoints.jwks()?;
    let metrics = Metrics::new();
    let started = start(&args.telemetry, metrics.clone(), &[Condition::CachesFilled], &stop).await?;
    let http = Http::new().context("the system's CA certificates can't be loaded")?;
    let operator = Operator::new(
        http.clone(),
        endpoints.metadata.clone(),
        endpoints.oauth_token.clone(),
        args.google_application_credentials.filter(|path| !path.as_os_str().is_empty()),
    );
    let parts = Parts {
        minter: Minter::new(&http, &endpoints, operator),
        verifier: Verifier::new(Jwks::new(http, jwks), args.require_signature),
        metrics,
    };
    controller::run(started.client, parts, started.health, stop).await
}
