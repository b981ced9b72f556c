//! A proxy before the API server that cuts, refuses and freezes watches, delays requests and loses answers.
//!
//! It ends TLS with the API server's own certificate and speaks HTTP/1.1 only, so that a connection carries one request at a
//! time: what the last one asked for says whether a connection is a watch.

use std::{
    ops::RangeInclusive,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use rustls_pki_types::pem::PemObject as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::{CancellationToken, DropGuard};
use xtask::cluster::Cluster;

/// A running proxy; it ends when this is dropped.
pub struct Proxy {
    url: String,
    faults: Arc<Faults>,
    _running: DropGuard,
}

/// What goes wrong, and what was seen.
#[derive(Default)]
struct Faults {
    /// Counts the cuts.
    cut: watch::Sender<u64>,
    frozen: watch::Sender<bool>,
    refused: AtomicBool,
    /// Seconds before each request.
    delay: Mutex<Option<RangeInclusive<u64>>>,
    /// What the first line of the request holds whose answer is lost.
    lost: Mutex<Option<&'static str>>,
    requests: AtomicU64,
    watches: AtomicUsize,
    gone: AtomicUsize,
}

impl Proxy {
    /// Before the API server of `cluster`.
    pub async fn start(cluster: &Cluster) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (acceptor, connector) = (acceptor(cluster.directory()), connector(cluster));
        let target = cluster.server().strip_prefix("https://").unwrap().to_owned();
        let (faults, stop) = (Arc::new(Faults::default()), CancellationToken::new());
        let (shared, stopped) = (faults.clone(), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                let (acceptor, connector) = (acceptor.clone(), connector.clone());
                let (target, faults) = (target.clone(), shared.clone());
                tokio::spawn(stopped.clone().run_until_cancelled_owned(async move {
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    let name = ServerName::try_from("127.0.0.1").unwrap();
                    // Whatever fails ends the connection, which is all that a client may learn.
                    let (Ok(client), Ok(server)) =
                        (acceptor.accept(client).await, connector.connect(name, server).await)
                    else {
                        return;
                    };
                    faults.pass(client, server).await;
                }));
            }
        }));
        Self { url, faults, _running: stop.drop_guard() }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends all watches that there are.
    pub fn cut_watches(&self) {
        self.faults.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Ends each watch as soon as it is asked for.
    pub fn refuse_watches(&self, refuse: bool) {
        self.faults.refused.store(refuse, SeqCst);
    }

    /// Lets nothing through to those who watch.
    pub fn freeze_watches(&self, freeze: bool) {
        self.faults.frozen.send_replace(freeze);
    }

    /// Lets each request wait for so many seconds, one after the other taking its turn of the range.
    pub fn delay(&self, seconds: Option<RangeInclusive<u64>>) {
        *self.faults.delay.lock().unwrap() = seconds;
    }

    /// Breaks the connection over which the next request goes whose first line holds `part`, once the API server has answered.
    pub fn lose_answer(&self, part: &'static str) {
        *self.faults.lost.lock().unwrap() = Some(part);
    }

    /// How many watches have been asked for.
    pub fn watches(&self) -> usize {
        self.faults.watches.load(SeqCst)
    }

    /// How often a watch was told that it asks for what has been forgotten.
    pub fn gone(&self) -> usize {
        self.faults.gone.load(SeqCst)
    }
}

impl Faults {
    async fn pass<C, S>(&self, client: C, server: S)
    where
        C: AsyncRead + AsyncWrite,
        S: AsyncRead + AsyncWrite,
    {
        let mut cut = self.cut.subscribe();
        let (is_watch, is_lost) = (AtomicBool::new(false), AtomicBool::new(false));
        let ((from_client, to_client), (from_server, to_server)) = (split(client), split(server));
        let cutting = async {
            while cut.changed().await.is_ok() {
                if is_watch.load(SeqCst) {
                    return;
                }
            }
        };
        tokio::select! {
            () = self.requests(from_client, to_server, &is_watch, &is_lost) => {}
            () = self.answers(from_server, to_client, &is_watch, &is_lost) => {}
            () = cutting => {}
        }
    }

    async fn requests(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        is_watch: &AtomicBool,
        is_lost: &AtomicBool,
    ) {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let line = buffer[..read].split(|byte| *byte == b'\r').next().unwrap_or_default();
            if METHODS.iter().any(|method| line.starts_with(method.as_bytes())) {
                let line = String::from_utf8_lossy(line);
                let watches = line.contains("watch=true");
                let lost = self.lost.lock().unwrap().take_if(|part| line.contains(*part));
                is_lost.store(lost.is_some(), SeqCst);
                is_watch.store(watches, SeqCst);
                self.watches.fetch_add(usize::from(watches), SeqCst);
                if watches && self.refused.load(SeqCst) {
                    return;
                }
                sleep(self.next_delay()).await;
            }
            if to.write_all(&buffer[..read]).await.is_err() || to.flush().await.is_err() {
                return;
            }
        }
    }

    async fn answers(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        is_watch: &AtomicBool,
        is_lost: &AtomicBool,
    ) {
        let mut frozen = self.frozen.subscribe();
        let mut buffer = vec![0; 1 << 16];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if is_lost.load(SeqCst) {
                return;
            }
            if is_watch.load(SeqCst) {
                let _ = frozen.wait_for(|frozen| !frozen).await;
                let told = String::from_utf8_lossy(&buffer[..read]).contains("\"code\":410");
                self.gone.fetch_add(usize::from(told), SeqCst);
            }
            if to.write_all(&buffer[..read]).await.is_err() || to.flush().await.is_err() {
                return;
            }
        }
    }

    fn next_delay(&self) -> Duration {
        let turn = self.requests.fetch_add(1, SeqCst);
        let range = self.delay.lock().unwrap().clone();
        Duration::from_secs(range.map_or(0, |range| range.start() + turn % (range.end() - range.start() + 1)))
    }
}

fn acceptor(directory: &Path) -> TlsAcceptor {
    let certificates = CertificateDer::pem_file_iter(directory.join("kube-apiserver.crt")).unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join("kube-apiserver.key")).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates.map(Result::unwrap).collect(), key);
    TlsAcceptor::from(Arc::new(config.unwrap()))
}

fn connector(cluster: &Cluster) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(cluster.certificate_authority().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

const METHODS: [&str; 5] = ["GET ", "POST ", "PUT ", "PATCH ", "DELETE "];
