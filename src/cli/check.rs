//! `idtoken-operator check`.

use std::{fmt::Debug, time::Duration};

use k8s_openapi::{NamespaceResourceScope, api::core::v1::Pod};
use kube::{Api, Client, Resource, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{namespaces::label, process::client};
use crate::{api::IdTokenBinding, plan::check};

/// Check an installation: would an annotated pod get its volume, mount and variables?
///
/// Sends an IdTokenBinding and an annotated pod to the API server as dry runs, which change nothing, and looks at what comes
/// back. Repeats that until it is as it should be or the time is over. Needs the right to create both in the namespace. Whether
/// Google gives a token is not asked: the status of a binding says so.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Namespace to check in: one where the webhook mounts tokens, so not the operator's own
    // Without the variable of the other subcommands, which holds a list.
    #[arg(long, value_name = "NAMESPACE", value_parser = label)]
    namespace: String,
    /// How long to wait for it
    #[arg(
        long,
        env = "IDTOKEN_OPERATOR_TIMEOUT_SECONDS",
        value_name = "SECONDS",
        default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    timeout_seconds: u64,
}

pub(super) async fn run(args: Args, stop: CancellationToken) -> anyhow::Result<()> {
    let check = Check {
        client: client().await?,
        deadline: Instant::now() + Duration::from_secs(args.timeout_seconds),
        args,
    };
    match stop.run_until_cancelled(check.all()).await {
        Some(checked) => checked,
        None => anyhow::bail!("ended by a signal before it was decided"),
    }
}

struct Check {
    client: Client,
    args: Args,
    deadline: Instant,
}

impl Check {
    async fn all(&self) -> anyhow::Result<()> {
        let namespace = &self.args.namespace;
        self.repeat("1/2 the API server takes an IdTokenBinding", async || {
            self.create::<IdTokenBinding>(check::binding(), check::explain_binding).await.map(drop)
        })
        .await?;
        self.repeat("2/2 an annotated pod gets its volume, mount and variables", async || {
            check::judge(&self.create::<Pod>(check::pod(), check::explain_pod).await?, namespace)
        })
        .await?;
        println!("ok: pods in namespace {namespace} get their volume, mount and variables");
        Ok(())
    }

    /// Prints a step and how it goes: each new answer once.
    async fn repeat(&self, step: &str, attempt: impl AsyncFn() -> Result<(), String>) -> anyhow::Result<()> {
        let mut last = String::new();
        loop {
            match attempt().await {
                Ok(()) => {
                    println!("ok: {step}");
                    return Ok(());
                }
                Err(why) if why != last => {
                    println!("not yet: {step}: {why}");
                    last = why;
                }
                Err(_) => {}
            }
            if Instant::now() + PAUSE >= self.deadline {
                anyhow::bail!("{last} (given up after {} s)", self.args.timeout_seconds);
            }
            sleep(PAUSE).await;
        }
    }

    async fn create<K>(&self, object: Value, explain: fn(u16, &str) -> String) -> Result<K, String>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let api = Api::<K>::namespaced(self.client.clone(), &self.args.namespace);
        let object = serde_json::from_value(object).map_err(|error| error.to_string())?;
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        let left = self.deadline.saturating_duration_since(Instant::now()).clamp(PAUSE, CALL);
        match timeout(left, api.create(&dry_run, &object)).await {
            Ok(Ok(created)) => Ok(created),
            Ok(Err(kube::Error::Api(status))) => Err(explain(status.code, &status.message)),
            Ok(Err(error)) => Err(format!("the API server can't be reached: {error}")),
            Err(_) => Err(format!("the API server has not answered within {} s", left.as_secs())),
        }
    }
}

/// Longer than the API server waits for a webhook, unless its time-out was raised.
const CALL: Duration = Duration::from_secs(12);
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::Args;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn one_namespace_is_named_and_no_list_of_another_subcommand_is_taken_for_it() {
        let line = Line::command();
        let flag = line.get_arguments().find(|flag| flag.get_id() == "namespace").unwrap();
        assert_eq!(flag.get_env(), None, "an operator's environment holds a list of what it serves");
        let parse = |value: &str| Line::try_parse_from(["check", "--namespace", value]);
        assert_eq!(parse("shop").unwrap().args.namespace, "shop");
        for wrong in ["shop,bank", "Shop", "", "shop/x"] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.contains("can't be the name of a namespace"), "{error}");
        }
    }
}
