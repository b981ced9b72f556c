//! The steps of the show.

use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use super::chart::{Chart, NAMESPACE, RELEASE};
use super::ground::{Ground, resource};
use super::observe::{condition, conditions, expect, until};
use super::show::{Show, table};
use super::token::Claims;
use crate::clock::now;

/// Puts what the chart renders into the cluster.
pub(super) async fn install(show: &mut Show, ground: &Ground, chart: &Chart) -> anyhow::Result<()> {
    show.step("The operator is installed");
    show.say("Lines with $ are what you would type; the demo sends the same requests by itself.");
    let version = ground.client().apiserver_version().await?.git_version;
    show.say(format_args!("Kubernetes API server {version} at {}", ground.server()));
    let namespaces = [namespace(NAMESPACE)?, namespace(DEMO)?];
    let mine: Vec<DynamicObject> =
        namespaces.iter().chain(&chart.definitions).chain(&chart.others).cloned().collect();
    ground.refuse_to_overwrite(&mine).await?;
    for object in namespaces.iter().chain(&chart.definitions) {
        ground.apply(object).await?;
    }
    for definition in &chart.definitions {
        let api: Api<CustomResourceDefinition> = Api::all(ground.client());
        let name = definition.name_any();
        until(api, &name, "an established CRD", SOON, is_established, |crd| format!("{:?}", crd.status))
            .await?;
    }
    for object in &chart.others {
        ground.apply(object).await?;
    }
    show.say(format_args!("applied, as Helm renders the chart: {}", chart.summary()));
    show.say("not applied: Deployments, Service, PodDisruptionBudget (the demo runs the programs itself,");
    show.say("with the arguments of the Deployments and the rights of the chart's ServiceAccounts)");
    if !ground.reaches_us() {
        show.say("");
        show.say(format_args!("LEFT OUT: the webhook, and with it the steps with pods. The API server at"));
        show.say(format_args!("{} can't call a webhook on this machine. To see", ground.server()));
        show.say(
            "them there, install the operator: helm install idtoken-operator charts/idtoken-operator \\",
        );
        show.say("  --namespace idtoken-system --create-namespace --set image.repository=REGISTRY/idtoken-operator");
    }
    Ok(())
}

/// The main job, step by step.
pub(super) async fn perform(show: &mut Show, ground: &Ground, with_webhook: bool) -> anyhow::Result<()> {
    if with_webhook {
        registered(show, ground).await?;
    }
    bind(show, ground).await?;
    let first = token_in_secret(show, ground).await?;
    refresh(show, ground, &first).await?;
    if with_webhook {
        mount(show, ground).await?;
        refuse(show, ground).await?;
    }
    Ok(())
}

async fn registered(show: &mut Show, ground: &Ground) -> anyhow::Result<()> {
    show.step("The webhook has made its certificate authority and told the API server of it");
    let configuration = until(
        Api::<MutatingWebhookConfiguration>::all(ground.client()),
        RELEASE,
        "a caBundle in the MutatingWebhookConfiguration",
        SOON,
        |configuration| !bundle(configuration).is_empty(),
        |_| "a registration without caBundle".to_owned(),
    )
    .await?;
    let owner = configuration.managed_fields().iter().find(|entry| owns_bundle(entry));
    let owner = owner.and_then(|entry| entry.manager.clone()).unwrap_or_default();
    expect("caBundle owned by idtoken-operator-webhook", owner == "idtoken-operator-webhook", &owner)?;
    let size = bundle(&configuration).len();
    show.say(format_args!(
        "MutatingWebhookConfiguration {RELEASE}: caBundle of {size} bytes, owned by {owner}"
    ));
    Ok(())
}

async fn bind(show: &mut Show, ground: &Ground) -> anyhow::Result<()> {
    show.step("A grant and a binding, and the binding becomes Ready");
    show.command("kubectl apply --server-side -f grant.yaml -f binding.yaml");
    show.block(GRANT);
    show.block("---");
    show.block(BINDING);
    ground.apply(&parse(GRANT)?).await?;
    let binding = ground.apply(&parse(BINDING)?).await?;
    let api: Api<DynamicObject> = Api::namespaced_with(ground.client(), DEMO, &resource(&binding)?);
    let is_ready = |binding: &DynamicObject| {
        condition(binding, "Ready").is_some_and(|ready| {
            ready.status == "True" && ready.observed_generation == binding.metadata.generation
        })
    };
    let ready =
        until(api, "orders", "condition Ready=True", SOON, is_ready, |last| conditions(last).join("; "))
            .await?;
    show.command("kubectl -n idtoken-demo get idtokenbindings -o wide");
    let path = format!("/apis/idtoken.dev/v1alpha1/namespaces/{DEMO}/idtokenbindings");
    show.block(&table(&ground.client(), &path).await?);
    for said in conditions(&ready) {
        show.say(said);
    }
    Ok(())
}

