//! `idtoken-operator controller`.

use std::path::PathBuf;

use anyhow::Context as _;
use jiff::SignedDuration;
use kube::core::Selector;
use tokio_util::sync::CancellationToken;

use super::{
    endpoints::EndpointArgs,
    identity::IdentityArgs,
    namespaces::NamespaceArgs,
    process::{Started, TelemetryArgs, start},
    selector::selector,
};
use crate::{
    controller::{self, Election, GrantsFile, Parts, Settings},
    plan::{lease::Timing, uninjected::Excluded},
    telemetry::{health::Condition, metrics::Metrics},
    token::{http::Http, mint::Minter, operator::Operator},
    verify::{Verifier, jwks::Jwks},
};

/// Keep the Secret of every `IdTokenBinding` filled
///
/// In a cluster it uses the pod's ServiceAccount, outside the kubeconfig. Towards Google it is whom the first of these stands for: the
/// credential file that `GOOGLE_APPLICATION_CREDENTIALS` names; gcloud's `application_default_credentials.json`, where there is one that can
/// be read, which must not be a person's; the metadata server.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    namespaces: NamespaceArgs,
    /// Serve the bindings with these labels only, so that several installations share a very large fleet: a label selector as kubectl
    /// takes it. No binding may be selected by two of them. None: all bindings
    #[arg(
        long,
        env = "IDTOKEN_OPERATOR_BINDING_SELECTOR",
        value_name = "SELECTOR",
        default_value = "",
        hide_default_value = true,
        value_parser = selector
    )]
    binding_selector: Selector,
    /// Read IdTokenGrants from this YAML file and no others; it is read again when it changes. With it neither grants nor
    /// namespaces are watched, so that together with --namespace Roles are enough
    #[arg(long, env = "IDTOKEN_OPERATOR_GRANTS_FILE", value_name = "FILE")]
    grants_file: Option<PathBuf>,
    /// How long a Secret stays that no grant allows any more, so that a grant can be replaced without disturbing anybody: 2m, 90s, 1h;
    /// 0s removes it at once. With --grants-file keep it above the time that a mounted ConfigMap takes to reach every node, some 2m: a
    /// replica whose file is older would take Secrets that the newer one allows
    #[arg(long, env = "IDTOKEN_OPERATOR_GRANT_GRACE", value_name = "TIME", default_value = "2m", value_parser = grace)]
    grant_grace: SignedDuration,
    /// Serve bindings whose source is a Kubernetes ServiceAccount. Needs the right to watch ServiceAccounts and to make tokens for them
    #[arg(long, env = "IDTOKEN_OPERATOR_KUBERNETES_SERVICE_ACCOUNTS")]
    kubernetes_service_accounts: bool,
    /// Look for pods that ask for tokens by the annotation idtoken.dev/inject and have none, and report them by Events and by the metric
    /// idtoken_uninjected_pods. Needs the right to get, list and watch pods
    #[arg(long, env = "IDTOKEN_OPERATOR_REPORT_UNINJECTED_PODS")]
    report_uninjected_pods: bool,
    /// Namespaces whose pods are not to be reported, since nothing is injected there; `NAME*` stands for all that begin so
    #[arg(
        long,
        env = "IDTOKEN_OPERATOR_EXCLUDE_NAMESPACES",
        value_name = "NAMESPACES",
        value_delimiter = ','
    )]
    exclude_namespaces: Vec<String>,
    /// Refuse tokens whose signature can't be checked because the issuer's keys can't be fetched
    #[arg(long, env = "IDTOKEN_OPERATOR_REQUIRE_SIGNATURE")]
    require_signature: bool,
    #[command(flatten)]
    identity: IdentityArgs,
    #[command(flatten)]
    election: ElectionArgs,
    #[command(flatten)]
    endpoints: EndpointArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

/// Several replicas, one of which acts.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Leader election")]
struct ElectionArgs {
    /// Act only while holding a Lease, so that several replicas can run
    #[arg(long, env = "IDTOKEN_OPERATOR_LEADER_ELECT")]
    leader_elect: bool,
    /// Namespace of the operator: the Lease is there
    #[arg(
        long,
        env = "IDTOKEN_OPERATOR_OPERATOR_NAMESPACE",
        value_name = "NAMESPACE",
        default_value = "idtoken-system"
    )]
    operator_namespace: String,
    /// Name of the Lease
    #[arg(
        long,
        env = "IDTOKEN_OPERATOR_LEASE_NAME",
        value_name = "NAME",
        default_value = "idtoken-operator-controller"
    )]
    lease_name: String,
}

