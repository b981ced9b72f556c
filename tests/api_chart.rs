//! What the chart promises of itself, by the real Helm, the real schemas and a real API server. (Its own unit tests are in
//! charts/idtoken-operator/tests; `cargo xtask chart --check` runs them.)

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
};

use common::World;
use serde_json::{Value, json};
use xtask::{
    chart::{self, Case, Schemas},
    cluster::ClusterOptions,
    google::Options,
    tools::{Tool, Tools},
};

fn helm() -> PathBuf {
    Tools::find(&[Tool::Helm]).unwrap().path(Tool::Helm).to_owned()
}

fn template(values: &[&str]) -> anyhow::Result<String> {
    chart::template(&helm(), values.iter().flat_map(|value| ["--set", value]))
}

fn objects(case: &Case) -> Vec<Value> {
    chart::objects(&case.render(&helm()).unwrap()).unwrap()
}

#[test]
#[ignore = "tier api: needs Helm"]
fn every_case_renders_the_same_twice() {
    let names: Vec<_> = chart::cases().unwrap().into_iter().map(|case| case.name).collect();
    assert_eq!(
        names,
        [
            "best-practice",
            "byo-tls",
            "certmanager",
            "certmanager-issuer",
            "default",
            "everything",
            "gke-autopilot",
            "gke-private",
            "gke-standard",
            "ha",
            "host-network",
            "monitoring",
            "namespaced",
            "networkpolicy",
            "no-webhook",
            "policy",
            "single",
        ]
    );
    for case in chart::cases().unwrap() {
        let first = case.render(&helm()).unwrap();
        assert_eq!(first, case.render(&helm()).unwrap(), "{}", case.name);
        assert_eq!(
            first.contains("caBundle:"),
            case.name == "byo-tls",
            "{}: caBundle is who made it's",
            case.name
        );
    }
}

#[test]
#[ignore = "tier api: needs Helm"]
fn a_misspelt_or_senseless_value_is_refused() {
    for value in [
        "webhook.replica=2",
        "controler.enabled=true",
        "logFormat=xml",
        "webhook.timeoutSeconds=4",
        "webhook.timeoutSeconds=11",
        "webhook.tls.certManager.issuerRef.nme=x",
        "image.digest=sha256:abc",
        "scope.namespaces[0]=Shop",
        "endpoints.metadataUrl=metadata",
        "controller.extraEnv[0].nam=A",
    ] {
        let error = template(&[value]).unwrap_err().to_string();
        assert!(error.contains("values don't meet the specifications of the schema"), "{value}: {error}");
    }
    template(&["global.anything=1"]).unwrap();
}

#[test]
#[ignore = "tier api: needs Helm"]
fn planted_errors_do_not_conform() {
    let tools = Tools::find(&[Tool::Kubeconform]).unwrap();
    let mut objects = chart::objects(&template(&["grants.allowAll=true"]).unwrap()).unwrap();
    let schemas = Schemas::of(&objects).unwrap();
    let conform = |objects: &[Value]| chart::conform(tools.path(Tool::Kubeconform), &schemas, objects);
    conform(&objects).unwrap();
    for (kind, pointer, planted, complaint) in [
        (
            "Deployment",
            "/spec/template/spec/containers/0",
            ("livenesProbe", json!({})),
            "'livenesProbe' not allowed",
        ),
        ("Deployment", "/spec", ("replicas", json!("two")), "got string, want integer"),
        ("Service", "/spec/ports/0", ("targetport", json!(1)), "'targetport' not allowed"),
        (
            "MutatingWebhookConfiguration",
            "/webhooks/0",
            ("matchCondition", json!([])),
            "'matchCondition' not allowed",
        ),
        ("IdTokenGrant", "/spec", ("audience", json!("a")), "'audience' not allowed"),
        ("CustomResourceDefinition", "/spec/versions/0", ("stored", json!(true)), "'stored' not allowed"),
    ] {
        let sound = objects.clone();
        let object = objects.iter_mut().find(|object| object["kind"] == kind).unwrap();
        object.pointer_mut(pointer).unwrap()[planted.0] = planted.1;
        let error = conform(&objects).unwrap_err().to_string();
        assert!(error.starts_with(kind) && error.contains(complaint), "{kind}{pointer}: {error}");
        objects = sound;
    }
    let lost = objects.iter_mut().find(|object| object["kind"] == "Deployment").unwrap();
    lost["spec"].as_object_mut().unwrap().remove("selector");
    assert!(conform(&objects).unwrap_err().to_string().contains("missing property 'selector'"));
}

