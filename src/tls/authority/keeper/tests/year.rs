//! Years of three replicas, in steps of hours: their clocks disagree, they restart, writes are lost, the Secret is deleted or
//! damaged, the registration is wiped. At every moment the certificate that any of them presents is verified (by rustls) with every
//! bundle that any of them may have registered.
use proptest::prelude::*;

use super::*;
use crate::tls::authority::tests::trusts_leaf;

const REPLICAS: usize = 3;

/// What happens between two looks.
#[derive(Debug, Clone, Copy)]
enum Event {
    Nothing,
    /// A replica is replaced by a new one, which looks before it serves.
    Restart(usize),
    /// A replica can't look this time.
    Absent(usize),
    /// The next write is lost, one way or the other.
    Lost(Fault),
    /// The Secret is deleted, and a replica that knew it looks next.
    Deleted(usize),
    Damaged(usize),
    /// Somebody wipes caBundle.
    Wiped,
}

#[derive(Debug, Clone)]
struct Step {
    hours: i64,
    event: Event,
    /// How far each clock is ahead, in minutes.
    skews: [i64; REPLICAS],
    /// Whether the replicas look at the same time, or one after the other.
    at_once: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let event = prop_oneof![
        24 => Just(Event::Nothing),
        4 => (0..REPLICAS).prop_map(Event::Restart),
        4 => (0..REPLICAS).prop_map(Event::Absent),
        2 => Just(Event::Lost(Fault::Refused)),
        2 => Just(Event::Lost(Fault::Unheard)),
        1 => (0..REPLICAS).prop_map(Event::Deleted),
        1 => (0..REPLICAS).prop_map(Event::Damaged),
        1 => Just(Event::Wiped),
    ];
    (1..12i64, event, prop::array::uniform3(-25..=25i64), any::<bool>())
        .prop_map(|(hours, event, skews, at_once)| Step { hours, event, skews, at_once })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_a_year_no_replica_ever_presents_what_a_caller_refuses(steps in prop::collection::vec(step(), 1_400)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut fleet = Fleet::new();
            for step in &steps {
                fleet.live(step).await;
            }
            assert!(fleet.now > now() + SignedDuration::from_hours(24 * 300), "{}", fleet.now);
            assert!(fleet.authorities.len() >= 4, "{} authorities signed", fleet.authorities.len());
        });
    }
}

/// By day, with the lifetimes that are shipped: eight serving certificates or so, and two authorities, in two years.
#[tokio::test]
async fn two_years_need_fourteen_writes() {
    let mut fleet = Fleet::new();
    fleet.replicas.iter_mut().for_each(|replica| replica.settings.lifetimes = Lifetimes::default());
    let day = Step { hours: 24, event: Event::Nothing, skews: [-5, 0, 5], at_once: true };
    for _ in 0..730 {
        fleet.live(&day).await;
    }
    assert_eq!(fleet.authorities.len(), 2);
    // The first, ten renewals, the successor, its first certificate (which is the eleventh renewal), and one after it.
    assert_eq!(fleet.server.version(), 14);
}

/// All clocks jump, the API server's with them: what has become invalid is replaced by the next look of each.
#[tokio::test]
async fn jumps_of_the_clock_are_over_after_one_look() {
    let mut fleet = Fleet::new();
    let calm = Step { hours: 1, event: Event::Nothing, skews: [3, -20, 20], at_once: false };
    fleet.live(&calm).await;
    for days in [40, -3, 200, -400, 4_000, -4_100, 1] {
        fleet.now += SignedDuration::from_hours(24 * days);
        fleet.look(&calm).await;
        for _ in 0..50 {
            fleet.live(&calm).await;
        }
    }
}

struct Fleet {
    server: Arc<Server>,
    replicas: Vec<Keeper>,
    /// The time of the API server.
    now: Timestamp,
    /// What it trusts.
    registration: watch::Sender<Registered>,
    /// Every CA that was seen to sign.
    authorities: Vec<String>,
}

