//! `token mint`: the sources with credentials of their own, and the operator's identity.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use xtask::google::{Endpoint, PasswordUser, Provider, Role, User};

use super::{AUDIENCE, Bench, CALLER, Ended, OPERATOR, mint::binding};

const APP: &str = "app@demo-project.iam.gserviceaccount.com";
const CLIENT: &str = "764086051850-demo.apps.googleusercontent.com";
const IMPERSONATION: &str = "{impersonation: {serviceAccount: caller@demo-project.iam.gserviceaccount.com}}";

/// A labelled Secret, as JSON, which is YAML too.
pub(super) fn secret(name: &str, values: &Value) -> String {
    let metadata = json!({"name": name, "labels": {"idtoken.dev/credential": "true"}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values});
    format!("---\n{secret}\n")
}

/// The binding `orders` with another audience.
fn binding_for(audience: &str, source: &str) -> String {
    binding(source).replace(AUDIENCE, audience)
}

fn developer() -> User {
    User {
        client_id: CLIENT.to_owned(),
        client_secret: "client-secret".to_owned(),
        refresh_token: "1//refresh-token".to_owned(),
        email: "developer@example.com".to_owned(),
        scopes: [
            "openid",
            "https://www.googleapis.com/auth/userinfo.email",
            "https://www.googleapis.com/auth/cloud-platform",
        ]
        .map(str::to_owned)
        .to_vec(),
    }
}

fn gcloud_file() -> String {
    let User { client_id, client_secret, refresh_token, .. } = developer();
    json!({"type": "authorized_user", "client_id": client_id, "client_secret": client_secret, "refresh_token": refresh_token})
        .to_string()
}

fn assert_token(ended: &Ended, source: &str, identity: &str, issuer: &str, audience: &str) {
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{}", ended.out);
    let head =
        format!("source     {source}\nidentity   {identity}\nissuer     {issuer}\naudience   {audience}\n");
    assert!(ended.out.starts_with(&head), "{}", ended.out);
    assert!(ended.out.contains("\nsignature  good: by a key of the issuer\n"), "{}", ended.out);
}

