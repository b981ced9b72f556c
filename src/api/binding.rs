//! `IdTokenBinding`: which token belongs in which Secret.

#![allow(unreachable_pub)] // KubeSchema derives helper types inside functions and repeats `pub` there.

mod status;

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::status::IdTokenBindingStatus;

/// Keeps one Secret of this namespace filled with a fresh, verified Google-signed ID token for one audience.
///
/// Example: `spec: {audience: "https://orders-abc-uc.a.run.app", source: {metadataServer: {}}}` fills the Secret
/// `<name>-idtoken`, key `id_token`.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "idtoken.dev",
    version = "v1alpha1",
    kind = "IdTokenBinding",
    plural = "idtokenbindings",
    namespaced,
    derive = "PartialEq",
    status = "IdTokenBindingStatus",
    shortname = "itb",
    category = "idtoken",
    doc = "Keeps one Secret of this namespace filled with a fresh, verified Google-signed ID token for one audience.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether a verified, unexpired token is in the Secret"
    ),
    printcolumn(name = "Audience", type_ = "string", json_path = ".spec.audience"),
    printcolumn(name = "Identity", type_ = "string", json_path = ".status.identity"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.expirationTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Source", type_ = "string", json_path = ".status.source", priority = 1),
    printcolumn(name = "Secret", type_ = "string", json_path = ".status.secretName", priority = 1),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        priority = 1
    ),
    printcolumn(name = "Next Refresh", type_ = "string", json_path = ".status.nextRefreshTime", priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 245 || self.spec.secret.name != ''")
        .message("metadata.name may have at most 245 characters unless spec.secret.name is set: the default Secret name is <name>-idtoken"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "!has(self.source.signedJwt) || !self.audience.lowerAscii().matches('^([a-z][a-z0-9+.-]*:)?(//)?([^/?#]*@)?([^/?#:@]*[.])?(googleapis[.]com|accounts[.]google[.]com)[.]?(:[0-9]*)?([/?#].*)?$')"
    ).message("signedJwt may not have an audience on or below googleapis.com or accounts.google.com: such a JWT would be a Google API access credential"),
    validation = Rule::new("has(self.source.signedJwt) || !self.audience.contains('*')")
        .message("audience must be exact: only IAP, with signedJwt, knows an audience with '*'"),
)]
pub struct IdTokenBindingSpec {
    /// The `aud` that the token must have: what the receiver expects, mostly its URL. 1 to 2048 characters, no
    /// blanks or control characters. Required. Example: `https://orders-abc-uc.a.run.app`.
    #[schemars(length(min = 1, max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^[!-~]+$')")
        .message("audience must consist of printable ASCII characters without blanks"))]
    pub audience: String,

    /// Where the token comes from: exactly one of the members. Required.
    /// Example: `{impersonation: {serviceAccount: caller@project.iam.gserviceaccount.com}}`.
    pub source: Source,

    /// The Secret that receives the token. Its name and keys can't be changed: running pods hold them.
    /// Default: `<name>-idtoken` with the token under `id_token`.
    #[serde(default)]
    #[schemars(schema_with = "with_default_object::<SecretTarget>")]
    pub secret: SecretTarget,

    /// When the token is replaced. Default: at 60 percent of its lifetime.
    #[serde(default)]
    #[schemars(schema_with = "with_default_object::<Refresh>")]
    pub refresh: Refresh,

    /// True: nothing is minted or written for this binding; the Secret stays as it is. Default: false.
    #[serde(default)]
    pub suspend: bool,
}

/// Where a token comes from: exactly one member is set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "[has(self.kubernetesServiceAccount), has(self.impersonation), has(self.metadataServer), has(self.serviceAccountKey), has(self.identityPlatform), has(self.userCredentials), has(self.signedJwt)].filter(x, x).size() == 1"
).message("exactly one source must be set: kubernetesServiceAccount, impersonation, metadataServer, serviceAccountKey, identityPlatform, userCredentials or signedJwt"))]
pub struct Source {
    /// A Kubernetes ServiceAccount of this namespace: Google IAM itself decides what it may do. Needs no grant.
    /// Example: `{name: app}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_service_account: Option<KubernetesServiceAccount>,

    /// The operator's own identity impersonates a Google service account. Needs an IdTokenGrant.
    /// Example: `{serviceAccount: caller@project.iam.gserviceaccount.com}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impersonation: Option<Impersonation>,

    /// The operator's own identity, from the metadata server. Needs an IdTokenGrant for the identity `operator`.
    /// Example: `{}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_server: Option<MetadataServer>,

    /// A service account key in a Secret of this namespace. Example: `{secretRef: {name: key, key: key.json}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_key: Option<CredentialSecret>,

    /// A user of Identity Platform, signed in with a password. The audience is the project id.
    /// Example: `{apiKeySecretRef: {name: idp, key: apiKey}, emailSecretRef: …, passwordSecretRef: …}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_platform: Option<IdentityPlatform>,

