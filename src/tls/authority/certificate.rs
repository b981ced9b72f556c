//! Certificates and their keys: making them and reading them back. ECDSA P-256 throughout.
use std::{fmt, net::IpAddr};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("issuing a certificate: {0}")]
pub struct IssueError(#[from] rcgen::Error);

/// A certificate and its private key.
#[derive(Clone, PartialEq)]
pub(super) struct Pair {
    pub(super) certificate: Certificate,
    key: Zeroizing<String>,
}

impl Pair {
    /// A new CA.
    pub(super) fn authority(now: Timestamp, lifetime: SignedDuration) -> Result<Self, IssueError> {
        let mut params = params(Vec::new(), &format!("idtoken-operator CA {now:.0}"), now, now + lifetime)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?;
        Self::new(&certificate, &key)
    }

    /// A serving certificate for `names`, signed by this CA.
    pub(super) fn sign(
        &self,
        names: &[String],
        now: Timestamp,
        not_after: Timestamp,
    ) -> Result<Self, IssueError> {
        let issuer = Issuer::from_ca_cert_pem(&self.certificate.pem(), KeyPair::from_pem(&self.key)?)?;
        let mut params = params(names.to_vec(), "idtoken-operator", now, not_after)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &issuer)?;
        Self::new(&certificate, &key)
    }

    /// A certificate with the key that was found beside it; `None` when they don't belong together.
    pub(super) fn matching(certificate: Certificate, key: &str) -> Option<Self> {
        let pair = KeyPair::from_pem(key).ok().filter(|pair| pair.is_compatible(&PKCS_ECDSA_P256_SHA256))?;
        let same = pair.public_key_raw() == certificate.public_key;
        same.then(|| Self { certificate, key: Zeroizing::new(key.to_owned()) })
    }

    /// The private key, PEM.
    pub(super) fn key_pem(&self) -> &str {
        &self.key
    }

    fn new(certificate: &rcgen::Certificate, key: &KeyPair) -> Result<Self, IssueError> {
        let certificate =
            Certificate::parse(certificate.der()).ok_or(rcgen::Error::CouldNotParseCertificate)?;
        Ok(Self { certificate, key: Zeroizing::new(key.serialize_pem()) })
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).field("key", &"[redacted]").finish()
    }
}

/// A certificate, with what we need to know of it.
#[derive(Clone, PartialEq)]
pub(super) struct Certificate {
    der: Vec<u8>,
    public_key: Vec<u8>,
    names: Vec<String>,
    not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

impl Certificate {
    /// Reads DER; `None` for anything that is not one certificate.
    pub(super) fn parse(der: &[u8]) -> Option<Self> {
        let (rest, x509) = X509Certificate::from_der(der).ok()?;
        let validity = x509.validity();
        rest.is_empty().then_some(())?;
        Some(Self {
            der: der.to_vec(),
            public_key: x509.public_key().subject_public_key.data.to_vec(),
            names: names(&x509),
            not_before: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
            not_after: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
        })
    }

    pub(super) fn pem(&self) -> String {
        let base64 = BASE64_STANDARD.encode(&self.der);
        let lines: Vec<_> = base64.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }

    /// When it was made; that is later than when its validity begins.
    pub(super) fn issued(&self) -> Timestamp {
        self.not_before + BACKDATED
    }

    pub(super) fn is_valid_at(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }

    pub(super) fn covers(&self, names: &[String]) -> bool {
        names.iter().all(|name| self.names.contains(name))
    }

    pub(super) fn is_signed_by(&self, authority: &Self) -> bool {
        let Ok((_, x509)) = X509Certificate::from_der(&self.der) else {
            return false;
        };
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &authority.public_key)
            .verify(x509.tbs_certificate.as_ref(), &x509.signature_value.data)
            .is_ok()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { names, not_before, not_after, .. } = self;
        write!(f, "Certificate({names:?}, {not_before}..{not_after})")
    }
}

/// Both ends of the validity are always set: rcgen's own default is 1975 to 4096.
fn params(
    names: Vec<String>,
    common_name: &str,
    now: Timestamp,
    not_after: Timestamp,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = offset(now - BACKDATED)?;
    params.not_after = offset(not_after)?;
    Ok(params)
}

fn offset(at: Timestamp) -> Result<OffsetDateTime, rcgen::Error> {
    OffsetDateTime::from_unix_timestamp(at.as_second()).map_err(|_| rcgen::Error::Time)
}

fn names(x509: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = x509.subject_alternative_name() else {
        return Vec::new();
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
                .ok()
                .map(|address| address.to_string())
        }
        _ => None,
    }
}

/// For clocks that are behind ours: the API server's, and other replicas'.
const BACKDATED: SignedDuration = SignedDuration::from_hours(1);
