//! The phases of one size of fleet: the floor and the start take turns, and what follows a start is measured once.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::{Instant, sleep};

use super::fleet::Fleet;
use super::observer::{Observer, Wave};
use super::operator::Operator;
use super::phase::{Cpu, Meter, Phase};
use super::stage::Stage;
use super::survey::{Survey, targets};
use crate::clock::now;
use crate::progress::Step;

/// How it is run.
pub(super) struct Plan<'a> {
    pub(super) helm: &'a Path,
    pub(super) program: &'a Path,
    pub(super) survey: &'a Survey,
    pub(super) rounds: u32,
    pub(super) steady: Duration,
    /// Of the first tokens, which decides when the wave begins; `None`: by the number of bindings.
    pub(super) lifetime: Option<Duration>,
}

/// What was measured of one size.
pub(super) struct Measured {
    pub(super) fleet: Fleet,
    pub(super) floors: Vec<Floor>,
    pub(super) starts: Vec<Phase>,
    pub(super) wave: Wave,
    pub(super) refresh: Phase,
    pub(super) restart: Phase,
    pub(super) steady: Phase,
}

/// The least that must be written, written by nothing but a loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floor {
    pub(super) seconds: f64,
    pub(super) cpu: Cpu,
}

/// What follows a start.
struct Sequel {
    wave: Wave,
    refresh: Phase,
    restart: Phase,
    steady: Phase,
}

impl Plan<'_> {
    /// All phases of one size.
    pub(super) async fn measure(&self, fleet: Fleet) -> anyhow::Result<Measured> {
        let (mut floors, mut starts, mut sequel) = (Vec::new(), Vec::new(), None);
        for round in 0..self.rounds {
            eprintln!("{} bindings, round {} of {}", fleet.0, round + 1, self.rounds);
            // Who begins changes, so that neither has the better machine.
            if round % 2 == 0 {
                floors.push(self.floor(fleet).await?);
            }
            let (start, more) = self.product(fleet, round + 1 == self.rounds).await?;
            starts.push(start);
            sequel = more.or(sequel);
            if round % 2 == 1 {
                floors.push(self.floor(fleet).await?);
            }
        }
        let Sequel { wave, refresh, restart, steady } = sequel.context("no round was run")?;
        Ok(Measured { fleet, floors, starts, wave, refresh, restart, steady })
    }

    fn lifetime(&self, fleet: Fleet) -> Duration {
        self.lifetime.unwrap_or(SHORTEST_LIFE + LIFE_PER_BINDING * fleet.0)
    }

    async fn floor(&self, fleet: Fleet) -> anyhow::Result<Floor> {
        let stage = Stage::open(self.helm, fleet, self.lifetime(fleet)).await?;
        let observer = Observer::start(&stage.client).await?;
        let targets = targets(&stage.client, fleet).await?;
        let client = stage.client_of_controller().await?;
        let (templates, best) = (&self.survey.templates, self.survey.best);
        let step = Step::start("the floor: one Secret and one status for each", "");
        let (before, start) = (Cpu::now(&stage, None)?, Instant::now());
        stream::iter(targets)
            .map(|mut target| {
                let client = &client;
                async move {
                    let serial = target.number;
                    best.new_secret.write(client, templates, &mut target, serial).await?;
                    best.status.write(client, templates, &mut target, serial).await
                }
            })
            .buffer_unordered(best.at_once)
            .try_collect::<()>()
            .await?;
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), Cpu::now(&stage, None)?.since(before));
        let seen = async {
            while observer.all_ready(fleet.0)?.is_none() {
                sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(Duration::from_secs(10), seen)
            .await
            .context("not all that was written came back")??;
        step.done();
        stage.close().await?;
        Ok(Floor { seconds, cpu })
    }

    async fn product(&self, fleet: Fleet, is_last: bool) -> anyhow::Result<(Phase, Option<Sequel>)> {
        let stage = Stage::open(self.helm, fleet, self.lifetime(fleet)).await?;
        let observer = Observer::start(&stage.client).await?;
        let meter = Meter::read(&stage).await?;
        let before = Cpu::now(&stage, None)?;
        let step = Step::start("the controller: from its start to all ready", "");
        let mut operator = stage.start(self.program)?;
        let all = operator.until("all bindings to be ready", LONGEST, || observer.all_ready(fleet.0)).await;
        let ready = all.with_context(|| format!("{} of {} are ready", observer.ready(), fleet.0))?;
        let cpu = Cpu::now(&stage, Some(operator.usage()?))?.since(before);
        let seconds = ready.duration_since(operator.started).as_secs_f64();
        operator.at_rest(&stage.client).await?;
        step.done();
        let (due, _) = observer.schedule().context("no status tells when it is refreshed")?;
        ensure!(
            now() < due,
            "the first tokens were due for a refresh before the last bindings were ready: give a longer --token-lifetime than {} s",
            self.lifetime(fleet).as_secs()
        );
        let start = meter.phase(&stage, seconds, cpu, operator.usage()?).await?;
        let sequel = if is_last {
            Some(self.sequel(&stage, &observer, operator, fleet).await?)
        } else {
            operator.stop().await?;
            None
        };
        drop(observer);
        stage.close().await?;
        Ok((start, sequel))
    }

    async fn sequel(
        &self,
        stage: &Stage,
        observer: &Observer,
        mut operator: Operator,
        fleet: Fleet,
    ) -> anyhow::Result<Sequel> {
        let (wave, refresh) = wave(stage, observer, &mut operator, fleet).await?;
        operator.stop().await?;
        let step = Step::start("a restart, until the controller is at rest", "");
        let (meter, before) = (Meter::read(stage).await?, Cpu::now(stage, None)?);
        let mut operator = stage.start(self.program)?;
        let (rest, usage) = operator.at_rest(&stage.client).await?;
        let cpu = Cpu { controller: usage.cpu.as_secs_f64(), ..Cpu::now(stage, None)?.since(before) };
        let seconds = rest.duration_since(operator.started).as_secs_f64();
        let restart = meter.phase(stage, seconds, cpu, operator.usage()?).await?;
        step.done();
        let steady = self.steady(stage, &operator).await?;
        operator.stop().await?;
        Ok(Sequel { wave, refresh, restart, steady })
    }

    async fn steady(&self, stage: &Stage, operator: &Operator) -> anyhow::Result<Phase> {
        let step = Step::start("nothing to do", &format!("{} s", self.steady.as_secs()));
        let (meter, before) = (Meter::read(stage).await?, Cpu::now(stage, Some(operator.usage()?))?);
        sleep(self.steady).await;
        let usage = operator.usage()?;
        let cpu = Cpu::now(stage, Some(usage))?.since(before);
        let phase = meter.phase(stage, self.steady.as_secs_f64(), cpu, usage).await?;
        step.done();
        Ok(phase)
    }
}