async fn token_in_secret(show: &mut Show, ground: &Ground) -> anyhow::Result<Claims> {
    show.step("The Secret holds a token for that audience (shown are its claims, never the token)");
    let api: Api<Secret> = Api::namespaced(ground.client(), DEMO);
    let secret = api.get(SECRET).await.context("the binding is Ready, but its Secret can't be read")?;
    show.command(
        "kubectl -n idtoken-demo get secret orders-idtoken -o jsonpath='{.data.id_token}' | base64 -d",
    );
    let claims = Claims::in_secret(&secret)?;
    show.say(format_args!("  iss    {}", claims.iss));
    show.say(format_args!("  aud    {}", claims.aud));
    show.say(format_args!("  email  {}", claims.identity()));
    show.say(format_args!("  iat    {}", claims.issued()));
    show.say(format_args!("  exp    {}", claims.expires()));
    let kind = secret.type_.as_deref().unwrap_or_default();
    show.say(format_args!("Secret {SECRET} of type {kind}, owned by {}", owner(&secret)));
    expect("iss https://accounts.google.com", claims.iss == "https://accounts.google.com", &claims.iss)?;
    expect(format_args!("aud {AUDIENCE}"), claims.aud == AUDIENCE, &claims.aud)?;
    expect(format_args!("email {}", super::CALLER), claims.identity() == super::CALLER, claims.identity())?;
    expect("exp in the future", claims.expires() > now(), claims.expires())?;
    expect("an owner IdTokenBinding orders", owner(&secret) == "IdTokenBinding orders", owner(&secret))?;
    Ok(claims)
}

async fn refresh(show: &mut Show, ground: &Ground, first: &Claims) -> anyhow::Result<()> {
    show.step("The token is replaced before it expires");
    let lifetime = super::TOKEN_LIFETIME.as_secs();
    show.say(format_args!("tokens live {lifetime} s here, an hour at Google; waiting for the refresh …"));
    let is_later =
        |secret: &Secret| Claims::in_secret(secret).is_ok_and(|claims| claims.expires() > first.expires());
    let expected = format!("a token with exp after {}", first.expires());
    let seen = |secret: &Secret| match Claims::in_secret(secret) {
        Ok(claims) => format!("a token with exp {}", claims.expires()),
        Err(error) => error.to_string(),
    };
    let api: Api<Secret> = Api::namespaced(ground.client(), DEMO);
    let secret = until(api, SECRET, &expected, super::TOKEN_LIFETIME * 2, is_later, seen).await?;
    let at = now();
    let next = Claims::in_secret(&secret)?;
    expect("the refresh before the old token's exp", at < first.expires(), format_args!("it came at {at}"))?;
    let left = first.expires().duration_since(at).as_secs();
    show.say(format_args!("refreshed at {}, {left} s before the old token's end", seconds(at)));
    show.say(format_args!("  exp    {}  ->  {}", first.expires(), next.expires()));
    show.say(format_args!("  aud    {}", next.aud));
    expect(format_args!("aud {AUDIENCE}"), next.aud == AUDIENCE, &next.aud)
}

