//! The chart's rights are what the operator needs, and no more: with all of them it does all its work; without any one of them
//! something that is named here no longer works.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;
#[path = "api_rbac/work.rs"]
mod work;

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use anyhow::ensure;
use common::{CALLER, OPERATOR_NAMESPACE, SOON, World, audit::Audit, google_options};
use k8s_openapi::api::{authorization::v1::SubjectAccessReview, core::v1::Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, json};
use work::{ROBOT, Try, Work};
use xtask::{
    google::Role as GoogleRole,
    process::{tail, wait_for},
    tools::{Tool, Tools},
};

/// A verb of a role of the chart, what breaks without it, and what is tried to see that.
struct Row {
    role: &'static str,
    verb: &'static str,
    resource: &'static str,
    breaks: &'static str,
    work: Work,
}

const fn row(
    role: &'static str,
    verb: &'static str,
    resource: &'static str,
    work: Work,
    breaks: &'static str,
) -> Row {
    Row { role, verb, resource, breaks, work }
}

const CONTROLLER: &str = "ClusterRole/idtoken-operator-controller";
const CONTROLLER_ACCOUNT: &str = "idtoken-operator-controller";
const LEASE: &str = "Role/idtoken-operator-controller-lease";
const WEBHOOK: &str = "ClusterRole/idtoken-operator-webhook";
const AUTHORITY: &str = "Role/idtoken-operator-webhook";
const CHECK: &str = "Role/idtoken-operator-test";