    /// gcloud's `authorized_user` credentials: a development token. The audience is the OAuth client id.
    /// Example: `{secretRef: {name: adc, key: application_default_credentials.json}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_credentials: Option<CredentialSecret>,

    /// A JWT signed by a Google service account through signJwt, as IAP accepts it. Needs a grant of kind SignedJwt.
    /// Example: `{serviceAccount: caller@project.iam.gserviceaccount.com}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_jwt: Option<SignedJwt>,
}

/// A Kubernetes ServiceAccount as source.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KubernetesServiceAccount {
    /// Name of the ServiceAccount in this namespace. Required. Example: `app`.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')")
        .message("name must be a DNS subdomain: lower-case letters, digits, '-' and '.'"))]
    pub name: String,

    /// The Google service account to impersonate. Empty or absent: taken from the ServiceAccount's annotation
    /// `iam.gke.io/gcp-service-account`. Example: `caller@project.iam.gserviceaccount.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 254))]
    #[x_kube(validation = Rule::new("self == '' || self.matches('^[a-z0-9][a-z0-9.-]*@[a-z0-9][a-z0-9.-]*[.]gserviceaccount[.]com$')")
        .message("googleServiceAccount must be the e-mail address of a Google service account (…gserviceaccount.com)"))]
    pub google_service_account: Option<String>,

    /// Full name of a workload identity provider. Empty or absent: this GKE cluster's own pool. Example:
    /// `projects/123456789012/locations/global/workloadIdentityPools/pool/providers/cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = Rule::new("self == '' || self.matches('^projects/[0-9]{1,20}/locations/global/workloadIdentityPools/[a-z0-9-]{4,32}/providers/[a-z0-9-]{4,32}$')")
        .message("workloadIdentityProvider must be projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER"))]
    pub workload_identity_provider: Option<String>,
}

/// Impersonation as source.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Impersonation {
    /// The Google service account that the token is for. Required.
    /// Example: `caller@project.iam.gserviceaccount.com`.
    #[schemars(length(min = 1, max = 254))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9][a-z0-9.-]*@[a-z0-9][a-z0-9.-]*[.]gserviceaccount[.]com$')")
        .message("serviceAccount must be the e-mail address of a Google service account (…gserviceaccount.com)"))]
    pub service_account: String,

    /// Chain of service accounts between the operator and `serviceAccount`, first to last, at most 4. Default: none.
    /// Example: `["middle@project.iam.gserviceaccount.com"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(min = 1, max = 254)))]
    #[x_kube(validation = Rule::new("self.all(d, d.matches('^[a-z0-9][a-z0-9.-]*@[a-z0-9][a-z0-9.-]*[.]gserviceaccount[.]com$'))")
        .message("each delegate must be the e-mail address of a Google service account (…gserviceaccount.com)"))]
    pub delegates: Vec<String>,
}

/// The metadata server as source: it has no settings.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MetadataServer {}

/// A credential file in a Secret as source.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CredentialSecret {
    /// The Secret and the key in it. The Secret must carry the label `idtoken.dev/credential: "true"`. Required.
    pub secret_ref: SecretKeyRef,
}

/// A user of Identity Platform as source.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityPlatform {
    /// Tenant of the user; only with multi-tenancy. Default: none. Example: `shop-a1b2c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9-]*$')")
        .message("tenantId may have letters, digits and '-' only"))]
    pub tenant_id: Option<String>,
    /// Where the web API key stands. Required.
    pub api_key_secret_ref: SecretKeyRef,
    /// Where the user's e-mail address stands. Required.
    pub email_secret_ref: SecretKeyRef,
    /// Where the user's password stands. Required.
    pub password_secret_ref: SecretKeyRef,
}

/// A signed JWT as source.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedJwt {
    /// The Google service account that signs. Required. Example: `caller@project.iam.gserviceaccount.com`.
    #[schemars(length(min = 1, max = 254))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9][a-z0-9.-]*@[a-z0-9][a-z0-9.-]*[.]gserviceaccount[.]com$')")
        .message("serviceAccount must be the e-mail address of a Google service account (…gserviceaccount.com)"))]
    pub service_account: String,
}

/// One key of one Secret of the binding's namespace.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SecretKeyRef {
    /// Name of the Secret. Required. Example: `caller-key`.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')")
        .message("name must be a DNS subdomain: lower-case letters, digits, '-' and '.'"))]
    pub name: String,
    /// Key in the Secret's data. Required. Example: `key.json`.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$')")
        .message("key may have letters, digits, '-', '_' and '.' only"))]
    pub key: String,
}

