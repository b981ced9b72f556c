//! Twelve bindings in two namespaces that are refreshed all the time, Secrets of other people beside them, and what must hold
//! of all this after a disaster.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use idtoken_operator::api::IdTokenBinding;
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use xtask::{
    cluster::{ClusterOptions, Part},
    google::Endpoint,
    process::{tail, wait_for},
};

use crate::{
    common::{
        CALLER, World, binding, conditions, google_options, impersonation_for, proxy::Proxy, token,
        whole::assert_whole,
    },
    garbage::collect,
    observer::Observer,
};

/// The world, its bindings, and the proxy between controller and API server.
pub struct Fleet {
    pub world: World,
    pub proxy: Proxy,
    /// Namespace and name of each that should be Ready.
    names: BTreeSet<(String, String)>,
    /// Secrets of other people, as they were before.
    foreign: Vec<Secret>,
    pids: Vec<u32>,
    observer: Observer,
    /// How many refreshes have been asked for.
    asked: Arc<AtomicUsize>,
    disasters: usize,
    began: Began,
    collector: JoinHandle<()>,
}

/// Where a disaster began.
struct Began {
    at: Instant,
    /// Requests for tokens up to then.
    requests: usize,
    /// Refreshes that had been asked for.
    asked: usize,
}

impl Fleet {
    /// A fleet whose tokens live for 20 s, served by one controller behind the proxy, all Ready.
    pub async fn start(cluster: ClusterOptions, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut world = World::start(google_options(), cluster).await;
        let proxy = Proxy::start(&world.cluster).await;
        // Refreshed after 11 to 12 s: each binding at least once in most disasters.
        world.google.set_id_token_lifetime(Duration::from_secs(20));
        for namespace in ["shop", "depot"] {
            world.namespace(namespace).await;
            world.grant(namespace, &[namespace], &[CALLER]).await;
        }
        world.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        world.environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        world.api_server = Some(proxy.url().to_owned());
        world.start_controller().await;
        let foreign = foreign(&world).await;
        world.bind("taken", &impersonation_for("taken")).await;
        world.wait_condition("taken", "Ready=False/SecretConflict").await;
        let names: BTreeSet<_> = (0..6)
            .flat_map(|index| {
                [("shop".to_owned(), format!("shop-{index}")), ("depot".to_owned(), format!("depot-{index}"))]
            })
            .collect();
        for (namespace, name) in &names {
            create(&world.client, namespace, name).await.unwrap();
        }
        let pids = world.living_controllers();
        let observer = Observer::start(&world);
        let collector = tokio::spawn(collect(world.client.clone()));
        let (asked, began) = (Arc::default(), Began { at: Instant::now(), requests: 0, asked: 0 });
        let fleet =
            Self { world, proxy, names, foreign, pids, observer, asked, disasters: 0, began, collector };
        fleet.all_ready(&BTreeMap::new()).await;
        fleet
    }

    /// The process of one more controller, which joined since.
    pub fn joined(&mut self) {
        self.pids = self.world.living_controllers();
    }

    /// Lets `disaster` happen while bindings are refreshed, one is deleted and another one made.
    pub async fn during(&mut self, disaster: impl AsyncFnOnce(&mut Self)) {
        self.began = Began { at: Instant::now(), requests: self.requests(), asked: self.asked.load(SeqCst) };
        self.disasters += 1;
        let gone = self.names.iter().find(|(namespace, _)| namespace == "depot").cloned().unwrap();
        let late = ("shop".to_owned(), format!("late-{}", self.disasters));
        self.names.remove(&gone);
        let (client, count) = (self.world.client.clone(), self.asked.clone());
        let refreshes = tokio::spawn(refresh_all_the_time(client.clone(), self.names.clone(), count));
        let made = late.clone();
        let changes = tokio::spawn(async move {
            // In the middle of it.
            sleep(Duration::from_secs(2)).await;
            persist(|| delete(&client, &gone.0, &gone.1)).await;
            persist(|| create(&client, &made.0, &made.1)).await;
        });
        Box::pin(disaster(self)).await;
        timeout(PATIENCE, changes).await.expect("changes get through").unwrap();
        self.names.insert(late);
        refreshes.abort();
    }

