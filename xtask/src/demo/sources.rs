//! The show of `--all-sources`: every way to get a token, and a credential that Google refuses.

mod rows;

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::ground::{Ground, resource};
use super::observe::{condition, conditions, expect, until};
use super::scenario::DEMO;
use super::show::{Show, aligned, table};
use super::token::Claims;
use crate::clock::now;
use crate::google::{Endpoint, Google};
pub(super) use rows::simulated;
use rows::{PASSWORD, ROWS, Row, WRONG};

/// Every step, after the operator has been installed and started.
pub(super) async fn perform(show: &mut Show, ground: &Ground, google: &Google) -> anyhow::Result<()> {
    federate(show, ground, google).await?;
    create(show, ground, google).await?;
    ready(show, ground).await?;
    tokens(show, ground, google).await?;
    keep_session(show, ground, google).await?;
    refuse(show, ground, google).await?;
    mend(show, ground, google).await
}

/// Makes the cluster a provider of two workload identity pools: by the keys that it publishes.
async fn federate(show: &mut Show, ground: &Ground, google: &Google) -> anyhow::Result<()> {
    show.step("Google learns the cluster's public keys, for Workload Identity Federation");
    show.command("kubectl get --raw /openid/v1/jwks > jwks.json");
    let get = async |path: &str| -> anyhow::Result<Value> {
        let request = http::Request::get(path).body(Vec::new())?;
        let text = ground.client().request_text(request).await;
        Ok(serde_json::from_str(&text.with_context(|| format!("the API server does not tell {path}"))?)?)
    };
    let keys = get("/openid/v1/jwks").await?;
    let issuer = get("/.well-known/openid-configuration").await?["issuer"].as_str().map(str::to_owned);
    let issuer = issuer.context("the API server names no issuer")?;
    show.command("gcloud iam workload-identity-pools providers create-oidc cluster --workload-identity-pool=shop-pool \\");
    show.say(
        "    --location=global --attribute-mapping=google.subject=assertion.sub --jwk-json-path=jwks.json \\",
    );
    show.say(format_args!("    --issuer-uri={issuer}"));
    let count = keys["keys"].as_array().map_or(0, Vec::len);
    show.say(format_args!("public keys of {issuer}: {count}; the simulator checks signatures by them"));
    expect("at least one key", count > 0, &keys)?;
    for provider in rows::providers(&issuer) {
        google.set_provider(provider.with_jwks(keys.clone()));
    }
    Ok(())
}

/// Applies credentials, the grant and the bindings.
async fn create(show: &mut Show, ground: &Ground, google: &Google) -> anyhow::Result<()> {
    show.step("Credentials, a grant, and a binding for each source");
    let credentials = rows::credentials(google)?;
    show.command("kubectl apply --server-side -f credentials.yaml -f grant.yaml -f bindings.yaml");
    let names: Vec<_> = credentials
        .iter()
        .map(|object| format!("{} {}", object["kind"], object["metadata"]["name"]))
        .collect();
    show.say(format_args!("credentials: {}", names.join(", ").replace('"', "")));
    show.block(rows::GRANT);
    for row in ROWS.iter().chain([&WRONG]) {
        show.say(format_args!("{}, for {}:", row.binding, row.system));
        show.block(&format!("audience: {}\nsource: {{{}}}", row.audience, row.yaml));
    }
    for object in &credentials {
        ground.apply(&serde_json::from_value(object.clone())?).await?;
    }
    ground.apply(&serde_yaml_ng::from_str(rows::GRANT)?).await?;
    for row in ROWS.iter().chain([&WRONG]) {
        ground.apply(&row.object()?).await?;
    }
    Ok(())
}

async fn ready(show: &mut Show, ground: &Ground) -> anyhow::Result<()> {
    show.step("Every binding becomes Ready, but the one with a wrong password");
    for row in &ROWS {
        wait(ground, row, "condition Ready=True", |binding| is(binding, "Ready", "True")).await?;
    }
    show.command("kubectl -n idtoken-demo get idtokenbindings -o wide");
    let path = format!("/apis/idtoken.dev/v1alpha1/namespaces/{DEMO}/idtokenbindings");
    show.block(&table(&ground.client(), &path).await?);
    Ok(())
}

/// Reads every Secret and holds its token's claims against what the row demands.
async fn tokens(show: &mut Show, ground: &Ground, google: &Google) -> anyhow::Result<()> {
    show.step("Each Secret holds its own kind of token (shown are claims, never a token)");
    let mut lines = vec![["SOURCE", "IDENTITY", "AUDIENCE", "ISSUER", "EXPIRES"].map(str::to_owned).to_vec()];
    for row in &ROWS {
        let secret = secret(ground, row).await?;
        let claims = Claims::in_secret(&secret)?;
        let seen = format!("{} {} {}", claims.iss, claims.identity(), claims.aud);
        let expected = format!("{}: a token {} {} {}", row.binding, row.issuer, row.identity, row.audience);
        expect(expected, seen == format!("{} {} {}", row.issuer, row.identity, row.audience), &seen)?;
        expect(
            format_args!("{}: exp in the future", row.binding),
            claims.expires() > now(),
            claims.expires(),
        )?;
        let checked = secret.annotations().get("idtoken.dev/signature-checked").map(String::as_str);
        expect(
            format_args!("{}: a signature that was checked", row.binding),
            checked == Some("true"),
            format_args!("{checked:?}"),
        )?;
        lines.push(vec![
            row.source().to_owned(),
            claims.identity().to_owned(),
            claims.aud.clone(),
            claims.iss.clone(),
            claims.expires().to_string(),
        ]);
    }
    show.block(&aligned(&lines));
    let asked: Vec<_> =
        rows::ASKED.iter().map(|(endpoint, words)| format!("{words} {}", google.count(*endpoint))).collect();
    show.say(format_args!("Google was asked: {}", asked.join(", ")));
    for (endpoint, words) in rows::ASKED {
        expect(format_args!("at least one call of {words}"), google.count(endpoint) > 0, "none")?;
    }
    Ok(())
}

