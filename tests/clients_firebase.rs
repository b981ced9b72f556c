//! Firebase's own emulator of Identity Platform: its users get tokens, and the simulator answers as it does.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;
#[path = "clients_firebase/gateway.rs"]
mod gateway;
#[path = "clients_firebase/product.rs"]
mod product;

use common::{claims, emulator::Emulator, http_client};
use serde_json::{Value, json};
use xtask::google::{Google, Options, PasswordUser};

const EMAIL: &str = "batch@example.com";
const PASSWORD: &str = "correct horse";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier clients: needs Firebase's emulator and Envoy"]
async fn the_emulators_users_get_tokens_and_the_simulator_answers_as_it_does() {
    let emulator = Emulator::start("demo-project").await;
    let tenant = emulator.create_tenant().await;
    product::token_mint(&emulator, &tenant).await;
    product::sessions(&emulator, &tenant).await;
    the_simulator_answers_as(&emulator).await;
    emulator.stop().await;
}

/// The simulator stands in for Identity Platform in every other test, so it must answer as Firebase's own emulator does.
/// Changes the project's configuration.
async fn the_simulator_answers_as(emulator: &Emulator) {
    let google = simulator().await;
    emulator.sign_up(EMAIL, PASSWORD, None).await;
    let gone = emulator.sign_up("gone@example.com", PASSWORD, None).await;
    emulator.update(&gone, &json!({"disableUser": true})).await;
    let phone = json!([{"phoneInfo": "+15555550100", "displayName": "phone", "mfaEnrollmentId": "first", "enrolledAt": "2026-01-01T00:00:00Z"}]);
    let two = emulator.sign_up("two@example.com", PASSWORD, None).await;
    emulator.update(&two, &json!({"emailVerified": true, "mfa": {"enrollments": phone}})).await;
    let both = Both {
        sign_in: [
            format!("{}/identitytoolkit.googleapis.com", emulator.origin()),
            google.identity_toolkit_url().to_owned(),
        ],
        refresh: [
            format!("{}/securetoken.googleapis.com", emulator.origin()),
            google.secure_token_url().to_owned(),
        ],
    };

    both.refuse_alike().await;
    emulator.configure(&json!({"emailPrivacyConfig": {"enableImprovedEmailPrivacy": true}})).await;
    google.set_enumeration_protection(true);
    both.refuse_alike().await;
    let [theirs, ours] = both.sign_in("?key=demo", &good()).await;
    assert_eq!((theirs.0, shape(&ours.1)), (200, shape(&theirs.1)));
    let token = |answer: &Value, name: &str| answer[name].as_str().unwrap().to_owned();
    assert_eq!(shape(&claims(&token(&ours.1, "idToken"))), shape(&claims(&token(&theirs.1, "idToken"))));
    let second = json!({"email": "two@example.com", "password": PASSWORD, "returnSecureToken": true});
    let [theirs_second, ours_second] = both.sign_in("?key=demo", &second).await;
    assert_eq!((theirs_second.0, shape(&ours_second.1)), (200, shape(&theirs_second.1)));
    assert!(theirs_second.1["mfaPendingCredential"].is_string(), "{theirs_second:?}");

    let [theirs, ours] =
        both.refresh([token(&theirs.1, "refreshToken"), token(&ours.1, "refreshToken")]).await;
    assert_eq!((theirs.0, shape(&ours.1)), (200, shape(&theirs.1)));
    let [theirs, ours] = both.refresh(["x".to_owned(), "x".to_owned()]).await;
    assert_eq!(
        (code(&ours), code(&theirs)),
        ((400, "INVALID_REFRESH_TOKEN"), (400, "INVALID_REFRESH_TOKEN"))
    );
    google.stop().await;
}

/// The simulator with what the test makes in the emulator.
async fn simulator() -> Google {
    let unverified =
        |email: &str| PasswordUser { email_verified: false, ..PasswordUser::new(email, PASSWORD) };
    let options = Options::default()
        .api_key("demo")
        .password_user(unverified(EMAIL))
        .password_user(PasswordUser { disabled: true, ..unverified("gone@example.com") })
        .password_user(PasswordUser { mfa: true, ..PasswordUser::new("two@example.com", PASSWORD) });
    let google = Google::start(options).await.unwrap();
    google.set_enumeration_protection(false); // as the emulator begins
    google
}

fn good() -> Value {
    json!({"email": EMAIL, "password": PASSWORD, "returnSecureToken": true})
}

/// Where the emulator answers, and where the simulator does.
struct Both {
    sign_in: [String; 2],
    refresh: [String; 2],
}

type Answer = (u16, Value);

impl Both {
    /// Every refusal of a sign-in: status and body are the same to the letter.
    async fn refuse_alike(&self) {
        let with = |name: &str, value: &str| {
            let mut body = good();
            body[name] = json!(value);
            body
        };
        for (query, body) in [
            ("", good()),
            ("?key=demo", json!({"password": PASSWORD})),
            ("?key=demo", with("email", "batch")),
            ("?key=demo", with("email", "nobody@example.com")),
            ("?key=demo", with("password", "")),
            ("?key=demo", with("password", "wrong")),
            ("?key=demo", with("email", "gone@example.com")),
        ] {
            let [theirs, ours] = self.sign_in(query, &body).await;
            assert!(theirs.0 >= 400, "{theirs:?}");
            assert_eq!(ours, theirs, "{body}");
        }
    }

    async fn sign_in(&self, query: &str, body: &Value) -> [Answer; 2] {
        let [theirs, ours] = self.sign_in.each_ref().map(async |place| {
            let url = format!("{place}/v1/accounts:signInWithPassword{query}");
            http_client::post_json(&url, None, body).await.unwrap()
        });
        tokio::join!(theirs, ours).into()
    }

    async fn refresh(&self, tokens: [String; 2]) -> [Answer; 2] {
        let [theirs, ours] = [0, 1].map(async |which| {
            let url = format!("{}/v1/token?key=demo", self.refresh[which]);
            let token = &tokens[which];
            let fields = [("grant_type", "refresh_token"), ("refresh_token", token.as_str())];
            http_client::post_form(&url, &fields).await.unwrap()
        });
        tokio::join!(theirs, ours).into()
    }
}

/// An object without what is another one each time, in whose place its kind stands.
fn shape(value: &Value) -> Value {
    let mut value = value.clone();
    let members = value.as_object_mut().unwrap();
    // Google names it, empty; the emulator doesn't.
    members.remove("displayName");
    for (name, member) in members {
        if TEXTS.contains(&name.as_str()) {
            assert!(member.as_str().is_some_and(|text| !text.is_empty()), "{name}: {member}");
            *member = json!("a text");
        }
        if ["iat", "exp", "auth_time"].contains(&name.as_str()) {
            assert!(member.as_i64().is_some_and(|seconds| seconds > 1_700_000_000), "{name}: {member}");
            *member = json!("seconds");
        }
        if name == "mfaInfo" {
            let factor = member[0].as_object().unwrap();
            *member = factor.keys().map(String::as_str).collect();
        }
    }
    value
}

/// The status and the code of a refusal.
fn code((status, answer): &Answer) -> (u16, &str) {
    (*status, answer["error"]["message"].as_str().unwrap_or_else(|| panic!("{answer}")))
}

const TEXTS: [&str; 10] = [
    "idToken",
    "refreshToken",
    "localId",
    "user_id",
    "sub",
    "mfaPendingCredential",
    "id_token",
    "access_token",
    "refresh_token",
    "project_id",
];
