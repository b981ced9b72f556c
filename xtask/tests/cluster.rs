//! The promises of `xtask::cluster`, on real clusters.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use xtask::cluster::{Cluster, ClusterOptions};
use xtask::process::{Process, Program, send_signal, wait_for};

#[tokio::test]
#[ignore = "tier api: needs a kube-apiserver"]
async fn two_clusters_do_not_disturb_each_other_and_leave_nothing() {
    // On a task of its own: the start is Send, and no runtime or thread need outlive it.
    let (one, two) = tokio::join!(tokio::spawn(start()), tokio::spawn(start()));
    let (one, two) = (one.unwrap(), two.unwrap());
    let traces: Vec<Traces> = [&one, &two].map(Traces::of).into();
    for (cluster, word) in [(&one, "one"), (&two, "two")] {
        let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), "default");
        let map = ConfigMap {
            metadata: named("word"),
            data: Some(BTreeMap::from([("word".to_owned(), word.to_owned())])),
            ..ConfigMap::default()
        };
        maps.create(&PostParams::default(), &map).await.unwrap();
    }
    for (cluster, word) in [(&one, "one"), (&two, "two")] {
        let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), "default");
        let listed = maps.list(&ListParams::default()).await.unwrap();
        let words: Vec<&str> = listed.iter().map(|map| map.data.as_ref().unwrap()["word"].as_str()).collect();
        assert_eq!(words, [word]);
        assert_eq!(mode(cluster.kubeconfig()), 0o600);
        assert_eq!(mode(cluster.directory()), 0o700);
        assert!(cluster.api_server_log().contains("Serving securely on 127.0.0.1:"));
    }
    one.stop().await.unwrap();
    let still = Api::<Namespace>::all(two.client()).list(&ListParams::default()).await;
    assert!(still.is_ok(), "the end of one is not the end of the other");
    two.stop().await.unwrap();
    for trace in traces {
        trace.assert_gone();
    }
}

#[tokio::test]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_panic_leaves_nothing() {
    let cluster = start().await;
    let traces = Traces::of(&cluster);
    let panicked = std::thread::spawn(move || {
        let _cluster = cluster;
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    traces.assert_gone();
}

#[tokio::test]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_killed_owner_takes_its_cluster_along() {
    let directory = tempfile::tempdir().unwrap();
    let mut owner = foreground(directory.path());
    let home = announced_home(&owner).await;
    let pids = ["etcd", "kube-apiserver"].map(|name| noted_pid(&home, name));
    assert!(pids.iter().all(|pid| lives(*pid)), "{pids:?}");
    owner.kill().unwrap();
    wait_for("the programs to end", Duration::from_secs(5), async || {
        anyhow::ensure!(!pids.iter().any(|pid| lives(*pid)), "some of {pids:?} live");
        Ok(())
    })
    .await
    .unwrap();

    assert!(home.exists(), "nobody was left to remove it");
    let next = foreground(directory.path());
    announced_home(&next).await;
    assert!(!home.exists(), "the next start removes it");
    assert!(next.stop(Duration::from_secs(20)).await.unwrap().success());
    assert_eq!(entries_starting_with(directory.path(), "idtoken-cluster-"), 0);
}

#[tokio::test]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_controller_manager_makes_accounts_and_collects_garbage() {
    let options = ClusterOptions { controller_manager: true, ..ClusterOptions::default() };
    let cluster = Cluster::start(options).await.unwrap();
    let client = cluster.client();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    accounts.get("default").await.unwrap();

    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let owner = ConfigMap { metadata: named("owner"), ..ConfigMap::default() };
    let owner = maps.create(&PostParams::default(), &owner).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let dependent: Secret = serde_json::from_value(json!({"metadata": {"name": "owned", "ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid}
    ]}}))
    .unwrap();
    secrets.create(&PostParams::default(), &dependent).await.unwrap();
    Api::<Pod>::namespaced(client, "default").create(&PostParams::default(), &pod()).await.unwrap();

    maps.delete("owner", &DeleteParams::background()).await.unwrap();
    wait_for("the owned Secret to be collected", Duration::from_secs(60), async || {
        anyhow::ensure!(secrets.get_opt("owned").await?.is_none(), "it is still there");
        Ok(())
    })
    .await
    .unwrap();
    cluster.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "tier api: needs a kube-apiserver"]
