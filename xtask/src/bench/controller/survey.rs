//! Which kind of write the API server answers fastest, and how many at once: the floor is made of that.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::Client;
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::fleet::{self, Fleet};
use super::observer::Observer;
use super::phase::Cpu;
use super::stage::Stage;
use super::writes::{Object, Target, Templates, Version, WAYS, Way};
use crate::progress::Step;

/// What was found out.
pub(super) struct Survey {
    pub(super) templates: Templates,
    pub(super) rates: Vec<Rate>,
    pub(super) best: Best,
}

/// How fast one way is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Rate {
    #[serde(flatten)]
    pub(super) way: Way,
    /// Writes under way at the same time.
    pub(super) at_once: usize,
    pub(super) writes_per_second: f64,
    /// Processor time of API server and etcd for one write, in milliseconds. On a busy machine this says more than the rate does.
    pub(super) cpu_millis: f64,
}

/// The fastest ways at the best number of writes at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Best {
    pub(super) at_once: usize,
    pub(super) new_secret: Way,
    pub(super) secret: Way,
    pub(super) status: Way,
}

/// How thorough it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// How often all ways take their turn: garbage collection of the API server hits whichever writes just then.
    passes: u32,
    /// Of so many writes.
    writes: u32,
    at_once: &'static [usize],
}

/// To be believed, and to see whether it works at all.
pub(super) const THOROUGH: Extent = Extent { passes: 6, writes: 192, at_once: &[8, 32, 128] };
pub(super) const QUICK: Extent = Extent { passes: 1, writes: 8, at_once: &[8] };

/// Lets the product write one Secret and one status, and writes the like of them in every way.
pub(super) async fn survey(helm: &Path, program: &Path, extent: Extent) -> anyhow::Result<Survey> {
    let stage = Stage::open(helm, Fleet(1), Duration::from_secs(3600)).await?;
    let templates = sample(&stage, program).await?;
    let runs = extent.passes * u32::try_from(extent.at_once.len())?;
    let fleet = Fleet(1 + runs * SETS * extent.writes);
    let step = Step::start(format!("comparing ways to write, on {} bindings", fleet.0), "");
    fleet.create(&stage.client, 1).await?;
    let targets = targets(&stage.client, fleet).await?;
    let client = stage.client_of_controller().await?;
    let mut sets = targets[1..].chunks(extent.writes as usize).map(<[Target]>::to_vec);
    let mut rates = Vec::new();
    for _ in 0..extent.passes {
        for at_once in extent.at_once {
            let mut sets_of_number: Vec<_> = sets.by_ref().take(SETS as usize).collect();
            let run = rates.len() / WAYS.len();
            for index in order(run) {
                let way = WAYS[index];
                let set = sets_of_number.get_mut(set_of(index)).context("too few bindings")?;
                let serial = 1_000_000 + u32::try_from(rates.len())?;
                let before = Cpu::now(&stage, None)?;
                let writes_per_second = rate(&client, &templates, way, *at_once, set, serial).await?;
                let used = Cpu::now(&stage, None)?.since(before).served();
                let cpu_millis = 1000.0 * used / f64::from(extent.writes);
                rates.push(Rate { way, at_once: *at_once, writes_per_second, cpu_millis });
            }
        }
    }
    step.done();
    stage.close().await?;
    let rates = means(&rates);
    let best = best(&rates).context("nothing was measured")?;
    Ok(Survey { templates, rates, best })
}

/// The Secret and the status that the product makes of a binding.
async fn sample(stage: &Stage, program: &Path) -> anyhow::Result<Templates> {
    let observer = Observer::start(&stage.client).await?;
    let mut operator = stage.start(program)?;
    operator.until("the first binding to be ready", SOON, || observer.all_ready(1)).await?;
    operator.stop().await?;
    let get = async |path: String| -> anyhow::Result<Value> {
        let request = http::Request::get(path).body(Vec::new())?;
        Ok(serde_json::from_str(&stage.client.request_text(request).await?)?)
    };
    let (namespace, name) = (fleet::namespace(0), fleet::name(0));
    let secret = get(format!("/api/v1/namespaces/{namespace}/secrets/{name}-idtoken")).await?;
    let binding = get(format!("{}/idtokenbindings/{name}", fleet::path(0))).await?;
    Templates::new(secret, binding)
}

