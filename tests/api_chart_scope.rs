//! The chart's scoped mode: the Roles, the flags and the grants file that it renders are what the controller needs, and no more.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeSet;

use common::{AUDIENCE, CALLER, SOON, World, audit::Audit, claims, google_options, impersonation, token};
use k8s_openapi::api::{core::v1::Pod, events::v1::Event};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};
use xtask::{google::Role, process::wait_for};

const SCOPED: [&str; 9] = [
    "scope.namespaces={shop,stock}",
    "sources.kubernetesServiceAccount=true",
    "webhook.tls.mode=certManager",
    "grants.grace=1s",
    "crds.enabled=false",
    "grants.list[0].name=shop",
    "grants.list[0].namespaces.names={shop}",
    "grants.list[0].identities={caller@demo-project.iam.gserviceaccount.com}",
    "grants.list[0].audiences={https://*.a.run.app}",
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_rendered_roles_flags_and_grants_serve_a_binding() {
    let audit = Audit::new();
    let tenant = "serviceAccount:demo-project.svc.id.goog[shop/app]";
    let options = google_options().allow(tenant, Role::WorkloadIdentityUser, CALLER);
    let mut world = World::start(options, audit.options()).await;
    world.trust_cluster().await;
    world.namespace("shop").await;
    world.namespace("stock").await;
    let cluster_wide = [
        "delete",
        "clusterroles,clusterrolebindings",
        "--selector=app.kubernetes.io/part-of=idtoken-operator",
    ];
    assert!(world.kubectl(&cluster_wide, None).0);
    let rendered = world.render(&SCOPED);
    let applied = ["ServiceAccount", "Role", "RoleBinding"];
    world.apply(&rendered.iter().filter(|o| applied.contains(&kind(o))).cloned().collect::<Vec<_>>());
    world.flags = flags(&rendered, &world);
    assert_eq!(
        world.flags[..8],
        [
            "--operator-namespace=idtoken-system",
            "--leader-elect",
            "--lease-name=idtoken-operator-controller",
            "--grant-grace=1s",
            "--report-uninjected-pods",
            "--namespace=shop",
            "--namespace=stock",
            "--kubernetes-service-accounts",
        ]
    );

    world.start_controller().await;
    world.bind("orders", &impersonation()).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    let claims = claims(&token(&world.secret_of("orders").await));
    assert_eq!((&claims["aud"], &claims["email"]), (&AUDIENCE.into(), &CALLER.into()));

    let annotations = json!({"iam.gke.io/gcp-service-account": CALLER});
    let metadata = json!({"name": "app", "namespace": "shop", "annotations": annotations});
    world.apply(&[json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})]);
    let source = json!({"kubernetesServiceAccount": {"name": "app"}});
    world.bind("own", &json!({"audience": AUDIENCE, "source": source})).await;
    world.wait_condition("own", "Ready=True/TokenFresh").await;
    let pod = json!({"metadata": {"name": "app", "annotations": {"idtoken.dev/inject": "orders"}},
        "spec": {"containers": [{"name": "app", "image": "app"}]}});
    let pods = Api::<Pod>::namespaced(world.client.clone(), "shop");
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let events = Api::<Event>::namespaced(world.client.clone(), "shop");
    let reported = wait_for("the pod that lacks its token to be reported", SOON, || async {
        let events = events.list(&ListParams::default()).await?;
        anyhow::ensure!(events.iter().any(|event| event.reason.as_deref() == Some("InjectionSkipped")));
        Ok(())
    });
    reported.await.unwrap();
    // Of the cluster's grants and namespaces it may read nothing, also not for a last look.
    std::fs::write(world.directory.path().join("grants.yaml"), "").unwrap();
    world.wait_condition("orders", "Ready=False/NotGranted").await;
    let secrets = world.secrets().list(&ListParams::default()).await.unwrap();
    let names: Vec<_> = secrets.iter().filter_map(|secret| secret.metadata.name.as_deref()).collect();
    assert_eq!(names, ["own-idtoken"]);
    assert_eq!(audit.refused("idtoken-operator-controller", 0), BTreeSet::new(), "it asks for nothing else");

    for (allowed, question) in [
        (true, "list secrets --namespace=shop"),
        (true, "update secrets --namespace=stock"),
        (true, "create serviceaccounts --subresource=token --namespace=shop"),
        (false, "create serviceaccounts --subresource=token --namespace=default"),
        (false, "create serviceaccounts --subresource=token --namespace=idtoken-system"),
        (true, "create leases.coordination.k8s.io --namespace=idtoken-system"),
        (false, "list secrets --all-namespaces"),
        (false, "list secrets --namespace=default"),
        (false, "list secrets --namespace=idtoken-system"),
        (false, "list idtokenbindings.idtoken.dev --all-namespaces"),
        (false, "list idtokengrants.idtoken.dev --all-namespaces"),
        (false, "list namespaces --all-namespaces"),
        (true, "delete secrets --namespace=shop"),
        (false, "delete secrets --namespace=idtoken-system"),
        (false, "list pods --all-namespaces"),
    ] {
        let account = "--as=system:serviceaccount:idtoken-system:idtoken-operator-controller";
        let asked = format!("auth can-i {account} {question}");
        let (can, said) = world.kubectl(&asked.split(' ').collect::<Vec<_>>(), None);
        assert_eq!(can, allowed, "{question:?}: {said}");
    }
    world.end().await;
}

/// The flags of the rendered Deployment that are not about addresses and logs, with the ConfigMap as a file.
fn flags(rendered: &[Value], world: &World) -> Vec<String> {
    let find = |wanted: &str| rendered.iter().find(|object| kind(object) == wanted).unwrap();
    let grants = world.directory.path().join("grants.yaml");
    std::fs::write(&grants, find("ConfigMap")["data"]["grants.yaml"].as_str().unwrap()).unwrap();
    let args = &find("Deployment")["spec"]["template"]["spec"]["containers"][0]["args"];
    let args: Vec<String> = serde_json::from_value(args.clone()).unwrap();
    let ours = [
        "--grant-grace",
        "--report-uninjected-pods",
        "--operator-namespace",
        "--leader-elect",
        "--lease-name",
        "--namespace",
        "--grants-file",
        "--kubernetes-service-accounts",
    ];
    let flags = args.into_iter().filter(|flag| ours.contains(&flag.split('=').next().unwrap()));
    let here = |flag: String| {
        flag.replace("$(POD_NAMESPACE)", "idtoken-system")
            .replace("/etc/idtoken-operator/grants/grants.yaml", grants.to_str().unwrap())
    };
    let mut flags: Vec<String> = flags.map(here).collect();
    flags.sort_by_key(|flag| flag.starts_with("--grants-file"));
    flags
}

fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap()
}
