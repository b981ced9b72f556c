//! Two controllers, one of which has led and does not know yet that it does no longer.

use std::{path::Path, time::Duration};

use serde_json::Value;
use tokio::time::sleep;
use xtask::{
    google::{Endpoint, Fault},
    process::wait_for,
};

use crate::{
    common::{OPERATOR_NAMESPACE, audit::Audit, claims, http_get},
    fleet::{Fleet, PATIENCE},
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_leader_that_was_stopped_writes_nothing_after_another_one_has_taken_over() {
    let mut pair = Pair::start().await;
    // Mints under way when it stops.
    let latency = Fault::Latency(Duration::from_millis(500));
    pair.fleet.world.google.set_fault(Endpoint::GenerateIdToken, latency);
    let (first, second) = (pair.first_port, pair.second_port);
    pair.fleet
        .during(async |fleet| {
            sleep(Duration::from_secs(2)).await;
            fleet.world.signal_controller_at(0, "STOP");
            leads(second, LEASE, true).await;
            sleep(Duration::from_secs(5)).await;
            fleet.world.signal_controller_at(0, "CONT");
            leads(first, LEASE, false).await;
            sleep(Duration::from_secs(5)).await;
        })
        .await;
    Box::pin(pair.assert_handed_over()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_leader_whose_renewals_are_too_slow_writes_nothing_after_another_one_has_taken_over() {
    let mut pair = Pair::start().await;
    let (first, second) = (pair.first_port, pair.second_port);
    pair.fleet
        .during(async |fleet| {
            // Longer than a renewal may take, shorter than what lies between the end of a term and the next one.
            fleet.proxy.delay(Some(4..=4));
            leads(first, LEASE, false).await;
            leads(second, LEASE, true).await;
            sleep(Duration::from_secs(5)).await;
            fleet.proxy.delay(None);
            sleep(Duration::from_secs(5)).await;
        })
        .await;
    Box::pin(pair.assert_handed_over()).await;
}

const LEASE: &str = "idtoken-operator-controller";

/// A leader behind the fleet's proxy, and one who waits, before the API server itself.
struct Pair {
    fleet: Fleet,
    audit: Audit,
    first_port: u16,
    second_port: u16,
    /// Ids of their credentials, which the audit log knows them by.
    first: String,
    second: String,
}

impl Pair {
    async fn start() -> Self {
        let audit = Audit::new();
        let operator_namespace = format!("--operator-namespace={OPERATOR_NAMESPACE}");
        let flags = ["--leader-elect", &operator_namespace];
        let mut fleet = Fleet::start(audit.options(), &flags, &[("POD_NAME", "pod-a")]).await;
        let world = &mut fleet.world;
        let (first_port, first) = (world.controller_port, credential(world.newest_kubeconfig()));
        world.environment = vec![("POD_NAME".to_owned(), "pod-b".to_owned())];
        world.api_server = None;
        world.start_controller().await;
        let (second_port, second) = (world.controller_port, credential(world.newest_kubeconfig()));
        fleet.joined();
        leads(first_port, LEASE, true).await;
        Self { fleet, audit, first_port, second_port, first, second }
    }

    /// By the API server's own record: both have written, but the first one nothing more since the second one has the Lease.
    async fn assert_handed_over(mut self) {
        self.fleet.assert_sound().await;
        leads(self.second_port, LEASE, true).await;
        leads(self.first_port, LEASE, false).await;
        let of = |credential: &str| self.audit.done_with(credential);
        let taken = of(&self.second).into_iter().find(|event| resource(event) == "leases").unwrap();
        let taken = time(&taken);
        let written = |credential: &str| {
            let events = of(credential).into_iter();
            let times = events.filter(|event| resource(event) != "leases").map(|event| time(&event));
            times.collect::<Vec<_>>()
        };
        let (first, second) = (written(&self.first), written(&self.second));
        println!(
            "{} writes by the first, {} by the second, taken over at {taken}",
            first.len(),
            second.len()
        );
        assert!(first.len() >= 24 && second.len() >= 24, "a Secret and a status for each, by each of them");
        let late: Vec<_> = first.iter().filter(|time| **time >= taken).collect();
        assert_eq!(late, [&taken; 0], "taken over at {taken}");
        assert!(second.iter().all(|time| *time >= taken));
        self.fleet.end().await;
    }
}

/// The id of the token in a kubeconfig.
fn credential(kubeconfig: &Path) -> String {
    let config = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let token = serde_json::to_value(&config.auth_infos[0].auth_info).unwrap()["token"].clone();
    format!("JTI={}", claims(token.as_str().unwrap())["jti"].as_str().unwrap())
}

fn resource(event: &Value) -> &str {
    event["objectRef"]["resource"].as_str().unwrap()
}

fn time(event: &Value) -> jiff::Timestamp {
    event["stageTimestamp"].as_str().unwrap().parse().unwrap()
}

/// Waits until a process says that it leads, or that it does not.
pub async fn leads(port: u16, lease: &str, leads: bool) {
    let line = format!("\nleader_election_master_status{{name=\"{lease}\"}} {}\n", u8::from(leads));
    let said = || async {
        anyhow::ensure!(http_get(port, "/metrics").await?.contains(&line), "it says otherwise");
        Ok(())
    };
    wait_for("a change of leadership", PATIENCE, said).await.unwrap();
}
