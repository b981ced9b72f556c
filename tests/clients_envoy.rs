//! Envoy's jwt_authn takes each source's token for its audience, and for nothing else.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use common::{
    AUDIENCE, CALLER, OPERATOR,
    envoy::{Envoy, provider},
    google_flags, google_options, http_client, member, mint,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use xtask::google::{Google, Options, PasswordUser, Provider, Role, User};

const GOOGLE: &str = "https://accounts.google.com";
const USERS: &str = "https://securetoken.google.com/demo-project";
const CLIENT: &str = "764086051850-test.apps.googleusercontent.com";
const APP: &str = "app@demo-project.iam.gserviceaccount.com";
const CLUSTER: &str =
    "https://container.googleapis.com/v1/projects/demo-project/locations/europe-west1/clusters/demo-cluster";

/// A source's token, and whose it must be.
struct Row {
    source: &'static str,
    audience: String,
    token: String,
    issuer: &'static str,
    /// The issuer's keys, and those of another issuer.
    jwks: [String; 2],
}

impl Row {
    /// Paths with the issuer's keys for the token's audience, for another one, and with another issuer's keys.
    fn paths(&self) -> [(String, Value); 3] {
        let Self { source, audience, issuer, jwks: [own, foreign], .. } = self;
        [
            (format!("/{source}/orders"), provider(issuer, &[audience], own)),
            (format!("/{source}/stock"), provider(issuer, &["https://stock-abc-uc.a.run.app"], own)),
            (format!("/{source}/forged"), provider(issuer, &[audience], foreign)),
        ]
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier clients: needs Envoy"]
async fn envoy_lets_in_each_sources_token_for_its_audience_only() {
    let google = Google::start(options()).await.unwrap();
    let rows = rows(&google).await;
    let envoy = Envoy::with(&rows.iter().flat_map(Row::paths).collect::<Vec<_>>()).await;
    for Row { source, token, .. } in &rows {
        let call = async |path: &str, token| envoy.call_at(&format!("/{source}/{path}"), token).await;
        assert_eq!(call("orders", Some(token)).await, (200, "hello from orders\n".to_owned()), "{source}");
        let refused = (403, "Audiences in Jwt are not allowed".to_owned());
        assert_eq!(call("stock", Some(token)).await, refused, "{source}");
        assert_eq!(call("orders", None).await, (401, "Jwt is missing".to_owned()), "{source}");
        let forged = (401, "Jwks doesn't have key to match kid or alg from Jwt".to_owned());
        assert_eq!(call("forged", Some(token)).await, forged, "{source}");
    }
    envoy.stop().await;
    google.stop().await;
}

/// A token of each source, as `token mint` prints it.
async fn rows(google: &Google) -> Vec<Row> {
    let objects = credentials(google);
    let subject_token = subject_token();
    let mut flags = google_flags(google);
    flags.push(format!("--subject-token-file={}", subject_token.path().display()));
    let mut minted = Vec::new();
    for (source, audience, spec, issuer) in sources() {
        let spec = json!({"audience": audience, "source": {source: spec}});
        minted.push((source, audience, issuer, mint::token(&flags, &spec, &objects, None).await));
    }
    // A service account has a key to sign with from its first signature on.
    let urls = [google.jwks_url(), google.secure_token_jwks_url(), google.service_account_jwks_url(CALLER)];
    let [of_google, of_users, of_caller] =
        urls.each_ref().map(async |url| http_client::get(url).await.unwrap());
    let [of_google, of_users, of_caller] = [of_google.await, of_users.await, of_caller.await];
    let keys = |issuer| match issuer {
        CALLER => [of_caller.clone(), of_google.clone()],
        USERS => [of_users.clone(), of_google.clone()],
        _ => [of_google.clone(), of_users.clone()],
    };
    let row = |(source, audience, issuer, token)| {
        let audience = str::to_owned(audience);
        Row { source, audience, token, issuer, jwks: keys(issuer) }
    };
    minted.into_iter().map(row).collect()
}

/// Name, audience and settings of each source, and who issues its tokens.
fn sources() -> [(&'static str, &'static str, Value, &'static str); 7] {
    let key = |name: &str, key: &str| json!({"name": name, "key": key});
    let user = json!({
        "apiKeySecretRef": key("user", "apiKey"),
        "emailSecretRef": key("user", "email"),
        "passwordSecretRef": key("user", "password"),
    });
    [
        ("metadataServer", AUDIENCE, json!({}), GOOGLE),
        ("impersonation", AUDIENCE, json!({"serviceAccount": CALLER}), GOOGLE),
        ("kubernetesServiceAccount", AUDIENCE, json!({"name": "app"}), GOOGLE),
        ("serviceAccountKey", AUDIENCE, json!({"secretRef": key("files", "key")}), GOOGLE),
        ("userCredentials", CLIENT, json!({"secretRef": key("files", "user")}), GOOGLE),
        ("identityPlatform", "demo-project", user, USERS),
        ("signedJwt", "https://admin.example.com/*", json!({"serviceAccount": CALLER}), CALLER),
    ]
}

/// What each source needs at Google.
fn options() -> Options {
    let pool = "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools";
    google_options()
        .service_account(APP)
        .allow(
            &format!("{pool}/demo-project.svc.id.goog/subject/ns/shop/sa/app"),
            Role::WorkloadIdentityUser,
            APP,
        )
        .allow(&member(OPERATOR), Role::TokenCreator, CALLER)
        .provider(Provider::gke("demo-project", 123_456_789_012, "europe-west1", "demo-cluster"))
        .user(developer())
        .api_key("AIza-test-key")
        .password_user(PasswordUser::new("batch@example.com", "correct horse"))
}

/// The Secrets and the ServiceAccount of the namespace.
fn credentials(google: &Google) -> Vec<Value> {
    let User { client_id, client_secret, refresh_token, .. } = developer();
    let user = json!({
        "type": "authorized_user",
        "client_id": client_id,
        "client_secret": client_secret,
        "refresh_token": refresh_token,
    });
    let files = json!({"key": google.create_service_account_key(CALLER).unwrap(), "user": user.to_string()});
    let login = json!({"apiKey": "AIza-test-key", "email": "batch@example.com", "password": "correct horse"});
    let metadata = json!({
        "name": "app", "namespace": "shop", "annotations": {"iam.gke.io/gcp-service-account": APP},
    });
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata});
    vec![mint::credential("files", &files), mint::credential("user", &login), account]
}

fn developer() -> User {
    User {
        client_id: CLIENT.to_owned(),
        client_secret: "client-secret".to_owned(),
        refresh_token: "1//refresh-token".to_owned(),
        email: "developer@example.com".to_owned(),
        scopes: vec!["openid".to_owned()],
    }
}

/// What the cluster would give for the ServiceAccount, but for a signature: the simulator does not look at it here.
fn subject_token() -> NamedTempFile {
    let now = Timestamp::now().as_second();
    let claims = json!({
        "iss": CLUSTER, "sub": "system:serviceaccount:shop:app", "aud": ["demo-project.svc.id.goog"],
        "iat": now, "exp": now + 3600,
    });
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let file = NamedTempFile::new().unwrap();
    let token = format!("{}.{}.c2ln", part(&json!({"alg": "RS256", "kid": "k"})), part(&claims));
    std::fs::write(file.path(), token).unwrap();
    file
}
