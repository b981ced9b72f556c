//! The chart's rights are what the operator needs, and no more: with all of them it does all its work; without any one of them
//! something that is named here no longer works.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;
#[path = "api_rbac/reach.rs"]
mod reach;
#[path = "api_rbac/rows.rs"]
mod rows;
#[path = "api_rbac/work.rs"]
mod work;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::ensure;
use common::{CALLER, OPERATOR_NAMESPACE, SOON, World, audit::Audit, google_options};
use k8s_openapi::api::{authorization::v1::SubjectAccessReview, core::v1::Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use rows::{AUTHORITY, BINDINGS, CHECK, CONTROLLER, CONTROLLER_ACCOUNT, LEASE, ROWS, Row, WEBHOOK};
use serde_json::{Value, json};
use work::{ROBOT, Try, Work};
use xtask::{
    google::Role as GoogleRole,
    process::{tail, wait_for},
    tools::{Tool, Tools},
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn without_any_right_of_the_controller_something_breaks() {
    let mut bench = Bench::start().await;
    for row in ROWS.iter().filter(|row| [CONTROLLER, LEASE].contains(&row.role)) {
        bench.assert_needed(row).await;
    }
    bench.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn without_any_right_of_the_webhook_and_of_the_check_something_breaks() {
    let mut bench = Bench::start().await;
    bench.world.register_webhook();
    for row in ROWS.iter().filter(|row| [WEBHOOK, AUTHORITY, CHECK].contains(&row.role)) {
        bench.assert_needed(row).await;
    }
    bench.world.end().await;
}

/// A cluster in which rights are taken away and given back.
struct Bench {
    world: World,
    audit: Audit,
    roles: Vec<Value>,
    tries: usize,
}

impl Bench {
    async fn start() -> Self {
        let audit = Audit::new();
        let tenant = |n| format!("serviceAccount:demo-project.svc.id.goog[shop/try-{n}]");
        let options = (0..2 * ROWS.len()).fold(google_options().service_account(ROBOT), |options, n| {
            options.allow(&tenant(n), GoogleRole::WorkloadIdentityUser, ROBOT)
        });
        let world = World::start(options, audit.options()).await;
        world.trust_cluster().await;
        world.namespace("shop").await;
        world.grant("shop", &["shop"], &[CALLER]).await;
        let rendered = tokio::task::spawn_blocking(rendered).await.unwrap();
        let rights = ["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"];
        let rights = rendered.iter().filter(|object| rights.contains(&object["kind"].as_str().unwrap()));
        world.apply(&rights.cloned().collect::<Vec<_>>());
        Self { world, audit, roles: roles(rendered), tries: 0 }
    }

    /// Asserts that the row's work is done with all rights, and fails without the row's for that reason alone.
    async fn assert_needed(&mut self, row: &Row) {
        let role = self.roles.iter().find(|role| name(role) == row.role).unwrap().clone();
        let took = self.with_all(row).await;
        self.change_role(row, &role, false).await;
        self.without(row, took).await;
        self.change_role(row, &role, true).await;
    }

    /// How long the work took.
    async fn with_all(&mut self, row: &Row) -> Duration {
        let right = row.right();
        let position = self.audit.position();
        let name = self.run(row, true).await;
        let mut tried = Try::new(&self.world, row.work, &name);
        tried.begin().await;
        let begun = Instant::now();
        let done = wait_for("it", SOON, async || tried.done().await).await;
        done.unwrap_or_else(|e| {
            panic!("with {right} ({}) {:?}: {e:#}\n{}", row.breaks, row.work, self.last())
        });
        let took = begun.elapsed();
        assert_eq!(self.audit.refused(row.account(), position), BTreeSet::new(), "with {right}");
        self.end(row).await;
        took
    }

    /// Of a work that took so long with all rights.
    async fn without(&mut self, row: &Row, took: Duration) {
        let right = row.right();
        let position = self.audit.position();
        let becomes_ready =
            row.verb != "list" && ![Work::WebhookReady, Work::WebhookReadyAlone].contains(&row.work);
        let name = self.run(row, becomes_ready).await;
        let mut tried = Try::new(&self.world, row.work, &name);
        let refusal = async || {
            let refused = async || {
                let refused = self.audit.refused(row.account(), position);
                ensure!(refused.contains(&right), "refused: {refused:?}\n{}", self.last());
                Ok(())
            };
            wait_for(&format!("{right} to be refused"), SOON, refused).await.unwrap();
        };
        // What is refused is part of the work, but a watch: that is refused before it begins, for what is there before
        // the watch would begin is listed. So the work gets far more time than it needs.
        let watch = row.verb == "watch";
        if watch {
            refusal().await;
        }
        tried.begin().await;
        let fails = async {
            refusal().await;
            tokio::time::sleep(if watch { GRACE.max(5 * took) } else { GRACE }).await;
        };
        tokio::select! {
            done = wait_for("the impossible", 10 * SOON, async || tried.done().await) => {
                panic!("without {right} ({}) {:?}: {done:?}", row.breaks, row.work)
            }
            () = fails => {}
        }
        assert_eq!(self.audit.refused(row.account(), position), BTreeSet::from([right]));
        self.end(row).await;
    }

    /// Applies the role, `whole` or without the row's verb, and waits until that is known.
    async fn change_role(&self, row: &Row, role: &Value, whole: bool) {
        let (resource, group, sub) = row.parts();
        let plain = if sub.is_empty() { resource.to_owned() } else { format!("{resource}/{sub}") };
        let gives = |rule: &&mut Value| {
            strings(&rule["resources"]).contains(&plain)
                && strings(&rule["verbs"]).contains(&row.verb.to_owned())
        };
        let mut less = role.clone();
        let rules = less["rules"].as_array_mut().unwrap();
        let rule = rules.iter_mut().find(gives).unwrap();
        rule["verbs"].as_array_mut().unwrap().retain(|verb| verb != row.verb);
        let review = json!({"spec": {
            "user": format!("system:serviceaccount:{OPERATOR_NAMESPACE}:{}", row.account()),
            "resourceAttributes": {
                "verb": row.verb, "group": group, "resource": resource, "subresource": sub,
                "name": row.only, "namespace": role["metadata"]["namespace"],
            },
        }});
        // A rule needs a verb.
        rules.retain(|rule| rule["verbs"] != json!([]));
        self.world.apply(&[if whole { role.clone() } else { less }]);
        let review: SubjectAccessReview = serde_json::from_value(review).unwrap();
        let reviews = Api::<SubjectAccessReview>::all(self.world.client.clone());
        let known = wait_for("the role to be known", SOON, || async {
            let status = reviews.create(&PostParams::default(), &review).await?.status.unwrap();
            ensure!(status.allowed == whole, "{status:?}");
            Ok(())
        });
        known.await.unwrap();
    }

    /// Starts what the row is about; the name of what is tried with it.
    async fn run(&mut self, row: &Row, becomes_ready: bool) -> String {
        self.tries += 1;
        let name = format!("try-{}", self.tries);
        Try::new(&self.world, row.work, &name).arrange().await;
        if row.account() == CONTROLLER_ACCOUNT {
            let all = ["--kubernetes-service-accounts", "--report-uninjected-pods", "--grant-grace=1s"];
            let elects = ["--leader-elect", "--operator-namespace=idtoken-system"];
            let elects = elects.iter().filter(|_| row.role == LEASE);
            self.world.flags = all.iter().chain(elects).map(|&flag| flag.to_owned()).collect();
            self.world.spawn_controller().await;
            if becomes_ready {
                self.world.wait_ready(self.world.controller_port).await;
            }
        } else {
            self.world.spawn_webhook(self.world.webhook_port).await;
            if becomes_ready {
                self.world.wait_ready(self.world.webhook_health_port).await;
            }
        }
        name
    }

    fn last(&self) -> String {
        tail(&self.world.logs(), 10)
    }

    /// Ends it, and leaves no work to the next.
    async fn end(&mut self, row: &Row) {
        if row.account() == CONTROLLER_ACCOUNT {
            self.world.kill_controller();
        } else {
            self.world.stop_webhook().await;
        }
        let (all, every) = (DeleteParams::default(), ListParams::default());
        self.world.bindings().delete_collection(&all, &every).await.unwrap();
        let pods = Api::<Pod>::namespaced(self.world.client.clone(), "shop");
        pods.delete_collection(&all, &every).await.unwrap();
    }
}

/// For what still comes about after a refusal, by another way.
const GRACE: Duration = Duration::from_secs(1);

const VALUES: [&str; 2] = ["--set", "sources.kubernetesServiceAccount=true"];

#[test]
#[ignore = "tier api: needs Helm"]
fn every_right_of_the_chart_has_its_row_and_its_line_in_the_page() {
    let rows: BTreeSet<_> =
        ROWS.iter().map(|row| (row.role.to_owned(), row.right(), row.only.to_owned())).collect();
    assert_eq!(rows.len(), ROWS.len(), "each right has one row");
    let mut given = BTreeSet::new();
    let mut shown = BTreeSet::new();
    for role in roles(rendered()) {
        assert!(role["aggregationRule"].is_null(), "{role}");
        let component = role["metadata"]["labels"]["app.kubernetes.io/component"].as_str().unwrap();
        for rule in role["rules"].as_array().unwrap() {
            for (right, only) in rights(rule) {
                shown.insert((component.to_owned(), right.clone()));
                given.insert((name(&role), right, only));
            }
        }
    }
    assert_eq!(rows, given);
    assert_eq!(documented(), shown);
}

/// What a rule gives: `verb resource.group/subresource`, and the one object that it is for, or `""`.
fn rights(rule: &Value) -> Vec<(String, String)> {
    let fields: Vec<_> = rule.as_object().unwrap().keys().map(String::as_str).collect();
    let known = ["apiGroups", "resourceNames", "resources", "verbs"];
    assert!(fields.iter().all(|field| known.contains(field)), "{rule}");
    let names = rule.get("resourceNames").map_or_else(|| vec![String::new()], strings);
    assert!(!names.is_empty(), "no name is every name: {rule}");
    let mut rights = Vec::new();
    for group in strings(&rule["apiGroups"]) {
        let group = if group.is_empty() { group } else { format!(".{group}") };
        for resource in strings(&rule["resources"]) {
            let (of, sub) = resource.split_at(resource.find('/').unwrap_or(resource.len()));
            for verb in strings(&rule["verbs"]) {
                rights.extend(names.iter().map(|name| (format!("{verb} {of}{group}{sub}"), name.clone())));
            }
        }
    }
    rights
}

#[test]
#[ignore = "tier api: needs Helm"]
fn nobody_but_the_operators_accounts_has_its_roles() {
    let mut bound = Vec::new();
    for binding in rendered() {
        if !["RoleBinding", "ClusterRoleBinding"].contains(&binding["kind"].as_str().unwrap()) {
            continue;
        }
        // A Role is one of the binding's namespace.
        let mut role = binding["roleRef"].clone();
        role["metadata"] = json!({"name": role["name"]});
        if role["kind"] == "Role" {
            role["metadata"]["namespace"] = binding["metadata"]["namespace"].clone();
        }
        for subject in binding["subjects"].as_array().unwrap() {
            let of = |field: &str| subject[field].as_str().unwrap_or_default();
            let subject = format!("{} {}/{}", of("kind"), of("namespace"), of("name"));
            bound.push((name(&binding), name(&role), subject));
        }
    }
    bound.sort();
    assert_eq!(bound, BINDINGS.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
}

/// What the tables of docs/security.md list: component and `verb resource`.
fn documented() -> BTreeSet<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md");
    let page = fs::read_to_string(page).unwrap();
    let mut listed = BTreeSet::new();
    for (heading, component) in
        [("the controller", "controller"), ("the webhook", "webhook"), ("the check", "test")]
    {
        let (_, section) = page.split_once(&format!("\n## Permissions of {heading}\n")).unwrap();
        let section = section.split("\n## ").next().unwrap();
        for line in section.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let resource = cells[1].trim_matches('`');
            for verb in cells[2].split([',', ' ']).filter(|word| !word.is_empty()) {
                listed.insert((component.to_owned(), format!("{verb} {resource}")));
            }
            assert!(!cells[4].is_empty(), "{line} says why");
        }
    }
    listed
}

/// All that the chart renders with everything switched on that needs a right.
fn rendered() -> Vec<Value> {
    let helm = Tools::find(&[Tool::Helm]).unwrap().path(Tool::Helm).to_owned();
    xtask::chart::objects(&xtask::chart::template(&helm, VALUES).unwrap()).unwrap()
}

/// The roles in it that the operator's programs have.
fn roles(mut objects: Vec<Value>) -> Vec<Value> {
    objects.retain(|object| ["Role", "ClusterRole"].contains(&object["kind"].as_str().unwrap()));
    // What users may do with bindings is none of the operator's business.
    objects.retain(|o| o["metadata"]["labels"]["app.kubernetes.io/component"] != "user-roles");
    objects
}

/// `Kind/name` or `Kind/namespace/name`.
fn name(object: &Value) -> String {
    let of = |field: &str| object["metadata"][field].as_str();
    let namespace = of("namespace").map(|namespace| format!("{namespace}/")).unwrap_or_default();
    format!("{}/{namespace}{}", object["kind"].as_str().unwrap(), of("name").unwrap())
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_owned()).collect()
}
