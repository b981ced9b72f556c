//! Two releases that share a fleet by `--binding-selector`.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::sleep;
use xtask::google::Endpoint;

use crate::{
    common::{
        CALLER, OPERATOR_NAMESPACE, SOON, World, audience_of, audit::Audit, binding, google_options,
        impersonation_for, token,
    },
    election::leads,
    fleet::PATIENCE,
};

const FIRST: &str = "idtoken-operator-controller";
const SECOND: &str = "fleet-b-controller";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn each_serves_its_own_bindings_and_a_label_hands_one_over() {
    let audit = Audit::new();
    let mut world = World::start(google_options(), audit.options()).await;
    world.namespace("shop").await;
    world.grant("shop", &["shop"], &[CALLER]).await;
    world.install(&["fullnameOverride=fleet-b", "webhook.enabled=false", "crds.enabled=false"]).await;
    start(&mut world, FIRST, "fleet=a").await;
    start(&mut world, SECOND, "fleet=b").await;

    let stray = world.bind("stray", &impersonation_for("stray")).await;
    for (name, fleet) in [("alpha", "a"), ("gamma", "a"), ("beta", "b")] {
        let mut binding = binding("shop", name, &impersonation_for(name));
        binding.metadata.labels = Some([("fleet".to_owned(), fleet.to_owned())].into());
        world.bindings().create(&PostParams::default(), &binding).await.unwrap();
    }
    for name in ["alpha", "beta", "gamma"] {
        world.wait_condition(name, "Ready=True/TokenFresh").await;
    }
    assert_eq!(written(&audit, FIRST, 0), names(&["alpha", "gamma"]));
    assert_eq!(written(&audit, SECOND, 0), names(&["beta"]));

    // What is minted in the same second is the same token.
    sleep(Duration::from_millis(1100)).await;
    let before = world.secret_of("alpha").await;
    let position = audit.position();
    relabel(&world, "alpha", "b").await;
    for name in ["alpha", "beta", "gamma"] {
        let old = token(&world.secret_of(name).await);
        world.request_refresh(name).await;
        let secret = format!("{name}-idtoken");
        world.wait_secret(&secret, "its new token", SOON, |secret| token(secret) != old).await;
        world.wait_condition(name, "Ready=True/TokenFresh").await;
    }
    assert_eq!(written(&audit, FIRST, position), names(&["gamma"]), "it has let go of the other one");
    assert_eq!(written(&audit, SECOND, position), names(&["alpha", "beta"]));
    assert_eq!(world.secret_of("alpha").await.metadata.uid, before.metadata.uid, "it was there all the time");
    assert_eq!(
        world.google.minted(Endpoint::GenerateIdToken),
        6,
        "three at first, three that were asked for"
    );

    comes_back(&world, &audit).await;

    // It has seen both releases work, and neither of them has touched it.
    let api = Api::<idtoken_operator::api::IdTokenBinding>::namespaced(world.client.clone(), "shop");
    assert_eq!(api.get("stray").await.unwrap(), stray);
    assert_eq!(world.secrets().get_opt("stray-idtoken").await.unwrap(), None);
    world.end().await;
}

/// Gives a binding away and back with nothing changed but its label: the first one goes on refreshing it, though all its timers have run
/// out meanwhile.
async fn comes_back(world: &World, audit: &Audit) {
    // Refreshed after 11 to 12 s.
    world.google.set_id_token_lifetime_for(&audience_of("delta"), Duration::from_secs(20));
    let mut delta = binding("shop", "delta", &impersonation_for("delta"));
    delta.metadata.labels = Some([("fleet".to_owned(), "a".to_owned())].into());
    world.bindings().create(&PostParams::default(), &delta).await.unwrap();
    world.wait_condition("delta", "Ready=True/TokenFresh").await;
    let mut old = token(&world.secret_of("delta").await);
    let served_by = |position| if written(audit, FIRST, position).contains("delta") { FIRST } else { SECOND };
    for (fleet, release) in [("a", FIRST), ("b", SECOND), ("a", FIRST)] {
        relabel(world, "delta", fleet).await;
        let position = audit.position();
        for _ in 0..2 {
            let is_new = |secret: &Secret| token(secret) != old;
            let secret = world.wait_secret("delta-idtoken", "the next token", PATIENCE, is_new).await;
            old = token(&secret);
        }
        assert_eq!(served_by(position), release);
    }
}

async fn relabel(world: &World, name: &str, fleet: &str) {
    let label = Patch::Merge(json!({"metadata": {"labels": {"fleet": fleet}}}));
    world.bindings().patch(name, &PatchParams::default(), &label).await.unwrap();
}

/// Starts the controller of a release, and waits until it leads in it.
async fn start(world: &mut World, release: &str, selector: &str) {
    release.clone_into(&mut world.account);
    world.flags = vec![
        "--leader-elect".to_owned(),
        format!("--operator-namespace={OPERATOR_NAMESPACE}"),
        format!("--lease-name={release}"),
        format!("--binding-selector={selector}"),
    ];
    world.start_controller().await;
    leads(world.controller_port, release, true).await;
}

/// The bindings whose Secret or status a release's account has written since `position`.
fn written(audit: &Audit, account: &str, position: usize) -> BTreeSet<String> {
    let changes = ["create", "update", "patch", "delete"];
    let events = audit.by(account, position).into_iter();
    let written = events.filter(|event| {
        let resource = event["objectRef"]["resource"].as_str().unwrap_or_default();
        ["secrets", "idtokenbindings"].contains(&resource)
            && changes.contains(&event["verb"].as_str().unwrap())
    });
    let name = |text: &str| text.trim_end_matches("-idtoken").to_owned();
    written.filter_map(|event| event["objectRef"]["name"].as_str().map(name)).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
