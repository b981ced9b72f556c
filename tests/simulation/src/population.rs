//! The fleet: tenants, their grants and their bindings.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::clock;
use crate::random::Random;

/// Whose token a binding wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A service account that the operator impersonates.
    Account(String),
    /// The operator's own, by the metadata server.
    Operator,
}

/// A binding, as everybody but the controller knows it.
#[derive(Clone, Debug)]
pub struct Binding {
    /// Its namespace, which is its tenant.
    pub tenant: usize,
    /// Its name.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// Whose token.
    pub identity: Identity,
    /// For whom.
    pub audience: String,
    /// When the token is to be replaced.
    pub refresh_percent: u64,
    /// The second in which it is made.
    pub created: u64,
    /// Whether somebody else's Secret has the name that it needs.
    pub is_obstructed: bool,
}

/// All of them.
#[derive(Clone, Debug)]
pub struct Population {
    /// The bindings, in the order in which they are made.
    pub bindings: Vec<Binding>,
    /// How many tenants there are.
    pub tenants: usize,
    /// The one whose identities fail.
    pub failing: Option<usize>,
    by_uid: HashMap<String, usize>,
}

impl Population {
    /// Draws a fleet of `count` bindings for a run of so many seconds. A tenth of it is the tenant that may fail.
    #[must_use]
    pub fn draw(seed: u64, count: usize, seconds: u64, has_failing: bool) -> Self {
        let mut random = Random::of(seed, "population");
        let tenants = (count / 20).clamp(2, 100);
        let mut bindings: Vec<Binding> = Vec::with_capacity(count);
        while bindings.len() < count {
            let tenant = match bindings.len() {
                made if made < count / 10 => FAILING,
                made => 1 + made % (tenants - 1),
            };
            let left = if tenant == FAILING { count / 10 } else { count } - bindings.len();
            let group = usize::try_from(random.within(1..20)).unwrap_or(1).min(left);
            let like = group_of(&mut random, tenant, bindings.len());
            for _ in 0..group {
                let number = bindings.len();
                bindings.push(Binding {
                    name: format!("binding-{number}"),
                    uid: format!("{seed:08x}-0000-4000-8000-{number:012x}"),
                    created: if random.happens(85) { 0 } else { random.within(0..seconds.max(3601) - 1800) },
                    is_obstructed: tenant != FAILING && random.happens(1),
                    ..like.clone()
                });
            }
        }
        bindings.sort_by_key(|binding| binding.created);
        let by_uid = bindings.iter().enumerate().map(|(at, binding)| (binding.uid.clone(), at)).collect();
        Self { bindings, tenants, failing: has_failing.then_some(FAILING), by_uid }
    }

    /// The position of the binding of that UID.
    #[must_use]
    pub fn of_uid(&self, uid: &str) -> Option<usize> {
        self.by_uid.get(uid).copied()
    }

    /// Whether nothing of the binding's own stands against a token.
    #[must_use]
    pub fn is_healthy(&self, binding: &Binding) -> bool {
        !binding.is_obstructed && Some(binding.tenant) != self.failing
    }
}

/// What bindings of one group have in common: the same token would do for all of them.
fn group_of(random: &mut Random, tenant: usize, number: usize) -> Binding {
    let is_operator = tenant != FAILING && random.happens(5);
    let account = format!("caller-{number}@{}.iam.gserviceaccount.com", tenant_name(tenant));
    Binding {
        tenant,
        name: String::new(),
        uid: String::new(),
        identity: if is_operator { Identity::Operator } else { Identity::Account(account) },
        audience: format!("https://service-{number}.{}.example.com", tenant_name(tenant)),
        refresh_percent: random.one_of(&[60, 60, 60, 30, 75, 90]),
        created: 0,
        is_obstructed: false,
    }
}

impl Binding {
    /// Name of its namespace.
    #[must_use]
    pub fn namespace(&self) -> String {
        tenant_name(self.tenant)
    }