/// Waits until every token was replaced when its own time had come. Those that come now live as long as Google's.
async fn wave(
    stage: &Stage,
    observer: &Observer,
    operator: &mut Operator,
    fleet: Fleet,
) -> anyhow::Result<(Wave, Phase)> {
    stage.google.set_id_token_lifetime(LIFE_AT_GOOGLE);
    let (first, last) = observer.schedule().context("no status tells when it is refreshed")?;
    let until = |at: jiff::Timestamp| Duration::try_from(at.duration_since(now())).unwrap_or_default();
    let expectation = format!("from {} s to {} s from now on", until(first).as_secs(), until(last).as_secs());
    let step = Step::start("a refresh of every token", &expectation);
    observer.begin_wave();
    let (meter, before) = (Meter::read(stage).await?, Cpu::now(stage, Some(operator.usage()?))?);
    let limit = until(last) + LONGEST;
    let wave = operator.until("all tokens to be refreshed", limit, || observer.wave(fleet.0)).await?;
    let seconds = now().duration_since(first).as_secs_f64();
    let cpu = Cpu::now(stage, Some(operator.usage()?))?.since(before);
    operator.at_rest(&stage.client).await?;
    step.done();
    Ok((wave, meter.phase(stage, seconds, cpu, operator.usage()?).await?))
}

/// Google's tokens live for an hour; the first ones here for as long as filling takes twice on a slow machine, and a refresh
/// comes at little more than half of it.
const SHORTEST_LIFE: Duration = Duration::from_secs(20);
const LIFE_PER_BINDING: Duration = Duration::from_millis(25);
const LIFE_AT_GOOGLE: Duration = Duration::from_secs(3600);
const LONGEST: Duration = Duration::from_secs(1800);
