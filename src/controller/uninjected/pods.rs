//! What is remembered of pods that ask for tokens, and which of them to read next; nothing of all the others.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{core::PartialObjectMeta, runtime::watcher::Event};
use tokio::time::Instant;

use crate::plan::uninjected::{Excluded, Trace, controller_of, trace};

/// Of a pod or an owner.
type Uid = Arc<str>;

/// A pod whose spec has to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub namespace: String,
    pub name: String,
    pub uid: Uid,
}

/// All of it.
pub(super) struct Pods {
    excluded: Excluded,
    /// Only of pods that are younger it is told that they got what they asked for.
    start: Timestamp,
    /// Pods that ask.
    known: HashMap<Uid, Known>,
    /// What controls them, or a pod itself where nothing does. An owner is forgotten with its last pod.
    owners: HashMap<Uid, Owner>,
    /// Those that a list under way has brought so far, by the part of the cluster that it is of.
    listed: HashMap<usize, HashSet<Uid>>,
    /// How many of them lack something.
    lacking: usize,
    /// To be read: first those that nobody vouches for,
    looks: VecDeque<Uid>,
    /// then those that could not be read, when their time has come,
    later: BTreeSet<(Instant, Uid)>,
    /// then those that bear a mark, one of each owner.
    samples: VecDeque<Uid>,
}

struct Known {
    /// Which of the watches it came by.
    part: usize,
    namespace: String,
    name: String,
    owner: Uid,
    /// It bore a mark when it was first seen.
    is_marked: bool,
    is_young: bool,
    verdict: Verdict,
    /// How often it could not be read.
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It bears a mark, and is not going to be read: another one of its owner's is.
    Believed,
    /// It is going to be read.
    Open,
    Complete,
    Lacking,
}

#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own; any of them may go with any other"
)]
struct Owner {
    pods: HashSet<Uid>,
    /// One of its pods with a mark is going to be read, or was.
    is_sampled: bool,
    /// The same, of its young ones.
    is_sampled_young: bool,
    /// A mark on one of its pods was false: each of them is read.
    is_doubted: bool,
    is_confirmed: bool,
    is_warned: bool,
}

impl Pods {
    pub(super) fn new(excluded: Excluded, start: Timestamp) -> Self {
        Self {
            excluded,
            start,
            known: HashMap::new(),
            owners: HashMap::new(),
            listed: HashMap::new(),
            lacking: 0,
            looks: VecDeque::new(),
            later: BTreeSet::new(),
            samples: VecDeque::new(),
        }
    }

    /// Takes note of what the watch number `part` brings.
    pub(super) fn see(&mut self, part: usize, event: Event<PartialObjectMeta<Pod>>) {
        match event {
            Event::Init => {
                self.listed.insert(part, HashSet::new());
            }
            Event::InitApply(pod) => {
                self.apply(part, &pod.metadata);
                if let Some((uid, _)) = self.known.get_key_value(&*pod.metadata.uid.unwrap_or_default()) {
                    self.listed.entry(part).or_default().insert(uid.clone());
                }
            }
            Event::InitDone => {
                let listed = self.listed.remove(&part).unwrap_or_default();
                let is_gone = |(uid, pod): &(&Uid, &Known)| pod.part == part && !listed.contains(*uid);
                let gone: Vec<_> = self.known.iter().filter(is_gone).map(|(uid, _)| uid.clone()).collect();
                for uid in &gone {
                    self.forget(uid);
                }
            }
            Event::Apply(pod) => self.apply(part, &pod.metadata),
            Event::Delete(pod) => self.forget(&pod.metadata.uid.unwrap_or_default()),
        }
    }

    fn apply(&mut self, part: usize, metadata: &ObjectMeta) {
        let (Some(uid), Some(name), Some(namespace)) = (&metadata.uid, &metadata.name, &metadata.namespace)
        else {
            return;
        };
        let is_marked = match trace(metadata, &self.excluded) {
            Trace::None => return self.forget(uid),
            Trace::Marked => true,
            Trace::Unanswered => false,
        };
        if let Some((uid, known)) = self.known.get_key_value(&**uid) {
            // A mark that comes later says nothing: volumes are for life.
            if !is_marked && known.verdict == Verdict::Believed {
                self.open(&uid.clone(), false);
            }
            return;
        }
        // The API server cuts the time of creation to the second.
        let is_young = |created: &Time| created.0.as_second() >= self.start.as_second();
        let is_young = metadata.creation_timestamp.as_ref().is_some_and(is_young);
        let uid = Uid::from(uid.as_str());
        let owner =
            controller_of(metadata).map_or_else(|| uid.clone(), |owner| Uid::from(owner.uid.as_str()));
        // One key for all pods of an owner.
        let owner = self.owners.get_key_value(&owner).map_or(owner, |(key, _)| key.clone());
        self.owners.entry(owner.clone()).or_default().pods.insert(uid.clone());
        let known = Known {
            part,
            namespace: namespace.clone(),
            name: name.clone(),
            owner: owner.clone(),
            is_marked,
            is_young,
            verdict: Verdict::Believed,
            failures: 0,
        };
        self.known.insert(uid.clone(), known);
        let is_doubted = self.owners.get(&owner).is_some_and(|owner| owner.is_doubted);
        if is_marked && !is_doubted { self.sample(&uid) } else { self.open(&uid, false) }
    }

