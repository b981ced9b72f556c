//! The controller and the webhook, run as processes with the rights and the arguments that the chart gives them.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use super::chart::{Chart, NAMESPACE, RELEASE};
use super::ground::Ground;
use crate::process::{Process, Program, tail, wait_for};
use crate::{port, probe};

/// Free ports of the loopback.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(super) webhook: u16,
    pub(crate) controller: Telemetry,
    webhook_telemetry: Telemetry,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Telemetry {
    pub(crate) health: u16,
    metrics: u16,
}

impl Ports {
    pub(crate) fn free() -> anyhow::Result<Self> {
        let telemetry = || anyhow::Ok(Telemetry { health: port::free()?, metrics: port::free()? });
        Ok(Self { webhook: port::free()?, controller: telemetry()?, webhook_telemetry: telemetry()? })
    }
}

/// The running programs. Dropping it kills them.
#[derive(Debug)]
pub(super) struct Operator {
    programs: Vec<Process>,
}

impl Operator {
    /// Starts the programs and waits until they say that they are ready.
    pub(super) async fn start(
        ground: &Ground,
        program: &Path,
        chart: &Chart,
        ports: Ports,
        with_webhook: bool,
    ) -> anyhow::Result<Self> {
        let mut operator = Self { programs: Vec::new() };
        operator.run(ground, program, "controller", chart, &ports, ports.controller).await?;
        if with_webhook {
            operator.run(ground, program, "webhook", chart, &ports, ports.webhook_telemetry).await?;
        }
        Ok(operator)
    }

    /// Where the programs write.
    pub(super) fn logs(&self) -> impl Iterator<Item = &Path> {
        self.programs.iter().map(Process::log_path)
    }

    /// Waits until one of them ends, which none should.
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        loop {
            for program in &mut self.programs {
                match program.try_wait() {
                    Ok(None) => {}
                    Ok(Some(status)) => return program.ended_early(status),
                    Err(error) => return error.into(),
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The ends of the logs, for an error.
    pub(super) fn last_words(&self) -> String {
        let said = self.programs.iter().map(|program| {
            let name = program.log_path().file_stem().unwrap_or_default().to_string_lossy();
            format!("the last lines of {name}:\n{}\n", tail(&program.log(), 10))
        });
        format!("{}the demo failed", said.collect::<String>())
    }

    async fn run(
        &mut self,
        ground: &Ground,
        program: &Path,
        component: &str,
        chart: &Chart,
        ports: &Ports,
        telemetry: Telemetry,
    ) -> anyhow::Result<()> {
        let account = format!("{RELEASE}-{component}");
        let kubeconfig = ground.kubeconfig_of(NAMESPACE, &account).await?;
        let arguments = on_loopback(chart.arguments(component)?, ports.webhook, telemetry);
        let mut started = as_installed(program, arguments, &kubeconfig, ground.directory());
        if component == "webhook" {
            started = started.args(["--tls-extra-name", "127.0.0.1"]);
        }
        let mut process = started.spawn(&ground.directory().join(format!("{component}.log")))?;
        let url = format!("http://127.0.0.1:{}/readyz", telemetry.health);
        let what = format!("the {component} to be ready");
        let ready = tokio::select! {
            ready = wait_for(&what, READY, || probe::answers(&url)) => ready,
            status = process.wait() => Err(process.ended_early(status?)),
        };
        self.programs.push(process);
        ready.with_context(|| self.last_words())
    }
}

/// The controller with what the chart gives it: arguments, and the rights of `kubeconfig`.
pub(crate) fn controller(
    program: &Path,
    chart: &Chart,
    ports: &Ports,
    kubeconfig: &Path,
    home: &Path,
) -> anyhow::Result<Program> {
    let arguments = on_loopback(chart.arguments("controller")?, ports.webhook, ports.controller);
    Ok(as_installed(program, arguments, kubeconfig, home))
}

/// The program with these arguments and rights, and nothing of the user's own environment that would lead it elsewhere.
fn as_installed(program: &Path, arguments: Vec<String>, kubeconfig: &Path, home: &Path) -> Program {
    // No gcloud of the user's lends the operator an identity.
    let started =
        Program::new(program).args(arguments).env("KUBECONFIG", kubeconfig).env("CLOUDSDK_CONFIG", home);
    let confusing = std::env::vars_os().filter(|(name, _)| is_confusing(&name.to_string_lossy()));
    confusing.fold(started, |started, (name, _)| started.env_remove(name))
}

/// The Deployment's arguments, with addresses on the loopback and what the pod's environment would have filled in.
fn on_loopback(arguments: Vec<String>, webhook: u16, telemetry: Telemetry) -> Vec<String> {
    let moved = |argument: String| match argument.split_once('=') {
        Some(("--addr", _)) => format!("--addr=127.0.0.1:{webhook}"),
        Some(("--health-addr", _)) => format!("--health-addr=127.0.0.1:{}", telemetry.health),
        Some(("--metrics-addr", _)) => format!("--metrics-addr=127.0.0.1:{}", telemetry.metrics),
        _ => argument.replace("$(POD_NAMESPACE)", NAMESPACE),
    };
    arguments.into_iter().map(moved).collect()
}

/// Variables of the user's environment that would lead the programs elsewhere.
fn is_confusing(name: &str) -> bool {
    const NAMES: [&str; 3] =
        ["GOOGLE_APPLICATION_CREDENTIALS", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"];
    NAMES.contains(&name) || name.starts_with("IDTOKEN_OPERATOR_")
}

const READY: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployments_arguments_are_moved_to_the_loopback() {
        let arguments = ["webhook", "--addr=0.0.0.0:10250", "--operator-namespace=$(POD_NAMESPACE)"]
            .into_iter()
            .chain(["--health-addr=0.0.0.0:8081", "--metrics-addr=0.0.0.0:8080", "--log-level=info"])
            .map(str::to_owned)
            .collect();
        assert_eq!(
            on_loopback(arguments, 1, Telemetry { health: 2, metrics: 3 }),
            [
                "webhook",
                "--addr=127.0.0.1:1",
                "--operator-namespace=idtoken-system",
                "--health-addr=127.0.0.1:2",
                "--metrics-addr=127.0.0.1:3",
                "--log-level=info",
            ]
        );
    }

    #[test]
    fn only_misleading_variables_are_hidden() {
        assert!(is_confusing("IDTOKEN_OPERATOR_METADATA_URL"));
        assert!(is_confusing("KUBERNETES_SERVICE_HOST"));
        assert!(!is_confusing("PATH"));
        assert!(!is_confusing("IDTOKEN_CACHE_DIR"));
    }
}
