//! What must hold for any bytes at all, as functions that panic where it doesn't. The targets in `targets/` feed them.

#[path = "../../common/injection.rs"]
mod injection;

use std::sync::{Arc, LazyLock};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http::{Request as HttpRequest, StatusCode};
use http_body_util::{BodyExt as _, Full};
use idtoken_operator::{
    cli::token::jwt::Jwt,
    verify::{
        claims::{self, Rejected},
        expect::{Expectation, Identity, Issuer},
    },
    webhook::{
        lookup::{BindingLookup, Lookup},
        mutate::{Outcomes, Webhook},
    },
};
use injection::{checked, facts, patched};
use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};
use tokio::runtime::{Builder, Runtime};

/// The body of a call, through the webhook to the bytes of its answer: a review is answered with its uid, and a patch only
/// adds; one whose binding can't be read has no answer for now; anything else is a bad request. What is a review is judged here, by the
/// JSON values of the body, and not by the code under test.
pub fn review(body: &[u8]) {
    let (status, answer) = call(body);
    match status {
        StatusCode::BAD_REQUEST => assert!(!answer.is_empty()),
        _ => assert!([StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(&status), "{status}"),
    }
    if serde_json::from_slice::<IgnoredAny>(body).is_err() {
        assert_eq!(status, StatusCode::BAD_REQUEST, "that is no JSON");
    }
    if let Ok(whole) = serde_json::from_slice::<Value>(body) {
        answered(&whole);
    }
}

/// The same for JSON values, written so that there is one reading of them: no member comes twice.
fn answered(whole: &Value) {
    let (status, answer) = call(whole.to_string().as_bytes());
    match likeness(whole) {
        Likeness::Review => {}
        Likeness::Odd => return,
        Likeness::Other => return assert_eq!(status, StatusCode::BAD_REQUEST, "{whole}"),
    }
    let request = &whole["request"];
    let creates_pod = request["operation"] == "CREATE"
        && request["kind"]["kind"] == "Pod"
        && request["kind"]["version"] == "v1"
        && request["kind"]["group"].as_str().unwrap_or_default().is_empty()
        && request["subResource"].as_str().unwrap_or_default().is_empty();
    let object = &request["object"];
    if status == StatusCode::SERVICE_UNAVAILABLE {
        let names = object["metadata"]["annotations"]["idtoken.dev/inject"].as_str().unwrap_or_default();
        assert!(creates_pod && names.split(',').any(|name| name.trim().starts_with('x')), "{whole}");
        return;
    }
    assert_eq!(status, StatusCode::OK, "{whole}");
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let response = &answer["response"];
    assert_eq!(response["uid"], request["uid"]);
    assert!(creates_pod || (response["allowed"] == true && response.get("patch").is_none()), "{whole}");
    let is_denied = response["allowed"] == false;
    assert!(!must_change(request, creates_pod) || is_denied || response.get("patch").is_some(), "{whole}");
    if is_denied {
        assert!(response["status"]["message"].as_str().is_some_and(|words| !words.is_empty()), "{response}");
        assert_eq!(response.get("patch"), None);
    } else if let Some(patch) = response.get("patch") {
        assert_eq!(response["patchType"], "JSONPatch");
        let patch = BASE64_STANDARD.decode(patch.as_str().unwrap()).unwrap();
        patched(object, &serde_json::from_slice(&patch).unwrap());
    }
}

/// Whether it is a pod that asks for the token of a plain name, and was never handled before: such a one is not let in as it is.
fn must_change(request: &Value, creates_pod: bool) -> bool {
    let pod = &request["object"];
    let annotations = &pod["metadata"]["annotations"];
    let plain = |name: &str| !name.is_empty() && name.len() < 60 && name.bytes().all(|byte| byte.is_ascii_lowercase());
    creates_pod
        && annotations["idtoken.dev/inject"].as_str().is_some_and(plain)
        && annotations["idtoken.dev/status"].is_null()
        && annotations["kubernetes.io/config.mirror"].is_null()
        && pod["spec"].is_object()
}

/// How much a body is like what the API server sends.
enum Likeness {
    /// Just so.
    Review,
    /// In a way: the members are there, but some have types of their own. It may be taken for a review or not.
    Odd,
    /// Not at all.
    Other,
}

fn likeness(whole: &Value) -> Likeness {
    let request = &whole["request"];
    if !whole.is_object() || !(request.is_object() || request.is_array()) {
        // An array may stand for the members of an object, in their order.
        return if whole.is_array() { Likeness::Odd } else { Likeness::Other };
    }
    if whole["apiVersion"] != "admission.k8s.io/v1" || whole["kind"] != "AdmissionReview" {
        return Likeness::Other;
    }
    let Some(request) = request.as_object() else { return Likeness::Odd };
    if request.get("uid").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Likeness::Other;
    }
    let is_text = |members: &Map<String, Value>, name: &str| members.get(name).is_none_or(Value::is_string);
    let texts = ["namespace", "name", "operation", "subResource"];
    let is_kind = request.get("kind").is_none_or(|kind| {
        kind.as_object()
            .is_some_and(|kind| ["group", "version", "kind"].iter().all(|name| is_text(kind, name)))
    });
    let is_usual = is_kind
        && texts.iter().all(|name| is_text(request, name))
        && request.get("object").is_some_and(Value::is_object);
    if is_usual { Likeness::Review } else { Likeness::Odd }
}

