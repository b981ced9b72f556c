//! A revocation that the controller can't hear of, and one that it can't note.

use super::*;

/// So long what a watch brought is believed while nothing more comes of it.
const DOUBT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_controller_that_hears_of_no_grants_looks_for_itself_and_mints_nothing_where_it_can_not() {
    let mut world = world("1h").await;
    world.stop_controller().await;
    // It will list grants, once, and then hear of none.
    rights(&world, "idtokengrants", &["list"]);
    world.start_controller().await;
    ready(&world, &["orders"]).await;
    let before = world.secret_of("orders").await;
    revoke(&world).await;
    tokio::time::sleep(DOUBT + Duration::from_secs(2)).await;
    let asked = world.google.count(Endpoint::GenerateIdToken);
    world.request_refresh("orders").await;
    world.wait_condition("orders", "Degraded=True/NotGranted").await;

    // What was listed a minute ago is believed no longer; and what can't be listed is not granted.
    give(&world).await;
    tokio::time::sleep(DOUBT + Duration::from_secs(2)).await;
    rights(&world, "idtokengrants", &["get"]);
    let closed = wait_for("nothing to be minted", SOON, || async {
        world.request_refresh("orders").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let binding = world.bindings().get("orders").await?;
        anyhow::ensure!(conditions(&binding).contains(&"Degraded=True/SourceUnavailable".to_owned()));
        Ok(message(&binding, "Degraded"))
    });
    let closed = closed.await.unwrap();
    assert!(closed.starts_with("nothing is minted, since it can't be told what is granted: "), "{closed}");
    assert_eq!(what(&world.secret_of("orders").await), what(&before));
    assert_eq!(world.google.count(Endpoint::GenerateIdToken), asked, "Google is not asked");

    rights(&world, "idtokengrants", &["list", "watch"]);
    world.wait_condition_within("orders", "Degraded=False/TokenFresh", Duration::from_secs(60)).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn a_status_that_can_not_be_written_keeps_no_revoked_secret() {
    let world = world("3s").await;
    ready(&world, &["orders"]).await;
    let (group, version) = ("admissionregistration.k8s.io/v1", "v1alpha1");
    world.apply(&[
        json!({"apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "no-status"}, "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["idtoken.dev"], "apiVersions": [version], "operations": ["UPDATE"], "resources": ["idtokenbindings/status"],
            }]},
            "validations": [{"expression": "false", "message": "no status today"}],
        }}),
        json!({"apiVersion": group, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "no-status"},
            "spec": {"policyName": "no-status", "validationActions": ["Deny"]}}),
    ]);
    let refused = wait_for("the policy to be in force", SOON, || async {
        let probe = Patch::Merge(json!({"status": {"identity": format!("{:?}", std::time::Instant::now())}}));
        let params = PatchParams { dry_run: true, ..PatchParams::default() };
        let answer = world.bindings().patch_status("orders", &params, &probe).await;
        anyhow::ensure!(answer.is_err_and(|error| error.to_string().contains("no status today")));
        Ok(())
    });
    refused.await.unwrap();
    revoke(&world).await;
    wait_gone(&world, "orders-idtoken").await;
    let binding = world.bindings().get("orders").await.unwrap();
    assert!(conditions(&binding).contains(&"Ready=True/TokenFresh".to_owned()), "nobody could say so");
    world.end().await;
}
