//! What is remembered of pods that ask for tokens: as little as will do, and nothing of all the others.

use std::collections::{HashMap, HashSet, VecDeque};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{core::PartialObjectMeta, runtime::watcher::Event};

use crate::plan::uninjected::{Excluded, Trace, confirmation, controller_of, trace};

/// Something to do, one at a time.
#[derive(Debug, PartialEq)]
pub(super) enum Task {
    /// A pod whose spec has to be looked at.
    Look(Target),
    /// Something good to be told about an owner.
    Confirm {
        /// Of the pod.
        owner: Box<ObjectReference>,
        /// What.
        note: String,
    },
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// All of it.
pub(super) struct Pods {
    excluded: Excluded,
    /// Only of pods that are younger it is told that they got what they asked for.
    start: Timestamp,
    /// By UID: pods that ask, and bear no mark.
    unmarked: HashMap<String, Unmarked>,
    /// Those that a list under way has brought so far, by the part of the cluster that it is of.
    listed: HashMap<usize, HashSet<String>>,
    /// How many of them lack something.
    lacking: usize,
    tasks: VecDeque<Task>,
    told: Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unmarked {
    /// Which of the watches it came by.
    part: usize,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Open,
    /// Whoever wrote it has mounted everything, or it is from before there were marks.
    Fine,
    Lacking,
}

impl Pods {
    pub(super) fn new(excluded: Excluded, start: Timestamp) -> Self {
        Self {
            excluded,
            start,
            unmarked: HashMap::new(),
            listed: HashMap::new(),
            lacking: 0,
            tasks: VecDeque::new(),
            told: Told::default(),
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
                let uid = pod.metadata.uid.unwrap_or_default();
                if self.unmarked.contains_key(&uid) {
                    self.listed.entry(part).or_default().insert(uid);
                }
            }
            Event::InitDone => {
                let listed = self.listed.remove(&part).unwrap_or_default();
                self.unmarked.retain(|uid, pod| pod.part != part || listed.contains(uid));
                self.lacking = self.unmarked.values().filter(|pod| pod.verdict == Verdict::Lacking).count();
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
        match trace(metadata, &self.excluded) {
            Trace::Unanswered => {
                if !self.unmarked.contains_key(uid) {
                    self.unmarked.insert(uid.clone(), Unmarked { part, verdict: Verdict::Open });
                    let (namespace, name, uid) = (namespace.clone(), name.clone(), uid.clone());
                    self.tasks.push_back(Task::Look(Target { namespace, name, uid }));
                }
                return;
            }
            Trace::Injected => self.confirm(metadata),
            Trace::None => {}
        }
        self.forget(uid);
    }

    fn forget(&mut self, uid: &str) {
        if self.unmarked.remove(uid).is_some_and(|pod| pod.verdict == Verdict::Lacking) {
            self.lacking -= 1;
        }
    }

    fn confirm(&mut self, metadata: &ObjectMeta) {
        // The API server cuts the time of creation to the second.
        let is_young = |created: &Time| created.0.as_second() >= self.start.as_second();
        let is_young = metadata.creation_timestamp.as_ref().is_some_and(is_young);
        let Some(owner) = owner(metadata).filter(|_| is_young) else { return };
        if self.told.is_new(INJECTED, owner.uid.as_deref().unwrap_or_default()) {
            self.tasks.push_back(Task::Confirm { owner: Box::new(owner), note: confirmation(metadata) });
        }
    }

    /// Whether there is something to do.
    pub(super) fn has_tasks(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// The next thing to do; a pod that is gone, or has got its mark, is passed over.
    pub(super) fn next(&mut self) -> Option<Task> {
        while let Some(task) = self.tasks.pop_front() {
            match &task {
                Task::Look(pod) if self.unmarked.get(&pod.uid).is_none_or(|p| p.verdict != Verdict::Open) => {
                }
                _ => return Some(task),
            }
        }
        None
    }

    /// It could not be told: later.
    pub(super) fn again(&mut self, pod: Target) {
        self.tasks.push_back(Task::Look(pod));
    }

    /// It is not there any more.
    pub(super) fn gone(&mut self, pod: &Target) {
        self.forget(&pod.uid);
    }

    /// It has been looked at.
    pub(super) fn judged(&mut self, pod: &Target, is_lacking: bool) {
        if let Some(known) = self.unmarked.get_mut(&pod.uid) {
            known.verdict = if is_lacking { Verdict::Lacking } else { Verdict::Fine };
            self.lacking += usize::from(is_lacking);
        }
    }

    /// The owner of a pod that lacks something, if it is the first one of it.
    pub(super) fn first_of_owner(&mut self, metadata: &ObjectMeta) -> Option<ObjectReference> {
        owner(metadata).filter(|owner| self.told.is_new(SKIPPED, owner.uid.as_deref().unwrap_or_default()))
    }

    /// How many pods lack something now.
    pub(super) fn lacking(&self) -> usize {
        self.lacking
    }
}

/// The pod's owner as an event names it.
fn owner(metadata: &ObjectMeta) -> Option<ObjectReference> {
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

/// What was told of whom, the newest of it: to tell something twice after a long time is better than to remember all owners for ever.
#[derive(Default)]
struct Told {
    set: HashSet<(&'static str, String)>,
    order: VecDeque<(&'static str, String)>,
}

impl Told {
    fn is_new(&mut self, what: &'static str, whom: &str) -> bool {
        let key = (what, whom.to_owned());
        if !self.set.insert(key.clone()) {
            return false;
        }
        self.order.push_back(key);
        if self.order.len() > MOST_TOLD
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        true
    }
}

/// Reason of the event about a pod that has nothing.
pub(super) const SKIPPED: &str = "InjectionSkipped";
/// Reason of the event about pods that have what they asked for.
pub(super) const INJECTED: &str = "Injected";
const MOST_TOLD: usize = 4096;

#[cfg(test)]
mod tests;
