//! What `--all-sources` shows: a row for each way to get a token, with what its token must say.

use std::time::Duration;

use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::super::scenario::DEMO;
use crate::google::{DEFAULT_ACCOUNT, Endpoint, Google, Options, PasswordUser, Provider, Role, User};

/// A binding, what it is for, and what its token must say.
pub(super) struct Row {
    pub(super) binding: &'static str,
    /// The system that the token is for.
    pub(super) system: &'static str,
    pub(super) audience: &'static str,
    /// What is in `spec.source`, in YAML.
    pub(super) yaml: &'static str,
    pub(super) issuer: &'static str,
    /// `email`, or `sub` where there is none.
    pub(super) identity: &'static str,
}

impl Row {
    /// The member of the source's union, with what tells it from another row of the same.
    pub(super) fn source(&self) -> &str {
        self.yaml.split_once(':').map_or(self.yaml, |(name, _)| name)
    }

    pub(super) fn spec(&self) -> Value {
        let source: Value = serde_yaml_ng::from_str(self.yaml).unwrap_or_default();
        json!({"audience": self.audience, "source": source})
    }

    pub(super) fn object(&self) -> anyhow::Result<DynamicObject> {
        Ok(serde_json::from_value(json!({
            "apiVersion": "idtoken.dev/v1alpha1",
            "kind": "IdTokenBinding",
            "metadata": {"name": self.binding, "namespace": DEMO},
            "spec": self.spec(),
        }))?)
    }

    /// Name of its Secret.
    pub(super) fn secret(&self) -> String {
        format!("{}-idtoken", self.binding)
    }
}

/// Every source, for every system that takes such tokens.
pub(super) const ROWS: [Row; 10] = [
    Row {
        binding: "status",
        system: "Cloud Run, as the operator itself",
        audience: "https://status-abc-uc.a.run.app",
        yaml: "metadataServer: {}",
        issuer: GOOGLE,
        identity: DEFAULT_ACCOUNT,
    },
    Row {
        binding: "orders",
        system: "Cloud Run, by two principals: operator and caller",
        audience: "https://orders-abc-uc.a.run.app",
        yaml: "impersonation: {serviceAccount: caller@demo-project.iam.gserviceaccount.com}",
        issuer: GOOGLE,
        identity: CALLER,
    },
    Row {
        binding: "wiki",
        system: "IAP with Google identities, through a delegate",
        audience: "123456789012-iap.apps.googleusercontent.com",
        yaml: "impersonation: {serviceAccount: caller@demo-project.iam.gserviceaccount.com, \
               delegates: [middle@demo-project.iam.gserviceaccount.com]}",
        issuer: GOOGLE,
        identity: CALLER,
    },
    Row {
        binding: "invoices",
        system: "Cloud Functions, each workload as itself: GKE's own pool",
        audience: "https://europe-west1-demo-project.cloudfunctions.net/invoices",
        yaml: "kubernetesServiceAccount: {name: app}",
        issuer: GOOGLE,
        identity: APP,
    },
    Row {
        binding: "stock",
        system: "Cloud Endpoints, each workload as itself: a pool that knows any cluster",
        audience: "https://stock.endpoints.demo-project.cloud.goog",
        yaml: "kubernetesServiceAccount: {name: batch, googleServiceAccount: batch@demo-project.iam.gserviceaccount.com, \
               workloadIdentityProvider: projects/123456789012/locations/global/workloadIdentityPools/shop-pool/providers/cluster}",
        issuer: GOOGLE,
        identity: BATCH,
    },
    Row {
        binding: "partner",
        system: "API Gateway, by a partner's key",
        audience: "https://partner-abc.ew.gateway.dev",
        yaml: "serviceAccountKey: {secretRef: {name: partner-key, key: key.json}}",
        issuer: GOOGLE,
        identity: PARTNER,
    },
    Row {
        binding: "mine",
        system: "a developer's experiment",
        audience: "764086051850-demo.apps.googleusercontent.com",
        yaml: "userCredentials: {secretRef: {name: gcloud, key: application_default_credentials.json}}",
        issuer: GOOGLE,
        identity: "developer@example.com",
    },
    PORTAL,
    Row {
        binding: "portal-of-tenant",
        system: "IAP with external identities, a user of a tenant",
        audience: "demo-project",
        yaml: "identityPlatform: {tenantId: shop-a1b2c, apiKeySecretRef: {name: tenant-login, key: apiKey}, \
               emailSecretRef: {name: tenant-login, key: email}, passwordSecretRef: {name: tenant-login, key: password}}",
        issuer: "https://securetoken.google.com/demo-project",
        identity: "robot@tenant.example.com",
    },
    Row {
        binding: "admin",
        system: "IAP without a client id",
        audience: "https://admin.example.com/*",
        yaml: "signedJwt: {serviceAccount: signer@demo-project.iam.gserviceaccount.com}",
        issuer: SIGNER,
        identity: SIGNER,
    },
];

/// The user of the project.
pub(super) const PORTAL: Row = Row {
    binding: "portal",
    system: "IAP with external identities, a user of the project",
    audience: "demo-project",
    yaml: "identityPlatform: {apiKeySecretRef: {name: portal-login, key: apiKey}, \
           emailSecretRef: {name: portal-login, key: email}, passwordSecretRef: {name: portal-login, key: password}}",
    issuer: "https://securetoken.google.com/demo-project",
    identity: ROBOT,
};

/// The same user with a wrong password.
pub(super) const WRONG: Row = Row {
    binding: "wrong",
    system: "a wrong password",
    yaml: "identityPlatform: {apiKeySecretRef: {name: wrong-login, key: apiKey}, \
           emailSecretRef: {name: wrong-login, key: email}, passwordSecretRef: {name: wrong-login, key: password}}",
    ..PORTAL
};

