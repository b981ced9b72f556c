//! `IdTokenGrant`: which namespaces may use the operator's own identity, for whom and towards whom.

#![allow(clippy::duplicated_attributes)] // columns of one type, each with its own path
#![allow(unreachable_pub)] // KubeSchema derives helper types inside functions and repeats `pub` there.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Lets bindings of the named namespaces use the operator's own identity: without a grant they get no token.
///
/// Example: `spec: {namespaces: {names: [shop]}, identities: [caller@project.iam.gserviceaccount.com],
/// audiences: ["https://*.a.run.app"]}`.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "idtoken.dev",
    version = "v1alpha1",
    kind = "IdTokenGrant",
    plural = "idtokengrants",
    derive = "PartialEq",
    status = "IdTokenGrantStatus",
    shortname = "itg",
    category = "idtoken",
    doc = "Lets bindings of the named namespaces use the operator's own identity: without a grant they get no token.",
    printcolumn(name = "Namespaces", type_ = "string", json_path = ".spec.namespaces.names"),
    printcolumn(name = "Identities", type_ = "string", json_path = ".spec.identities"),
    printcolumn(name = "Audiences", type_ = "string", json_path = ".spec.audiences"),
    printcolumn(
        name = "Bindings",
        type_ = "integer",
        json_path = ".status.bindings",
        description = "How many bindings it allows now"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Used By", type_ = "string", json_path = ".status.usedBy", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.identities.exists(i, i == '*') || has(self.namespaces.all)")
        .message("identity '*' is allowed only together with namespaces.all: true"),
    validation = Rule::new("!self.audiences.exists(a, a == '*') || has(self.namespaces.all) || (self.identities.size() == 1 && !self.identities[0].contains('*'))")
        .message("audience '*' is allowed only together with namespaces.all: true or a single exact identity"),
)]
pub struct IdTokenGrantSpec {
    /// The namespaces whose bindings are allowed: exactly one of the members. Required. Example: `{names: [shop]}`.
    pub namespaces: Namespaces,

    /// Service accounts that may be impersonated, 1 to 64: an exact e-mail address, `*@PROJECT.iam.gserviceaccount.com`,
    /// or `operator` for the metadata server's own token. `*` only together with `namespaces.all`. Required.
    /// Example: `["caller@project.iam.gserviceaccount.com"]`.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 254)))]
    #[x_kube(validation = Rule::new("self.all(i, i == '*' || i == 'operator' || i.matches('^([a-z0-9][a-z0-9.-]*@[a-z0-9][a-z0-9.-]*[.]gserviceaccount[.]com|[*]@[a-z0-9][a-z0-9.-]*[.]iam[.]gserviceaccount[.]com)$'))")
        .message("each identity must be the e-mail address of a Google service account, *@PROJECT.iam.gserviceaccount.com, 'operator' or '*'"))]
    pub identities: Vec<String>,

    /// Audiences that tokens may have, 1 to 64: exact; `https://*.SUFFIX` (any host below, no port or path);
    /// `https://*.SUFFIX/*` (any path); `https://HOST/PREFIX*`; `*` only together with `namespaces.all` or a single
    /// exact identity. Required. Example: `["https://*.a.run.app", "https://api.example.com/*"]`.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 2048)))]
    #[x_kube(validation = Rule::new("self.all(a, a == '*' || !a.contains('*') || a.matches('^[a-z][a-z0-9+.-]*://([*][.]([A-Za-z0-9-]+[.])+[A-Za-z][A-Za-z0-9-]*(/[*]?)?|[A-Za-z0-9.-]+(:[0-9]+)?/[^*?#]*[*])$'))")
        .message("each audience must be exact, scheme://*.suffix, scheme://*.suffix/*, scheme://host/prefix* or '*'; a wildcard suffix has at least two labels, the last of which begins with a letter"))]
    pub audiences: Vec<String>,

    /// Whether delegation chains are allowed; the final identity is what is matched. Default: false.
    #[serde(default)]
    pub delegates: bool,

    /// What may be made, `IdToken` or `SignedJwt`. Default: `[IdToken]`. Example: `[IdToken, SignedJwt]`.
    #[serde(default = "default_kinds")]
    #[schemars(length(min = 1, max = 2))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub kinds: Vec<TokenKind>,
}

/// What the controller reports about a grant: who uses it. Brought up to date a few seconds after a change, with tens of thousands of bindings within a minute.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdTokenGrantStatus {
    /// The `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many bindings it allows now. Those that it alone allows lose their Secrets when it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bindings: Option<i64>,
    /// The first 20 of them as `namespace/name`, in alphabetical order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub used_by: Vec<String>,
}

/// The namespaces of a grant: exactly one member is set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("[has(self.names), has(self.selector), has(self.all)].filter(x, x).size() == 1")
        .message("exactly one of names, selector and all must be set"),
)]
pub struct Namespaces {
    /// Names of namespaces, 1 to 256. Example: `[shop]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 63)))]
    pub names: Option<Vec<String>>,

    /// Selects namespaces by their labels; may not be empty. Whoever may label namespaces can grant by it.
    /// Example: `{matchLabels: {team: orders}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("(has(self.matchLabels) && self.matchLabels.size() > 0) || (has(self.matchExpressions) && self.matchExpressions.size() > 0)")
        .message("selector must not be empty: use all: true for every namespace"))]
    pub selector: Option<LabelSelector>,

    /// True: every namespace of the cluster. False is not a value: leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self").message("all may only be true: leave it out instead"))]
    pub all: Option<bool>,
}

/// What may be made with the operator's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TokenKind {
    /// A Google-signed ID token.
    IdToken,
    /// A JWT signed by a service account (source `signedJwt`).
    SignedJwt,
}

fn default_kinds() -> Vec<TokenKind> {
    vec![TokenKind::IdToken]
}
