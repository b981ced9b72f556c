//! May this binding use the operator's identity? Deny by default; only a matching grant says yes.

pub mod file;
pub mod pattern;
pub mod usage;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::{Deserialize, Serialize};

use self::pattern::{AudiencePattern, IdentityPattern};
use super::{Problem, secret::sha256_hex, validate::Wanted};
use crate::api::{
    IdTokenGrant, IdTokenGrantSpec, Reason,
    grant::{Namespaces, TokenKind},
};

/// A use of the operator's identity, which a grant has to allow: what is asked for, or was when a Secret was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// `operator` or the e-mail address of the final service account.
    pub identity: String,
    /// The audience of the token.
    pub audience: String,
    /// What is made.
    pub kind: TokenKind,
    /// Whether a delegation chain leads to the identity.
    pub chained: bool,
}

impl Authority {
    /// What `wanted` needs a grant for; `None`: it needs none.
    #[must_use]
    pub fn of(wanted: &Wanted) -> Option<Self> {
        Some(Self {
            identity: wanted.source.granted_identity()?.to_owned(),
            audience: wanted.audience.as_str().to_owned(),
            kind: wanted.source.kind(),
            chained: wanted.source.is_chained(),
        })
    }

    /// The same, from a namespace.
    fn from<'a>(
        &'a self,
        namespace: &'a str,
        namespace_labels: Option<&'a BTreeMap<String, String>>,
    ) -> Request<'a> {
        let Self { identity, audience, kind, chained } = self;
        Request { namespace, namespace_labels, identity, audience, kind: *kind, chained: *chained }
    }
}

/// What a binding wants to do with the operator's identity.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Namespace of the binding.
    pub namespace: &'a str,
    /// Labels of that namespace; `None`: they are not known, so that no selector matches.
    pub namespace_labels: Option<&'a BTreeMap<String, String>>,
    /// `operator` or the e-mail address of the final service account.
    pub identity: &'a str,
    /// The audience of the token.
    pub audience: &'a str,
    /// What is made.
    pub kind: TokenKind,
    /// Whether a delegation chain leads to the identity.
    pub chained: bool,
}

/// Answers `Ok` when one of `grants` allows `authority` in `namespace`, or there is nothing to allow; else `NotGranted` with the
/// grant that is missing, ready to paste.
pub fn authorise<'g>(
    grants: impl IntoIterator<Item = &'g IdTokenGrant>,
    namespace: &str,
    namespace_labels: Option<&BTreeMap<String, String>>,
    authority: Option<&Authority>,
) -> Result<(), Problem> {
    let Some(request) = authority.map(|authority| authority.from(namespace, namespace_labels)) else {
        return Ok(());
    };
    if grants.into_iter().any(|grant| allows(grant, request)) {
        return Ok(());
    }
    let mut problem = Problem::on_change(Reason::NotGranted, missing(request));
    problem.message.truncate(MESSAGE_LIMIT);
    Err(problem)
}

/// Whether `grant` allows `request`. A grant that is being deleted allows nothing.
#[must_use]
pub fn allows(grant: &IdTokenGrant, request: Request<'_>) -> bool {
    let namespaces = &grant.spec.namespaces;
    grant.metadata.deletion_timestamp.is_none()
        && selects(namespaces, request.namespace, request.namespace_labels)
        && Terms::of(&grant.spec).cover(request)
}

/// Everything that a grant says but for its namespaces, parsed.
struct Terms<'g> {
    spec: &'g IdTokenGrantSpec,
    identities: Vec<IdentityPattern<'g>>,
    audiences: Vec<AudiencePattern<'g>>,
}

impl<'g> Terms<'g> {
    /// What is no pattern, or too wide a one for the rest of the grant, is left out: it matches nothing.
    fn of(spec: &'g IdTokenGrantSpec) -> Self {
        let all = spec.namespaces.all == Some(true);
        let single_exact = spec.identities.len() == 1 && !spec.identities[0].contains('*');
        let identities = spec.identities.iter().filter_map(|text| IdentityPattern::parse(text));
        let audiences = spec.audiences.iter().filter_map(|text| AudiencePattern::parse(text));
        Self {
            spec,
            identities: identities.filter(|p| *p != IdentityPattern::Any || all).collect(),
            audiences: audiences.filter(|p| *p != AudiencePattern::Any || all || single_exact).collect(),
        }
    }

    fn cover(&self, request: Request<'_>) -> bool {
        self.spec.kinds.contains(&request.kind)
            && (self.spec.delegates || !request.chained)
            && self.identities.iter().any(|pattern| pattern.matches(request.identity))
            && self.audiences.iter().any(|pattern| pattern.matches(request.audience))
    }
}

/// The message for a request that no grant allows, with the smallest grant that would.
fn missing(request: Request<'_>) -> String {
    let Request { namespace, identity, audience, .. } = request;
    let mut grant = format!(
        "no IdTokenGrant lets namespace {namespace} use identity {identity} for audience {audience}; an administrator can allow it with:\n\
         apiVersion: idtoken.dev/v1alpha1\nkind: IdTokenGrant\nmetadata:\n  name: {name}\nspec:\n  namespaces:\n    names: [{namespace}]\n  \
         identities: [\"{identity}\"]\n  audiences: [{audience}]\n",
        audience = serde_json::Value::from(audience),
        name = grant_name(request),
    );
    if request.chained {
        grant.push_str("  delegates: true\n");
    }
    if request.kind == TokenKind::SignedJwt {
        grant.push_str("  kinds: [SignedJwt]\n");
    }
    grant
}

/// A name of its own for each request: pasting one grant must not replace another.
fn grant_name(request: Request<'_>) -> String {
    let Request { namespace, identity, audience, kind, chained, .. } = request;
    let hash = sha256_hex(format!("{identity} {audience} {kind:?} {chained}").as_bytes());
    format!("{namespace}-{}", &hash[..8])
}

/// Whether the namespace with this name and these labels is one of `namespaces`.
#[must_use]
pub fn selects(namespaces: &Namespaces, name: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
    match namespaces {
        Namespaces { names: Some(names), selector: None, all: None } => names.iter().any(|n| n == name),
        Namespaces { names: None, selector: Some(selector), all: None } => {
            labels.is_some_and(|labels| selector_matches(selector, labels))
        }
        Namespaces { names: None, selector: None, all: Some(true) } => true,
        _ => false,
    }
}

/// Kubernetes' own meaning of a label selector, except that an empty one selects nothing.
fn selector_matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let exact = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    let is_empty = exact.clone().next().is_none() && expressions.clone().next().is_none();
    !is_empty
        && exact.into_iter().all(|(key, value)| labels.get(key) == Some(value))
        && expressions.into_iter().all(|e| {
            let value = labels.get(&e.key);
            let listed = value.is_some_and(|v| e.values.iter().flatten().any(|x| x == v));
            match e.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Kubernetes allows 32,768 characters in a condition's message; a reader wants far fewer.
const MESSAGE_LIMIT: usize = 4096;

#[cfg(test)]
mod tests;