/// What Google must have been asked for, in words.
pub(super) const ASKED: [(Endpoint, &str); 6] = [
    (Endpoint::MetadataIdentity, "metadata identity"),
    (Endpoint::Sts, "token exchange"),
    (Endpoint::GenerateIdToken, "generateIdToken"),
    (Endpoint::SignJwt, "signJwt"),
    (Endpoint::OauthToken, "OAuth token"),
    (Endpoint::SignInWithPassword, "sign-in"),
];

/// The grant for the rows that use the operator's identity.
pub(super) const GRANT: &str = "\
apiVersion: idtoken.dev/v1alpha1
kind: IdTokenGrant
metadata:
  name: idtoken-demo
spec:
  namespaces: {names: [idtoken-demo]}
  identities: [operator, caller@demo-project.iam.gserviceaccount.com, signer@demo-project.iam.gserviceaccount.com]
  audiences: [\"https://*.a.run.app\", 123456789012-iap.apps.googleusercontent.com, \"https://admin.example.com/*\"]
  delegates: true
  kinds: [IdToken, SignedJwt]
";

/// Google as the rows want it.
pub(in crate::demo) fn simulated() -> Options {
    let operator = format!("serviceAccount:{DEFAULT_ACCOUNT}");
    let middle = format!("serviceAccount:{MIDDLE}");
    let pool = "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools";
    let app = format!("{pool}/demo-project.svc.id.goog/subject/ns/{DEMO}/sa/app");
    let batch = format!("{pool}/shop-pool/subject/system:serviceaccount:{DEMO}:batch");
    let options = Options { id_token_lifetime: Duration::from_secs(3600), ..Options::default() };
    let options = [CALLER, MIDDLE, APP, BATCH, SIGNER].into_iter().fold(options, Options::service_account);
    options
        .allow(&operator, Role::OpenIdTokenCreator, CALLER)
        .allow(&operator, Role::TokenCreator, MIDDLE)
        .allow(&middle, Role::TokenCreator, CALLER)
        .allow(&operator, Role::TokenCreator, SIGNER)
        .allow(&app, Role::WorkloadIdentityUser, APP)
        .allow(&batch, Role::WorkloadIdentityUser, BATCH)
        .user(developer())
        .api_key(API_KEY)
        .password_user(PasswordUser::new(ROBOT, PASSWORD))
        .password_user(PasswordUser {
            tenant: Some("shop-a1b2c".into()),
            ..PasswordUser::new("robot@tenant.example.com", PASSWORD)
        })
}

/// The cluster as a provider: of the pool that a GKE cluster has by itself, and of one that somebody made.
pub(super) fn providers(issuer: &str) -> [Provider; 2] {
    let gke = Provider::gke("demo-project", 123_456_789_012, "europe-west1", "demo-cluster");
    [
        Provider { issuer: issuer.to_owned(), ..gke },
        Provider::pool(123_456_789_012, "shop-pool", "cluster", issuer),
    ]
}

/// ServiceAccounts and labelled Secrets of the namespace.
pub(super) fn credentials(google: &Google) -> anyhow::Result<Vec<Value>> {
    let secret = |name: &str, data: Value| {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": DEMO, "labels": {"idtoken.dev/credential": "true"}},
            "stringData": data,
        })
    };
    let login = |name: &str, email: &str, password: &str| {
        secret(name, json!({"apiKey": API_KEY, "email": email, "password": password}))
    };
    let account = |name: &str, annotations: Value| {
        let metadata = json!({"name": name, "namespace": DEMO, "annotations": annotations});
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    };
    let User { client_id, client_secret, refresh_token, .. } = developer();
    let gcloud = json!({
        "type": "authorized_user",
        "client_id": client_id,
        "client_secret": client_secret,
        "refresh_token": refresh_token,
    });
    Ok(vec![
        account("app", json!({"iam.gke.io/gcp-service-account": APP})),
        account("batch", json!({})),
        secret("partner-key", json!({"key.json": google.create_service_account_key(PARTNER)?})),
        secret("gcloud", json!({"application_default_credentials.json": gcloud.to_string()})),
        login("portal-login", ROBOT, PASSWORD),
        login("tenant-login", "robot@tenant.example.com", PASSWORD),
        login("wrong-login", ROBOT, "not the password"),
    ])
}

fn developer() -> User {
    let scopes = ["openid", "https://www.googleapis.com/auth/userinfo.email"];
    User {
        client_id: "764086051850-demo.apps.googleusercontent.com".into(),
        client_secret: "demo-client-secret".into(),
        refresh_token: "1//demo-refresh-token".into(),
        email: "developer@example.com".into(),
        scopes: scopes.map(str::to_owned).to_vec(),
    }
}

const GOOGLE: &str = "https://accounts.google.com";
const CALLER: &str = "caller@demo-project.iam.gserviceaccount.com";
const MIDDLE: &str = "middle@demo-project.iam.gserviceaccount.com";
const APP: &str = "app@demo-project.iam.gserviceaccount.com";
const BATCH: &str = "batch@demo-project.iam.gserviceaccount.com";
const PARTNER: &str = "partner@demo-project.iam.gserviceaccount.com";
const SIGNER: &str = "signer@demo-project.iam.gserviceaccount.com";
const ROBOT: &str = "robot@example.com";
const API_KEY: &str = "AIza-demo-key";
/// Of both users.
pub(super) const PASSWORD: &str = "correct horse battery staple";