#[test]
#[ignore = "tier api: needs Helm"]
fn the_binary_knows_every_flag_that_is_rendered() {
    let mut commands = BTreeMap::new();
    for case in chart::cases().unwrap() {
        for (name, pod) in pods(&objects(&case)) {
            let args =
                serde_json::from_value::<Vec<String>>(pod["spec"]["containers"][0]["args"].clone()).unwrap();
            commands.insert(args, format!("{}: {name}", case.name));
        }
    }
    let subcommands: BTreeSet<_> = commands.keys().map(|args| args[0].as_str()).collect();
    assert_eq!(subcommands.into_iter().collect::<Vec<_>>(), ["check", "controller", "webhook"]);
    for (args, place) in commands {
        // The first flag that it does not know is named: it must be ours, which comes last.
        let command = Command::new(env!("CARGO_BIN_EXE_idtoken-operator"))
            .args(&args)
            .arg("--no-such-flag")
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&command.stderr);
        assert!(error.contains("unexpected argument '--no-such-flag'"), "{place}: {args:?}: {error}");
    }
}

#[test]
#[ignore = "tier api: needs Helm"]
fn the_package_holds_what_users_need_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let run = |command: &mut Command| {
        let output = command.current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    run(Command::new(helm()).arg("package").arg(chart::directory()));
    let list = run(Command::new("tar").args(["-tzf", "idtoken-operator-0.1.0.tgz"]));
    let mut files: Vec<_> = list.lines().map(|line| line.trim_start_matches("idtoken-operator/")).collect();
    files.retain(|file| !file.starts_with("templates/"));
    files.sort_unstable();
    assert_eq!(
        files,
        [
            ".helmignore",
            "Chart.yaml",
            "README.md",
            "files/crds/idtoken.dev_idtokenbindings.yaml",
            "files/crds/idtoken.dev_idtokengrants.yaml",
            "values-best-practice.yaml",
            "values-gke-autopilot.yaml",
            "values-gke-private.yaml",
            "values-gke.yaml",
            "values-ha.yaml",
            "values.schema.json",
            "values.yaml",
        ]
    );
    // The chart that users get is the package: without what .helmignore leaves out it renders the same.
    let package = directory.path().join("idtoken-operator-0.1.0.tgz");
    let of = |chart: PathBuf| run(Command::new(helm()).args(["template", "tokens"]).arg(chart));
    assert_eq!(of(package), of(chart::directory()));
}

#[test]
#[ignore = "tier api: needs Helm"]
fn a_parent_chart_switches_it_on_and_off() {
    let parent = tempfile::tempdir().unwrap();
    let dependency =
        json!({"name": "idtoken-operator", "version": "0.1.0", "condition": "idtoken-operator.enabled"});
    let chart =
        json!({"apiVersion": "v2", "name": "platform", "version": "1.0.0", "dependencies": [dependency]});
    std::fs::write(parent.path().join("Chart.yaml"), chart.to_string()).unwrap();
    let helm = |arguments: &[&str]| {
        let output = Command::new(helm()).args(arguments).current_dir(parent.path()).output().unwrap();
        let text = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let (ok, said) = helm(&["package", chart::directory().to_str().unwrap(), "--destination", "charts"]);
    assert!(ok, "{said}");
    let render =
        |enabled| helm(&["template", "tokens", ".", "--namespace", "idtoken-system", "--set", enabled]);
    let (ok, on) = render("idtoken-operator.enabled=true");
    assert!(ok && on.contains("name: \"tokens-idtoken-operator-webhook\""), "{on}");
    let (ok, off) = render("idtoken-operator.enabled=false");
    assert!(ok && chart::objects(&off).unwrap().is_empty(), "{off}");
    let (ok, said) = render("idtoken-operator.enabled=perhaps");
    assert!(!ok && said.contains("got string, want boolean"), "{said}");
}

#[test]
#[ignore = "tier api: needs Helm"]
fn scoped_mode_needs_nothing_of_the_cluster_but_the_kinds_the_registration_and_what_binds_it() {
    let case = chart::cases().unwrap().into_iter().find(|case| case.name == "namespaced").unwrap();
    let mut places = BTreeMap::<String, BTreeSet<String>>::new();
    for object in objects(&case) {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("(cluster)");
        places.entry(namespace.to_owned()).or_default().insert(object["kind"].as_str().unwrap().to_owned());
    }
    let kinds = |namespace: &str| places[namespace].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(places.keys().collect::<Vec<_>>(), ["(cluster)", "idtoken-system", "shop", "stock"]);
    assert_eq!(
        kinds("(cluster)"),
        ["MutatingWebhookConfiguration", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"]
    );
    assert_eq!(kinds("shop"), ["Role", "RoleBinding"]);
    assert_eq!(kinds("stock"), ["Role", "RoleBinding"]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn an_api_server_takes_every_case_and_restricted_namespaces_take_its_pods() {
    let world = World::start(Options::default(), ClusterOptions::default()).await;
    for name in ["idtoken-system", "tokens-system", "shop", "stock"] {
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        world.apply(&[
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}),
        ]);
    }
    world.apply(&[json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "platform"}, "value": 1000,
    })]);
    world.apply(&tokio::task::spawn_blocking(chart::foreign_crds).await.unwrap().unwrap());
    let established = ["wait", "--for=condition=Established", "crd", "--all", "--timeout=20s"];
    assert!(world.kubectl(&established, None).0);
    for case in chart::cases().unwrap() {
        let objects = objects(&case);
        let (ok, output) = dry_run(&world, "apply", &known(&objects));
        assert!(ok, "{}: {output}", case.name);
        let accounts = objects.iter().filter(|object| object["kind"] == "ServiceAccount").cloned();
        world.apply(&accounts.chain([account("webhook", "tokens-system")]).collect::<Vec<_>>());
        let pods: Vec<_> = pods(&objects).into_iter().map(|(_, pod)| pod).collect();
        let (ok, output) = dry_run(&world, "create", &pods);
        if case.name == "host-network" {
            assert!(
                output.contains("violates PodSecurity \"restricted:latest\": host namespaces"),
                "{output}"
            );
        } else {
            assert!(ok, "{}: {output}", case.name);
        }
    }
}

