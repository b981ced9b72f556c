//! The cluster's own certificate authority, and the key that signs `ServiceAccount` tokens.

use anyhow::{Context as _, ensure};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

/// Signs the certificates of one cluster.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Credential {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut parameters = parameters(&[])?;
        parameters.distinguished_name.push(DnType::CommonName, "idtoken-operator test cluster");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Ok(Self { issuer: CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)? })
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for a server under these DNS names and addresses.
    pub(crate) fn server(&self, names: &[&str]) -> anyhow::Result<Credential> {
        let mut parameters = parameters(names)?;
        parameters.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(parameters)
    }

    /// A certificate for a client: Kubernetes takes the common name as user and the organizations as groups.
    pub(crate) fn client(&self, user: &str, groups: &[&str]) -> anyhow::Result<Credential> {
        // rcgen keeps one value per kind of name. The organization has two spellings there, hence two groups.
        let kinds = [DnType::OrganizationName, DnType::CustomDnType(ORGANIZATION_OID.to_vec())];
        ensure!(
            groups.len() <= kinds.len(),
            "a client certificate here has room for two groups, not {}",
            groups.len()
        );
        let mut parameters = parameters(&[])?;
        for (kind, group) in kinds.into_iter().zip(groups) {
            parameters.distinguished_name.push(kind, *group);
        }
        parameters.distinguished_name.push(DnType::CommonName, user);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(parameters)
    }

    fn sign(&self, mut parameters: CertificateParams) -> anyhow::Result<Credential> {
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        Ok(Credential { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// A fresh RSA key for `ServiceAccount` tokens: private and public part in PEM.
pub(crate) fn service_account_key() -> anyhow::Result<(String, String)> {
    let key = RsaKeyPair::generate(KeySize::Rsa2048).ok().context("cannot generate an RSA key")?;
    let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&key).ok().context("cannot encode an RSA key")?;
    let public =
        AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()).ok().context("cannot encode an RSA key")?;
    Ok((pem("PRIVATE KEY", private.as_ref()), pem("PUBLIC KEY", public.as_ref())))
}

/// What all certificates share: valid from an hour ago (clocks differ) for a year; a cluster is younger than that.
fn parameters(names: &[&str]) -> anyhow::Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names)?;
    let now = OffsetDateTime::now_utc();
    parameters.not_before = now - Duration::HOUR;
    parameters.not_after = now + Duration::days(365);
    parameters.distinguished_name = DistinguishedName::new();
    Ok(parameters)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut lines: Vec<&str> = Vec::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        lines.push(line);
        rest = more;
    }
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// id-at-organizationName
const ORGANIZATION_OID: [u64; 4] = [2, 5, 4, 10];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    #[test]
    fn pem_lines_have_64_characters() {
        let text = pem("PUBLIC KEY", &[0; 49]);
        assert_eq!(
            text,
            "-----BEGIN PUBLIC KEY-----\n\
             AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\nAA==\n\
             -----END PUBLIC KEY-----\n"
        );
    }

    #[test]
    fn more_groups_than_fit_are_refused() {
        let authority = Authority::new().unwrap();
        assert!(authority.client("user", &["one", "two"]).is_ok());
        let error = authority.client("user", &["one", "two", "three"]).err().unwrap();
        assert_eq!(error.to_string(), "a client certificate here has room for two groups, not 3");
    }
}