pub(super) async fn run(args: Args, stop: CancellationToken) -> anyhow::Result<()> {
    let endpoints = args.endpoints.endpoints()?;
    let keys = args.endpoints.key_urls()?;
    let scope = args.namespaces.scope()?;
    let grants = match args.grants_file.filter(|path| !path.as_os_str().is_empty()) {
        Some(path) => Some(GrantsFile::open(path).await?),
        None => None,
    };
    let metrics = Metrics::with(|registry| grants.iter().for_each(|file| file.register(registry)));
    let Started { client, once, health } =
        start(&args.telemetry, metrics.clone(), &[Condition::CachesFilled], &stop).await?;
    let election = args.election.election()?;
    let http = Http::new().context("the system's CA certificates can't be loaded")?;
    let operator = Operator::new(&http, &endpoints, args.identity.sources(false)?);
    let parts = Parts {
        once,
        minter: Minter::new(&http, &endpoints, operator),
        verifier: Verifier::new(Jwks::new(http, keys), args.require_signature),
        metrics,
    };
    let kubernetes_service_accounts = args.kubernetes_service_accounts;
    let uninjected = args.report_uninjected_pods.then(|| Excluded::new(args.exclude_namespaces));
    let grace = args.grant_grace;
    let selector = args.binding_selector;
    let settings =
        Settings { scope, selector, grants, grace, kubernetes_service_accounts, uninjected, election };
    Box::pin(controller::run(client, settings, parts, health, stop)).await
}

/// A time as people write it, such as `2m` or `1h 30m`.
fn grace(text: &str) -> Result<SignedDuration, String> {
    let grace: SignedDuration =
        text.parse().map_err(|_| "write a number and a unit, such as 90s, 2m or 1h".to_owned())?;
    if !(SignedDuration::ZERO..=LONGEST_GRACE).contains(&grace) {
        return Err("must be from 0s to 24h".to_owned());
    }
    Ok(grace)
}

/// No token lives longer.
const LONGEST_GRACE: SignedDuration = SignedDuration::from_hours(24);

impl ElectionArgs {
    fn election(self) -> anyhow::Result<Option<Election>> {
        if !self.leader_elect {
            return Ok(None);
        }
        Ok(Some(Election {
            namespace: self.operator_namespace,
            name: self.lease_name,
            identity: identity(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))?,
            timing: Timing::default(),
        }))
    }
}

/// The pod's name, which no other process has as long as this one lives. A host's name others on that host have too.
fn identity(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<String> {
    if let Some(pod) = variable("POD_NAME") {
        return Ok(pod);
    }
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| anyhow::anyhow!("there are no random numbers"))?;
    let host = variable("HOSTNAME").unwrap_or_else(|| "idtoken-operator".to_owned());
    Ok(format!("{host}_{:016x}", u64::from_be_bytes(random)))
}

#[cfg(test)]
mod tests {
    use super::{grace, identity};

    #[test]
    fn a_grace_is_a_number_with_a_unit_of_at_most_a_day() {
        for (text, seconds) in
            [("0s", 0), ("90s", 90), ("2m", 120), ("1h", 3600), ("1h 30m", 5400), ("24h", 86400)]
        {
            assert_eq!(grace(text).unwrap().as_secs(), seconds, "{text}");
        }
        for text in ["", "2", "-2m", "24h 1s", "soon"] {
            assert!(grace(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_pods_name_is_taken_as_it_is_and_a_hosts_name_made_unique() {
        let set = |set: &'static [(&str, &str)]| {
            move |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let pod = set(&[("POD_NAME", "controller-7d9f-x2k4p"), ("HOSTNAME", "node")]);
        assert_eq!(identity(pod).unwrap(), "controller-7d9f-x2k4p");
        let host = || identity(set(&[("HOSTNAME", "laptop")])).unwrap();
        assert!(host().starts_with("laptop_") && host().len() == 23);
        assert_ne!(host(), host());
        assert!(identity(|_| None).unwrap().starts_with("idtoken-operator_"));
    }
}