#[test]
fn artifact_hub_is_told_what_is_true() {
    let text = std::fs::read_to_string(chart::directory().join("Chart.yaml")).unwrap();
    let chart: Value = serde_yaml_ng::from_str(&text).unwrap();
    assert_eq!(chart["kubeVersion"], ">=1.30.0-0");
    let annotation = |name: &str| -> Value {
        let text = chart["annotations"][format!("artifacthub.io/{name}")].as_str().unwrap().to_owned();
        serde_yaml_ng::from_str(&text).unwrap()
    };
    let version = chart["appVersion"].as_str().unwrap();
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    assert_eq!(annotation("images")[0]["image"], format!("idtoken-operator:{version}"));
    for (index, kind) in ["IdTokenBinding", "IdTokenGrant"].into_iter().enumerate() {
        let plural = format!("{}s", kind.to_lowercase());
        let file = chart::directory().join(format!("files/crds/idtoken.dev_{plural}.yaml"));
        let crd: Value = serde_yaml_ng::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let told = &annotation("crds")[index];
        assert_eq!(told["kind"], crd["spec"]["names"]["kind"]);
        assert_eq!(told["name"], crd["metadata"]["name"]);
        assert_eq!(told["version"], crd["spec"]["versions"][0]["name"]);
        assert_eq!(annotation("crdsExamples")[index]["kind"], kind);
    }
    let kinds = ["added", "changed", "deprecated", "removed", "fixed", "security"];
    for change in annotation("changes").as_array().unwrap() {
        assert!(kinds.contains(&change["kind"].as_str().unwrap()), "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_examples_for_artifact_hub_are_taken() {
    let world = World::start(Options::default(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    let text = std::fs::read_to_string(chart::directory().join("Chart.yaml")).unwrap();
    let chart: Value = serde_yaml_ng::from_str(&text).unwrap();
    let examples = chart["annotations"]["artifacthub.io/crdsExamples"].as_str().unwrap();
    let examples: Vec<Value> = serde_yaml_ng::from_str(examples).unwrap();
    let (ok, output) = dry_run(&world, "apply", &examples);
    assert!(ok, "{output}");
}

/// The pods that the objects would become, by name.
fn pods(objects: &[Value]) -> Vec<(String, Value)> {
    let of = |object: &Value| {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let mut pod = match object["kind"].as_str().unwrap() {
            "Deployment" => object["spec"]["template"].clone(),
            "Pod" => object.clone(),
            _ => return None,
        };
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["name"] = name.clone().into();
        pod["metadata"]["namespace"] = object["metadata"]["namespace"].clone();
        Some((name, pod))
    };
    objects.iter().filter_map(of).collect()
}

/// All but those of the one kind whose CRD is not to be had.
fn known(objects: &[Value]) -> Vec<Value> {
    objects.iter().filter(|object| object["kind"] != "PodMonitoring").cloned().collect()
}

fn account(name: &str, namespace: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}})
}

fn dry_run(world: &World, verb: &str, objects: &[Value]) -> (bool, String) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let mut arguments = vec![verb, "--dry-run=server", "--validate=strict", "-f", "-"];
    if verb == "apply" {
        arguments.push("--server-side");
    }
    world.kubectl(&arguments, Some(&list.to_string()))
}