async fn users_are_who_they_are_said_to_be_and_have_only_their_own_rights() {
    let options = ClusterOptions {
        service_account_issuer: Some("https://issuer.example".to_owned()),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options).await.unwrap();
    assert_eq!(cluster.service_account_issuer(), "https://issuer.example");

    let groups = ["system:serviceaccounts", "system:serviceaccounts:default"];
    let kubeconfig = cluster.kubeconfig_for("system:serviceaccount:default:app", &groups).unwrap();
    let by_certificate = client_of(&kubeconfig).await;
    let user = who_am_i(&by_certificate).await;
    assert_eq!(user["username"], "system:serviceaccount:default:app");
    let mut seen: Vec<&str> =
        user["groups"].as_array().unwrap().iter().map(|g| g.as_str().unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, ["system:authenticated", "system:serviceaccounts", "system:serviceaccounts:default"]);

    let kubeconfig = cluster.kubeconfig_for_service_account("default", "app").await.unwrap();
    let by_token = client_of(&kubeconfig).await;
    assert_eq!(who_am_i(&by_token).await["username"], "system:serviceaccount:default:app");
    let text = fs::read_to_string(&kubeconfig).unwrap();
    let token = text.lines().find_map(|line| line.trim().strip_prefix("token: ")).unwrap();
    assert_eq!(claims(token)["iss"], "https://issuer.example");

    let refused = Api::<Namespace>::all(by_token.clone()).list(&ListParams::default()).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
    allow_listing_namespaces(&cluster.client(), "app").await;
    for client in [by_token, by_certificate] {
        wait_for("the right to list namespaces", Duration::from_secs(10), async || {
            Api::<Namespace>::all(client.clone())
                .list(&ListParams::default())
                .await
                .map(drop)
                .map_err(Into::into)
        })
        .await
        .unwrap();
    }
    // No controller manager, no default ServiceAccount: pods can be created all the same.
    Api::<Pod>::namespaced(cluster.client(), "default").create(&PostParams::default(), &pod()).await.unwrap();
    cluster.stop().await.unwrap();
}

#[tokio::test]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_server_that_dies_early_says_why() {
    let failing = |flag: String| async {
        let options = ClusterOptions { api_server_args: vec![flag], ..ClusterOptions::default() };
        format!("{:#}", Cluster::start(options).await.unwrap_err())
    };
    let error = failing("--no-such-flag".to_owned()).await;
    assert!(
        error.starts_with("kube-apiserver did not start: kube-apiserver ended by itself (exit status: 1)"),
        "{error}"
    );
    assert!(error.contains("unknown flag: --no-such-flag"), "{error}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error = failing(format!("--secure-port={}", taken.local_addr().unwrap().port())).await;
    assert!(error.contains("address already in use"), "{error}");
}

#[tokio::test]
#[ignore = "tier api: needs a kube-apiserver"]
async fn up_env_and_down() {
    let cache = tempfile::tempdir().unwrap();
    share_tools(cache.path());
    let run = |args: &[&str]| {
        let output = Command::new(XTASK)
            .arg("cluster")
            .args(args)
            .env("IDTOKEN_CACHE_DIR", cache.path())
            .output()
            .unwrap();
        (output.status.code().unwrap(), text(&output))
    };
    let kubeconfig = cache.path().join("idtoken-operator/clusters/blue/kubeconfig");
    let export = format!("export KUBECONFIG='{}'\n", kubeconfig.display());

    let (code, before) = run(&["env", "--name", "blue"]);
    assert_eq!(code, 1);
    assert!(before.contains("start it with: cargo xtask cluster up --name blue"), "{before}");
    let (code, up) = run(&["up", "--name", "blue"]);
    assert_eq!(code, 0, "{up}");
    assert!(up.contains("The cluster \"blue\" is running.") && up.contains(&export), "{up}");
    let (code, again) = run(&["up", "--name", "blue"]);
    assert_eq!(code, 0, "{again}");
    assert!(again.contains("The cluster \"blue\" is already running.") && again.contains(&export), "{again}");
    assert_eq!(run(&["env", "--name", "blue"]), (0, export));
    let (code, more) = run(&["up", "--name", "blue", "--controller-manager"]);
    assert_eq!(code, 1);
    assert!(more.contains("is running without kube-controller-manager; end it first"), "{more}");

    let home = kubeconfig.parent().unwrap();
    let pids = ["etcd", "kube-apiserver"].map(|name| noted_pid(home, name));
    let namespaces = Api::<Namespace>::all(client_of(&kubeconfig).await);
    assert!(namespaces.get("default").await.is_ok(), "it outlives the command that started it");
    assert_eq!(run(&["down", "--all"]), (0, "The cluster \"blue\" is ended.\n".to_owned()));
    assert!(!pids.iter().any(|pid| lives(*pid)));
    assert!(!home.exists());
    assert_eq!(run(&["down", "--name", "blue"]), (0, "There is no cluster \"blue\".\n".to_owned()));
    assert_eq!(run(&["down", "--all"]), (0, "No cluster is running.\n".to_owned()));
}