impl Fleet {
    fn new() -> Self {
        let (server, registration) = (Arc::new(Server::default()), watch::Sender::new(Registered::default()));
        let replicas = (0..REPLICAS).map(|_| replica(&server, &registration)).collect();
        Self { server, replicas, now: now(), registration, authorities: Vec::new() }
    }

    async fn live(&mut self, step: &Step) {
        self.now += SignedDuration::from_hours(step.hours);
        if !self.authorities.is_empty() {
            self.assert_trusted();
        }
        match step.event {
            Event::Restart(index) => {
                self.replicas[index] = replica(&self.server, &self.registration);
            }
            Event::Lost(fault) => self.server.lock().fault = Some(fault),
            Event::Deleted(index) if self.replicas[index].known.is_some() => {
                self.server.lock().secret = None;
                self.visit(index, step).await;
            }
            Event::Damaged(index) if self.replicas[index].known.is_some() => {
                if let Some(secret) = &mut self.server.lock().secret {
                    secret.data.as_mut().unwrap().remove("ca.key");
                }
                self.visit(index, step).await;
            }
            Event::Wiped => {
                self.registration.send_replace(registered("", self.now));
            }
            _ => {}
        }
        self.look(step).await;
        self.assert_trusted();
    }

    /// Every replica looks, and whoever failed looks again.
    async fn look(&mut self, step: &Step) {
        if step.at_once {
            let now = self.now;
            let clocks = step.skews.map(|ahead| now + SignedDuration::from_mins(ahead));
            let looks = self.replicas.iter_mut().zip(clocks).map(|(replica, clock)| replica.visit(clock));
            futures::future::join_all(looks).await;
            self.register(0);
        }
        for index in 0..REPLICAS {
            if !matches!(step.event, Event::Absent(absent) if absent == index) {
                self.visit(index, step).await;
            }
        }
        let signer = self
            .server
            .text("ca.crt")
            .split_inclusive("-----END CERTIFICATE-----\n")
            .next()
            .unwrap()
            .to_owned();
        if self.authorities.last() != Some(&signer) {
            self.authorities.push(signer);
        }
    }

    async fn visit(&mut self, index: usize, step: &Step) {
        let clock = self.now + SignedDuration::from_mins(step.skews[index]);
        for _ in 0..2 {
            if self.replicas[index].visit(clock).await.is_ok() {
                self.register(index);
                return;
            }
        }
        panic!("{index} can't look at {clock}");
    }

    /// What the registration of a replica does.
    fn register(&self, index: usize) {
        let Some(bundle) = self.replicas[index].bundle.borrow().clone() else { return };
        if self.registration.borrow().bundles != [bundle.as_str()] {
            self.registration.send_replace(registered(&bundle, self.now));
        }
    }

    fn assert_trusted(&self) {
        let bundles = self.replicas.iter().map(|replica| replica.bundle.borrow().clone());
        let mut bundles: Vec<_> = bundles.collect::<Option<_>>().unwrap();
        bundles.sort();
        bundles.dedup();
        let mut presented: Vec<_> =
            self.replicas.iter().map(|replica| replica.presented.as_ref().unwrap()).collect();
        presented.dedup();
        for leaf in presented {
            for bundle in &bundles {
                assert!(
                    trusts_leaf(bundle, &leaf.pem(), "webhook.idtoken.svc", self.now),
                    "{leaf:?} at {}",
                    self.now
                );
            }
        }
    }
}

fn replica(server: &Arc<Server>, registration: &watch::Sender<Registered>) -> Keeper {
    let mut replica = keeper(server);
    replica.registered = registration.subscribe();
    replica.settings.names = vec!["webhook.idtoken.svc".to_owned()];
    let day = |days: i64| SignedDuration::from_hours(24 * days);
    replica.settings.lifetimes = Lifetimes { authority: day(90), leaf: day(20), overlap: day(1) };
    replica
}
