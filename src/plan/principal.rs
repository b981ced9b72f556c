//! Which bindings need the same token: those that ask for the same audience through the same resolved principal. What decides is who is
//! meant, not how a spec names it: the same name in another namespace, or after it was made anew, is somebody else.

use super::{
    source::{Audience, Source},
    validate::Wanted,
};

/// Somebody whom Google knows, with what is asked of Google in that name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// Whose authority it is.
    authority: Authority,
    /// What it is used for: the target and the chain to it, or where the credential stands.
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Authority {
    /// The operator's own. Which binding may use it is for grants to say, for each binding by itself.
    Operator,
    /// What stands in the binding's own namespace: its ServiceAccounts by UID, its Secrets by UID and resourceVersion.
    Own { namespace: String, credential: String },
}

/// A token that several bindings may need.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenKey {
    /// Whose token it is.
    pub principal: Principal,
    /// For whom.
    pub audience: Audience,
}

/// What Google counts together: the requests of one caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Quota {
    /// The operator's.
    Operator,
    /// What the metadata server of the operator's node bears.
    MetadataServer,
    /// That of what stands in one namespace: who uses it up slows down nobody else.
    Namespace(String),
}

impl TokenKey {
    /// Of a binding in `namespace` whose own credential is in the state `credential`. `None`: that is not known, so nobody can tell
    /// who else has the same one.
    #[must_use]
    pub fn of(namespace: &str, wanted: &Wanted, credential: Option<&str>) -> Option<Self> {
        let authority = match (&wanted.source, credential) {
            (Source::Impersonation { .. } | Source::SignedJwt { .. } | Source::MetadataServer, _) => {
                Authority::Operator
            }
            (_, Some(credential)) => {
                Authority::Own { namespace: namespace.to_owned(), credential: credential.to_owned() }
            }
            (_, None) => return None,
        };
        let principal = Principal { authority, source: wanted.source.clone() };
        Some(Self { principal, audience: wanted.audience.clone() })
    }
}

impl Quota {
    /// What a request of `source`, for a binding in `namespace`, counts against.
    #[must_use]
    pub fn of(namespace: &str, source: &Source) -> Self {
        match source {
            Source::Impersonation { .. } | Source::SignedJwt { .. } => Self::Operator,
            Source::MetadataServer => Self::MetadataServer,
            _ => Self::Namespace(namespace.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::validate::validate;

    fn wanted(audience: &str, source: &Value) -> Wanted {
        let binding = json!({
            "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding",
            "metadata": {"name": "b"}, "spec": {"audience": audience, "source": source},
        });
        validate(&serde_json::from_value(binding).unwrap()).unwrap()
    }

    /// The key of a binding in `namespace`.
    fn key(namespace: &str, source: &Value, credential: Option<&str>) -> Option<TokenKey> {
        TokenKey::of(namespace, &wanted("https://a.example", source), credential)
    }

    #[test]
    fn what_is_done_in_the_operators_name_is_the_same_in_every_namespace() {
        let email = "c@p.iam.gserviceaccount.com";
        for source in [
            json!({"metadataServer": {}}),
            json!({"impersonation": {"serviceAccount": email}}),
            json!({"signedJwt": {"serviceAccount": email}}),
        ] {
            assert!(key("shop", &source, None).is_some());
            assert_eq!(key("shop", &source, None), key("bank", &source, None));
            let quota =
                if source["metadataServer"].is_object() { Quota::MetadataServer } else { Quota::Operator };
            assert_eq!(Quota::of("shop", &wanted("a", &source).source), quota);
        }
    }

    #[test]
    fn equal_specs_of_two_tenants_never_share() {
        let secret = |name: &str| json!({"secretRef": {"name": name, "key": "k"}});
        let of = |name: &str| json!({"name": name, "key": "k"});
        for source in [
            json!({"kubernetesServiceAccount": {"name": "app"}}),
            json!({"serviceAccountKey": secret("key")}),
            json!({"userCredentials": secret("me")}),
            json!({"identityPlatform":
                {"apiKeySecretRef": of("a"), "emailSecretRef": of("a"), "passwordSecretRef": of("a")}}),
        ] {
            let shop = key("shop", &source, Some("v1"));
            assert!(shop.is_some());
            assert_eq!(shop, key("shop", &source, Some("v1")), "of one namespace they do");
            assert_ne!(shop, key("bank", &source, Some("v1")));
            assert_ne!(shop, key("shop", &source, Some("v2")), "made anew it is another one");
            assert_eq!(key("shop", &source, None), None, "nobody knows who it is");
            let quota = Quota::of("shop", &wanted("a", &source).source);
            assert_eq!(quota, Quota::Namespace("shop".to_owned()));
        }
    }

    #[test]
    fn target_chain_kind_and_audience_are_told_apart() {
        let account = |name: &str| format!("{name}@p.iam.gserviceaccount.com");
        let direct = json!({"impersonation": {"serviceAccount": account("c")}});
        let keys = [
            key("shop", &direct, None),
            TokenKey::of("shop", &wanted("https://b.example", &direct), None),
            key("shop", &json!({"impersonation": {"serviceAccount": account("d")}}), None),
            key(
                "shop",
                &json!({"impersonation": {"serviceAccount": account("c"), "delegates": [account("d")]}}),
                None,
            ),
            key("shop", &json!({"signedJwt": {"serviceAccount": account("c")}}), None),
        ];
        for (i, one) in keys.iter().enumerate() {
            assert!(keys.iter().enumerate().all(|(j, other)| i == j || one != other), "{one:?}");
        }
    }
}