#[tokio::test]
#[ignore = "tier api: needs a kube-apiserver"]
async fn up_mends_a_cluster_that_lost_a_process() {
    let cache = tempfile::tempdir().unwrap();
    share_tools(cache.path());
    let run = |args: &[&str]| {
        let output = Command::new(XTASK)
            .arg("cluster")
            .args(args)
            .env("IDTOKEN_CACHE_DIR", cache.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    run(&["up"]);
    let home = cache.path().join("idtoken-operator/clusters/default");
    let (etcd, api_server) = (noted_pid(&home, "etcd"), noted_pid(&home, "kube-apiserver"));
    send_signal(etcd, "KILL").unwrap();
    wait_for("etcd to end", Duration::from_secs(5), async || {
        anyhow::ensure!(!lives(etcd), "it lives");
        Ok(())
    })
    .await
    .unwrap();
    let again = run(&["up"]);
    assert!(again.contains("The cluster \"default\" is running."), "{again}");
    assert!(!lives(api_server), "the orphaned API server is ended");
    run(&["down"]);
    assert!(!home.exists());
}

async fn start() -> Cluster {
    Cluster::start(ClusterOptions::default()).await.unwrap()
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn pod() -> Pod {
    let pod = json!({"metadata": {"name": "app"}, "spec": {"containers": [{"name": "app", "image": "app"}]}});
    serde_json::from_value(pod).unwrap()
}

/// Lets a `ServiceAccount` of the namespace `default` list namespaces.
async fn allow_listing_namespaces(client: &kube::Client, account: &str) {
    let role: ClusterRole = serde_json::from_value(json!({
        "metadata": {"name": "lister"},
        "rules": [{"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list"]}],
    }))
    .unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &role).await.unwrap();
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "lister"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "lister"},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": "default"}],
    }))
    .unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &binding).await.unwrap();
}

async fn client_of(kubeconfig: &Path) -> kube::Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    kube::Client::try_from(config).unwrap()
}

async fn who_am_i(client: &kube::Client) -> serde_json::Value {
    let review = Api::<SelfSubjectReview>::all(client.clone())
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await
        .unwrap();
    serde_json::to_value(review.status.unwrap().user_info.unwrap()).unwrap()
}

fn claims(token: &str) -> serde_json::Value {
    use base64::Engine as _;
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap())
        .unwrap()
}

/// What a cluster has on this machine.
struct Traces {
    pids: Vec<u32>,
    directory: PathBuf,
}

impl Traces {
    fn of(cluster: &Cluster) -> Self {
        let traces = Self { pids: cluster.pids(), directory: cluster.directory().to_owned() };
        assert_eq!(traces.pids.len(), 2);
        assert!(traces.pids.iter().all(|pid| lives(*pid)) && traces.directory.exists());
        traces
    }

    fn assert_gone(&self) {
        assert!(!self.pids.iter().any(|pid| lives(*pid)), "some of {:?} live", self.pids);
        assert!(!self.directory.exists(), "{} is still there", self.directory.display());
    }
}

/// A process without a command line has ended and waits for somebody to take note.
fn lives(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn noted_pid(home: &Path, name: &str) -> u32 {
    fs::read_to_string(home.join(format!("{name}.pid"))).unwrap().parse().unwrap()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn foreground(directory: &Path) -> Process {
    let log = directory.join("log");
    let _ = fs::remove_file(&log);
    let program = Program::new(XTASK).args(["cluster", "up", "--foreground"]).env("TMPDIR", directory);
    program.spawn(&log).unwrap()
}

/// The directory of the cluster that a process in the foreground has announced.
async fn announced_home(owner: &Process) -> PathBuf {
    wait_for("the cluster", Duration::from_secs(90), async || {
        let log = owner.log();
        let line =
            log.lines().find_map(|line| line.trim().strip_prefix("export KUBECONFIG='")?.strip_suffix('\''));
        let kubeconfig = line.ok_or_else(|| anyhow::anyhow!("it says: {log}"))?;
        Ok(Path::new(kubeconfig).parent().unwrap().to_owned())
    })
    .await
    .unwrap()
}

fn entries_starting_with(directory: &Path, prefix: &str) -> usize {
    let entries = fs::read_dir(directory).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(prefix)).count()
}

/// Lets a cache of its own have the tools of the real one.
fn share_tools(cache: &Path) {
    let tools = xtask::tools::cache_directory().unwrap().join("tools");
    fs::create_dir_all(&tools).unwrap();
    fs::create_dir(cache.join("idtoken-operator")).unwrap();
    std::os::unix::fs::symlink(tools, cache.join("idtoken-operator/tools")).unwrap();
}

const XTASK: &str = env!("CARGO_BIN_EXE_xtask");
