//! The union of the spec → [`Source`]. The CRD's rules refuse most bad specs; what an older CRD let pass ends here.

use super::{ProviderName, SecretKey, ServiceAccountEmail, Source, source_name};
use crate::{
    api::{Reason, binding},
    plan::{Problem, names::is_dns_subdomain},
};

/// Parses the one member that is set.
pub(in crate::plan) fn parse(source: &binding::Source) -> Result<Source, Problem> {
    if source_name(source).is_empty() {
        return Err(invalid("spec.source", "{…}", "set exactly one source"));
    }
    if let Some(wanted) = &source.kubernetes_service_account {
        return kubernetes_service_account(wanted);
    }
    if let Some(wanted) = &source.impersonation {
        return Ok(Source::Impersonation {
            service_account: email("spec.source.impersonation.serviceAccount", &wanted.service_account)?,
            delegates: wanted
                .delegates
                .iter()
                .map(|d| email("spec.source.impersonation.delegates", d))
                .collect::<Result<_, _>>()?,
        });
    }
    if let Some(wanted) = &source.service_account_key {
        let file = secret_key("spec.source.serviceAccountKey.secretRef", &wanted.secret_ref)?;
        return Ok(Source::ServiceAccountKey { file });
    }
    if let Some(wanted) = &source.user_credentials {
        let file = secret_key("spec.source.userCredentials.secretRef", &wanted.secret_ref)?;
        return Ok(Source::UserCredentials { file });
    }
    if let Some(wanted) = &source.identity_platform {
        return identity_platform(wanted);
    }
    if let Some(wanted) = &source.signed_jwt {
        let service_account = email("spec.source.signedJwt.serviceAccount", &wanted.service_account)?;
        return Ok(Source::SignedJwt { service_account });
    }
    Ok(Source::MetadataServer)
}

/// The problem of a field that is not valid, with the mend.
pub(in crate::plan) fn invalid(field: &str, value: &str, mend: &str) -> Problem {
    let value: String = value.chars().take(80).collect();
    Problem::on_change(Reason::InvalidSpec, format!("{field} {value:?} is not valid: {mend}"))
}

fn kubernetes_service_account(wanted: &binding::KubernetesServiceAccount) -> Result<Source, Problem> {
    const FIELD: &str = "spec.source.kubernetesServiceAccount";
    let name = subdomain(&format!("{FIELD}.name"), &wanted.name)?;
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let google_service_account = given(&wanted.google_service_account)
        .map(|text| email(&format!("{FIELD}.googleServiceAccount"), &text))
        .transpose()?;
    let provider = given(&wanted.workload_identity_provider)
        .map(|text| {
            ProviderName::parse(&text)
                .map_err(|why| invalid(&format!("{FIELD}.workloadIdentityProvider"), &text, why))
        })
        .transpose()?;
    Ok(Source::KubernetesServiceAccount { name, google_service_account, provider })
}

fn identity_platform(wanted: &binding::IdentityPlatform) -> Result<Source, Problem> {
    const FIELD: &str = "spec.source.identityPlatform";
    let key = |field: &str, wanted| secret_key(&format!("{FIELD}.{field}"), wanted);
    let tenant = wanted.tenant_id.clone().filter(|tenant| !tenant.is_empty());
    let plain = |t: &String| t.len() <= 128 && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if let Some(bad) = tenant.as_ref().filter(|t| !plain(t)) {
        return Err(invalid(&format!("{FIELD}.tenantId"), bad, "use letters, digits and '-' only"));
    }
    Ok(Source::IdentityPlatform {
        tenant,
        api_key: key("apiKeySecretRef", &wanted.api_key_secret_ref)?,
        email: key("emailSecretRef", &wanted.email_secret_ref)?,
        password: key("passwordSecretRef", &wanted.password_secret_ref)?,
    })
}

fn email(field: &str, text: &str) -> Result<ServiceAccountEmail, Problem> {
    ServiceAccountEmail::parse(text).map_err(|why| invalid(field, text, why))
}

fn secret_key(field: &str, wanted: &binding::SecretKeyRef) -> Result<SecretKey, Problem> {
    let name = subdomain(&format!("{field}.name"), &wanted.name)?;
    let plain = (1..=253).contains(&wanted.key.len())
        && wanted.key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !plain {
        return Err(invalid(&format!("{field}.key"), &wanted.key, "use letters, digits, '-', '_' and '.'"));
    }
    Ok(SecretKey { name, key: wanted.key.clone() })
}

/// A name that is fit for the API server's paths.
fn subdomain(field: &str, text: &str) -> Result<String, Problem> {
    if is_dns_subdomain(text) {
        return Ok(text.to_owned());
    }
    Err(invalid(field, text, "write a DNS subdomain: lower-case letters, digits, '-' and '.'"))
}
