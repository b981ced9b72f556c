//! What is in the Secret.
use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::certificate::{Certificate, Pair};

/// The state of the authority: what the Secret holds, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The CA that signs.
    pub(super) signer: Pair,
    /// The CA that will sign next, published already.
    pub(super) successor: Option<Pair>,
    /// CAs that sign no more, kept in the bundle until they expire.
    pub(super) retired: Vec<Certificate>,
    /// The serving certificate.
    pub(super) leaf: Option<Pair>,
}

/// Why the content of a Secret is not an authority. Says nothing of the content itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// There is no CA certificate, or it can't be read.
    #[error("ca.crt holds no readable certificate")]
    Certificate,
    /// There is no key, or it is the key of something else.
    #[error("ca.key is not the key of the first certificate in ca.crt")]
    Key,
}

impl Stored {
    pub(super) fn new(signer: Pair) -> Self {
        Self { signer, successor: None, retired: Vec::new(), leaf: None }
    }

    /// Reads a Secret's data. Without its CA it is unusable; whatever else is damaged is left out and made anew.
    pub fn parse(data: &BTreeMap<String, ByteString>) -> Result<Self, Unusable> {
        let text = |key: &str| {
            data.get(key).and_then(|value| std::str::from_utf8(&value.0).ok()).unwrap_or_default()
        };
        let mut bundle = certificates(text(CA_CERTIFICATE));
        if bundle.is_empty() {
            return Err(Unusable::Certificate);
        }
        let signer = Pair::matching(bundle.remove(0), text(CA_KEY)).ok_or(Unusable::Key)?;
        let pair = |certificate: &str, key: &str| {
            certificates(text(certificate))
                .into_iter()
                .next()
                .and_then(|found| Pair::matching(found, text(key)))
        };
        // A successor that was not published could not be trusted by anyone.
        let successor =
            pair(NEXT_CERTIFICATE, NEXT_KEY).filter(|successor| bundle.contains(&successor.certificate));
        if let Some(successor) = &successor {
            bundle.retain(|certificate| *certificate != successor.certificate);
        }
        Ok(Self { signer, successor, retired: bundle, leaf: pair(TLS_CERTIFICATE, TLS_KEY) })
    }

    /// The Secret's data.
    #[must_use]
    pub fn data(&self) -> BTreeMap<String, ByteString> {
        let mut data =
            BTreeMap::from([(CA_CERTIFICATE, self.bundle()), (CA_KEY, self.signer.key_pem().to_owned())]);
        if let Some(successor) = &self.successor {
            data.insert(NEXT_CERTIFICATE, successor.certificate.pem());
            data.insert(NEXT_KEY, successor.key_pem().to_owned());
        }
        if let Some((chain, key)) = self.serving() {
            data.insert(TLS_CERTIFICATE, chain);
            data.insert(TLS_KEY, key.to_owned());
        }
        data.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes()))).collect()
    }

    /// Every CA that a client is to trust, PEM.
    #[must_use]
    pub fn bundle(&self) -> String {
        let published =
            [Some(&self.signer), self.successor.as_ref()].into_iter().flatten().map(|ca| &ca.certificate);
        published.chain(&self.retired).map(Certificate::pem).collect()
    }

    /// Whether a client is to trust this CA.
    pub(super) fn publishes(&self, authority: &Certificate) -> bool {
        let successor = self.successor.as_ref().map(|successor| &successor.certificate);
        self.signer.certificate == *authority
            || successor == Some(authority)
            || self.retired.contains(authority)
    }

    /// The serving certificate and its key, PEM.
    #[must_use]
    pub fn serving(&self) -> Option<(String, &str)> {
        self.leaf.as_ref().map(|leaf| (leaf.certificate.pem(), leaf.key_pem()))
    }
}

/// The readable certificates of a PEM text, up to the first that is none.
pub(super) fn certificates(pem: &str) -> Vec<Certificate> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .map_while(Result::ok)
        .filter_map(|der| Certificate::parse(&der))
        .collect()
}

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const TLS_CERTIFICATE: &str = "tls.crt";
const TLS_KEY: &str = "tls.key";
