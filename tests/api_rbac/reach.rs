//! What the operator's accounts reach with exactly the chart's rights, by calls with their own credentials. What is allowed here
//! and would be a thief's is listed in docs/threat-model.md under "Not stopped".

use serde_json::{Value, json};

use super::Bench;
use crate::common::{
    attempt::{Attempt, client, post},
    impersonation,
};

const REGISTRATIONS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const IDTOKEN: &str = "/apis/idtoken.dev/v1alpha1";
const OWN_NAMESPACE: &str = "/api/v1/namespaces/idtoken-system";
const TENANT: &str = "/api/v1/namespaces/shop";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_controller_reaches_what_is_listed_and_nothing_else() {
    let bench = Bench::start().await;
    let orders = bench.world.bind("orders", &impersonation()).await;
    let password =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "password", "namespace": "shop"}});
    bench.world.apply(&[password]);
    let (grants, bindings) =
        (format!("{IDTOKEN}/idtokengrants"), format!("{IDTOKEN}/namespaces/shop/idtokenbindings"));
    let leases = "/apis/coordination.k8s.io/v1/namespaces/idtoken-system/leases";
    let forged = json!({
        "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding",
        "metadata": {"name": "orders", "resourceVersion": orders.metadata.resource_version},
        "status": {"notGrantedSince": "2020-01-01T00:00:00Z"},
    });
    let event = json!({
        "metadata": {"name": "forged"}, "eventTime": "2020-01-01T00:00:00.000000Z", "type": "Normal", "reason": "Any",
        "action": "Any", "note": "any", "reportingController": "any", "reportingInstance": "any",
        "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "any"},
    });
    let attempts = [
        get(&format!("{TENANT}/secrets/password"), ""),
        get("/api/v1/secrets", ""),
        Attempt::new("PUT", &format!("{bindings}/orders/status?dryRun=All"), forged, ""),
        patch(&format!("{bindings}/orders/status"), json!({}), "patch resource \"idtokenbindings/status\""),
        post("/apis/events.k8s.io/v1/namespaces/shop/events?dryRun=All", event, ""),
        patch(&format!("{TENANT}/secrets/password"), json!({}), "patch resource \"secrets\""),
        delete(&format!("{TENANT}/secrets"), "deletecollection resource \"secrets\""),
        post(&grants, json!({}), "create resource \"idtokengrants\""),
        patch(&format!("{grants}/shop"), json!({}), "patch resource \"idtokengrants\""),
        post(&bindings, json!({}), "create resource \"idtokenbindings\""),
        patch(&format!("{bindings}/orders"), json!({}), "patch resource \"idtokenbindings\""),
        delete(&format!("{bindings}/orders"), "delete resource \"idtokenbindings\""),
        patch(TENANT, json!({}), "patch resource \"namespaces\""),
        get(&format!("{OWN_NAMESPACE}/configmaps/grants"), "get resource \"configmaps\""),
        patch(&format!("{OWN_NAMESPACE}/configmaps/grants"), json!({}), "patch resource \"configmaps\""),
        post(&format!("{TENANT}/serviceaccounts"), json!({}), "create resource \"serviceaccounts\""),
        post(&format!("{TENANT}/pods"), json!({}), "create resource \"pods\""),
        delete(&format!("{TENANT}/pods/app"), "delete resource \"pods\""),
        post(&format!("{TENANT}/pods/app/exec?command=id"), Value::Null, "create resource \"pods/exec\""),
        patch("/apis/apps/v1/namespaces/shop/deployments/app", json!({}), "patch resource \"deployments\""),
        get("/api/v1/nodes", "list resource \"nodes\""),
        get(&format!("{leases}/other"), "get resource \"leases\""),
        patch(&format!("{leases}/other"), json!({}), "patch resource \"leases\""),
        patch(&format!("{REGISTRATIONS}/idtoken-operator"), json!({}), REGISTRATION_PATCH),
        delete(&format!("{ADMISSION}/validatingadmissionpolicybindings/any"), POLICY_BINDING_DELETE),
        patch(&format!("{RBAC}/clusterroles/idtoken-operator-controller"), json!({}), ROLE_PATCH),
        post(&format!("{RBAC}/clusterrolebindings"), json!({}), "create resource \"clusterrolebindings\""),
    ];
    assert_reach(&bench, "idtoken-operator-controller", &attempts).await;
    bench.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn the_webhook_and_the_check_reach_what_is_listed_and_nothing_else() {
    let bench = Bench::start().await;
    bench.world.register_webhook();
    let named = |name: &str| format!("{REGISTRATIONS}?fieldSelector=metadata.name%3D{name}");
    let (secrets, own) =
        (format!("{OWN_NAMESPACE}/secrets"), format!("{OWN_NAMESPACE}/secrets/idtoken-operator-webhook-tls"));
    let bindings = format!("{IDTOKEN}/namespaces/shop/idtokenbindings");
    let attempts = [
        get(&own, ""),
        get(&format!("{secrets}/other"), "get resource \"secrets\""),
        get(&format!("{TENANT}/secrets/password"), "get resource \"secrets\""),
        get(&format!("{TENANT}/secrets/idtoken-operator-webhook-tls"), "get resource \"secrets\""),
        get(&secrets, "list resource \"secrets\""),
        get(&format!("{secrets}?watch=true"), "watch resource \"secrets\""),
        get("/api/v1/secrets", "list resource \"secrets\""),
        put(&format!("{secrets}/other"), "update resource \"secrets\""),
        patch(&own, json!({}), "patch resource \"secrets\""),
        delete(&own, "delete resource \"secrets\""),
        post(&format!("{TENANT}/secrets"), json!({}), "create resource \"secrets\""),
        get(&named("idtoken-operator"), ""),
        patch(&format!("{REGISTRATIONS}/idtoken-operator"), json!({}), ""),
        get(&named("other"), "list resource \"mutatingwebhookconfigurations\""),
        get(REGISTRATIONS, "list resource \"mutatingwebhookconfigurations\""),
        patch(&format!("{REGISTRATIONS}/other"), json!({}), REGISTRATION_PATCH),
        put(&format!("{REGISTRATIONS}/other"), "update resource \"mutatingwebhookconfigurations\""),
        delete(&format!("{REGISTRATIONS}/other"), "delete resource \"mutatingwebhookconfigurations\""),
        post(REGISTRATIONS, json!({}), "create resource \"mutatingwebhookconfigurations\""),
        patch(
            &format!("{ADMISSION}/validatingwebhookconfigurations/other"),
            json!({}),
            "patch resource \"validatingwebhookconfigurations\"",
        ),
        delete(&format!("{ADMISSION}/validatingadmissionpolicybindings/any"), POLICY_BINDING_DELETE),
        get(&bindings, ""),
        post(&bindings, json!({}), "create resource \"idtokenbindings\""),
        patch(&format!("{bindings}/orders/status"), json!({}), "patch resource \"idtokenbindings/status\""),
        get(&format!("{IDTOKEN}/idtokengrants"), "list resource \"idtokengrants\""),
        post(
            &format!("{OWN_NAMESPACE}/serviceaccounts/idtoken-operator-controller/token"),
            json!({}),
            "create resource \"serviceaccounts/token\"",
        ),
        post(&format!("{TENANT}/pods"), json!({}), "create resource \"pods\""),
        get("/api/v1/pods", "list resource \"pods\""),
        patch(&format!("{RBAC}/clusterroles/idtoken-operator-webhook"), json!({}), ROLE_PATCH),
    ];
    assert_reach(&bench, "idtoken-operator-webhook", &attempts).await;

    let attempts = [
        post(&format!("{TENANT}/pods"), json!({}), "create resource \"pods\""),
        delete("/api/v1/namespaces/default/pods/any", "delete resource \"pods\""),
        get("/api/v1/namespaces/default/secrets", "list resource \"secrets\""),
        get(&secrets, "list resource \"secrets\""),
    ];
    assert_reach(&bench, "idtoken-operator-test", &attempts).await;
    bench.world.end().await;
}