fn assert_refused(ended: &Ended, message: &str) {
    assert_eq!((ended.code, ended.out.as_str()), (1, ""), "{}", ended.err);
    assert!(ended.err.starts_with(message), "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_key() {
    let bench = Bench::start().await;
    let key = bench.google.create_service_account_key(CALLER).unwrap();
    let source = "{serviceAccountKey: {secretRef: {name: caller-key, key: key.json}}}";
    let file = |content: &str| binding(source) + &secret("caller-key", &json!({"key.json": content}));
    let ended = bench.mint(&file(&key), &[]).await;
    assert_token(&ended, "serviceAccountKey", CALLER, "https://accounts.google.com", AUDIENCE);
    ended.assert_silent(&bench.google);
    assert_eq!(bench.google.requests().len(), 2, "the token and the keys: {:?}", bench.google.requests());
    let table = [
        (
            file(&key[..key.len() / 2]),
            "error: CredentialsNotAllowed: Secret caller-key, key key.json is no JSON object",
        ),
        (
            file(&key.replace("-----END PRIVATE KEY-----", "")),
            "error: CredentialsNotAllowed: Secret caller-key, key key.json has a private_key that is cut off",
        ),
        (
            file(&gcloud_file()),
            "error: CredentialsNotAllowed: Secret caller-key, key key.json is of type authorized_user; ",
        ),
        (file(""), "error: CredentialsNotAllowed: Secret caller-key, key key.json is empty; "),
        (
            file(&key).replace("key.json\":", "other.json\":"),
            "error: CredentialsNotFound: standard input: document 2 (Secret caller-key) has no key key.json; add it to data or stringData\n",
        ),
        (
            file(&key).replace("\"true\"", "\"false\""),
            "error: CredentialsNotAllowed: standard input: document 2 (Secret caller-key), metadata.labels: has no \
             idtoken.dev/credential: \"true\"; add it, as the cluster demands it too\n",
        ),
        (
            binding(source),
            "error: CredentialsNotFound: standard input holds no Secret caller-key; add it, with the label \
             idtoken.dev/credential: \"true\"\n",
        ),
    ];
    bench.google.clear_requests();
    for (text, message) in table {
        let ended = bench.mint(&text, &["--raw"]).await;
        assert_refused(&ended, message);
        assert!(!ended.err.contains("PRIVATE"), "{}", ended.err);
    }
    assert_eq!(bench.google.requests().len(), 0, "nothing was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_credentials() {
    let bench = Bench::with(|options| options.user(developer())).await;
    let source = "{userCredentials: {secretRef: {name: adc, key: adc.json}}}";
    let credentials = secret("adc", &json!({"adc.json": gcloud_file()}));
    let ended = bench.mint(&(binding_for(CLIENT, source) + &credentials), &[]).await;
    assert_token(&ended, "userCredentials", "developer@example.com", "https://accounts.google.com", CLIENT);
    let ended = bench.mint(&(binding(source) + &credentials), &[]).await;
    assert_refused(
        &ended,
        "error: TokenRejected: userCredentials: the token's audience is \"764086051850-demo.apps.googleusercontent.com\", expected \
         \"https://orders-abc-uc.a.run.app\"; it was not published. ",
    );
    bench.google.revoke_user("1//refresh-token");
    let ended = bench.mint(&(binding_for(CLIENT, source) + &credentials), &[]).await;
    assert_refused(&ended, "error: CredentialsRefused: ID token for a user: HTTP 400 invalid_grant; ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_jwt() {
    let operator = format!("serviceAccount:{OPERATOR}");
    let bench = Bench::with(|options| options.allow(&operator, Role::TokenCreator, CALLER)).await;
    let source = "{signedJwt: {serviceAccount: caller@demo-project.iam.gserviceaccount.com}}";
    let ended = bench.mint(&binding_for("\"https://app.example.com/*\"", source), &["--raw"]).await;
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    let inspected = bench.run(&["inspect", "--audience", "https://app.example.com/*"], &ended.out).await;
    assert_eq!(inspected.code, 0, "{}", inspected.err);
    assert!(
        inspected.out.contains("  sub  caller@demo-project.iam.gserviceaccount.com\n"),
        "{}",
        inspected.out
    );
    assert!(
        inspected
            .out
            .ends_with("\nsignature  good: by a key of caller@demo-project.iam.gserviceaccount.com\n"),
        "{}",
        inspected.out
    );
    for api in ["https://iam.googleapis.com/", "https://ACCOUNTS.google.com"] {
        let ended = bench.mint(&binding_for(api, source), &["--raw"]).await;
        assert_refused(&ended, "error: InvalidSpec: ");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_identity_platform() {
    let tenant = PasswordUser {
        tenant: Some("shop-a1b2c".to_owned()),
        ..PasswordUser::new("robot@tenant.example.com", "battery staple")
    };
    let bench = Bench::with(|options| {
        options
            .api_key("AIza-key")
            .password_user(PasswordUser::new("robot@example.com", "correct horse"))
            .password_user(tenant)
    })
    .await;
    let file = |tenant: &str, email: &str, password: &str| {
        let refs =
            ["apiKey", "email", "password"].map(|key| format!("{key}SecretRef: {{name: login, key: {key}}}"));
        let source = format!("{{identityPlatform: {{tenantId: \"{tenant}\", {}}}}}", refs.join(", "));
        let values = json!({"apiKey": "AIza-key", "email": email, "password": password});
        binding_for("demo-project", &source) + &secret("login", &values)
    };
    let issuer = "https://securetoken.google.com/demo-project";
    let ended = bench.mint(&file("", "robot@example.com", "correct horse\n"), &[]).await;
    assert_token(&ended, "identityPlatform", "robot@example.com", issuer, "demo-project");
    ended.assert_silent(&bench.google);
    let ended = bench.mint(&file("shop-a1b2c", "robot@tenant.example.com", "battery staple"), &[]).await;
    assert_token(&ended, "identityPlatform", "robot@tenant.example.com", issuer, "demo-project");
    let table = [
        (
            file("", "robot@example.com", "hunter2"),
            "error: CredentialsRefused: Identity Platform, sign-in: HTTP 400 INVALID_LOGIN_CREDENTIALS; ",
        ),
        (
            file("", "robot@example.com", ""),
            "error: CredentialsNotAllowed: Secret login, key password is empty; ",
        ),
        (
            file("", "robot@example.com", "correct horse").replace("AIza-key", "AIza-other"),
            "error: CredentialsRefused: Identity Platform, sign-in: HTTP 400",
        ),
        (
            file("", "robot@example.com", "correct horse")
                .replace("audience: demo-project", "audience: other-project"),
            "error: TokenRejected: identityPlatform: the token's audience is \"demo-project\", expected \"other-project\"; ",
        ),
    ];
    for (text, message) in table {
        let ended = bench.mint(&text, &["--raw"]).await;
        assert_refused(&ended, message);
        for hidden in ["hunter2", "correct", "AIza"] {
            assert!(!ended.err.replace("correct Secret", "").contains(hidden), "{}", ended.err);
        }
    }
}

/// A token of the ServiceAccount `shop/app`; the simulator is told to look at no signature.
fn subject_token(audience: &str) -> String {
    let now = idtoken_operator::clock::now().as_second();
    let claims = json!({"iss": "https://cluster.example.com", "sub": "system:serviceaccount:shop:app", "aud": [audience],
        "iat": now, "exp": now + 3600});
    let encoded = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2ln", encoded(json!({"alg": "RS256", "kid": "k"})), encoded(claims))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubernetes_service_account() {
    let issuer = "https://cluster.example.com";
    let gke = Provider::gke("demo-project", 123_456_789_012, "europe-west1", "demo-cluster");
    let bench = Bench::with(|options| {
        let pools =
            "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools";
        options
            .service_account(APP)
            .provider(Provider { issuer: issuer.to_owned(), ..gke })
            .provider(Provider::pool(123_456_789_012, "pool", "cluster", issuer))
            .allow(
                &format!("{pools}/demo-project.svc.id.goog/subject/ns/shop/sa/app"),
                Role::WorkloadIdentityUser,
                APP,
            )
            .allow(
                &format!("{pools}/pool/subject/system:serviceaccount:shop:app"),
                Role::WorkloadIdentityUser,
                APP,
            )
    })
    .await;
    let account = format!(
        "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: app, annotations: {{iam.gke.io/gcp-service-account: {APP}}}}}\n"
    );
    let gke = binding("{kubernetesServiceAccount: {name: app}}");
    let token = bench.file("token", &subject_token("demo-project.svc.id.goog"));
    let flag = ["--subject-token-file", token.to_str().unwrap()];
    let ended = bench.mint(&format!("{gke}{account}"), &flag).await;
    assert_token(&ended, "kubernetesServiceAccount", APP, "https://accounts.google.com", AUDIENCE);

    let provider = "projects/123456789012/locations/global/workloadIdentityPools/pool/providers/cluster";
    let pool = binding(&format!(
        "{{kubernetesServiceAccount: {{name: app, googleServiceAccount: {APP}, workloadIdentityProvider: {provider}}}}}"
    ));
    let ended = bench.mint(&pool, &flag).await;
    assert_refused(
        &ended,
        "error: SourceDenied: token exchange for ServiceAccount shop/app: HTTP 400 invalid_grant; ",
    );
    bench.file("token", &(subject_token(&format!("//iam.googleapis.com/{provider}")) + "\n"));
    let ended = bench.mint(&pool, &flag).await;
    assert_token(&ended, "kubernetesServiceAccount", APP, "https://accounts.google.com", AUDIENCE);

    let ended = bench.mint(&pool, &[]).await;
    assert_refused(
        &ended,
        "error: CredentialsNotFound: a token of ServiceAccount shop/app is needed, and here is no cluster to ask for one; get it with \
         kubectl -n shop create token app --audience \
         //iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/pool/providers/cluster, and name the file \
         that holds it by --subject-token-file\n",
    );
    let itself = subject_token("demo-project.svc.id.goog");
    let ended = bench.mint(&pool, &["--subject-token-file", &itself]).await;
    assert_refused(
        &ended,
        "error: CredentialsNotFound: --subject-token-file is no file; write the token into one, and name that\n",
    );
    let ended = bench.mint(&gke, &flag).await;
    assert_refused(
        &ended,
        "error: CredentialsNotFound: standard input holds no ServiceAccount app, whose annotation ",
    );
    let bare = account.replace("iam.gke.io/gcp-service-account", "other");
    assert_refused(&bench.mint(&format!("{gke}{bare}"), &flag).await, "error: ServiceAccountNotAnnotated: ");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_identity_is_found_as_googles_libraries_do() {
    let person = |options: xtask::google::Options| {
        options
            .user(developer())
            .service_account("keyed@demo-project.iam.gserviceaccount.com")
            .allow("user:developer@example.com", Role::OpenIdTokenCreator, CALLER)
            .allow(
                "serviceAccount:keyed@demo-project.iam.gserviceaccount.com",
                Role::OpenIdTokenCreator,
                CALLER,
            )
    };
    let mut bench = Bench::with(person).await;
    let asked = |bench: &Bench| {
        let counts =
            [Endpoint::MetadataToken, Endpoint::OauthToken].map(|endpoint| bench.google.count(endpoint));
        bench.google.clear_requests();
        counts
    };
    let issuer = "https://accounts.google.com";
    let ended = bench.mint(&binding(IMPERSONATION), &[]).await;
    assert_token(&ended, "impersonation", CALLER, issuer, AUDIENCE);
    assert_eq!(asked(&bench), [1, 0], "there is no file: the metadata server");

    let gcloud = bench.home.path().join(".config/gcloud");
    std::fs::create_dir_all(&gcloud).unwrap();
    bench.file(".config/gcloud/application_default_credentials.json", &gcloud_file());
    let ended = bench.mint(&binding(IMPERSONATION), &[]).await;
    assert_token(&ended, "impersonation", CALLER, issuer, AUDIENCE);
    assert_eq!(asked(&bench), [0, 1], "gcloud's file, a person's");

    let key = bench.google.create_service_account_key("keyed@demo-project.iam.gserviceaccount.com").unwrap();
    let key = bench.file("key.json", &key);
    bench.environment = vec![("GOOGLE_APPLICATION_CREDENTIALS".to_owned(), key.to_str().unwrap().to_owned())];
    bench.google.revoke_user("1//refresh-token");
    let ended = bench.mint(&binding(IMPERSONATION), &[]).await;
    assert_token(&ended, "impersonation", CALLER, issuer, AUDIENCE);
    assert_eq!(asked(&bench), [0, 1], "the file that the variable names comes first");

    let content = std::fs::read_to_string(&key).unwrap();
    let path = std::mem::replace(&mut bench.environment[0].1, content);
    let ended = bench.mint(&binding(IMPERSONATION), &[]).await;
    assert_eq!((ended.code, ended.out.as_str()), (2, ""), "wrong usage");
    assert!(
        ended.err.starts_with(
            "error: GOOGLE_APPLICATION_CREDENTIALS, CLOUDSDK_CONFIG and their flags take the path"
        )
    );
    assert!(!ended.err.contains("PRIVATE"), "{}", ended.err);
    assert_eq!(asked(&bench), [0, 0]);
    bench.environment[0].1 = path;

    bench.file("key.json", "{");
    let ended = bench.mint(&binding(IMPERSONATION), &[]).await;
    assert_refused(&ended, "error: CredentialsNotAllowed: credential file ");
    assert_eq!(asked(&bench), [0, 0], "a file that can't be used is not passed over");
}