/// Every right that the chart gives to the operator.
const ROWS: &[Row] = &[
    row(CONTROLLER, "list", "idtokenbindings", Work::FirstToken, "no binding is known"),
    row(CONTROLLER, "watch", "idtokenbindings", Work::FirstToken, "no new binding is seen"),
    row(CONTROLLER, "patch", "idtokenbindings/status", Work::FirstToken, "nothing is said of a binding"),
    row(CONTROLLER, "list", "idtokengrants", Work::FirstToken, "no grant is known"),
    row(CONTROLLER, "watch", "idtokengrants", Work::NewGrant, "no new grant is seen"),
    row(CONTROLLER, "list", "secrets", Work::FirstToken, "it is not known which tokens there are"),
    row(CONTROLLER, "watch", "secrets", Work::RestoredSecret, "it is not seen that a Secret is gone"),
    row(CONTROLLER, "get", "secrets", Work::FirstToken, "it is not known whose a name is"),
    row(CONTROLLER, "create", "secrets", Work::FirstToken, "no token is published"),
    row(CONTROLLER, "update", "secrets", Work::Refresh, "no token is replaced"),
    row(CONTROLLER, "delete", "secrets", Work::Revocation, "a token that is no longer granted stays"),
    row(CONTROLLER, "patch", "idtokengrants/status", Work::GrantUsage, "it is not told who uses a grant"),
    row(CONTROLLER, "list", "namespaces", Work::FirstToken, "it is not known what grants select"),
    row(CONTROLLER, "watch", "namespaces", Work::NewLabel, "no new label is seen"),
    row(CONTROLLER, "create", "events", Work::Event, "there are no events"),
    row(CONTROLLER, "patch", "events", Work::EventAgain, "what happens again is not counted"),
    row(CONTROLLER, "list", "pods", Work::UninjectedPod, "no pod is known"),
    row(CONTROLLER, "watch", "pods", Work::UninjectedPod, "no new pod is seen"),
    row(CONTROLLER, "get", "pods", Work::UninjectedPod, "it is not known what a pod lacks"),
    row(CONTROLLER, "list", "serviceaccounts", Work::AccountToken, "no annotation is known"),
    row(CONTROLLER, "watch", "serviceaccounts", Work::AccountAnnotated, "no new annotation is seen"),
    row(CONTROLLER, "get", "serviceaccounts", Work::AccountMissing, "it is not known that there is none"),
    row(CONTROLLER, "create", "serviceaccounts/token", Work::AccountToken, "no account becomes a token"),
    row(LEASE, "create", "leases", Work::FirstLease, "none of the first controllers leads"),
    row(LEASE, "get", "leases", Work::TakenLease, "it is not known who leads"),
    row(LEASE, "update", "leases", Work::TakenLease, "nobody follows another"),
    row(WEBHOOK, "list", "idtokenbindings", Work::WebhookReady, "no binding is known"),
    row(WEBHOOK, "watch", "idtokenbindings", Work::ReplacedBinding, "an old Secret is mounted"),
    row(WEBHOOK, "get", "idtokenbindings", Work::UnknownBinding, "nothing beyond the cache is known"),
    row(
        WEBHOOK,
        "list",
        "mutatingwebhookconfigurations",
        Work::WebhookReady,
        "the registration is not known",
    ),
    row(
        WEBHOOK,
        "watch",
        "mutatingwebhookconfigurations",
        Work::RestoredBundle,
        "a wiped caBundle stays away",
    ),
    row(WEBHOOK, "patch", "mutatingwebhookconfigurations", Work::WebhookReady, "there is no caBundle"),
    row(AUTHORITY, "get", "secrets", Work::WebhookReady, "the authority is not known"),
    row(AUTHORITY, "update", "secrets", Work::WebhookReady, "the authority is not kept"),
    row(AUTHORITY, "create", "secrets", Work::WebhookReadyAlone, "a lost authority does not come back"),
    row(CHECK, "create", "pods", Work::Check, "no pod can be tried"),
    row(CHECK, "create", "idtokenbindings", Work::Check, "no binding can be tried"),
];

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

    /// Asserts that the row's work fails without the right, for that reason alone, and that it is done with it.
    async fn assert_needed(&mut self, row: &Row) {
        let right = format!("{} {}", row.verb, row.resource);
        let role = self.roles.iter().find(|role| name(role) == row.role).unwrap().clone();
        self.change_role(row, &role, false).await;
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
        if row.verb == "watch" {
            // What is there before the watch would begin is listed.
            refusal().await;
        }
        tried.begin().await;
        let fails = async {
            refusal().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            done = wait_for("the impossible", 2 * SOON, async || tried.done().await) => {
                panic!("without {right} ({}) {:?}: {done:?}", row.breaks, row.work)
            }
            () = fails => {}
        }
        assert_eq!(self.audit.refused(row.account(), position), BTreeSet::from([right.clone()]));
        self.end(row).await;

        self.change_role(row, &role, true).await;
        let position = self.audit.position();
        let name = self.run(row, true).await;
        let mut tried = Try::new(&self.world, row.work, &name);
        tried.begin().await;
        let done = wait_for("it", SOON, async || tried.done().await).await;
        done.unwrap_or_else(|e| {
            panic!("with {right} ({}) {:?}: {e:#}\n{}", row.breaks, row.work, self.last())
        });
        assert_eq!(self.audit.refused(row.account(), position), BTreeSet::new(), "with {right}");
        self.end(row).await;
    }

    /// Applies the role, `whole` or without the row's verb, and waits until that is known.
    async fn change_role(&self, row: &Row, role: &Value, whole: bool) {
        let gives = |rule: &&mut Value| {
            strings(&rule["resources"]).contains(&row.resource.to_owned())
                && strings(&rule["verbs"]).contains(&row.verb.to_owned())
        };
        let mut less = role.clone();
        let rules = less["rules"].as_array_mut().unwrap();
        let rule = rules.iter_mut().find(gives).unwrap();
        rule["verbs"].as_array_mut().unwrap().retain(|verb| verb != row.verb);
        let (resource, sub) = row.resource.split_once('/').unwrap_or((row.resource, ""));
        let review = json!({"spec": {
            "user": format!("system:serviceaccount:{OPERATOR_NAMESPACE}:{}", row.account()),
            "resourceAttributes": {
                "verb": row.verb, "group": rule["apiGroups"][0], "resource": resource, "subresource": sub,
                "name": rule["resourceNames"][0], "namespace": role["metadata"]["namespace"],
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

impl Row {
    /// Whose role it is.
    fn account(&self) -> &'static str {
        match self.role {
            CONTROLLER | LEASE => CONTROLLER_ACCOUNT,
            WEBHOOK | AUTHORITY => "idtoken-operator-webhook",
            _ => "idtoken-operator-test",
        }
    }
}

const VALUES: [&str; 2] = ["--set", "sources.kubernetesServiceAccount=true"];

#[test]
#[ignore = "tier api: needs Helm"]
fn every_right_of_the_chart_has_its_row_and_its_line_in_the_page() {
    let rows: BTreeSet<_> =
        ROWS.iter().map(|row| (row.role.to_owned(), format!("{} {}", row.verb, row.resource))).collect();
    assert_eq!(rows.len(), ROWS.len(), "each right has one row");
    let mut given = BTreeSet::new();
    let mut shown = BTreeSet::new();
    for role in roles(rendered()) {
        for rule in role["rules"].as_array().unwrap() {
            for resource in strings(&rule["resources"]) {
                for verb in strings(&rule["verbs"]) {
                    given.insert((name(&role), format!("{verb} {resource}")));
                    let group = rule["apiGroups"][0].as_str().unwrap();
                    let (plural, sub) =
                        resource.split_once('/').map_or((&*resource, None), |(of, sub)| (of, Some(sub)));
                    let dot = if group.is_empty() { "" } else { "." };
                    let sub = sub.map(|sub| format!("/{sub}")).unwrap_or_default();
                    let component = role["metadata"]["labels"]["app.kubernetes.io/component"].clone();
                    shown.insert((
                        component.as_str().unwrap().to_owned(),
                        format!("{verb} {plural}{dot}{group}{sub}"),
                    ));
                }
            }
        }
    }
    assert_eq!(rows, given);
    assert_eq!(documented(), shown);
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

fn name(role: &Value) -> String {
    format!("{}/{}", role["kind"].as_str().unwrap(), role["metadata"]["name"].as_str().unwrap())
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_owned()).collect()
}