    /// Name of its Secret.
    #[must_use]
    pub fn secret(&self) -> String {
        format!("{}-idtoken", self.name)
    }

    /// E-mail address that its token must have.
    #[must_use]
    pub fn email(&self) -> &str {
        match &self.identity {
            Identity::Account(email) => email,
            Identity::Operator => OPERATOR,
        }
    }

    /// As the API server holds it, without what it adds.
    #[must_use]
    pub fn object(&self) -> Value {
        let source = match &self.identity {
            Identity::Account(email) => json!({"impersonation": {"serviceAccount": email}}),
            Identity::Operator => json!({"metadataServer": {}}),
        };
        json!({
            "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding",
            "metadata": {
                "name": self.name, "namespace": self.namespace(), "uid": self.uid, "generation": 1,
                "creationTimestamp": seconds_of(self.created),
            },
            "spec": {
                "audience": self.audience, "source": source, "suspend": false,
                "secret": {"name": "", "key": "id_token", "authorizationKey": ""},
                "refresh": {"atLifetimePercent": self.refresh_percent},
            },
        })
    }

    /// Somebody else's Secret under the name that it needs.
    #[must_use]
    pub fn obstacle(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": self.secret(), "namespace": self.namespace(), "creationTimestamp": seconds_of(0)},
            "data": {"password": "c2VjcmV0"},
        })
    }
}

/// The namespace of a tenant, which is its name too.
#[must_use]
pub fn tenant_name(tenant: usize) -> String {
    format!("tenant-{tenant}")
}

/// The namespace and the grant of a tenant.
#[must_use]
pub fn ground_of(tenant: usize) -> [Value; 2] {
    let name = tenant_name(tenant);
    let metadata = |uid: &str| json!({"name": name, "uid": format!("{uid}-{tenant}"), "generation": 1});
    let audiences = json!([format!("https://*.{name}.example.com")]);
    let identities = json!([format!("*@{name}.iam.gserviceaccount.com"), "operator"]);
    [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata("namespace")}),
        json!({
            "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenGrant", "metadata": metadata("grant"),
            "spec": {
                "namespaces": {"names": [name]}, "identities": identities, "audiences": audiences,
                "delegates": false, "kinds": ["IdToken"],
            },
        }),
    ]
}

fn seconds_of(second: u64) -> String {
    clock::at(std::time::Duration::from_secs(second)).to_string()
}

/// The operator's own identity.
pub const OPERATOR: &str = "operator@platform.iam.gserviceaccount.com";
/// The tenant that may fail.
const FAILING: usize = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_has_as_many_bindings_as_wanted_and_a_tenth_of_them_may_fail() {
        for count in [10, 60, 200, 5000] {
            let fleet = Population::draw(1, count, 7200, true);
            assert_eq!(fleet.bindings.len(), count);
            let failing =
                fleet.bindings.iter().filter(|binding| Some(binding.tenant) == fleet.failing).count();
            assert_eq!(failing, count / 10, "{count}");
            assert!(fleet.bindings.iter().all(|binding| binding.created < 7200), "{count}");
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_fleet_whether_a_tenant_fails_or_not() {
        let names = |failing| {
            let fleet = Population::draw(4, 300, 7200, failing);
            fleet
                .bindings
                .into_iter()
                .map(|binding| (binding.name, binding.created, binding.audience))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(true), names(false));
    }

    #[test]
    fn bindings_share_what_they_want_with_about_nine_others_of_their_tenant() {
        let fleet = Population::draw(2, 2000, 7200, false);
        let mut groups: HashMap<_, Vec<usize>> = HashMap::new();
        for binding in &fleet.bindings {
            groups
                .entry((binding.email().to_owned(), binding.audience.clone()))
                .or_default()
                .push(binding.tenant);
        }
        assert!((150..300).contains(&groups.len()), "{}", groups.len());
        assert!(groups.values().all(|tenants| tenants.iter().all(|tenant| *tenant == tenants[0])));
    }
}
