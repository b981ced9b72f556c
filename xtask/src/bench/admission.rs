//! `cargo xtask bench admission`.

use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use clap::Args;

use super::load::{Load, Protocol, Questions, Round, Server};
use super::population::Population;
use super::report::{self, Measured, Report};
use super::template::{SIZE, Template};
use super::{build, floor, subject};

/// Measure the webhook: requests a second, latency, processor time and memory, beside a server that only echoes the uid
///
/// Three servers, each a process of its own, built as they are released: the webhook in front of a real API server with 10,000
/// bindings, the same with 10, and the floor: axum, hyper and rustls, which read the body and echo its uid. A closed loop of 1, 8
/// and 32 clients sends each of them AdmissionReviews of 4 KB over TLS, in short rounds that take turns.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cargo xtask bench admission                 the table, after some minutes
  cargo xtask bench admission --json          the same for programs; progress goes to standard error
  cargo xtask bench admission --protocol http2
  cargo xtask bench admission --assert        fail where a target is missed; on a quiet machine only
  cargo xtask bench admission --quick         does it work at all? Builds for development, so the figures mean nothing

What the figures mean is in docs/performance.md. Client and servers share this machine's processors: compare the figures of
one run with each other, and those of two runs only by their ratios to the floor.")]
pub(super) struct AdmissionArgs {
    /// Print one JSON document instead of the table
    #[arg(long)]
    json: bool,
    /// Fail where a target is missed
    #[arg(long)]
    assert: bool,
    /// A smoke test of a minute: development builds, few bindings, rounds too short to mean anything
    #[arg(long)]
    quick: bool,
    /// How many bindings are many
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    bindings: u32,
    /// Rounds of each server with each number of clients
    #[arg(long, value_name = "NUMBER", default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of a round, in milliseconds
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 1500, value_parser = clap::value_parser!(u64).range(1..))]
    round: u64,
    /// What the clients speak
    #[arg(long, value_enum, default_value_t = Protocol::Http1)]
    protocol: Protocol,
    /// Measure this idtoken-operator instead of building one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// Runs it.
pub(super) async fn run(mut args: AdmissionArgs) -> anyhow::Result<()> {
    if args.quick {
        (args.bindings, args.rounds, args.round) = (args.bindings.min(100), 1, 300);
    }
    let program = build::product(args.program.as_deref(), args.quick).await?;
    let report = measure(&args, program).await?;
    report::tell(&report, args.json, args.assert)
}

async fn measure(args: &AdmissionArgs, program: PathBuf) -> anyhow::Result<Report> {
    let directory = tempfile::Builder::new().prefix("idtoken-bench-").tempdir()?;
    let (few, many) = (Population(FEW), Population(args.bindings));
    let subjects = (
        subject::start(&program, few, directory.path()).await?,
        subject::start(&program, many, directory.path()).await?,
    );
    let floor = floor::start(directory.path()).await?;
    let template = Template::new()?;
    let ask = |population, patched| Questions { template: template.clone(), population, patched };
    let contestants = [
        Contestant { name: "floor", server: &floor, questions: ask(many, false), bindings: None },
        Contestant {
            name: "webhook",
            server: &subjects.0.server,
            questions: ask(few, true),
            bindings: Some(FEW),
        },
        Contestant {
            name: "webhook",
            server: &subjects.1.server,
            questions: ask(many, true),
            bindings: Some(args.bindings),
        },
    ];
    // The clients have a runtime of their own.
    let [floor, few, many] = tokio::task::block_in_place(|| compete(args, &contestants))?;
    let servers = [&floor, &few, &many].map(|measured| measured.report(&CLIENTS, &floor)).into();
    Ok(Report {
        processors: available_parallelism().map_or(1, usize::from),
        optimized: !args.quick,
        rounds: args.rounds,
        seconds_per_round: Duration::from_millis(args.round).as_secs_f64(),
        protocol: args.protocol,
        body_bytes: SIZE,
        servers,
        targets: report::targets(&CLIENTS, &floor, &few, &many),
    })
}

struct Contestant<'a> {
    name: &'static str,
    server: &'a Server,
    questions: Questions,
    bindings: Option<u32>,
}

/// All loads, in rounds that take turns; who begins changes from round to round.
fn compete(args: &AdmissionArgs, contestants: &[Contestant<'_>; 3]) -> anyhow::Result<[Measured; 3]> {
    let mut rounds: [Vec<Vec<Round>>; 3] = Default::default();
    for clients in CLIENTS {
        eprintln!("{} rounds with {clients} client(s) …", args.rounds);
        let time = Duration::from_millis(args.round);
        let load = Load { clients, time, protocol: args.protocol };
        let mut of_load: [Vec<Round>; 3] = Default::default();
        for turn in 0..args.rounds as usize {
            for index in (0..contestants.len()).map(|index| (index + turn) % contestants.len()) {
                let Contestant { server, questions, .. } = &contestants[index];
                let round = server.round(questions, load);
                of_load[index].push(round.map_err(|error| error.context(server.log()))?);
            }
        }
        for (all, of_load) in rounds.iter_mut().zip(of_load) {
            all.push(of_load);
        }
    }
    let measured = contestants.iter().zip(rounds).map(|(contestant, rounds)| {
        let Contestant { name, server, bindings, .. } = contestant;
        Ok(Measured { name: (*name).to_owned(), bindings: *bindings, usage: server.usage()?, rounds })
    });
    let measured = measured.collect::<anyhow::Result<Vec<_>>>()?;
    measured.try_into().map_err(|_| anyhow::anyhow!("not every server was measured"))
}

const FEW: u32 = 10;
const CLIENTS: [u32; 3] = [1, 8, 32];