    /// Goes through a disaster, and is sound afterwards.
    pub async fn survives(&mut self, disaster: impl AsyncFnOnce(&mut Self)) {
        self.during(disaster).await;
        self.assert_sound().await;
    }

    /// A part of the control plane is killed, stays away for a while, and comes back.
    pub async fn without(&mut self, part: Part) {
        self.world.cluster.part(part).kill().unwrap();
        sleep(Duration::from_secs(13)).await;
        self.world.cluster.part(part).restart().unwrap();
        self.world.cluster.ready(PATIENCE).await.unwrap();
    }

    /// What must hold after every disaster.
    pub async fn assert_sound(&mut self) {
        // When they are due, without anybody's doing; and when somebody asks.
        self.all_ready(&self.tokens().await).await;
        let before = self.tokens().await;
        for (namespace, name) in &self.names {
            persist(|| ask(&self.world.client, namespace, name)).await;
            self.asked.fetch_add(1, SeqCst);
        }
        self.all_ready(&before).await;
        self.assert_no_storm();
        self.world.wait_condition("taken", "Ready=False/SecretConflict").await;
        for secret in &self.foreign {
            let ObjectMeta { name, namespace, .. } = &secret.metadata;
            let api = Api::<Secret>::namespaced(self.world.client.clone(), namespace.as_deref().unwrap());
            assert_eq!(&api.get(name.as_deref().unwrap()).await.unwrap(), secret, "not touched");
        }
        self.assert_nothing_lost().await;
        assert_eq!(self.world.living_controllers(), self.pids, "nothing was restarted");
        self.observer.assert_sound();
    }

    /// Ends the world, if nobody has seen anything bad in it.
    pub async fn end(self) {
        self.observer.assert_sound();
        drop(self.observer);
        self.collector.abort();
        self.world.end().await;
    }

    /// The token of each binding that has one.
    async fn tokens(&self) -> BTreeMap<String, String> {
        let mut tokens = BTreeMap::new();
        for (namespace, name) in &self.names {
            if let Some(secret) = self.secret(namespace, name).await.unwrap() {
                tokens.insert(name.clone(), token(&secret));
            }
        }
        tokens
    }

    /// Waits until each binding is Ready by a Secret of one piece, with another token than `before`.
    async fn all_ready(&self, before: &BTreeMap<String, String>) {
        for (namespace, name) in &self.names {
            let api = Api::<IdTokenBinding>::namespaced(self.world.client.clone(), namespace);
            let what = format!("{name} to be refreshed");
            let ready = wait_for(&what, PATIENCE, || async {
                let secret = self.secret(namespace, name).await?.context("it has no Secret")?;
                let binding = api.get(name).await?;
                let conditions = conditions(&binding);
                ensure!(conditions.contains(&"Ready=True/TokenFresh".to_owned()), "it is {conditions:?}");
                ensure!(before.get(name) != Some(&token(&secret)), "it has its old token");
                Ok(secret)
            });
            match ready.await {
                Ok(secret) => assert_whole(&secret),
                Err(error) => panic!("{error:#}\n{}", tail(&self.world.logs(), 60)),
            }
        }
    }

    /// From the beginning of the disaster up to now, one mint for each refresh that was asked for, and for each that came due (after
    /// 11 s at the earliest), and two more for each binding. A retry each second would be many more.
    fn assert_no_storm(&self) {
        let minted = self.requests() - self.began.requests;
        let asked = self.asked.load(SeqCst) - self.began.asked;
        let seconds = self.began.at.elapsed().as_secs();
        let due = BINDINGS * (2 + usize::try_from(seconds).unwrap() / 11);
        println!(
            "disaster {}: {minted} mints in {seconds} s, {asked} asked for, at most {due} due",
            self.disasters
        );
        assert!(minted <= asked + due, "a storm of mints");
    }

