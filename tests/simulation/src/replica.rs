//! A replica of the operator: the product's controller as it is, with its ways to the models in place of sockets.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::Context as _;
use http::Uri;
use idtoken_operator::controller::{self, Election, Parts, Settings};
use idtoken_operator::plan::lease::Timing;
use idtoken_operator::telemetry::{health::Health, metrics::Metrics};
use idtoken_operator::token::{
    endpoints::Endpoints,
    http::Http,
    mint::Minter,
    operator::{Operator, Sources},
};
use idtoken_operator::verify::{
    Verifier,
    jwks::{Jwks, KeyUrls},
};
use jiff::SignedDuration;
use kube::Client;
use kube::client::retry::RetryPolicy;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower::retry::RetryLayer;

use crate::api_server::{ApiServer, Broken, Connection, LEASE};
use crate::google::{Google, Wire};
use crate::world::{Defect, World};

/// How a replica's network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Fine.
    Up,
    /// Nothing reaches the API server.
    CutOff,
    /// The process is gone: nothing of it reaches anybody, ever.
    Dead,
}

/// Who a replica is, and how its network is.
#[derive(Clone, Debug)]
pub struct Link {
    /// As in the Lease.
    pub identity: Arc<str>,
    network: watch::Sender<Network>,
    /// Its writes that are under way at the API server.
    pub(crate) writes: Arc<AtomicU64>,
}

impl Link {
    /// A network that is fine.
    #[must_use]
    pub fn new(identity: &str) -> Self {
        let (network, writes) = (watch::Sender::new(Network::Up), Arc::default());
        Self { identity: identity.into(), network, writes }
    }

    /// Changes the network.
    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// Whether it is fine.
    #[must_use]
    pub fn is_up(&self) -> bool {
        *self.network.borrow() == Network::Up
    }

    pub(crate) fn network(&self) -> watch::Receiver<Network> {
        self.network.subscribe()
    }

    /// Returns when the network is fine.
    pub(crate) async fn reachable(&self) {
        let _ = self.network().wait_for(|network| *network == Network::Up).await; // the sender is ours
    }

    /// Lets a message through, or loses it.
    pub(crate) async fn pass(&self) -> Result<(), Broken> {
        if self.is_up() {
            return Ok(());
        }
        self.reachable().await;
        Err(Broken)
    }

    /// Returns at once, or never.
    pub(crate) async fn alive(&self) {
        if *self.network.borrow() == Network::Dead {
            std::future::pending::<()>().await;
        }
    }
}

/// The models that replicas talk to.
#[derive(Clone)]
pub struct Models {
    /// What goes on.
    pub world: Arc<World>,
    /// Of the API server.
    pub api_server: Arc<ApiServer>,
    /// Of Google.
    pub google: Arc<Google>,
}

/// A replica that runs.
pub struct Replica {
    /// Its network.
    pub link: Link,
    stop: CancellationToken,
}

impl Replica {
    /// Starts one.
    pub fn start(models: &Models, identity: &str) -> anyhow::Result<Self> {
        let (link, stop) = (Link::new(identity), CancellationToken::new());
        let connection = Connection { server: models.api_server.clone(), link: link.clone() };
        let wire = Wire { google: models.google.clone(), link: link.clone() };
        let once = Client::new(connection.clone(), "default");
        let (parts, settings) = (parts(Http::over(Arc::new(wire)), once)?, settings(models, identity));
        let health = Health::awaiting(&[], stop.clone());
        let run = controller::run(retrying(connection), settings, parts, health, stop.clone());
        let (world, over, identity) = (models.world.clone(), stop.clone(), link.identity.clone());
        tokio::spawn(async move {
            let result = Box::pin(run).await;
            if !over.is_cancelled() || result.is_err() {
                world.ledger().fail(format!("the controller of {identity} ended by itself: {result:?}"));
            }
        });
        Ok(Self { link, stop })
    }

    /// SIGTERM.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// SIGKILL: what it still does reaches nobody.
    pub fn kill(&self) {
        self.link.set(Network::Dead);
        self.stop.cancel();
    }
}

/// As the product's own client: what the API server is too busy for is tried again.
fn retrying(connection: Connection) -> Client {
    let retry = RetryLayer::new(RetryPolicy::server_retry());
    Client::new(ServiceBuilder::new().layer(retry).service(connection), "default")
}

fn settings(models: &Models, identity: &str) -> Settings {
    let election = Election {
        namespace: LEASE.0.to_owned(),
        name: LEASE.1.to_owned(),
        identity: identity.to_owned(),
        timing: Timing::default(),
    };
    let is_elected = models.world.defect != Some(Defect::NoElection);
    Settings {
        grace: SignedDuration::from_mins(2),
        election: is_elected.then_some(election),
        ..Settings::default()
    }
}

fn parts(http: Http, once: Client) -> anyhow::Result<Parts> {
    let uri = |text: &str| text.parse::<Uri>().context("an address of the model");
    let endpoints = Endpoints {
        universe: "googleapis.com".to_owned(),
        cluster_pool: None,
        sts: uri("https://sts.googleapis.com")?,
        identity_toolkit: uri("https://identitytoolkit.googleapis.com")?,
        secure_token: uri("https://securetoken.googleapis.com")?,
        metadata: uri("http://metadata.google.internal")?,
        iam_credentials: uri("https://iamcredentials.googleapis.com")?,
        oauth_token: uri("https://oauth2.googleapis.com/token")?,
    };
    let keys = KeyUrls {
        google: uri("https://www.googleapis.com/oauth2/v3/certs")?,
        identity_platform: uri("https://www.googleapis.com/x")?,
        service_account: "https://www.googleapis.com/{email}".to_owned(),
    };
    let operator = Operator::new(&http, &endpoints, Sources::default());
    Ok(Parts {
        once,
        minter: Minter::new(&http, &endpoints, operator),
        verifier: Verifier::new(Jwks::new(http, keys), false),
        metrics: Metrics::new(),
    })
}
