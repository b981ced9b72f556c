//! `cargo xtask cluster`.

use std::path::Path;

use anyhow::bail;
use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use super::detached::{Clusters, Detached};
use super::{Cluster, ClusterOptions};
use crate::tools::{Tool, Tools};

/// A real Kubernetes API server and etcd on this machine, without root or a container engine.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cargo xtask cluster up                        start it; it stays until it is ended
  eval \"$(cargo xtask cluster env)\"             let kubectl use it
  kubectl get namespaces
  cargo xtask cluster down                      end it and remove its files

The programs are looked for in $KUBEBUILDER_ASSETS, on PATH and in the cache, then downloaded or built from Go modules
(the first time that takes minutes). The cache is ~/.cache/idtoken-operator; IDTOKEN_CACHE_DIR moves it.")]
pub struct ClusterArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start a cluster and leave it running
    Up(UpArgs),
    /// End a cluster and remove its files; fine if there is none
    Down(DownArgs),
    /// Print the line that points kubectl at a cluster, for eval
    Env(NameArgs),
}

#[derive(Debug, Args)]
struct UpArgs {
    #[command(flatten)]
    name: NameArgs,
    /// Also run kube-controller-manager: garbage collection, namespaces, service accounts, Deployments, Jobs
    #[arg(long)]
    controller_manager: bool,
    /// Stay in the foreground, without a name, and end the cluster on Ctrl-C
    #[arg(long, conflicts_with = "name")]
    foreground: bool,
}

#[derive(Debug, Args)]
struct DownArgs {
    #[command(flatten)]
    name: NameArgs,
    /// End every cluster that `up` has started
    #[arg(long, conflicts_with = "name")]
    all: bool,
}

#[derive(Debug, Args)]
struct NameArgs {
    /// Which cluster: several can run at once
    #[arg(long, default_value = "default")]
    name: String,
}

/// Runs `cargo xtask cluster`.
pub async fn run(args: ClusterArgs) -> anyhow::Result<()> {
    match args.action {
        Action::Up(args) if args.foreground => run_in_foreground(options(&args)).await,
        Action::Up(args) => up(&args).await,
        Action::Down(args) => down(&args).await,
        Action::Env(args) => env(&Clusters::open()?.named(&args.name)?),
    }
}

async fn up(args: &UpArgs) -> anyhow::Result<()> {
    let clusters = Clusters::open()?;
    let cluster = clusters.named(&args.name.name)?;
    // Before the lock: it may take minutes, and `down` shall not wait for it.
    find_tools(args.controller_manager).await?;
    let _lock = clusters.lock()?;
    if cluster.is_running() && args.controller_manager && !cluster.has_controller_manager() {
        bail!(
            "the cluster {:?} is running without kube-controller-manager; end it first: cargo xtask cluster down{}",
            cluster.name(),
            name_option(cluster.name())
        );
    }
    if cluster.is_running() {
        println!("The cluster {:?} is already running.", cluster.name());
    } else {
        if cluster.end().await? {
            eprintln!("what was left of an earlier cluster {:?} is removed", cluster.name());
        }
        cluster.start(options(args)).await?;
        println!("The cluster {:?} is running.", cluster.name());
    }
    println!("  {}", export(&cluster.kubeconfig()));
    println!("End it with: cargo xtask cluster down{}", name_option(cluster.name()));
    Ok(())
}

async fn run_in_foreground(options: ClusterOptions) -> anyhow::Result<()> {
    // Before the signals are ours: a build of minutes shall end with Ctrl-C as any program does.
    find_tools(options.controller_manager).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let cluster = tokio::select! {
        cluster = Cluster::start(options) => cluster?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    println!("The cluster is running.\n  {}\nEnd it with Ctrl-C.", export(cluster.kubeconfig()));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    cluster.stop().await
}

async fn down(args: &DownArgs) -> anyhow::Result<()> {
    let clusters = Clusters::open()?;
    let _lock = clusters.lock()?;
    let chosen = if args.all { clusters.all()? } else { vec![clusters.named(&args.name.name)?] };
    if chosen.is_empty() {
        println!("No cluster is running.");
    }
    for cluster in chosen {
        if cluster.end().await? {
            println!("The cluster {:?} is ended.", cluster.name());
        } else {
            println!("There is no cluster {:?}.", cluster.name());
        }
    }
    Ok(())
}

fn env(cluster: &Detached) -> anyhow::Result<()> {
    if !cluster.is_running() {
        bail!(
            "the cluster {:?} is not running; start it with: cargo xtask cluster up{}",
            cluster.name(),
            name_option(cluster.name())
        );
    }
    println!("{}", export(&cluster.kubeconfig()));
    Ok(())
}

async fn find_tools(controller_manager: bool) -> anyhow::Result<()> {
    let mut tools = vec![Tool::KubeApiserver, Tool::Etcd];
    if controller_manager {
        tools.push(Tool::KubeControllerManager);
    }
    tokio::task::spawn_blocking(move || Tools::find(&tools)).await??;
    Ok(())
}

fn options(args: &UpArgs) -> ClusterOptions {
    ClusterOptions { controller_manager: args.controller_manager, ..ClusterOptions::default() }
}

/// The option that chooses `name` again, for the line that tells how to go on.
pub(crate) fn name_option(name: &str) -> String {
    match name {
        "default" => String::new(),
        name => format!(" --name {name}"),
    }
}

/// A line for a POSIX shell.
pub(crate) fn export(kubeconfig: &Path) -> String {
    format!("export KUBECONFIG='{}'", kubeconfig.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_export_line_survives_any_path() {
        assert_eq!(export(Path::new("/a b/kubeconfig")), "export KUBECONFIG='/a b/kubeconfig'");
        assert_eq!(export(Path::new("/it's")), r"export KUBECONFIG='/it'\''s'");
    }
}