    /// Has a pod with a mark read if it is the first one of its owner, or the first young one.
    fn sample(&mut self, uid: &Uid) {
        let Some(pod) = self.known.get(uid) else { return };
        let Some(owner) = self.owners.get_mut(&pod.owner) else { return };
        if !owner.is_sampled || (pod.is_young && !owner.is_sampled_young) {
            owner.is_sampled = true;
            owner.is_sampled_young |= pod.is_young;
            self.open(uid, true);
        }
    }

    /// Has a pod read.
    fn open(&mut self, uid: &Uid, is_sample: bool) {
        let Some(pod) = self.known.get_mut(uid) else { return };
        pod.verdict = Verdict::Open;
        let queue = if is_sample { &mut self.samples } else { &mut self.looks };
        queue.push_back(uid.clone());
        // Those of pods that went meanwhile don't add up.
        if queue.len() > 2 * self.known.len() {
            queue.retain(|uid| self.known.contains_key(uid));
        }
    }

    fn forget(&mut self, uid: &str) {
        let Some(pod) = self.known.remove(uid) else { return };
        self.lacking -= usize::from(pod.verdict == Verdict::Lacking);
        let Some(owner) = self.owners.get_mut(&pod.owner) else { return };
        owner.pods.remove(uid);
        if owner.pods.is_empty() {
            self.owners.remove(&pod.owner);
        } else if pod.is_marked && pod.verdict == Verdict::Open {
            // It was to speak for the others: now another one does.
            (owner.is_sampled, owner.is_sampled_young) = (false, false);
            let believed = owner.pods.iter().filter_map(|uid| self.known.get_key_value(uid));
            let believed = believed.filter(|(_, pod)| pod.verdict == Verdict::Believed);
            if let Some(next) = believed.max_by_key(|(_, pod)| pod.is_young).map(|(uid, _)| uid.clone()) {
                self.sample(&next);
            }
        }
    }

    /// Whether there is something to do, now or later.
    pub(super) fn has_tasks(&self) -> bool {
        !(self.looks.is_empty() && self.later.is_empty() && self.samples.is_empty())
    }

    /// The pod to read next; one that is gone is passed over.
    pub(super) fn next(&mut self, now: Instant) -> Option<Target> {
        loop {
            let is_due = self.later.first().is_some_and(|(due, _)| *due <= now);
            let uid = self
                .looks
                .pop_front()
                .or_else(|| if is_due { self.later.pop_first().map(|(_, uid)| uid) } else { None })
                .or_else(|| self.samples.pop_front())?;
            if let Some(pod) = self.known.get(&uid).filter(|pod| pod.verdict == Verdict::Open) {
                return Some(Target { namespace: pod.namespace.clone(), name: pod.name.clone(), uid });
            }
        }
    }

    /// It could not be read: later, and each time twice as late.
    pub(super) fn again(&mut self, pod: &Target, now: Instant) {
        if let Some(known) = self.known.get_mut(&pod.uid) {
            let wait = Duration::from_secs(1 << known.failures.min(7)).min(LONGEST_WAIT);
            known.failures += 1;
            self.later.insert((now + wait, pod.uid.clone()));
        }
    }

    /// It is not there any more, or has ended.
    pub(super) fn gone(&mut self, pod: &Target) {
        self.forget(&pod.uid);
    }

    /// It has been read, and has all. Its owner, if that is the first of its young pods which were injected.
    pub(super) fn complete(&mut self, pod: &Target, metadata: &ObjectMeta) -> Option<ObjectReference> {
        let known = self.known.get_mut(&pod.uid)?;
        known.verdict = Verdict::Complete;
        let owner = self.owners.get_mut(&known.owner)?;
        let is_new = known.is_marked && known.is_young && !std::mem::replace(&mut owner.is_confirmed, true);
        owner_of(metadata).filter(|_| is_new)
    }

    /// It has been read, and lacks something. Its owner, if that is the first one of it. With a mark that is false the others of the owner
    /// are read, too.
    pub(super) fn lacks(&mut self, pod: &Target, metadata: &ObjectMeta) -> Option<ObjectReference> {
        let known = self.known.get_mut(&pod.uid)?;
        known.verdict = Verdict::Lacking;
        self.lacking += 1;
        let owner = self.owners.get_mut(&known.owner)?;
        let is_new = !std::mem::replace(&mut owner.is_warned, true);
        if known.is_marked && !std::mem::replace(&mut owner.is_doubted, true) {
            let pods: Vec<_> = owner.pods.iter().cloned().collect();
            for uid in pods {
                if self.known.get(&uid).is_some_and(|pod| pod.verdict == Verdict::Believed) {
                    self.open(&uid, false);
                }
            }
        }
        owner_of(metadata).filter(|_| is_new)
    }

    /// How many pods lack something now.
    pub(super) fn lacking(&self) -> usize {
        self.lacking
    }
}

/// The pod's owner as an event names it.
fn owner_of(metadata: &ObjectMeta) -> Option<ObjectReference> {
    let owner = controller_of(metadata)?;
    Some(ObjectReference {
        api_version: Some(owner.api_version.clone()),
        kind: Some(owner.kind.clone()),
        name: Some(owner.name.clone()),
        namespace: metadata.namespace.clone(),
        uid: Some(owner.uid.clone()),
        ..ObjectReference::default()
    })
}

/// Between two attempts to read a pod.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests;
