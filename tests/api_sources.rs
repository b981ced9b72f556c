//! Sources with credentials of their own, on a real API server: first tokens, changes of credentials, and refusals.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::time::Duration;

use common::{AUDIENCE, CALLER, SOON, World, claims, conditions, google_options, message, token};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use xtask::{
    cluster::ClusterOptions,
    google::{Endpoint, Options, PasswordUser, Role, User},
};

const ROBOT: &str = "robot@demo-project.iam.gserviceaccount.com";
const OTHER_ROBOT: &str = "other@demo-project.iam.gserviceaccount.com";
const USER: &str = "shopper@example.com";
const PASSWORD: &str = "correct horse battery staple";
const API_KEY: &str = "AIzaSyTest-0123456789abcdefghijklmnopqr";
const CLIENT: &str = "764086051850-test.apps.googleusercontent.com";
const IAP: &str = "https://app.example.com/*";

fn options() -> Options {
    google_options()
        .api_key(API_KEY)
        .password_user(PasswordUser::new(USER, PASSWORD))
        .user(developer("1//refresh-token-of-the-developer"))
        .allow(&common::member(common::OPERATOR), Role::TokenCreator, CALLER)
}

fn developer(refresh_token: &str) -> User {
    User {
        client_id: CLIENT.to_owned(),
        client_secret: "d-FL95Q19q7MQmFpd7hHD0Ty".to_owned(),
        refresh_token: refresh_token.to_owned(),
        email: "developer@example.com".to_owned(),
        scopes: vec!["openid".to_owned(), "https://www.googleapis.com/auth/userinfo.email".to_owned()],
    }
}

/// gcloud's file for that developer.
fn gcloud_file(refresh_token: &str) -> String {
    let User { client_id, client_secret, refresh_token, .. } = developer(refresh_token);
    json!({"type": "authorized_user", "client_id": client_id, "client_secret": client_secret, "refresh_token": refresh_token})
        .to_string()
}

/// A Secret of `shop` that bindings may use, or (not `labelled`) may not.
fn secret(name: &str, data: &Value, labelled: bool) -> Value {
    let labels = if labelled { json!({"idtoken.dev/credential": "true"}) } else { json!({}) };
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "shop", "labels": labels}, "stringData": data})
}

fn file_source(source: &str, secret: &str, audience: &str) -> Value {
    json!({"audience": audience, "source": {source: {"secretRef": {"name": secret, "key": "file.json"}}}})
}

fn user_source() -> Value {
    let key = |key: &str| json!({"name": "user", "key": key});
    json!({"audience": "demo-project", "source": {"identityPlatform": {
        "apiKeySecretRef": key("apiKey"), "emailSecretRef": key("email"), "passwordSecretRef": key("password"),
    }}})
}

fn user_secret(password: &str) -> Value {
    secret("user", &json!({"apiKey": API_KEY, "email": USER, "password": password}), true)
}

async fn start() -> World {
    let mut world = World::with_controller(options()).await;
    let words = [PASSWORD, API_KEY, "1//refresh-token-of-the-developer", "d-FL95Q19q7MQmFpd7hHD0Ty"];
    world.planted.extend(words.map(str::to_owned));
    world
}

/// A key file of the account, which must then stand nowhere but in its Secret.
fn key_of(world: &mut World, email: &str) -> String {
    let file = world.google.create_service_account_key(email).unwrap();
    let key: Value = serde_json::from_str(&file).unwrap();
    let lines = key["private_key"].as_str().unwrap().lines();
    world.planted.extend(lines.filter(|line| line.len() > 40).map(str::to_owned));
    file
}

