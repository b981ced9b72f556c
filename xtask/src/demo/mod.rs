//! `cargo xtask demo`: the main job of idtoken-operator, on a real API server, in front of the user.
//!
//! ```text
//! ground (API server) ─ chart (what Helm renders) ─ operator (both programs) ─ scenario (the steps) ─ show (printing)
//! ```
//!
//! Everything shown is read back from the API server. A step that can't be observed ends the demo with what was expected
//! and what was seen; whatever way it ends, everything that it started is ended and everything that it made is removed.

pub(crate) mod chart;
pub(crate) mod ground;
mod observe;
pub(crate) mod operator;
mod product;
mod scenario;
mod show;
mod sources;
mod token;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::google::{Google, Options, Role};
use crate::tools::{Tool, Tools};
use ground::Ground;
use operator::Operator;
pub use product::build as build_operator;
use show::Show;

/// Show the main job: a binding becomes a Secret with a fresh token, and a pod gets it mounted.
///
/// Starts a real Kubernetes API server and a simulator of Google's APIs on this machine's loopback, applies what the
/// chart renders, runs the controller and the webhook, and goes through the steps. Google is never called.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cargo xtask demo                  the show, then the cluster is yours until Ctrl-C
  cargo xtask demo --once           the show only; exit code 0 means that every step was observed
  cargo xtask demo --all-sources    every way to get a token, in place of the refresh and the pods
  cargo xtask demo --context NAME   on the cluster of that kubeconfig context; what the demo makes there it removes")]
pub struct DemoArgs {
    /// End after the show: 0 only if every step was observed
    #[arg(long)]
    once: bool,
    /// Show every source of tokens, and what becomes of a wrong password
    #[arg(long)]
    all_sources: bool,
    /// Use the cluster of this kubeconfig context instead of starting one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Show this idtoken-operator instead of building one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// Runs `cargo xtask demo`.
pub async fn run(args: DemoArgs) -> anyhow::Result<()> {
    // Before the signals are ours: a build of minutes shall end with Ctrl-C as any program does.
    let own_cluster = args.context.is_none();
    let program = match &args.program {
        Some(program) => program.clone(),
        None => tokio::task::spawn_blocking(product::build).await??,
    };
    let tools = tokio::task::spawn_blocking(move || Tools::find(tools(own_cluster))).await??;
    let mut ends = Ends::new()?;
    let ground = tokio::select! {
        ground = Ground::open(args.context.as_deref()) => ground?,
        () = ends.next() => bail!("interrupted before the cluster was up"),
    };
    let played = tokio::select! {
        played = play(&args, &ground, &program, &tools) => played,
        () = ends.next() => Err(anyhow::anyhow!("interrupted before the end of the show")),
    };
    let played = match played {
        Ok(stage) if !args.once => stage.stay(&ground, &mut ends).await,
        other => other.map(drop),
    };
    let cleaned = ground.close().await.context("the demo could not remove everything that it had made");
    played.and(cleaned)
}

/// What must go on while somebody looks around.
struct Stage {
    operator: Operator,
    _google: Google,
}

async fn play(args: &DemoArgs, ground: &Ground, program: &Path, tools: &Tools) -> anyhow::Result<Stage> {
    let simulated = if args.all_sources { sources::simulated() } else { simulated() };
    let google = Google::start(simulated).await.context("cannot start the simulator of Google's APIs")?;
    let with_webhook = ground.reaches_us() && !args.all_sources;
    let parts = chart::Parts { with_webhook, all_sources: args.all_sources };
    let mut show = Show::default();
    let ports = operator::Ports::free()?;
    let chart = chart::render(tools.path(Tool::Helm), &google, &ports, parts).await?;
    scenario::install(&mut show, ground, &chart).await?;
    let operator = Operator::start(ground, program, &chart, ports, with_webhook).await?;
    let performed = if args.all_sources {
        sources::perform(&mut show, ground, &google).await
    } else {
        scenario::perform(&mut show, ground, with_webhook).await
    };
    if let Err(error) = performed {
        return Err(error.context(operator.last_words()));
    }
    if with_webhook || args.all_sources {
        show.finish("All steps were observed.");
        return Ok(Stage { operator, _google: google });
    }
    show.finish("The steps with pods were left out: see above.");
    if args.once {
        bail!("not every step was observed: the API server can't reach a webhook on this machine");
    }
    Ok(Stage { operator, _google: google })
}

impl Stage {
    /// Until somebody ends the demo, or the operator ends by itself.
    async fn stay(mut self, ground: &Ground, ends: &mut Ends) -> anyhow::Result<()> {
        println!("\nLook around with kubectl from another shell; tokens go on being refreshed:\n");
        println!("  {}", ground.how_to_reach());
        println!("  kubectl get idtokenbindings -A -o wide --watch");
        println!("  kubectl -n idtoken-demo describe idtokenbinding orders");
        println!("  kubectl explain idtokenbinding.spec\n");
        for log in self.operator.logs() {
            println!("  log: {}", log.display());
        }
        println!("\nCtrl-C ends the demo and removes everything.");
        tokio::select! {
            () = ends.next() => Ok(()),
            error = self.operator.ended() => Err(error),
        }
    }
}

/// Google as the demo wants it: tokens that live so shortly that a refresh can be watched.
fn simulated() -> Options {
    let member = format!("serviceAccount:{}", crate::google::DEFAULT_ACCOUNT);
    Options { id_token_lifetime: TOKEN_LIFETIME, ..Options::default() }.service_account(CALLER).allow(
        &member,
        Role::OpenIdTokenCreator,
        CALLER,
    )
}

fn tools(own_cluster: bool) -> &'static [Tool] {
    if own_cluster {
        &[Tool::KubeApiserver, Tool::KubeControllerManager, Tool::Etcd, Tool::Helm]
    } else {
        &[Tool::Helm]
    }
}

/// The signals that end the demo.
struct Ends([Signal; 3]);

impl Ends {
    fn new() -> anyhow::Result<Self> {
        let of = |kind| signal(kind).context("cannot catch signals");
        Ok(Self([of(SignalKind::interrupt())?, of(SignalKind::terminate())?, of(SignalKind::hangup())?]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

const CALLER: &str = "caller@demo-project.iam.gserviceaccount.com";
const TOKEN_LIFETIME: Duration = Duration::from_secs(30);
