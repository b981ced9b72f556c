//! Objects with their versions, and what changed lately.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::refusal::Refusal;
use super::request::Selector;
use crate::clock;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `idtokenbindings`
    Binding,
    /// `idtokengrants`
    Grant,
    /// `secrets`
    Secret,
    /// `namespaces`
    Namespace,
    /// `leases`
    Lease,
}

impl Resource {
    /// All of them, in the order of their tables.
    const ALL: [Self; 5] = [Self::Binding, Self::Grant, Self::Secret, Self::Namespace, Self::Lease];

    /// By its name in a path.
    pub(super) fn of(plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource| resource.plural() == plural)
    }

    /// Its name in a path.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Binding => "idtokenbindings",
            Self::Grant => "idtokengrants",
            Self::Secret => "secrets",
            Self::Namespace => "namespaces",
            Self::Lease => "leases",
        }
    }

    /// `apiVersion` and `kind`.
    pub(super) fn kind(self) -> (&'static str, &'static str) {
        match self {
            Self::Binding => ("idtoken.dev/v1alpha1", "IdTokenBinding"),
            Self::Grant => ("idtoken.dev/v1alpha1", "IdTokenGrant"),
            Self::Secret => ("v1", "Secret"),
            Self::Namespace => ("v1", "Namespace"),
            Self::Lease => ("coordination.k8s.io/v1", "Lease"),
        }
    }
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Empty where the kind has no namespaces.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

/// What a watch tells of.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) revision: u64,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(super) what: &'static str,
    pub(super) object: Arc<Value>,
    at: u64,
}

/// All objects.
#[derive(Debug)]
pub struct Store {
    revision: u64,
    tables: [Table; 5],
}

#[derive(Debug)]
struct Table {
    objects: BTreeMap<Name, Arc<Value>>,
    log: VecDeque<Change>,
    /// What happened up to this revision can't be told any more.
    floor: u64,
    news: watch::Sender<u64>,
}

impl Default for Store {
    fn default() -> Self {
        let table = || Table {
            objects: BTreeMap::new(),
            log: VecDeque::new(),
            floor: 0,
            news: watch::Sender::new(0),
        };
        Self { revision: 1, tables: std::array::from_fn(|_| table()) }
    }
}

impl Store {
    /// The object, if there is one.
    #[must_use]
    pub fn get(&self, resource: Resource, name: &Name) -> Option<&Arc<Value>> {
        self.table(resource).objects.get(name)
    }

    /// All objects of a kind that are selected, and the revision of which they are.
    pub(super) fn list(&self, resource: Resource, selector: &Selector) -> (Vec<Arc<Value>>, u64) {
        let objects = &self.table(resource).objects;
        let (only, all) = match selector.only() {
            Some(name) => (objects.get(&name), None),
            None => (None, Some(objects.values())),
        };
        let among = only.into_iter().chain(all.into_iter().flatten());
        (among.filter(|object| selector.matches(object)).cloned().collect(), self.revision)
    }

    /// Makes an object.
    pub fn create(
        &mut self,
        resource: Resource,
        name: Name,
        mut object: Value,
    ) -> Result<Arc<Value>, Refusal> {
        if self.get(resource, &name).is_some() {
            return Err(Refusal::exists(resource, &name));
        }
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(name.name);
        if !name.namespace.is_empty() {
            metadata["namespace"] = json!(name.namespace);
        }
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("00000000-0000-4000-9000-{:012x}", self.revision));
        }
        if metadata["creationTimestamp"].is_null() {
            // Of whole seconds, as the API server writes them.
            metadata["creationTimestamp"] =
                json!(clock::at(std::time::Duration::from_secs(clock::second())).to_string());
        }
        Ok(self.put(resource, name, object, "ADDED"))
    }

    /// Puts `object` in place of the one that has its UID and version.
    pub(super) fn replace(
        &mut self,
        resource: Resource,
        name: Name,
        mut object: Value,
    ) -> Result<Arc<Value>, Refusal> {
        let current = self.that(resource, &name, &object)?;
        for kept in ["uid", "creationTimestamp"] {
            object["metadata"][kept] = current["metadata"][kept].clone();
        }
        Ok(self.put(resource, name, object, "MODIFIED"))
    }

    /// The object of that name, if it has the UID and the version that `sent` speaks of.
    fn that(&self, resource: Resource, name: &Name, sent: &Value) -> Result<&Arc<Value>, Refusal> {
        let current = self.get(resource, name).ok_or_else(|| Refusal::missing(resource, name))?;
        let differs = |field: &&str| {
            let wanted = &sent["metadata"][*field];
            !wanted.is_null() && *wanted != current["metadata"][*field]
        };
        if ["uid", "resourceVersion"].iter().any(differs) {
            return Err(Refusal::conflict(resource, name));
        }
        Ok(current)
    }

    /// Puts the status in `body` in place of that of the object that has its UID and version; or applies it by the one manager that there is, which
    /// comes to the same: what it does not name goes. What changes nothing makes no version.
    pub(super) fn set_status(
        &mut self,
        resource: Resource,
        name: Name,
        body: &Value,
    ) -> Result<Arc<Value>, Refusal> {
        let current = self.that(resource, &name, body)?;
        if current["status"] == body["status"] {
            return Ok(current.clone());
        }
        let mut object = current.as_ref().clone();
        object["status"] = body["status"].clone();
        Ok(self.put(resource, name, object, "MODIFIED"))
    }

    /// Somebody else writes something of no importance into the object.
    pub(super) fn touch(&mut self, resource: Resource, name: &Name) {
        let Some(current) = self.get(resource, name) else { return };
        let mut object = current.as_ref().clone();
        object["metadata"]["annotations"]["example.com/touched"] = json!(self.revision.to_string());
        self.put(resource, name.clone(), object, "MODIFIED");
    }

    /// Removes an object, and gives what it was.
    pub(super) fn delete(&mut self, resource: Resource, name: &Name) -> Result<Arc<Value>, Refusal> {
        let at = Resource::ALL.iter().position(|one| *one == resource).unwrap_or(0);
        let gone = self.tables[at].objects.remove(name).ok_or_else(|| Refusal::missing(resource, name))?;
        self.tell(resource, "DELETED", gone.clone());
        Ok(gone)
    }

    /// What happened after `revision`; `None`: that can't be told any more.
    pub(super) fn since(&self, resource: Resource, revision: u64) -> Option<impl Iterator<Item = &Change>> {
        let table = self.table(resource);
        let from = table.log.partition_point(|change| change.revision <= revision);
        (revision >= table.floor).then(|| table.log.range(from..))
    }

    /// Forgets what happened up to now.
    pub(super) fn compact(&mut self) {
        // Something has happened that no watch has heard of.
        self.revision += 1;
        for table in &mut self.tables {
            table.log.clear();
            table.floor = self.revision;
        }
    }

    /// The newest revision.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Tells of each change of a kind.
    pub(super) fn news(&self, resource: Resource) -> watch::Receiver<u64> {
        self.table(resource).news.subscribe()
    }

    fn put(&mut self, resource: Resource, name: Name, mut object: Value, what: &'static str) -> Arc<Value> {
        object["metadata"]["resourceVersion"] = json!((self.revision + 1).to_string());
        let object = Arc::new(object);
        self.table_mut(resource).objects.insert(name, object.clone());
        self.tell(resource, what, object.clone());
        object
    }

    fn tell(&mut self, resource: Resource, what: &'static str, object: Arc<Value>) {
        self.revision += 1;
        let (revision, now) = (self.revision, clock::second());
        let table = self.table_mut(resource);
        table.log.push_back(Change { revision, what, object, at: now });
        while table.log.front().is_some_and(|change| change.at + KEPT_SECONDS < now) {
            table.floor = table.log.pop_front().map_or(table.floor, |change| change.revision);
        }
        table.news.send_replace(revision);
    }

    fn table(&self, resource: Resource) -> &Table {
        &self.tables[Resource::ALL.iter().position(|one| *one == resource).unwrap_or(0)]
    }

    fn table_mut(&mut self, resource: Resource) -> &mut Table {
        &mut self.tables[Resource::ALL.iter().position(|one| *one == resource).unwrap_or(0)]
    }
}