/// Waits for a token in the binding's Secret whose claim is as named.
async fn wait_claim(world: &World, name: &str, claim: &str, value: &str) -> Value {
    let what = format!("{name}'s token to have {claim} {value}");
    let found = world
        .wait_secret(&format!("{name}-idtoken"), &what, SOON, |s| claims(&token(s))[claim] == value)
        .await;
    claims(&token(&found))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn every_secret_that_is_a_credential_becomes_a_token() {
    let mut world = start().await;
    let key = key_of(&mut world, ROBOT);
    world.apply(&[
        secret("key", &json!({"file.json": key}), true),
        secret("developer", &json!({"file.json": gcloud_file("1//refresh-token-of-the-developer")}), true),
        user_secret(PASSWORD),
    ]);
    world.bind("key", &file_source("serviceAccountKey", "key", AUDIENCE)).await;
    world.bind("developer", &file_source("userCredentials", "developer", CLIENT)).await;
    world.bind("user", &user_source()).await;
    let signed = json!({"audience": IAP, "source": {"signedJwt": {"serviceAccount": CALLER}}});
    world.bind("iap", &signed).await;
    let refused = world.wait_condition("iap", "Ready=False/NotGranted").await;
    assert!(message(&refused, "Ready").contains("kinds: [SignedJwt]"), "{}", message(&refused, "Ready"));
    world.apply(&[json!({"apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenGrant", "metadata": {"name": "iap"}, "spec": {
        "namespaces": {"names": ["shop"]}, "identities": [CALLER], "audiences": [IAP], "kinds": ["SignedJwt"],
    }})]);
    let table = [
        ("key", ROBOT, "https://accounts.google.com", AUDIENCE, "email", ROBOT),
        (
            "developer",
            "developer@example.com",
            "https://accounts.google.com",
            CLIENT,
            "email",
            "developer@example.com",
        ),
        ("user", USER, "https://securetoken.google.com/demo-project", "demo-project", "email", USER),
        ("iap", CALLER, CALLER, IAP, "sub", CALLER),
    ];
    for (name, identity, issuer, audience, claim, value) in table {
        let ready = world.wait_condition(name, "Ready=True/TokenFresh").await.status.unwrap();
        assert_eq!(ready.identity.as_deref(), Some(identity), "{name}");
        assert_eq!(ready.issuer.as_deref(), Some(issuer), "{name}");
        let claims = claims(&token(&world.secret_of(name).await));
        assert_eq!((&claims["aud"], &claims[claim]), (&json!(audience), &json!(value)), "{name}");
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3600, "{name}");
    }
    // A refresh of each: Identity Platform's by the refresh token, without the password.
    for (name, ..) in table {
        let before = world.secret_of(name).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.request_refresh(name).await;
        world
            .wait_secret(&format!("{name}-idtoken"), "another token", SOON, |s| token(s) != token(&before))
            .await;
    }
    assert_eq!(world.google.count(Endpoint::SignInWithPassword), 1);
    assert_eq!(world.google.count(Endpoint::SecureToken), 1);
    // A restart mints nothing that is still good.
    world.kill_controller();
    world.google.clear_requests();
    world.start_controller().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for endpoint in [Endpoint::SignInWithPassword, Endpoint::OauthToken, Endpoint::SignJwt] {
        assert_eq!(world.google.count(endpoint), 0, "{endpoint:?}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_credential_is_used_when_it_comes_is_labelled_or_changes() {
    let mut world = start().await;
    let (key, other) = (key_of(&mut world, ROBOT), key_of(&mut world, OTHER_ROBOT));
    world.bind("orders", &file_source("serviceAccountKey", "key", AUDIENCE)).await;
    let missing = world.wait_condition("orders", "Ready=False/CredentialsNotFound").await;
    assert_eq!(
        message(&missing, "Ready"),
        "Secret key does not exist; create it, with the label idtoken.dev/credential=true"
    );
    world.apply(&[secret("key", &json!({"file.json": key}), false)]);
    world.request_refresh("orders").await; // unlabelled Secrets are not watched
    let unlabelled = world.wait_condition("orders", "Ready=False/CredentialsNotAllowed").await;
    assert_eq!(
        message(&unlabelled, "Ready"),
        "Secret key is not labelled as a credential for bindings; whoever may change it can allow it: kubectl label secret key idtoken.dev/credential=true"
    );
    assert_eq!(world.google.count(Endpoint::OauthToken), 0, "nothing of it was used");
    world.kubectl(&["-n", "shop", "label", "secret", "key", "idtoken.dev/credential=true"], None);
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    wait_claim(&world, "orders", "email", ROBOT).await;

    world.apply(&[secret("key", &json!({"file.json": other}), true)]);
    wait_claim(&world, "orders", "email", OTHER_ROBOT).await;

    // Whatever becomes of the credential, the good token stays.
    let before = world.secret_of("orders").await;
    let truncated = &other[..other.len() / 2];
    world.apply(&[secret("key", &json!({"file.json": truncated}), true)]);
    let degraded = world.wait_condition("orders", "Degraded=True/CredentialsNotAllowed").await;
    assert!(
        message(&degraded, "Degraded").starts_with("Secret key, key file.json"),
        "{}",
        message(&degraded, "Degraded")
    );
    world.apply(&[secret("key", &json!({"other.json": "{}"}), true)]);
    world.kubectl(
        &[
            "-n",
            "shop",
            "patch",
            "secret",
            "key",
            "--type=json",
            r#"-p=[{"op":"remove","path":"/data/file.json"}]"#,
        ],
        None,
    );
    let degraded = world.wait_condition("orders", "Degraded=True/CredentialsNotFound").await;
    assert_eq!(message(&degraded, "Degraded"), "Secret key has no key file.json; add it");
    assert!(
        conditions(&degraded).contains(&"Ready=True/TokenFresh".to_owned()),
        "{:?}",
        conditions(&degraded)
    );
    assert_eq!(token(&world.secret_of("orders").await), token(&before));
    world.delete_secret("key").await;
    world.wait_condition("orders", "Degraded=True/CredentialsNotFound").await;
    world.apply(&[secret("key", &json!({"file.json": key}), true)]);
    world.wait_condition("orders", "Degraded=False/TokenFresh").await;
    wait_claim(&world, "orders", "email", ROBOT).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_refused_password_is_sent_once_and_never_again() {
    let mut world = start().await;
    world.planted.push("wrong password of the shopper".to_owned());
    world.apply(&[user_secret("wrong password of the shopper")]);
    world.bind("user", &user_source()).await;
    let refused = world.wait_condition("user", "Stalled=True/CredentialsRefused").await;
    assert!(conditions(&refused).contains(&"Ready=False/CredentialsRefused".to_owned()));
    assert!(
        message(&refused, "Ready").contains("INVALID_LOGIN_CREDENTIALS"),
        "{}",
        message(&refused, "Ready")
    );
    tokio::time::sleep(Duration::from_secs(4)).await;
    world.kill_controller();
    world.start_controller().await;
    // Another binding's visit shows that the new process is at work.
    world.bind("orders", &common::impersonation()).await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    let patch = json!({"metadata": {"labels": {"touched": "true"}}});
    world.bindings().patch("user", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(world.google.count(Endpoint::SignInWithPassword), 1);
    let still = world.bindings().get("user").await.unwrap();
    assert_eq!(message(&still, "Stalled"), message(&refused, "Ready"), "the new process says why as well");

    world.apply(&[user_secret(PASSWORD)]);
    world.wait_condition("user", "Ready=True/TokenFresh").await;
    assert_eq!(world.google.count(Endpoint::SignInWithPassword), 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_kubernetes_service_account_is_its_own_tenant() {
    let pool = "demo-project.svc.id.goog";
    let tenant = format!("serviceAccount:{pool}[shop/app]");
    let options = options().service_account(ROBOT).allow(&tenant, Role::WorkloadIdentityUser, ROBOT);
    let mut world = World::start(options, ClusterOptions::default()).await;
    world.trust_cluster().await;
    world.install(&["sources.kubernetesServiceAccount=true"]).await;
    world.flags.push("--kubernetes-service-accounts".to_owned());
    world.start_controller().await;
    for namespace in ["shop", "bank"] {
        world.namespace(namespace).await;
    }
    let source = json!({"audience": AUDIENCE, "source": {"kubernetesServiceAccount": {"name": "app"}}});
    world.bind("orders", &source).await;
    let missing = world.wait_condition("orders", "Ready=False/CredentialsNotFound").await;
    assert_eq!(message(&missing, "Ready"), "ServiceAccount shop/app does not exist; create it");
    world.apply(&[account("shop", "app", &json!({}))]);
    world.wait_condition("orders", "Ready=False/ServiceAccountNotAnnotated").await;
    world.apply(&[account("shop", "app", &json!({"iam.gke.io/return-principal-id-as-email": "true"}))]);
    world.wait_condition("orders", "Ready=False/NoServiceAccountForIdToken").await;
    assert_eq!(world.google.count(Endpoint::Sts), 0);
    world.apply(&[account("shop", "app", &json!({"iam.gke.io/gcp-service-account": ROBOT}))]);
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    wait_claim(&world, "orders", "email", ROBOT).await;
    let stock = json!({"audience": "https://stock-abc-uc.a.run.app", "source": source["source"]});
    world.bind("stock", &stock).await;
    world.wait_condition("stock", "Ready=True/TokenFresh").await;
    assert_eq!(world.google.count(Endpoint::Sts), 1, "one federated token serves both");
    assert_eq!(world.google.count(Endpoint::GenerateAccessToken), 0, "one hop");

    // The same name elsewhere is another principal, which Google does not let be that account.
    world.apply(&[
        account("bank", "app", &json!({"iam.gke.io/gcp-service-account": ROBOT})),
        serde_json::to_value(common::binding("bank", "orders", &source)).unwrap(),
    ]);
    let bank = kube::Api::<idtoken_operator::api::IdTokenBinding>::namespaced(world.client.clone(), "bank");
    let denied = xtask::process::wait_for("the other namespace to be denied", SOON, || async {
        let binding = bank.get("orders").await?;
        anyhow::ensure!(
            conditions(&binding).contains(&"Ready=False/SourceDenied".to_owned()),
            "{:?}",
            conditions(&binding)
        );
        Ok(binding)
    });
    let denied = denied.await.unwrap();
    assert!(
        message(&denied, "Ready").contains("demo-project.svc.id.goog[bank/app]"),
        "{}",
        message(&denied, "Ready")
    );
    assert_eq!(world.google.count(Endpoint::Sts), 2);

    // The operator's own account would be the operator's identity without a grant.
    let controller = "idtoken-operator-controller";
    let annotation = format!("iam.gke.io/gcp-service-account={}", common::OPERATOR);
    world.kubectl(
        &["-n", common::OPERATOR_NAMESPACE, "annotate", "serviceaccount", controller, &annotation],
        None,
    );
    let own = json!({"audience": AUDIENCE, "source": {"kubernetesServiceAccount": {"name": controller}}});
    world.apply(&[serde_json::to_value(common::binding(common::OPERATOR_NAMESPACE, "own", &own)).unwrap()]);
    let bindings = kube::Api::<idtoken_operator::api::IdTokenBinding>::namespaced(
        world.client.clone(),
        common::OPERATOR_NAMESPACE,
    );
    let refused = xtask::process::wait_for("the operator's own account to be refused", SOON, || async {
        let binding = bindings.get("own").await?;
        let now = conditions(&binding);
        anyhow::ensure!(now.contains(&"Stalled=True/SelfImpersonation".to_owned()), "{now:?}");
        Ok(())
    });
    refused.await.unwrap();
    assert_eq!(world.google.count(Endpoint::Sts), 2, "nobody was asked");

    // Made anew under its old name, it is another principal with a token of its own.
    let accounts =
        kube::Api::<k8s_openapi::api::core::v1::ServiceAccount>::namespaced(world.client.clone(), "shop");
    accounts.delete("app", &DeleteParams::default()).await.unwrap();
    world.wait_condition("orders", "Degraded=True/CredentialsNotFound").await;
    world.apply(&[account("shop", "app", &json!({"iam.gke.io/gcp-service-account": ROBOT}))]);
    world.wait_condition("orders", "Degraded=False/TokenFresh").await;
    world.wait_condition("stock", "Degraded=False/TokenFresh").await;
    assert_eq!(world.google.count(Endpoint::Sts), 3);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn without_the_right_to_make_tokens_the_binding_says_so() {
    let tenant = "serviceAccount:demo-project.svc.id.goog[shop/app]";
    let options = options().service_account(ROBOT).allow(tenant, Role::WorkloadIdentityUser, ROBOT);
    let mut world = World::start(options, ClusterOptions::default()).await;
    world.trust_cluster().await;
    let values = ["sources.kubernetesServiceAccount=true"];
    world.install(&values).await;
    let makes_tokens = |rule: &Value| rule["resources"] == json!(["serviceaccounts/token"]);
    let mut roles = world.render(&values);
    roles.retain(|o| o["kind"] == "ClusterRole" && o["rules"].as_array().unwrap().iter().any(makes_tokens));
    assert_eq!(roles.len(), 1);
    roles[0]["rules"].as_array_mut().unwrap().retain(|rule| !makes_tokens(rule));
    world.apply(&roles);
    world.flags.push("--kubernetes-service-accounts".to_owned());
    world.start_controller().await;
    world.namespace("shop").await;
    world.apply(&[account("shop", "app", &json!({"iam.gke.io/gcp-service-account": ROBOT}))]);
    let source = json!({"audience": AUDIENCE, "source": {"kubernetesServiceAccount": {"name": "app"}}});
    world.bind("orders", &source).await;
    let denied = world.wait_condition("orders", "Ready=False/SourceDenied").await;
    assert_eq!(
        message(&denied, "Ready"),
        "token of ServiceAccount shop/app: HTTP 403: the operator may not make tokens here; install the chart with \
         sources.kubernetesServiceAccount=true, or see which admission policy forbids it"
    );
    assert!(
        conditions(&denied).contains(&"Stalled=False/SourceDenied".to_owned()),
        "{:?}",
        conditions(&denied)
    );
    assert_eq!(world.google.count(Endpoint::Sts), 0);
    world.install(&values).await;
    world.request_refresh("orders").await;
    world.wait_condition("orders", "Ready=True/TokenFresh").await;
    wait_claim(&world, "orders", "email", ROBOT).await;
    world.end().await;
}

fn account(namespace: &str, name: &str, annotations: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace, "annotations": annotations}})
}