fn call(body: &[u8]) -> (StatusCode, Bytes) {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| Builder::new_current_thread().enable_time().build().unwrap());
    static WEBHOOK: LazyLock<Webhook<Bindings>> =
        LazyLock::new(|| Webhook::new(Arc::new(Bindings), Outcomes::default(), noon));
    let call = HttpRequest::post("/mutate").header("content-type", "application/json");
    let call = call.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
    RUNTIME.block_on(async {
        let response = WEBHOOK.respond(call).await;
        (response.status(), response.into_body().collect().await.unwrap().to_bytes())
    })
}

/// The values of annotations, with a zero byte between them: a pod with these is injected as promised, or refused in words that name the
/// annotation.
pub fn annotations(values: &[u8]) {
    let values = String::from_utf8_lossy(values);
    let known = ["inject", "containers", "mount-path", "file-mode", "optional", "status"].map(str::to_owned);
    let mut values = values.split('\0');
    let mut annotations: Map<String, Value> = known
        .into_iter()
        .zip(values.by_ref())
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (format!("idtoken.dev/{key}"), json!(value)))
        .collect();
    annotations.extend(values.map(|key| (format!("idtoken.dev/{key}"), json!("value"))));
    let pod = json!({
        "metadata": {"annotations": annotations},
        "spec": {
            "initContainers": [{"name": "init"}],
            "containers": [
                {"name": "app", "volumeMounts": [{"name": "data", "mountPath": "/tokens"}]},
                {"name": "side", "env": [{"name": "IDTOKEN_FILE_A", "value": "mine"}]},
            ],
        },
    });
    let _ = checked(&pod, &facts, noon());
}

/// A token, to both parsers, which only have to live through it; what the strict one lets pass says what was expected. Where there
/// are no dots, the parts with zero bytes between them are a header, a payload and a signature that are not encoded yet.
pub fn token(text: &[u8]) {
    let parts: Vec<_> =
        text.split(|byte| *byte == 0).map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).collect();
    let encoded = parts.join(".");
    let Ok(text) = std::str::from_utf8(text).map(|text| if text.contains('.') { text } else { &encoded })
    else {
        return;
    };
    let _ = Jwt::parse(text);
    let Ok(parsed) = claims::parse(text) else { return };
    let expectations = [
        (Issuer::Google, Identity::AnyEmail),
        (Issuer::Google, Identity::Email("caller@p.iam.gserviceaccount.com")),
        (Issuer::IdentityPlatform("aud"), Identity::User { email: None, tenant: None }),
        (
            Issuer::ServiceAccount("a@p.iam.gserviceaccount.com"),
            Identity::Subject("a@p.iam.gserviceaccount.com"),
        ),
    ];
    for (issuer, identity) in expectations {
        match claims::check(&parsed.claims, &Expectation { issuer, audience: "aud", identity }, noon()) {
            Ok(verified) => {
                assert!(issuer.is(&verified.issuer) && !verified.identity.is_empty());
                assert!(verified.expires > noon() && verified.issued < verified.expires);
            }
            Err(Rejected::Signature | Rejected::UnknownKey | Rejected::KeysUnavailable) => {
                panic!("there is no signature to check here")
            }
            Err(why) => {
                assert!(!why.to_string().contains(parsed.signing_input), "the token stands in: {why}")
            }
        }
    }
}

/// Bindings as [`facts`] has them; of names that begin with `x` nobody can say.
struct Bindings;

impl BindingLookup for Bindings {
    async fn find(&self, _: &str, name: &str) -> Lookup {
        match facts(name) {
            _ if name.starts_with('x') => Lookup::Unavailable,
            Some(facts) => Lookup::Found(facts),
            None => Lookup::Missing,
        }
    }
}

fn noon() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}
