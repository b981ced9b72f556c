//! Whether a Secret is of one piece.

use k8s_openapi::api::core::v1::Secret;

use super::{audience_of, claims, sha256, token};

/// Token, hash and times of the Secret of a binding with an audience of its own all belong together.
pub fn assert_whole(secret: &Secret) {
    let raw = token(secret);
    let claims = claims(&raw);
    let annotations = secret.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["idtoken.dev/token-sha256"], sha256(&raw));
    let binding = secret.metadata.name.as_deref().unwrap().strip_suffix("-idtoken").unwrap();
    assert_eq!(claims["aud"], audience_of(binding));
    let exp: jiff::Timestamp = annotations["idtoken.dev/expiration-time"].parse().unwrap();
    assert_eq!(claims["exp"], exp.as_second());
}
