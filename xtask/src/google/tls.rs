//! TLS of the simulator's APIs, for operators that run elsewhere than on this machine's loopback: they refuse plain HTTP.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::cluster::certificates::Authority;

/// A certificate for one address, by an authority of its own.
#[derive(Clone)]
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    authority: String,
}

impl Tls {
    pub(super) fn new(address: IpAddr) -> anyhow::Result<Self> {
        // Fails only when a provider is installed already, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let authority = Authority::new()?;
        let credential = authority.server(&[&address.to_string()])?;
        let certificate = CertificateDer::from_pem_slice(credential.certificate.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(credential.key.as_bytes())?;
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .context("the simulator's certificate can't be used")?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), authority: authority.pem() })
    }

    /// The authority's certificate in PEM.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.acceptor.accept(stream).await
    }
}