const REGISTRATION_PATCH: &str = "patch resource \"mutatingwebhookconfigurations\"";
const POLICY_BINDING_DELETE: &str = "delete resource \"validatingadmissionpolicybindings\"";
const ROLE_PATCH: &str = "patch resource \"clusterroles\"";

fn get(path: &str, refusal: &str) -> Attempt {
    Attempt::new("GET", path, Value::Null, refusal)
}

fn put(path: &str, refusal: &str) -> Attempt {
    Attempt::new("PUT", path, json!({}), refusal)
}

fn patch(path: &str, body: Value, refusal: &str) -> Attempt {
    Attempt::new("PATCH", &format!("{path}?dryRun=All"), body, refusal)
}

fn delete(path: &str, refusal: &str) -> Attempt {
    Attempt::new("DELETE", &format!("{path}?dryRun=All"), Value::Null, refusal)
}

/// Asserts what RBAC says to each attempt.
async fn assert_reach(bench: &Bench, account: &str, attempts: &[Attempt]) {
    let client = client(&bench.world, account).await;
    for attempt in attempts {
        let said = attempt.by(&client).await.map_or_else(|said| said, |_| String::new());
        // "…: User "…" cannot get resource "secrets" in API group "" …"
        let why = said.split_once(" cannot ").map_or(said.as_str(), |(_, why)| why);
        let why = why.split_once(" in API group ").map_or(why, |(why, _)| why);
        assert_eq!(why, attempt.refusal, "{account}: {}", attempt.about());
    }
}