/// All bindings, by number.
pub(super) async fn targets(client: &Client, fleet: Fleet) -> anyhow::Result<Vec<Target>> {
    let path = "/apis/idtoken.dev/v1alpha1/idtokenbindings";
    let request = http::Request::get(path)
        .header("accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let list: Value = client.request(request.body(Vec::new())?).await?;
    let mut targets = Vec::new();
    for item in list["items"].as_array().context("a list without items")? {
        let name = item["metadata"]["name"].as_str().unwrap_or_default();
        let number = name.rsplit('-').next().and_then(|number| number.parse().ok());
        let binding = serde_json::from_value(item["metadata"].clone())?;
        let number = number.with_context(|| format!("a binding of an unknown name {name}"))?;
        targets.push(Target { number, binding, secret: Version::default() });
    }
    targets.sort_by_key(|target| target.number);
    anyhow::ensure!(targets.len() == fleet.0 as usize, "{} bindings are there", targets.len());
    Ok(targets)
}

/// Writes to all of `targets` in one way; how many it was a second.
async fn rate(
    client: &Client,
    templates: &Templates,
    way: Way,
    at_once: usize,
    targets: &mut [Target],
    serial: u32,
) -> anyhow::Result<f64> {
    let count = u32::try_from(targets.len())?;
    let start = Instant::now();
    stream::iter(targets)
        .map(|target| way.write(client, templates, target, serial))
        .buffer_unordered(at_once)
        .try_collect::<()>()
        .await?;
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

/// The ways in the order of their turns, by their index in [`WAYS`]. What updates Secrets comes after what makes them; with which way
/// of writing a status it begins, and so meets bindings that have none, changes from run to run.
fn order(run: usize) -> Vec<usize> {
    let (of_secrets, mut of_statuses): (Vec<_>, Vec<_>) =
        (0..WAYS.len()).partition(|index| WAYS[*index].object != Object::Status);
    let first = run % of_statuses.len();
    of_statuses.rotate_left(first);
    [of_secrets, of_statuses].concat()
}

/// Which set of bindings the way of that index in [`WAYS`] writes to. What updates a Secret updates those that were made the
/// same way.
fn set_of(index: usize) -> usize {
    let of_object = WAYS.iter().take(index).filter(|way| way.object == WAYS[index].object).count();
    of_object % SETS as usize
}

/// One rate for each way and number, in the order of [`WAYS`]: all writes in all their time.
fn means(rates: &[Rate]) -> Vec<Rate> {
    let mut all: Vec<Vec<Rate>> = Vec::new();
    for rate in rates {
        let known = all.iter_mut().find(|of| (of[0].way, of[0].at_once) == (rate.way, rate.at_once));
        match known {
            Some(of) => of.push(*rate),
            None => all.push(vec![*rate]),
        }
    }
    let of = |rates: &[Rate], figure: fn(&Rate) -> f64| rates.iter().map(figure).sum::<f64>() / len(rates);
    let mean = |rates: &Vec<Rate>| Rate {
        writes_per_second: 1.0 / of(rates, |rate| 1.0 / rate.writes_per_second),
        cpu_millis: of(rates, |rate| rate.cpu_millis),
        ..rates[0]
    };
    let mut means: Vec<_> = all.iter().map(mean).collect();
    means.sort_by_key(|rate| WAYS.iter().position(|way| *way == rate.way));
    means
}

fn len(rates: &[Rate]) -> f64 {
    f64::from(u32::try_from(rates.len()).unwrap_or(u32::MAX))
}

/// The fastest ways, whatever the number of writes at once: which way that is hardly depends on the number, and this has more writes to
/// judge by. And the number with which a new Secret and a status take least time together in these ways.
fn best(rates: &[Rate]) -> Option<Best> {
    let fastest = |object: Object| {
        let ways = rates.iter().map(|rate| rate.way).filter(|way| way.object == object);
        ways.min_by(|a, b| seconds(rates, *a).total_cmp(&seconds(rates, *b)))
    };
    let [new_secret, secret, status] =
        [fastest(Object::NewSecret)?, fastest(Object::Secret)?, fastest(Object::Status)?];
    let of_number = |at_once: usize| {
        let rates: Vec<_> = rates.iter().filter(|rate| rate.at_once == at_once).copied().collect();
        seconds(&rates, new_secret) + seconds(&rates, status)
    };
    let numbers = rates.iter().map(|rate| rate.at_once);
    let at_once = numbers.min_by(|a, b| of_number(*a).total_cmp(&of_number(*b)))?;
    Some(Best { at_once, new_secret, secret, status })
}

/// How long one write of each number at once takes in that way, together.
pub(super) fn seconds(rates: &[Rate], way: Way) -> f64 {
    rates.iter().filter(|rate| rate.way == way).map(|rate| 1.0 / rate.writes_per_second).sum()
}

/// Sets of bindings for one number of writes at once: as many as there are ways to make a Secret.
const SETS: u32 = 3;
const SOON: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::writes::Write;
    use super::*;

    fn rate(object: Object, write: Write, at_once: usize, writes_per_second: f64) -> Rate {
        Rate { way: Way { object, write, whole_answer: false }, at_once, writes_per_second, cpu_millis: 1.0 }
    }

    #[test]
    fn the_best_ways_are_the_fastest_over_all_numbers_at_once() {
        let both = |at_once, secret, apply, patch| {
            [
                rate(Object::NewSecret, Write::Post, at_once, secret),
                rate(Object::Secret, Write::Put, at_once, 1.0),
                rate(Object::Secret, Write::Apply, at_once, 2.0),
                rate(Object::Status, Write::Apply, at_once, apply),
                rate(Object::Status, Write::MergePatch, at_once, patch),
            ]
        };
        // To apply is faster with 8 at once, but 1/500 + 1/1000 is less than 1/600 + 1/500; and with merge patches
        // 1/1000 + 1/1000 is less than 1/3000 + 1/500.
        let best = best(&[both(8, 3000.0, 600.0, 500.0), both(32, 1000.0, 500.0, 1000.0)].concat()).unwrap();
        assert_eq!((best.at_once, best.new_secret.write), (32, Write::Post));
        assert_eq!((best.secret.write, best.status.write), (Write::Apply, Write::MergePatch));
    }

    #[test]
    fn passes_come_to_all_writes_in_all_their_time() {
        let one = |write, at_once, value| rate(Object::Status, write, at_once, value);
        let rates = [
            one(Write::Apply, 16, 7.0),
            one(Write::Put, 8, 2.0),
            one(Write::Put, 16, 5.0),
            one(Write::Put, 8, 6.0),
        ];
        // 1/2 and 1/6 are 2/3 of a second for two.
        let expected = [one(Write::Put, 8, 3.0), one(Write::Put, 16, 5.0), one(Write::Apply, 16, 7.0)];
        assert_eq!(means(&rates), expected);
    }

    #[test]
    fn each_way_has_a_set_and_updates_follow_creations() {
        let sets = |run| order(run).into_iter().map(|index| (index, set_of(index))).collect::<Vec<_>>();
        let of_secrets = [(0, 0), (1, 1), (2, 2), (3, 0), (4, 1), (5, 2)];
        let of_statuses = [(6, 0), (7, 1), (8, 2), (9, 0), (10, 1), (11, 2), (12, 0), (13, 1)];
        assert_eq!(sets(0), [&of_secrets[..], &of_statuses].concat());
        assert_eq!(sets(8), sets(0));
        assert_eq!(sets(3), [&of_secrets[..], &of_statuses[3..], &of_statuses[..3]].concat());
    }
}