async fn mount(show: &mut Show, ground: &Ground) -> anyhow::Result<()> {
    show.step("An annotated pod gets the Secret mounted");
    show.command("kubectl create -f pod.yaml");
    show.block(POD);
    let pods: Api<Pod> = Api::namespaced(ground.client(), DEMO);
    let accounts: Api<ServiceAccount> = Api::namespaced(ground.client(), DEMO);
    until(accounts, "default", "the ServiceAccount default", SOON, |_| true, |_| String::new()).await?;
    pods.create(&PostParams::default(), &serde_yaml_ng::from_str(POD)?).await.context(NOT_REACHED)?;
    let pod = serde_json::to_value(pods.get("shop").await?)?;
    let volume = named(&pod["spec"]["volumes"], "idtoken");
    show.command("kubectl -n idtoken-demo get pod shop -o yaml      (what concerns the token)");
    show.block(&serde_yaml_ng::to_string(&json!({"volumes": [volume]}))?);
    expect(
        "a projected volume of orders-idtoken",
        volume["projected"]["sources"][0]["secret"]["name"] == SECRET,
        &volume,
    )?;
    for list in ["initContainers", "containers"] {
        let container = &pod["spec"][list][0];
        let mount = named(&container["volumeMounts"], "idtoken");
        let env = &container["env"];
        let shown = json!({list: [{"name": container["name"], "volumeMounts": [mount], "env": env}]});
        show.block(&serde_yaml_ng::to_string(&shown)?);
        let mounted = mount["mountPath"] == "/var/run/secrets/idtoken.dev" && mount["readOnly"] == true;
        expect("a read-only mount at /var/run/secrets/idtoken.dev", mounted, &mount)?;
        let file = named(env, "IDTOKEN_FILE")["value"].clone();
        expect("env IDTOKEN_FILE", file == "/var/run/secrets/idtoken.dev/orders/token", env)?;
    }
    Ok(())
}

async fn refuse(show: &mut Show, ground: &Ground) -> anyhow::Result<()> {
    show.step("A malformed annotation is refused");
    let mut pod: Pod = serde_yaml_ng::from_str(POD)?;
    pod.metadata.name = Some("shop-malformed".to_owned());
    pod.annotations_mut().insert("idtoken.dev/file-mode".to_owned(), "999".to_owned());
    show.command("kubectl create -f pod.yaml      (with the annotation idtoken.dev/file-mode: \"999\")");
    let pods: Api<Pod> = Api::namespaced(ground.client(), DEMO);
    let expected = "a refusal that names idtoken.dev/file-mode and 999";
    match pods.create(&PostParams::default(), &pod).await {
        Ok(_) => expect(expected, false, "the pod was created"),
        Err(kube::Error::Api(status)) => {
            show.say(format_args!("Error from server ({}): {}", status.reason, status.message));
            let names_both =
                status.message.contains("idtoken.dev/file-mode") && status.message.contains("999");
            expect(expected, names_both, &status.message)
        }
        Err(error) => expect(expected, false, error),
    }
}

fn namespace(name: &str) -> anyhow::Result<DynamicObject> {
    let value = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    Ok(serde_json::from_value(value)?)
}

fn parse(yaml: &str) -> anyhow::Result<DynamicObject> {
    Ok(serde_yaml_ng::from_str(yaml)?)
}

fn is_established(crd: &CustomResourceDefinition) -> bool {
    let conditions = crd.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Established" && condition.status == "True")
}

fn bundle(configuration: &MutatingWebhookConfiguration) -> &[u8] {
    let webhook = configuration.webhooks.iter().flatten().next();
    webhook
        .and_then(|webhook| webhook.client_config.ca_bundle.as_ref())
        .map_or(&[], |ByteString(bytes)| bytes)
}

fn owns_bundle(entry: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry) -> bool {
    entry.fields_v1.as_ref().is_some_and(|fields| fields.0.to_string().contains("f:caBundle"))
}

fn owner(secret: &Secret) -> String {
    let owner = secret.owner_references().iter().find(|owner| owner.controller == Some(true));
    owner.map_or_else(|| "nobody".to_owned(), |owner| format!("{} {}", owner.kind, owner.name))
}

/// The member of a list that has this name; null where there is none.
fn named(list: &Value, name: &str) -> Value {
    let members = list.as_array().map(Vec::as_slice).unwrap_or_default();
    members.iter().find(|member| member["name"] == name).cloned().unwrap_or_default()
}

fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// The namespace of what the demo shows.
pub(super) const DEMO: &str = "idtoken-demo";
const SECRET: &str = "orders-idtoken";
const AUDIENCE: &str = "https://orders-abc-uc.a.run.app";
const SOON: Duration = Duration::from_secs(30);
const GRANT: &str = include_str!("objects/grant.yaml");
const BINDING: &str = include_str!("objects/binding.yaml");
const POD: &str = include_str!("objects/pod.yaml");
const NOT_REACHED: &str = "the annotated pod was not admitted (an API server in a container or a VM, as of kind or \
    minikube, can't call a webhook on this machine's loopback)";
