//! What a while has cost: requests, mints, processor time and memory.

use std::time::Duration;

use serde::Serialize;

use super::super::usage::Usage;
use super::requests::{Requests, RequestsReport};
use super::stage::Stage;

/// What was counted at a moment.
pub(super) struct Meter {
    requests: Requests,
    mints: u64,
}

/// What a while has cost.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Phase {
    /// How long what is told about took.
    pub(super) seconds: f64,
    /// Processor time in these seconds, of each process.
    pub(super) cpu: Cpu,
    /// Of the controller: resident at the end, and the most there ever was.
    pub(super) memory_bytes: u64,
    pub(super) memory_peak_bytes: u64,
    /// Writes of Secrets, bindings, statuses and Events.
    pub(super) writes: u64,
    /// ID tokens that Google has signed.
    pub(super) mints: u64,
    /// All requests that the API server has answered.
    pub(super) requests: Vec<RequestsReport>,
}

/// Seconds of processor time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Cpu {
    pub(super) controller: f64,
    pub(super) api_server: f64,
    pub(super) etcd: f64,
}

impl Cpu {
    /// What each has used so far. Of a controller that was not there then: nothing.
    pub(super) fn now(stage: &Stage, controller: Option<Usage>) -> anyhow::Result<Self> {
        let [api_server, etcd] = stage.cpu()?;
        let controller = controller.map_or(Duration::ZERO, |usage| usage.cpu);
        Ok(Self {
            controller: controller.as_secs_f64(),
            api_server: api_server.as_secs_f64(),
            etcd: etcd.as_secs_f64(),
        })
    }

    /// That of API server and etcd together.
    pub(super) fn served(self) -> f64 {
        self.api_server + self.etcd
    }

    /// What came since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            controller: self.controller - before.controller,
            api_server: self.api_server - before.api_server,
            etcd: self.etcd - before.etcd,
        }
    }
}

impl Meter {
    /// Looks at the counters.
    pub(super) async fn read(stage: &Stage) -> anyhow::Result<Self> {
        Ok(Self { requests: stage.requests().await?, mints: stage.mints() })
    }

    /// What came since, together with what is known of time and processors.
    pub(super) async fn phase(
        &self,
        stage: &Stage,
        seconds: f64,
        cpu: Cpu,
        memory: Usage,
    ) -> anyhow::Result<Phase> {
        let now = Self::read(stage).await?;
        let requests = now.requests.since(&self.requests);
        Ok(Phase {
            seconds,
            cpu,
            memory_bytes: memory.resident,
            memory_peak_bytes: memory.peak,
            writes: requests.writes(),
            mints: now.mints - self.mints,
            requests: requests.report(),
        })
    }
}
