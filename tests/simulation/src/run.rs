//! One run: the fleet is made, replicas start, and what is planned goes wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use xtask::google::SigningKey;

use crate::api_server::{ApiServer, LEASE, Name, Resource};
use crate::clock;
use crate::faults::{Fault, Loss};
use crate::google::Google;
use crate::population::{ground_of, tenant_name};
use crate::replica::{Models, Network, Replica};
use crate::world::{Plan, World};
use jiff::SignedDuration;

/// Runs `plan` to its end, and adds each second that is over to `progress`.
pub fn run(plan: &Plan, key: &Arc<SigningKey>, progress: &AtomicU64) -> anyhow::Result<Arc<World>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(async {
        clock::begin();
        let world = Arc::new(World::new(plan));
        let api_server = ApiServer::new(world.clone());
        let google = Google::new(world.clone(), key.clone());
        let models = Models { world: world.clone(), api_server, google };
        let mut day = Day::begin(models)?;
        day.go_on(progress).await?;
        day.end();
        Ok(world)
    })
}

/// What is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Action {
    /// A binding is made.
    Make(usize),
    /// What was planned begins.
    Begin(usize),
    /// It ends.
    End(usize),
}

struct Day {
    models: Models,
    replicas: Vec<Replica>,
    started: usize,
    /// Which replica was lost by what was planned.
    lost: Vec<(usize, usize)>,
}

impl Day {
    fn begin(models: Models) -> anyhow::Result<Self> {
        let mut day = Self { models, replicas: Vec::new(), started: 0, lost: Vec::new() };
        day.prepare();
        for _ in 0..REPLICAS {
            let replica = day.another()?;
            day.replicas.push(replica);
        }
        Ok(day)
    }

    /// Makes what is there before the first replica starts.
    fn prepare(&self) {
        let World { population, .. } = &*self.models.world;
        for tenant in 0..population.tenants {
            let [namespace, grant] = ground_of(tenant);
            let name = Name { namespace: String::new(), name: tenant_name(tenant) };
            self.make(Resource::Namespace, name.clone(), namespace);
            self.make(Resource::Grant, name, grant);
        }
        for binding in population.bindings.iter().filter(|binding| binding.is_obstructed) {
            let name = Name { namespace: binding.namespace(), name: binding.secret() };
            self.make(Resource::Secret, name, binding.obstacle());
        }
        let lease = Name { namespace: LEASE.0.to_owned(), name: LEASE.1.to_owned() };
        let object =
            serde_json::json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {}});
        self.make(Resource::Lease, lease, object);
    }

    fn make(&self, resource: Resource, name: Name, object: serde_json::Value) {
        if let Err(refusal) = self.models.api_server.store().create(resource, name, object) {
            self.models.world.ledger().fail(format!("{refusal:?}"));
        }
    }

    async fn go_on(&mut self, progress: &AtomicU64) -> anyhow::Result<()> {
        let world = self.models.world.clone();
        let made = world.population.bindings.iter().enumerate().map(|(at, b)| (b.created, Action::Make(at)));
        let planned = world.schedule.planned.iter().enumerate();
        let planned =
            planned.flat_map(|(at, p)| [(p.when.start, Action::Begin(at)), (p.when.end, Action::End(at))]);
        let mut actions: Vec<(u64, Action)> =
            made.chain(planned).filter(|(second, _)| *second < world.until).collect();
        actions.sort_unstable();
        let mut next = actions.into_iter().peekable();
        let mut told = 0;
        while clock::second() < world.until {
            let due = next.peek().map_or(world.until, |(second, _)| *second);
            // In steps, so that others see how it goes on.
            clock::reach(Duration::from_secs(due.min(clock::second() + 60))).await;
            let now = clock::second().min(world.until);
            progress.fetch_add(now - told, Ordering::Relaxed);
            told = now;
            while let Some((_, action)) = next.next_if(|(second, _)| *second <= clock::second()) {
                self.act(action)?;
            }
        }
        Ok(())
    }

    fn act(&mut self, action: Action) -> anyhow::Result<()> {
        let world = self.models.world.clone();
        match action {
            Action::Make(at) => {
                let binding = &world.population.bindings[at];
                let name = Name { namespace: binding.namespace(), name: binding.name.clone() };
                self.make(Resource::Binding, name, binding.object());
                world.ledger().created(at);
            }
            Action::Begin(at) => {
                let planned = &world.schedule.planned[at];
                match planned.fault {
                    Fault::Clock(ahead) => clock::set_skew(SignedDuration::from_secs(ahead)),
                    Fault::Sleep => {
                        clock::sleep_machines(Duration::from_secs(planned.when.end - planned.when.start));
                    }
                    Fault::Api(_) | Fault::Cut => self.models.api_server.cut(),
                    Fault::Gone => self.models.api_server.compact(),
                    Fault::Leader(loss) => self.lose(at, loss),
                    Fault::Google(_) | Fault::Storm | Fault::Slow(_) | Fault::Conflicts(_) => {}
                }
            }
            Action::End(at) => match world.schedule.planned[at].fault {
                Fault::Clock(_) => clock::set_skew(SignedDuration::ZERO),
                Fault::Leader(loss) => self.find(at, loss)?,
                _ => {}
            },
        }
        Ok(())
    }

    /// Loses the replica that leads.
    fn lose(&mut self, planned: usize, loss: Loss) {
        let leader = self.models.api_server.leader();
        let at = self.replicas.iter().position(|replica| Some(&*replica.link.identity) == leader.as_deref());
        let Some(at) = at.filter(|at| self.replicas[*at].link.is_up()) else { return };
        match loss {
            Loss::Stopped => self.replicas[at].stop(),
            Loss::Killed => self.replicas[at].kill(),
            Loss::CutOff => self.replicas[at].link.set(Network::CutOff),
        }
        self.models.world.ledger().availability.leaderless(clock::second());
        self.lost.push((planned, at));
    }

    /// Another one comes in its place, or it comes back.
    fn find(&mut self, planned: usize, loss: Loss) -> anyhow::Result<()> {
        let Some(position) = self.lost.iter().position(|(by, _)| *by == planned) else { return Ok(()) };
        let (_, at) = self.lost.swap_remove(position);
        match loss {
            Loss::CutOff => self.replicas[at].link.set(Network::Up),
            Loss::Stopped | Loss::Killed => self.replicas[at] = self.another()?,
        }
        Ok(())
    }

    fn another(&mut self) -> anyhow::Result<Replica> {
        self.started += 1;
        Replica::start(&self.models, &format!("replica-{}", self.started))
    }

    /// Looks at the bindings that were not heard of again.
    fn end(&self) {
        let world = &self.models.world;
        let mut ledger = world.ledger();
        for (at, binding) in world.population.bindings.iter().enumerate() {
            if world.population.is_healthy(binding) {
                ledger.judge(binding, at, world.until);
            }
        }
        self.replicas.iter().for_each(Replica::stop);
    }
}

const REPLICAS: usize = 2;