/// A forced refresh of a user's token goes by the session.
async fn keep_session(show: &mut Show, ground: &Ground, google: &Google) -> anyhow::Result<()> {
    show.step("A user's token is refreshed by the session, without the password");
    let row = &rows::PORTAL;
    let before = secret(ground, row).await?;
    // Two tokens of the same second are the same token.
    sleep(Duration::from_secs(1)).await;
    let (sign_ins, refreshes) =
        (google.count(Endpoint::SignInWithPassword), google.count(Endpoint::SecureToken));
    let at = now().to_string();
    show.command(&format!(
        "kubectl -n idtoken-demo annotate idtokenbinding {} idtoken.dev/refresh-requested-at={at}",
        row.binding
    ));
    let request = json!({"metadata": {"annotations": {"idtoken.dev/refresh-requested-at": at}}});
    bindings(ground, row)?.patch(row.binding, &PatchParams::default(), &Patch::Merge(&request)).await?;
    let secrets: Api<Secret> = Api::namespaced(ground.client(), DEMO);
    let is_other = |secret: &Secret| secret.data != before.data;
    until(secrets, &row.secret(), "another token", SOON, is_other, |_| "the same token".to_owned()).await?;
    let now_asked = (google.count(Endpoint::SignInWithPassword), google.count(Endpoint::SecureToken));
    show.say(format_args!(
        "sign-ins by password: {} -> {}, refreshes: {refreshes} -> {}",
        sign_ins, now_asked.0, now_asked.1
    ));
    expect(
        "one refresh more and no sign-in",
        now_asked == (sign_ins, refreshes + 1),
        format_args!("{now_asked:?}"),
    )
}

/// What a wrong password comes to: one attempt.
async fn refuse(show: &mut Show, ground: &Ground, google: &Google) -> anyhow::Result<()> {
    show.step("A wrong password is tried once, and no second time");
    let binding =
        wait(ground, &WRONG, "condition Stalled=True", |binding| is(binding, "Stalled", "True")).await?;
    show.command(&format!("kubectl -n idtoken-demo describe idtokenbinding {}", WRONG.binding));
    for said in conditions(&binding) {
        show.say(said);
    }
    let reason = condition(&binding, "Ready").map(|ready| ready.reason).unwrap_or_default();
    expect("reason CredentialsRefused", reason == "CredentialsRefused", &reason)?;
    let refused = || {
        google
            .requests()
            .iter()
            .filter(|r| r.endpoint == Endpoint::SignInWithPassword && r.status == Some(400))
            .count()
    };
    let first = refused();
    sleep(PATIENCE).await;
    show.say(format_args!("refused sign-ins: {first}; {} s later: {}", PATIENCE.as_secs(), refused()));
    expect(
        "one refused sign-in, and no other",
        (first, refused()) == (1, 1),
        format_args!("{first}, {}", refused()),
    )
}

/// The right password wakes the binding.
async fn mend(show: &mut Show, ground: &Ground, google: &Google) -> anyhow::Result<()> {
    show.step("The Secret is put right, and the binding goes on by itself");
    let sign_ins = google.count(Endpoint::SignInWithPassword);
    show.command("kubectl -n idtoken-demo patch secret wrong-login --type merge -p '{\"stringData\": {\"password\": …}}'");
    let secrets: Api<Secret> = Api::namespaced(ground.client(), DEMO);
    let patch = json!({"stringData": {"password": PASSWORD}});
    secrets.patch("wrong-login", &PatchParams::default(), &Patch::Merge(&patch)).await?;
    let binding =
        wait(ground, &WRONG, "condition Ready=True", |binding| is(binding, "Ready", "True")).await?;
    for said in conditions(&binding) {
        show.say(said);
    }
    let more = google.count(Endpoint::SignInWithPassword) - sign_ins;
    expect("one more sign-in", more == 1, more)
}

fn bindings(ground: &Ground, row: &Row) -> anyhow::Result<Api<DynamicObject>> {
    Ok(Api::namespaced_with(ground.client(), DEMO, &resource(&row.object()?)?))
}

async fn wait(
    ground: &Ground,
    row: &Row,
    expected: &str,
    holds: impl Fn(&DynamicObject) -> bool + Send,
) -> anyhow::Result<DynamicObject> {
    let expected = format!("{}: {expected}", row.binding);
    until(bindings(ground, row)?, row.binding, &expected, SOON, holds, |last| conditions(last).join("; "))
        .await
}

fn is(binding: &DynamicObject, kind: &str, status: &str) -> bool {
    condition(binding, kind).is_some_and(|condition| condition.status == status)
}

async fn secret(ground: &Ground, row: &Row) -> anyhow::Result<Secret> {
    let api: Api<Secret> = Api::namespaced(ground.client(), DEMO);
    api.get(&row.secret())
        .await
        .with_context(|| format!("{} is Ready, but its Secret can't be read", row.binding))
}

const SOON: Duration = Duration::from_secs(60);
/// Longer than the pause after a first failure that would be tried again.
const PATIENCE: Duration = Duration::from_secs(8);