/// How long a watch can be resumed.
const KEPT_SECONDS: u64 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Name {
        Name { namespace: "shop".to_owned(), name: "token".to_owned() }
    }

    #[test]
    fn a_version_is_replaced_once() {
        let mut store = Store::default();
        let made = store.create(Resource::Secret, name(), json!({"metadata": {}})).unwrap();
        assert_eq!(store.create(Resource::Secret, name(), json!({})).unwrap_err().code, 409);
        let replaced = store.replace(Resource::Secret, name(), made.as_ref().clone()).unwrap();
        assert_eq!(made["metadata"]["uid"], replaced["metadata"]["uid"]);
        assert_ne!(made["metadata"]["resourceVersion"], replaced["metadata"]["resourceVersion"]);
        assert_eq!(store.replace(Resource::Secret, name(), made.as_ref().clone()).unwrap_err().code, 409);
        store.touch(Resource::Secret, &name());
        assert_eq!(store.replace(Resource::Secret, name(), replaced.as_ref().clone()).unwrap_err().code, 409);
        store.delete(Resource::Secret, &name()).unwrap();
        assert_eq!(store.replace(Resource::Secret, name(), replaced.as_ref().clone()).unwrap_err().code, 404);
    }

    #[test]
    fn a_status_is_the_uids_and_the_same_one_is_no_change() {
        let mut store = Store::default();
        store.create(Resource::Binding, name(), json!({"metadata": {"uid": "1"}})).unwrap();
        let mut apply = |uid: &str| {
            store.set_status(
                Resource::Binding,
                name(),
                &json!({"metadata": {"uid": uid}, "status": {"a": 1}}),
            )
        };
        assert_eq!(apply("2").unwrap_err().code, 409);
        let first = apply("1").unwrap();
        assert_eq!(apply("1").unwrap()["metadata"], first["metadata"]);
        let mut replace = |version: &Value| {
            let body = json!({"metadata": {"uid": "1", "resourceVersion": version}, "status": {"a": 2}});
            store.set_status(Resource::Binding, name(), &body)
        };
        let version = &first["metadata"]["resourceVersion"];
        assert_eq!(replace(version).unwrap()["status"], json!({"a": 2}));
        assert_eq!(replace(version).unwrap_err().code, 409, "it has another version by now");
    }

    #[test]
    fn changes_are_told_from_any_revision_until_they_are_compacted() {
        let mut store = Store::default();
        let before = store.revision();
        store.create(Resource::Secret, name(), json!({"metadata": {}})).unwrap();
        store.touch(Resource::Secret, &name());
        let told = |store: &Store, from| {
            store.since(Resource::Secret, from).map(|changes| changes.map(|c| c.what).collect::<Vec<_>>())
        };
        assert_eq!(told(&store, before), Some(vec!["ADDED", "MODIFIED"]));
        assert_eq!(told(&store, before + 1), Some(vec!["MODIFIED"]));
        let newest = store.revision();
        assert_eq!(told(&store, newest), Some(vec![]));
        store.compact();
        assert_eq!((told(&store, before), told(&store, newest)), (None, None));
        assert_eq!(told(&store, store.revision()), Some(vec![]));
    }
}
