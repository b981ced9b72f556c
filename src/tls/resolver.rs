//! The certificate of the moment, which can be exchanged under running connections.
use std::{fmt, sync::Arc};

use arc_swap::ArcSwapOption;
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// Holds the serving certificate. Until the first one is published, handshakes fail.
#[derive(Default)]
pub struct HotCert(ArcSwapOption<CertifiedKey>);

/// Why a certificate was not published.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The chain is not PEM.
    #[error("reading the certificate chain: {0}")]
    Chain(rustls_pki_types::pem::Error),
    /// The chain holds no certificate.
    #[error("the certificate chain is empty")]
    Empty,
    /// The key is not PEM. Parser messages are left out: they may quote the input.
    #[error("the private key is not readable PEM")]
    Key,
    /// The key can't be used, or belongs to another certificate.
    #[error("certificate and key: {0}")]
    Pair(rustls::Error),
}

impl HotCert {
    /// Publishes a chain and its key, both PEM, if they belong together; else the present ones stay.
    pub fn publish(&self, chain: &[u8], key: &[u8]) -> Result<(), CertificateError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(CertificateError::Chain)?;
        if chain.is_empty() {
            return Err(CertificateError::Empty);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::Key)?;
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(CertificateError::Pair)?;
        self.0.store(Some(Arc::new(certified)));
        Ok(())
    }

    /// Whether there is a certificate.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.0.load().is_some()
    }
}

impl ResolvesServerCert for HotCert {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl fmt::Debug for HotCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HotCert").field("loaded", &self.is_loaded()).finish()
    }
}

/// A server configuration for HTTP/2 and HTTP/1.1 that always presents what `certificate` holds.
pub fn server_config(certificate: Arc<HotCert>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Named instead of taken from the process, so that nothing depends on what was installed first.
fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn issue() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert =
            rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    #[test]
    fn a_torn_update_leaves_the_present_certificate() {
        let (hot, (chain, key), (other, _)) = (HotCert::default(), issue(), issue());
        assert!(!hot.is_loaded());
        hot.publish(chain.as_bytes(), key.as_bytes()).unwrap();
        let before = hot.0.load_full().unwrap();
        assert!(matches!(hot.publish(other.as_bytes(), key.as_bytes()), Err(CertificateError::Pair(_))));
        assert!(matches!(hot.publish(b"", key.as_bytes()), Err(CertificateError::Empty)));
        assert!(matches!(hot.publish(chain.as_bytes(), b"-----BEGIN"), Err(CertificateError::Key)));
        assert!(Arc::ptr_eq(&before, &hot.0.load_full().unwrap()));
    }

    #[test]
    fn debug_prints_no_key() {
        let (hot, (chain, key)) = (HotCert::default(), issue());
        hot.publish(chain.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(format!("{hot:?}"), "HotCert { loaded: true }");
    }
}
