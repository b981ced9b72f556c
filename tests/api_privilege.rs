//! What the operator may not do though it has the right: with its own credentials on a real API server, where the chart's
//! ValidatingAdmissionPolicies are all that stands in its way, for its accounts are made administrators here.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeSet;

use common::{
    AUDIENCE, OPERATOR_NAMESPACE, SOON, World,
    attempt::{Attempt, client, post},
    audit::Audit,
    binding, claims, conditions, google_options,
};
use idtoken_operator::api::IdTokenBinding;
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};
use xtask::{
    cluster::ClusterOptions,
    google::{Options, Role},
    process::wait_for,
};

const CONTROLLER: &str = "idtoken-operator-controller";
const WEBHOOK: &str = "idtoken-operator-webhook";
const TYPE: &str = "idtoken.dev/id-token";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_controller_makes_tokens_for_workload_identity_pools_only() {
    let world = start(&[]).await;
    let spec = json!({"serviceAccountName": "app", "containers": [{"name": "app", "image": "app"}]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app", "namespace": "shop"}, "spec": spec});
    world.apply(&[account("app"), pod]);
    let policy = "idtoken-operator-controller-tokens";
    let controller = client(&world, CONTROLLER).await;
    let attempts = token_attempts();
    assert_bound(&world, &controller, policy, &attempts).await;

    let pool = attempts.iter().find(|attempt| attempt.refusal.is_empty()).unwrap();
    let answer = pool.by(&controller).await.unwrap();
    let token = claims(answer["status"]["token"].as_str().unwrap());
    assert_eq!(
        (&token["aud"], &token["sub"]),
        (&json!(["p.svc.id.goog"]), &json!("system:serviceaccount:shop:app"))
    );
    assert_free_without(&world, &controller, policy, &attempts).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_tokens_of_the_operators_own_pods_live_an_hour() {
    let world = start(&[]).await;
    let rendered = world.render(&[]);
    let pods = rendered.iter().filter(|object| object["kind"] == "Deployment");
    let mounted: Vec<_> =
        pods.map(|o| &o["spec"]["template"]["spec"]["volumes"][0]["projected"]["sources"][0]).collect();
    let token = json!({"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}});
    assert_eq!(mounted, [&token, &token]);
    let spec = json!({"serviceAccountName": "app", "containers": [{"name": "app", "image": "app"}]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app", "namespace": "shop"}, "spec": spec});
    world.apply(&[account("app"), pod]);
    let life = async |seconds: u64| {
        let of = json!({"kind": "Pod", "apiVersion": "v1", "name": "app"});
        let body = json!({"spec": {"audiences": [], "expirationSeconds": seconds, "boundObjectRef": of}});
        let asked = post("/api/v1/namespaces/shop/serviceaccounts/app/token", body, "");
        let made = claims(asked.by(&world.client).await.unwrap()["status"]["token"].as_str().unwrap());
        made["exp"].as_u64().unwrap() - made["iat"].as_u64().unwrap()
    };
    assert_eq!(life(3600).await, 3600);
    // What Kubernetes mounts by itself is taken for a year.
    assert_eq!(life(3607).await, 31_536_000);
    world.end().await;
}

/// Audiences, life and binding of tokens of `shop/app`.
fn token_attempts() -> Vec<Attempt> {
    let path = "/api/v1/namespaces/shop/serviceaccounts/app/token";
    let tail = ": idtoken-operator may make tokens only for workload identity pools, PROJECT_ID.svc.id.goog or \
                //iam.googleapis.com/projects/…; use another account for anything else";
    let asking = |audiences: &[&str], refused: &str| {
        let spec = json!({"audiences": audiences, "expirationSeconds": 3600});
        let refusal = format!("spec.audiences of a token of ServiceAccount shop/app has {refused}{tail}");
        post(path, json!({"spec": spec}), if refused.is_empty() { "" } else { &refusal })
    };
    let server = "https://kubernetes.default.svc.cluster.local";
    let pool =
        "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/cluster";
    let https =
        "https://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/cluster";
    let mut attempts = vec![
        asking(&[], server),
        asking(&[server], server),
        asking(&["https://kubernetes.default.svc"], "https://kubernetes.default.svc"),
        asking(&["p.svc.id.goog", server], server),
        asking(&["vault", pool, "api"], "vault, api"),
        asking(&["https://x.svc.id.goog/evil"], "https://x.svc.id.goog/evil"),
        asking(&["https://evil.example/x.svc.id.goog"], "https://evil.example/x.svc.id.goog"),
        asking(&["evil.svc.id.goog.example"], "evil.svc.id.goog.example"),
        asking(&["evil-svc.id.goog"], "evil-svc.id.goog"),
        asking(&[".svc.id.goog"], ".svc.id.goog"),
        asking(&["P.SVC.ID.GOOG"], "P.SVC.ID.GOOG"),
        asking(&["p.svc.id.goog "], "p.svc.id.goog "),
        asking(&["vault\tp.svc.id.goog"], "vault\tp.svc.id.goog"),
        asking(&["//iam.googleapis.com.evil/projects/1"], "//iam.googleapis.com.evil/projects/1"),
        asking(&["//IAM.googleapis.com/projects/1"], "//IAM.googleapis.com/projects/1"),
        asking(&[https], https),
        asking(&["p.svc.id.goog"], ""),
        asking(&["example.com.p.svc.id.goog"], ""),
        asking(&[pool], ""),
    ];
    let mut with = |field: &str, value: Value, refusal: &str| {
        let mut spec = json!({"audiences": ["p.svc.id.goog"]});
        spec[field] = value;
        attempts.push(post(path, json!({"spec": spec}), refusal));
    };
    with(
        "expirationSeconds",
        json!(3601),
        "spec.expirationSeconds of a token of ServiceAccount shop/app is 3601: idtoken-operator may make tokens of at most 3600; use \
         another account for anything else",
    );
    with(
        "boundObjectRef",
        json!({"kind": "Pod", "apiVersion": "v1", "name": "app"}),
        "spec.boundObjectRef of a token of ServiceAccount shop/app is set: idtoken-operator may not make tokens that stand for a pod or \
         a node; leave it out, or use another account",
    );
    attempts
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_controller_writes_and_removes_secrets_of_bindings_only() {
    let world = start(&[]).await;
    world.apply(&[
        secret("password", "Opaque", &json!([])),
        secret("unowned", TYPE, &json!([])),
        secret("elses", TYPE, &owner("v1", "ConfigMap", true)),
        secret("orders-idtoken", TYPE, &of_binding()),
    ]);
    let policy = "idtoken-operator-controller-secrets";
    let controller = client(&world, CONTROLLER).await;
    assert_bound(&world, &controller, policy, &secret_attempts()).await;
    assert_free_without(&world, &controller, policy, &secret_attempts()).await;
    world.end().await;
}

fn secret_attempts() -> Vec<Attempt> {
    let of_type = |name: &str, found: &str| {
        format!(
            "Secret shop/{name} has type {found}: idtoken-operator may write and remove only Secrets of type idtoken.dev/id-token; use \
             another account for anything else"
        )
    };
    let unowned = |name: &str| {
        format!(
            "Secret shop/{name} has no IdTokenBinding as its controller in metadata.ownerReferences: idtoken-operator may write and \
             remove only Secrets of its bindings; use another account for anything else"
        )
    };
    let create = |secret_type: &str, owners: &Value, refusal: &str| {
        post("/api/v1/namespaces/shop/secrets?dryRun=All", secret("new", secret_type, owners), refusal)
    };
    let account_token = "kubernetes.io/service-account-token";
    let put =
        |name: &str, secret: Value, refusal: &str| Attempt::new("PUT", &named("shop", name), secret, refusal);
    let label = |name: &str, refusal: &str| {
        Attempt::new("PATCH", &named("shop", name), json!({"metadata": {"labels": {"a": "b"}}}), refusal)
    };
    let delete =
        |name: &str, refusal: &str| Attempt::new("DELETE", &named("shop", name), Value::Null, refusal);
    let all = "/api/v1/namespaces/shop/secrets?dryRun=All&fieldSelector=metadata.name%3Dpassword";
    vec![
        create("Opaque", &json!([]), &of_type("new", "Opaque")),
        create("Opaque", &of_binding(), &of_type("new", "Opaque")),
        create(account_token, &of_binding(), &of_type("new", account_token)),
        create(TYPE, &json!([]), &unowned("new")),
        create(TYPE, &owner("idtoken.dev/v1alpha1", "IdTokenBinding", false), &unowned("new")),
        create(TYPE, &owner("idtoken.dev.evil/v1alpha1", "IdTokenBinding", true), &unowned("new")),
        create(TYPE, &owner("v1", "ConfigMap", true), &unowned("new")),
        create(TYPE, &of_binding(), ""),
        put("password", secret("password", "Opaque", &json!([])), &of_type("password", "Opaque")),
        put("password", secret("password", "Opaque", &of_binding()), &of_type("password", "Opaque")),
        put("unowned", secret("unowned", TYPE, &of_binding()), &unowned("unowned")),
        put("elses", secret("elses", TYPE, &of_binding()), &unowned("elses")),
        put("orders-idtoken", secret("orders-idtoken", TYPE, &json!([])), &unowned("orders-idtoken")),
        put("orders-idtoken", secret("orders-idtoken", TYPE, &of_binding()), ""),
        label("password", &of_type("password", "Opaque")),
        label("unowned", &unowned("unowned")),
        label("orders-idtoken", ""),
        delete("password", &of_type("password", "Opaque")),
        delete("unowned", &unowned("unowned")),
        delete("elses", &unowned("elses")),
        delete("orders-idtoken", ""),
        Attempt::new("DELETE", all, Value::Null, &of_type("password", "Opaque")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_webhook_writes_its_own_authority_only() {
    let world = start(&[]).await;
    let policy = "idtoken-operator-webhook-secrets";
    let webhook = client(&world, WEBHOOK).await;
    let refused = |secret: &str| {
        format!(
            "Secret {secret}: the webhook of idtoken-operator may create and update only \
             idtoken-system/idtoken-operator-webhook-tls, of type Opaque; use another account for anything else"
        )
    };
    let of = |namespace: &str, name: &str, secret_type: &str| {
        let mut made = secret(name, secret_type, &json!([]));
        made["metadata"]["namespace"] = namespace.into();
        made
    };
    let (own, path) =
        ("idtoken-operator-webhook-tls", "/api/v1/namespaces/idtoken-system/secrets?dryRun=All");
    let account_token = "kubernetes.io/service-account-token";

    // While there is none. A Secret of the controller's token would be the controller's rights.
    let (ok, said) = world.kubectl(&["--namespace", OPERATOR_NAMESPACE, "delete", "secret", own], None);
    assert!(ok, "{said}");
    let attempts = [
        post(
            path,
            of(OPERATOR_NAMESPACE, own, account_token),
            &refused(&format!("{OPERATOR_NAMESPACE}/{own} of type {account_token}")),
        ),
        post(
            path,
            of(OPERATOR_NAMESPACE, "other", "Opaque"),
            &refused("idtoken-system/other of type Opaque"),
        ),
        post(
            "/api/v1/namespaces/shop/secrets?dryRun=All",
            of("shop", own, "Opaque"),
            &refused("shop/idtoken-operator-webhook-tls of type Opaque"),
        ),
        post(path, of(OPERATOR_NAMESPACE, own, "Opaque"), ""),
    ];
    assert_bound(&world, &webhook, policy, &attempts).await;

    world.apply(&[of(OPERATOR_NAMESPACE, own, "Opaque"), of(OPERATOR_NAMESPACE, "other", "Opaque")]);
    let attempts = [
        Attempt::new(
            "PUT",
            &named(OPERATOR_NAMESPACE, "other"),
            of(OPERATOR_NAMESPACE, "other", "Opaque"),
            &refused("idtoken-system/other of type Opaque"),
        ),
        Attempt::new(
            "DELETE",
            &named(OPERATOR_NAMESPACE, own),
            Value::Null,
            &refused("idtoken-system/idtoken-operator-webhook-tls"),
        ),
        Attempt::new("PUT", &named(OPERATOR_NAMESPACE, own), of(OPERATOR_NAMESPACE, own, "Opaque"), ""),
    ];
    assert_bound(&world, &webhook, policy, &attempts).await;
    assert_free_without(&world, &webhook, policy, &attempts).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn an_account_with_a_name_of_the_users_is_bound_in_scoped_mode_too() {
    let world = start(&[
        "scope.namespaces={shop}",
        "webhook.enabled=false",
        "controller.serviceAccount.create=false",
        "controller.serviceAccount.name=mine",
        "fullnameOverride=scoped",
    ])
    .await;
    let create = post(
        "/api/v1/namespaces/shop/secrets?dryRun=All",
        secret("new", "Opaque", &json!([])),
        "Secret shop/new has type Opaque: idtoken-operator may write and remove only Secrets of type idtoken.dev/id-token; use another \
         account for anything else",
    );
    assert_bound(&world, &client(&world, "mine").await, "scoped-controller-secrets", &[create]).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn tokens_are_made_only_of_accounts_that_bindings_of_their_namespace_name() {
    let robot = "robot@demo-project.iam.gserviceaccount.com";
    let everybody = ["shop/app", "shop/other", "bank/teller", "bank/app", "vault/app"];
    let options = everybody.iter().fold(google_options().service_account(robot), |options, account| {
        let tenant = format!("serviceAccount:demo-project.svc.id.goog[{account}]");
        options.allow(&tenant, Role::WorkloadIdentityUser, robot)
    });
    let audit = Audit::new();
    let mut world = World::start(options, audit.options()).await;
    world.trust_cluster().await;
    world.install(&["sources.kubernetesServiceAccount=true"]).await;
    for namespace in ["shop", "bank", "vault"] {
        world.namespace(namespace).await;
    }
    let annotations = json!({"iam.gke.io/gcp-service-account": robot});
    world.apply(&everybody.map(|account| {
        let (namespace, name) = account.split_once('/').unwrap();
        let metadata = json!({"name": name, "namespace": namespace, "annotations": annotations});
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    }));
    world.flags.push("--kubernetes-service-accounts".to_owned());
    world.start_controller().await;
    let source =
        |name: &str| json!({"audience": AUDIENCE, "source": {"kubernetesServiceAccount": {"name": name}}});
    let bank = Api::<IdTokenBinding>::namespaced(world.client.clone(), "bank");
    bank.create(&PostParams::default(), &binding("bank", "orders", &source("teller"))).await.unwrap();
    world.bind("orders", &source("app")).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    let ready = wait_for("the binding of bank", SOON, || async {
        let now = conditions(&bank.get("orders").await?);
        anyhow::ensure!(now.contains(&"Ready=True/TokenFresh".to_owned()), "{now:?}");
        Ok(())
    });
    ready.await.unwrap();

    let asked: BTreeSet<_> = audit
        .by(CONTROLLER, 0)
        .iter()
        .filter(|event| event["objectRef"]["subresource"] == "token")
        .map(|event| {
            let of = &event["objectRef"];
            let account = format!("{}/{}", of["namespace"].as_str().unwrap(), of["name"].as_str().unwrap());
            (account, event["requestObject"]["spec"]["audiences"].to_string())
        })
        .collect();
    let pool = r#"["demo-project.svc.id.goog"]"#.to_owned();
    assert_eq!(
        asked,
        BTreeSet::from([("shop/app".to_owned(), pool.clone()), ("bank/teller".to_owned(), pool)])
    );
    world.end().await;
}

/// Asserts what becomes of each attempt, and that nobody else is bound.
async fn assert_bound(world: &World, bound: &Client, policy: &str, attempts: &[Attempt]) {
    wait_for("the policy to be heeded", SOON, || async {
        anyhow::ensure!(attempts[0].by(bound).await.is_err(), "{} is allowed", attempts[0].about());
        Ok(())
    })
    .await
    .unwrap();
    let by = format!("ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: ");
    for attempt in attempts {
        let about = attempt.about();
        attempt.by(&world.client).await.unwrap_or_else(|e| panic!("an administrator: {about}: {e}"));
        let said = attempt.by(bound).await.map_or_else(|said| said, |_| String::new());
        let why = said.split_once(&by).map_or(said.as_str(), |(_, why)| why);
        assert_eq!(why, attempt.refusal, "{about}");
    }
}

/// Asserts that it is that policy which refuses.
async fn assert_free_without(world: &World, bound: &Client, policy: &str, attempts: &[Attempt]) {
    let (ok, said) = world.kubectl(&["delete", "validatingadmissionpolicybinding", policy], None);
    assert!(ok, "{said}");
    for attempt in attempts {
        let allowed = wait_for("no policy to be heeded", SOON, || async {
            attempt.by(bound).await.map(drop).map_err(anyhow::Error::msg)
        });
        allowed.await.unwrap_or_else(|error| panic!("{}: {error:#}", attempt.about()));
    }
}

/// A world with the chart's objects, whose accounts may do everything that no policy forbids.
async fn start(values: &[&str]) -> World {
    let world = World::start(Options::default(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    world.install(values).await;
    let group = "rbac.authorization.k8s.io";
    world.apply(&[json!({
        "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": "everything"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": group, "kind": "Group", "name": "system:serviceaccounts:idtoken-system"}],
    })]);
    world
}

fn named(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/secrets/{name}?dryRun=All")
}

fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "shop"}})
}

/// A Secret of `shop`.
fn secret(name: &str, secret_type: &str, owners: &Value) -> Value {
    // Needed by one type only; others may have it.
    let annotations = json!({"kubernetes.io/service-account.name": CONTROLLER});
    json!({"apiVersion": "v1", "kind": "Secret", "type": secret_type, "stringData": {"key": "value"},
        "metadata": {"name": name, "namespace": "shop", "annotations": annotations, "ownerReferences": owners}})
}

fn owner(version: &str, kind: &str, controller: bool) -> Value {
    json!([{"apiVersion": version, "kind": kind, "name": "orders", "uid": "1", "controller": controller}])
}

fn of_binding() -> Value {
    owner("idtoken.dev/v1alpha1", "IdTokenBinding", true)
}