    /// No Secret is missing. One of a binding that has been deleted may come back as long as that is not known, and only then.
    async fn assert_nothing_lost(&self) {
        let wanted = self.names.iter().map(|(namespace, name)| format!("{namespace}/{name}-idtoken"));
        let wanted: BTreeSet<_> = wanted.collect();
        let collected = || async {
            let ours = self.ours().await?;
            ensure!(ours == wanted, "{ours:?}");
            Ok(())
        };
        wait_for("exactly the Secrets of living bindings", PATIENCE, collected).await.unwrap();
        sleep(Duration::from_secs(2)).await;
        assert_eq!(self.ours().await.unwrap(), wanted, "what is gone stays so");
    }

    async fn secret(&self, namespace: &str, binding: &str) -> kube::Result<Option<Secret>> {
        Api::namespaced(self.world.client.clone(), namespace).get_opt(&format!("{binding}-idtoken")).await
    }

    /// All Secrets of the operator's type.
    async fn ours(&self) -> kube::Result<BTreeSet<String>> {
        let params = ListParams::default().fields("type=idtoken.dev/id-token");
        let all = Api::<Secret>::all(self.world.client.clone()).list(&params).await?;
        let name = |m: ObjectMeta| format!("{}/{}", m.namespace.unwrap(), m.name.unwrap());
        Ok(all.items.into_iter().map(|secret| name(secret.metadata)).collect())
    }

    fn requests(&self) -> usize {
        self.world.google.count(Endpoint::GenerateIdToken)
    }
}

/// One Secret that a binding of ours is going to want, and one that nobody wants.
async fn foreign(world: &World) -> Vec<Secret> {
    let mut made = Vec::new();
    for (namespace, name) in [("shop", "taken-idtoken"), ("depot", "unrelated")] {
        let api = Api::<Secret>::namespaced(world.client.clone(), namespace);
        let body = json!({"metadata": {"name": name}, "stringData": {"id_token": "mine"}});
        api.create(&PostParams::default(), &serde_json::from_value(body).unwrap()).await.unwrap();
        made.push(api.get(name).await.unwrap());
    }
    made
}

/// Asks for a refresh of one binding after the other, until it is aborted. What gets no answer may have been asked all the same.
async fn refresh_all_the_time(client: Client, names: BTreeSet<(String, String)>, asked: Arc<AtomicUsize>) {
    loop {
        for (namespace, name) in &names {
            asked.fetch_add(1, SeqCst);
            let _ = timeout(Duration::from_secs(2), ask(&client, namespace, name)).await;
            sleep(Duration::from_millis(300)).await;
        }
    }
}

async fn ask(client: &Client, namespace: &str, name: &str) -> kube::Result<()> {
    let value = Timestamp::now().to_string();
    let patch = json!({"metadata": {"annotations": {"idtoken.dev/refresh-requested-at": value}}});
    let api = Api::<IdTokenBinding>::namespaced(client.clone(), namespace);
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

async fn create(client: &Client, namespace: &str, name: &str) -> kube::Result<()> {
    let binding = binding(namespace, name, &impersonation_for(name));
    match Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &binding).await {
        // It was made by a call that got no answer.
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        result => result.map(drop),
    }
}

async fn delete(client: &Client, namespace: &str, name: &str) -> kube::Result<()> {
    let api = Api::<IdTokenBinding>::namespaced(client.clone(), namespace);
    match api.delete(name, &DeleteParams::default()).await {
        // It was deleted by a call that got no answer.
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        result => result.map(drop),
    }
}

/// Calls until it succeeds.
async fn persist<F: Future<Output = kube::Result<()>>>(call: impl Fn() -> F) {
    let attempt = || async { timeout(Duration::from_secs(5), call()).await?.map_err(anyhow::Error::from) };
    wait_for("the API server to take a change", PATIENCE, attempt).await.unwrap();
}

const BINDINGS: usize = 12;
/// Longer than anything takes, also on a machine that has much else to do.
pub const PATIENCE: Duration = Duration::from_secs(180);