/// The Secret that receives the token.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.authorizationKey == '' || self.authorizationKey != self.key")
        .message("authorizationKey must differ from key"),
)]
pub struct SecretTarget {
    /// Name of the Secret; can't be changed. Default: empty, which means `<name of the binding>-idtoken`.
    /// Example: `orders-token`.
    #[serde(default)]
    #[schemars(length(max = 253))]
    #[x_kube(
        validation = Rule::new("self == '' || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')")
            .message("secret.name must be a DNS subdomain: lower-case letters, digits, '-' and '.'"),
        validation = Rule::new("self == oldSelf").message("secret.name can't be changed: running pods hold it; create another binding"),
    )]
    pub name: String,

    /// Key of the raw token, which has no newline; can't be changed. Default: `id_token`. Example: `token`.
    #[serde(default = "default_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$') && self != '.' && !self.startsWith('..')")
            .message("secret.key may have letters, digits, '-', '_' and '.' only, and not start with '..'"),
        validation = Rule::new("self == oldSelf").message("secret.key can't be changed: running pods hold it; create another binding"),
    )]
    pub key: String,

    /// When not empty, `Bearer <token>` is kept under this key too; can't be changed. Default: empty.
    /// Example: `authorization`.
    #[serde(default)]
    #[schemars(length(max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[-._a-zA-Z0-9]*$') && self != '.' && !self.startsWith('..')")
            .message("secret.authorizationKey may have letters, digits, '-', '_' and '.' only, and not start with '..'"),
        validation = Rule::new("self == oldSelf")
            .message("secret.authorizationKey can't be changed: running pods hold it; create another binding"),
    )]
    pub authorization_key: String,

    /// Labels put on the Secret beside the operator's own, at most 16. Prefixes of the operator, of Kubernetes and of
    /// GitOps tools are refused. Default: none. Example: `{team: orders}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16), schema_with = "short_strings::<63>")]
    #[x_kube(
        validation = Rule::new(RESERVED_RULE).message("labels with reserved prefixes are refused: idtoken.dev/, *kubernetes.io/, argocd.argoproj.io/, *fluxcd.io/"),
        validation = Rule::new("self.all(k, self[k].matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$'))")
            .message("label values may have letters, digits, '-', '_' and '.' only, and start and end with a letter or digit"),
        validation = Rule::new(QUALIFIED_RULE).message("label keys must be [prefix/]name with at most 63 characters in the name"),
    )]
    pub labels: BTreeMap<String, String>,

    /// Annotations put on the Secret beside the operator's own, at most 16; the same prefixes are refused. Default:
    /// none. Example: `{example.com/contact: orders-team}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16), schema_with = "short_strings::<1024>")]
    #[x_kube(
        validation = Rule::new(RESERVED_RULE).message("annotations with reserved prefixes are refused: idtoken.dev/, *kubernetes.io/, argocd.argoproj.io/, *fluxcd.io/"),
        validation = Rule::new(QUALIFIED_RULE).message("annotation keys must be [prefix/]name with at most 63 characters in the name"),
    )]
    pub annotations: BTreeMap<String, String>,
}

/// When a token is replaced.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refresh {
    /// Part of the token's lifetime after which it is replaced, in percent, 20 to 90. Default: 60, which is 36 minutes
    /// of Google's hour. Example: `75`.
    #[serde(default = "default_percent")]
    #[schemars(range(min = 20, max = 90))]
    pub at_lifetime_percent: i32,
}

impl Default for SecretTarget {
    fn default() -> Self {
        Self {
            name: String::new(),
            key: default_key(),
            authorization_key: String::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }
}

impl Default for Refresh {
    fn default() -> Self {
        Self { at_lifetime_percent: default_percent() }
    }
}

impl SecretTarget {
    /// Name of the Secret for a binding called `binding`.
    #[must_use]
    pub fn name_for(&self, binding: &str) -> String {
        if self.name.is_empty() { format!("{binding}-idtoken") } else { self.name.clone() }
    }
}

fn default_key() -> String {
    "id_token".to_owned()
}

fn default_percent() -> i32 {
    60
}

/// The schema of `T` with the default `{}`, so that the API server fills in the members' own defaults.
fn with_default_object<T: JsonSchema>(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut schema = T::json_schema(generator);
    schema.insert("default".to_owned(), serde_json::json!({}));
    schema
}

/// A map of strings of at most `MAX` characters: bounded, so that the cost of CEL rules over it is too.
fn short_strings<const MAX: u32>(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "additionalProperties": {"type": "string", "maxLength": MAX},
    })
}

/// Keys that belong to the operator, to Kubernetes or to GitOps tools: those would prune or fight over the Secret.
const RESERVED_RULE: &str = "self.all(k, !k.matches('^(idtoken[.]dev|argocd[.]argoproj[.]io|([^/]*[.])?kubernetes[.]io|([^/]*[.])?fluxcd[.]io)/'))";

/// Kubernetes' own format of label and annotation keys.
const QUALIFIED_RULE: &str = "self.all(k, k.size() <= 317 && k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))";
