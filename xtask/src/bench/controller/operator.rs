//! The controller as a process.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use tokio::time::{Instant, sleep};

use super::super::usage::Usage;
use crate::clock::now;
use crate::demo::chart::{Chart, NAMESPACE};
use crate::demo::operator::{Ports, controller};
use crate::process::{Process, wait_for};

/// A running controller.
pub(super) struct Operator {
    process: Process,
    /// When it was started.
    pub(super) started: Instant,
    started_at: Timestamp,
}

impl Operator {
    /// Starts it, and does not wait.
    pub(super) fn start(
        program: &Path,
        chart: &Chart,
        ports: &Ports,
        kubeconfig: &Path,
        home: &Path,
    ) -> anyhow::Result<Self> {
        let program = controller(program, chart, ports, kubeconfig, home)?;
        let (started, started_at) = (Instant::now(), now());
        let process = program.spawn(&home.join("controller.log"))?;
        Ok(Self { process, started, started_at })
    }

    /// What its process has used.
    pub(super) fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.process.pid())
    }

    /// Waits until `done` gives something; fails when the process ends, or after `within`, with its last words.
    pub(super) async fn until<T>(
        &mut self,
        what: &str,
        within: Duration,
        done: impl Fn() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(value) = done()? {
                return Ok(value);
            }
            if let Some(status) = self.process.try_wait()? {
                return Err(self.process.ended_early(status));
            }
            ensure!(
                Instant::now() < deadline,
                "waited {} s for {what}; the controller's last lines:\n{}",
                within.as_secs(),
                crate::process::tail(&self.process.log(), 10)
            );
            sleep(POLL).await;
        }
    }

    /// Waits until it leads and has nothing left to do; tells since when, and what it had used then.
    pub(super) async fn at_rest(&mut self, client: &Client) -> anyhow::Result<(Instant, Usage)> {
        let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
        let since = self.started_at;
        wait_for("the controller to lead", REST, async || {
            let leases = leases.list(&kube::api::ListParams::default()).await?;
            let renewed =
                leases.into_iter().filter_map(|lease| lease.spec?.renew_time).any(|at| at.0 >= since);
            ensure!(renewed, "nobody has taken the Lease");
            Ok(())
        })
        .await?;
        let deadline = Instant::now() + REST;
        let mut quiet = (Instant::now(), self.usage()?);
        while quiet.0.elapsed() < QUIET {
            ensure!(Instant::now() < deadline, "the controller has not come to rest in {} s", REST.as_secs());
            sleep(POLL).await;
            let usage = self.usage()?;
            if usage.cpu.saturating_sub(quiet.1.cpu) > IDLE {
                quiet = (Instant::now(), usage);
            }
        }
        Ok(quiet)
    }

    /// Ends it in good order, so that it gives its Lease back.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        let status = self.process.stop(GRACE).await?;
        ensure!(status.success(), "the controller ended with {status}");
        Ok(())
    }
}

const POLL: Duration = Duration::from_millis(20);
/// At rest is who uses no more processor time than [`IDLE`] in so long: 2 percent of one.
const QUIET: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_millis(40);
const REST: Duration = Duration::from_secs(300);
/// That of a pod.
const GRACE: Duration = Duration::from_secs(30);
