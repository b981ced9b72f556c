//! What must hold for any bytes at all, as functions that panic where it doesn't. The targets in `targets/` feed them.

#[path = "../../common/injection.rs"]
mod injection;

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    body::Body,
    http::{Request as HttpRequest, StatusCode},
};
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use http_body_util::BodyExt as _;
use idtoken_operator::{
    cli::token::jwt::Jwt,
    verify::{
        claims::{self, Rejected},
        expect::{Expectation, Identity, Issuer},
    },
    webhook::{
        lookup::{BindingLookup, Lookup},
        mutate::{self, Outcomes},
        review::Request,
    },
};
use injection::{checked, facts, patched};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;

/// The body of a call, through the webhook's own router to the bytes of its answer: a review is answered with its uid, and a patch only
/// adds; one whose binding can't be read has no answer for now; anything else is a bad request.
pub fn review(body: &[u8]) {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| Builder::new_current_thread().enable_time().build().unwrap());
    static ROUTER: LazyLock<Router> =
        LazyLock::new(|| mutate::router(Arc::new(Bindings), Outcomes::default(), noon));
    let call = HttpRequest::post("/mutate").header("content-type", "application/json");
    let call = call.body(Body::from(body.to_vec())).unwrap();
    let (status, answer) = RUNTIME.block_on(async {
        let response = ROUTER.clone().oneshot(call).await.unwrap();
        (response.status(), response.into_body().collect().await.unwrap().to_bytes())
    });
    let Ok(asked) = Request::parse(body) else {
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(!answer.is_empty());
        return;
    };
    // The whole object, as the API server has it; it can't always be read as JSON values.
    let whole = serde_json::from_slice::<Value>(body).ok();
    let object = whole.as_ref().map(|whole| &whole["request"]["object"]);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        if let Some(object) = object {
            let names = object["metadata"]["annotations"]["idtoken.dev/inject"].as_str().unwrap_or_default();
            assert!(names.split(',').any(|name| name.trim().starts_with('x')), "{names:?}");
        }
        return;
    }
    assert_eq!(status, StatusCode::OK);
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let response = &answer["response"];
    assert_eq!(response["uid"], &*asked.uid);
    if response["allowed"] == false {
        assert!(response["status"]["message"].as_str().is_some_and(|words| !words.is_empty()), "{response}");
        assert_eq!(response.get("patch"), None);
    } else if let Some(patch) = response.get("patch") {
        assert_eq!(response["patchType"], "JSONPatch");
        let patch = BASE64_STANDARD.decode(patch.as_str().unwrap()).unwrap();
        if let Some(object) = object {
            patched(object, &serde_json::from_slice(&patch).unwrap());
        }
    }
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
