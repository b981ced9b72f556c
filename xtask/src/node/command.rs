//! `cargo xtask node`.

use clap::{Args, Subcommand};

use super::{Node, all};
use crate::cluster::command::{export, name_option};

/// A real one-node Kubernetes on this machine: kubelet, containerd, kube-proxy and the control plane (needs root)
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cargo xtask node up                           start it, with the operator's image and those of the tests
  eval \"$(cargo xtask node env)\"                let kubectl and helm use it
  helm install idtoken-operator charts/idtoken-operator --namespace idtoken-system --create-namespace \\
    --set image.repository=idtoken.test/idtoken-operator --wait
  cargo xtask node down                         end it and remove all of it

It needs Debian or Ubuntu: missing packages (containerd, runc, buildah, …) are installed by apt-get, the programs of
Kubernetes are built from Go modules. Pods can't pull images: use those that are there (crictl images, or
idtoken.test/shell:1, idtoken.test/python:1), with imagePullPolicy IfNotPresent or Never. Everything runs in namespaces
of its own: nothing of this machine's network is changed.")]
pub struct NodeArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start a node and leave it running
    Up(NameArgs),
    /// End a node and remove all of it; fine if there is none
    Down(DownArgs),
    /// Print the line that points kubectl at a node, for eval
    Env(NameArgs),
}

#[derive(Debug, Args)]
struct DownArgs {
    #[command(flatten)]
    name: NameArgs,
    /// End every node that `up` has started
    #[arg(long, conflicts_with = "name")]
    all: bool,
}

#[derive(Debug, Args)]
struct NameArgs {
    /// Which node: several can run at once
    #[arg(long, default_value = "default")]
    name: String,
}

/// Runs `cargo xtask node`.
pub async fn run(args: NodeArgs) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || match args.action {
        Action::Up(args) => up(&Node::named(&args.name)?),
        Action::Down(args) => down(&args),
        Action::Env(args) => env(&Node::named(&args.name)?),
    })
    .await?
}

fn up(node: &Node) -> anyhow::Result<()> {
    if node.is_running() {
        println!("The node {:?} is already running.", node.name());
    } else {
        node.start()?;
        println!("The node {:?} is running.", node.name());
    }
    println!("  {}", export(&node.kubeconfig()));
    println!("End it with: cargo xtask node down{}", name_option(node.name()));
    Ok(())
}

fn down(args: &DownArgs) -> anyhow::Result<()> {
    let chosen = if args.all { all()? } else { vec![Node::named(&args.name.name)?] };
    if chosen.is_empty() {
        println!("No node is running.");
    }
    for node in chosen {
        if node.end()? {
            println!("The node {:?} is ended.", node.name());
        } else {
            println!("There is no node {:?}.", node.name());
        }
    }
    Ok(())
}

fn env(node: &Node) -> anyhow::Result<()> {
    anyhow::ensure!(
        node.is_running(),
        "the node {:?} is not running; start it with: cargo xtask node up{}",
        node.name(),
        name_option(node.name())
    );
    println!("{}", export(&node.kubeconfig()));
    Ok(())
}
