//! Leader election: keeps or watches the Lease. What to do with it is decided in [`plan::lease`](crate::plan::lease).

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::fence::{Moment, Role};
use crate::{
    clock,
    plan::lease::{Step, Timing, held, released, step},
};

/// Where the Lease is and who we are.
#[derive(Debug, Clone)]
pub struct Election {
    /// The namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Ours; no two processes may have the same.
    pub identity: String,
    /// Its times.
    pub timing: Timing,
}

/// Takes part in an election.
pub(super) struct Candidate {
    api: Api<Lease>,
    election: Election,
    role: watch::Sender<Role>,
    /// 1 while this is the leader.
    status: Gauge,
    seen: Option<Seen>,
    /// Why there was no answer, since there was one.
    complaint: Option<String>,
}

/// A version of the Lease, and since when it is all that we have seen.
struct Seen {
    version: Option<String>,
    since: Instant,
}

impl Candidate {
    /// Asks by `client`, which should not try again by itself: here each answer counts, and when it came.
    pub(super) fn new(client: Client, election: Election, role: watch::Sender<Role>, status: Gauge) -> Self {
        let api = Api::namespaced(client, &election.namespace);
        Self { api, election, role, status, seen: None, complaint: None }
    }

    /// Runs until `drained`, and then gives the Lease back. From `stop` on it is renewed, but no longer taken over.
    pub(super) async fn run(mut self, stop: CancellationToken, drained: CancellationToken) {
        let Election { name, identity, .. } = &self.election;
        tracing::info!(lease = name, identity, "taking part in the election of a leader");
        let timing = self.election.timing;
        while !drained.is_cancelled() {
            let answered = if self.leads() || !stop.is_cancelled() { self.turn().await } else { true };
            let pause = if answered && self.leads() { timing.renewal } else { timing.look };
            drained.run_until_cancelled(sleep(pause)).await;
        }
        let led = self.leads();
        self.assume(Role::Follower);
        if led {
            self.give_back().await;
        }
    }

    fn leads(&self) -> bool {
        matches!(*self.role.borrow(), Role::Leader { .. })
    }

    /// One look at the Lease, and whether there was an answer. Where there is none, the role is kept for as long as it was promised;
    /// after a call that hangs there is time for others.
    async fn turn(&mut self) -> bool {
        let (sent, timing) = (Moment::now(), self.election.timing);
        let answer = match timeout(timing.deadline / 4, self.attempt()).await {
            Ok(Ok(Some(term))) => Ok(Role::Leader { until: sent.after(timing.deadline), term }),
            Ok(Ok(None)) => Ok(Role::Follower),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        };
        let answered = answer.is_ok();
        match answer {
            Ok(role) => self.assume(role),
            Err(error) => self.complain(error),
        }
        let role = *self.role.borrow();
        if self.leads() && role.term(Moment::now()).is_none() {
            tracing::error!(
                lease = self.election.name,
                "the Lease was not renewed in time; no longer the leader"
            );
            self.assume(Role::Follower);
        }
        answered
    }

    /// Says once what is said again every second.
    fn complain(&mut self, error: String) {
        if self.complaint.as_ref() != Some(&error) {
            tracing::warn!(lease = self.election.name, error, "Lease not reached; trying again");
            self.complaint = Some(error);
        }
    }

    fn assume(&mut self, role: Role) {
        self.complaint = None;
        let led = self.leads();
        self.role.send_replace(role);
        if led != self.leads() {
            let Election { name, identity, .. } = &self.election;
            tracing::info!(lease = name, identity, leader = !led, "the role has changed");
            self.status.set(i64::from(!led));
        }
    }

    /// The term, if we lead. Whoever is faster than us makes us look again.
    async fn attempt(&mut self) -> kube::Result<Option<i32>> {
        loop {
            let lease = self.api.get_opt(&self.election.name).await?;
            let unchanged = self.see(lease.as_ref());
            let Election { identity, timing, .. } = &self.election;
            let spec = lease.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
            if step(spec.as_ref(), identity, unchanged, timing) == Step::Follow {
                return Ok(None);
            }
            let wanted = held(spec, identity, clock::now(), timing);
            match self.write(lease, wanted).await {
                Ok(lease) => {
                    self.see(Some(&lease));
                    return Ok(lease.spec.and_then(|spec| spec.lease_transitions).or(Some(0)));
                }
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => sleep(CONFLICT).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// How long `lease` is what we have been seeing.
    fn see(&mut self, lease: Option<&Lease>) -> Duration {
        let version = lease.and_then(|lease| lease.metadata.resource_version.clone());
        let now = Instant::now();
        let seen = self.seen.take().filter(|seen| seen.version == version);
        let seen = seen.unwrap_or(Seen { version, since: now });
        let unchanged = now.duration_since(seen.since);
        self.seen = Some(seen);
        unchanged
    }

    /// Writes over exactly what was read: of two that try, one succeeds.
    async fn write(&self, lease: Option<Lease>, spec: LeaseSpec) -> kube::Result<Lease> {
        let (name, params) = (&self.election.name, PostParams::default());
        if let Some(lease) = lease {
            return self.api.replace(name, &params, &Lease { spec: Some(spec), ..lease }).await;
        }
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        self.api.create(&params, &Lease { metadata, spec: Some(spec) }).await
    }

    /// So that another leads at once. Where it fails, that one waits a little.
    async fn give_back(&self) {
        let give = async {
            let Some(lease) = self.api.get_opt(&self.election.name).await? else { return Ok(()) };
            let spec = lease.spec.clone().unwrap_or_default();
            match released(&spec, &self.election.identity, clock::now()) {
                Some(spec) => self.write(Some(lease), spec).await.map(drop),
                None => Ok(()),
            }
        };
        match timeout(GIVE_BACK, give).await {
            Ok(Ok(())) => tracing::info!(lease = self.election.name, "Lease given back"),
            Ok(Err(error)) => tracing::warn!(lease = self.election.name, %error, "Lease not given back"),
            Err(_) => tracing::warn!(lease = self.election.name, "Lease not given back: no answer in time"),
        }
    }
}

/// Before another look at a Lease that somebody else has just written.
const CONFLICT: Duration = Duration::from_millis(50);
const GIVE_BACK: Duration = Duration::from_secs(3);
