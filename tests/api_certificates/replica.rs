//! Replicas of the webhook within this process, whose certificates live for seconds, and the balancer in front of them.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use idtoken_operator::{
    plan::inject::BindingFacts,
    telemetry::health::{Condition, Health},
    tls::{
        authority::{self, Lifetimes, service_names},
        server::Limits,
    },
    webhook::{self, Certificate, Settings, lookup::CachedLookup},
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use xtask::process::wait_for;

use crate::common::{OPERATOR_NAMESPACE, SOON, World, admissions::CONFIGURATION, free_port};

/// As `idtoken-operator webhook` runs it, under the chart's RBAC; every binding is known.
pub struct Replica {
    pub port: u16,
    health: Health,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), webhook::Error>>,
}

impl Replica {
    pub async fn start(world: &World, lifetimes: Lifetimes, poll: Duration) -> Self {
        let account = (OPERATOR_NAMESPACE, "idtoken-operator-webhook");
        let kubeconfig = world.cluster.kubeconfig_for_service_account(account.0, account.1).await.unwrap();
        let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        let port = free_port();
        let settings = Settings {
            addr: ([127, 0, 0, 1], port).into(),
            certificate: Certificate::Own {
                authority: authority::Settings {
                    namespace: OPERATOR_NAMESPACE.to_owned(),
                    secret: "idtoken-operator-webhook-tls".to_owned(),
                    names: service_names("webhook", OPERATOR_NAMESPACE, &["127.0.0.1".to_owned()]),
                    lifetimes,
                    poll,
                },
                configuration: CONFIGURATION.to_owned(),
            },
            limits: Limits::default(),
        };
        let cancel = CancellationToken::new();
        let conditions = [Condition::CertificateLoaded, Condition::Listening, Condition::Registered];
        let health = Health::awaiting(&conditions, cancel.clone());
        let task = tokio::spawn(webhook::run(
            settings,
            kube::Client::try_from(config).unwrap(),
            Arc::new(CachedLookup::new(
                |_: &str, _: &str| Some(facts()),
                |_, _| async { Ok::<_, Infallible>(None) },
            )),
            std::future::ready(()),
            health.clone(),
            webhook::Metrics::default(),
            cancel.clone(),
        ));
        Self { port, health, cancel, task }
    }

    pub async fn ready(&self) {
        let ready = async || self.health.ready().map_err(anyhow::Error::msg);
        wait_for("a replica to be ready", SOON, ready).await.unwrap();
    }

    pub async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn facts() -> BindingFacts {
    BindingFacts {
        secret_name: "orders-idtoken".to_owned(),
        key: "id_token".to_owned(),
        authorization_key: None,
        expiration_time: None,
    }
}

/// Hands each connection to the next replica.
pub struct Balancer {
    pub port: u16,
    connections: Arc<[AtomicUsize; 2]>,
}

impl Balancer {
    pub async fn start(replicas: [u16; 2]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let counts = connections.clone();
        tokio::spawn(async move {
            for next in (0..2).cycle() {
                let Ok((mut near, _)) = listener.accept().await else { return };
                counts[next].fetch_add(1, Relaxed);
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(("127.0.0.1", replicas[next])).await.unwrap();
                    let _ = copy_bidirectional(&mut near, &mut far).await; // ends as either side ends it
                });
            }
        });
        Self { port, connections }
    }

    /// How many each replica was given.
    pub fn connections(&self) -> [usize; 2] {
        self.connections.each_ref().map(|count| count.load(Relaxed))
    }
}
