//! The end, as a client sees it on the wire.
use rustls_pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio_rustls::{TlsConnector, client};

use super::*;

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const HEADERS: u8 = 1;
const ACK: u8 = 1;
/// END_STREAM and END_HEADERS: the whole request.
const WHOLE: u8 = 5;

#[tokio::test]
async fn http2_client_is_sent_away_and_its_running_request_answered() {
    let authority = authority();
    let server = start(limits()).await;
    publish(&server.hot, &authority);
    let mut connection = Http2::connect(&server, &authority).await;
    connection.request(1, "/slow").await;
    tokio::time::sleep(Duration::from_millis(100)).await; // it runs
    server.cancel.cancel();

    let first = connection.until(GOAWAY).await;
    assert_eq!(last_stream(&first), 0x7fff_ffff, "notice first, so that requests on their way are served");
    assert_eq!(error_code(&first), 0);
    connection.request(3, "/").await; // it met the notice
    let second = connection.until(GOAWAY).await;
    assert_eq!((last_stream(&second), error_code(&second)), (3, 0));
    connection.request(5, "/").await;
    connection.drain().await;
    assert_eq!(connection.answered, [3, 1], "5 came after the last word, and no answer");
    timeout(Duration::from_secs(5), server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn http1_client_is_told_to_close() {
    let authority = authority();
    let server = start(Limits { idle: Duration::from_millis(100), ..limits() }).await;
    publish(&server.hot, &authority);
    let mut tls = connect(&server, &authority, "http/1.1").await;
    let before = ask(&mut tls, "/").await;
    assert!(before.starts_with("http/1.1 200") && !before.contains("connection: close"), "{before}");

    let get = tls.write_all(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n");
    get.await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await; // it runs
    server.cancel.cancel();
    assert_told_to_close(&rest(tls).await);
}

/// The API server asks over HTTP/1.1, and does not repeat what it had begun to send: what it keeps open has to stay open until it asks.
#[tokio::test]
async fn http1_connections_without_a_request_wait_for_the_one_that_is_on_its_way() {
    let authority = authority();
    let server =
        start(Limits { idle: Duration::from_secs(4), drain: Duration::from_secs(10), ..limits() }).await;
    publish(&server.hot, &authority);
    let fresh = connect(&server, &authority, "http/1.1").await;
    let mut used = connect(&server, &authority, "http/1.1").await;
    ask(&mut used, "/").await;
    let idle = connect(&server, &authority, "http/1.1").await;
    server.cancel.cancel();
    while TcpStream::connect(server.addr).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    for mut tls in [fresh, used] {
        assert_told_to_close(&ask(&mut tls, "/").await);
        assert_eq!(rest(tls).await, "");
    }
    let told = Instant::now();
    assert_eq!(rest(idle).await, "", "closed without a word");
    assert!(told.elapsed() > Duration::from_millis(500), "{:?}: it was given its time", told.elapsed());
    timeout(Duration::from_secs(5), server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn nobody_is_waited_for_when_all_have_gone() {
    let authority = authority();
    let server =
        start(Limits { idle: Duration::from_secs(30), drain: Duration::from_secs(60), ..limits() }).await;
    publish(&server.hot, &authority);
    let mut tls = connect(&server, &authority, "http/1.1").await;
    ask(&mut tls, "/").await;
    drop(tls);
    server.cancel.cancel();
    timeout(Duration::from_secs(5), server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn connection_made_in_the_last_moment_is_served() {
    let authority = authority();
    let server = start(limits()).await;
    publish(&server.hot, &authority);
    server.cancel.cancel();
    let mut connection = Http2::connect(&server, &authority).await;
    connection.request(1, "/").await;
    connection.drain().await;
    assert_eq!(connection.answered, [1]);
}

struct Http2 {
    tls: client::TlsStream<TcpStream>,
    /// Streams whose answer has come, in that order.
    answered: Vec<u32>,
}

/// Type, flags, stream and content of a frame.
type Frame = (u8, u8, u32, Vec<u8>);

impl Http2 {
    async fn connect(server: &Running, authority: &CertifiedIssuer<'static, KeyPair>) -> Self {
        let mut tls = connect(server, authority, "h2").await;
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut connection = Self { tls, answered: Vec::new() };
        connection.send(SETTINGS, 0, 0, &[]).await;
        connection
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, content: &[u8]) {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(content);
        self.tls.write_all(&frame).await.unwrap();
        self.tls.flush().await.unwrap();
    }

    async fn request(&mut self, stream: u32, path: &str) {
        // HPACK: GET and https from the static table, then two literals with names from it.
        let mut block = vec![0x82, 0x87, 0x04, u8::try_from(path.len()).unwrap()];
        block.extend(path.as_bytes());
        block.extend([0x01, 9]);
        block.extend(b"localhost");
        self.send(HEADERS, WHOLE, stream, &block).await;
    }

    /// The next frame; `None` at the end. Pings are answered, as every client does.
    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        timeout(Duration::from_secs(5), self.tls.read_exact(&mut head)).await.unwrap().ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut content = vec![0; length as usize];
        self.tls.read_exact(&mut content).await.unwrap();
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        match (head[3], head[4]) {
            (PING, 0) => self.send(PING, ACK, 0, &content).await,
            (SETTINGS, 0) => self.send(SETTINGS, ACK, 0, &[]).await,
            (HEADERS, _) => {
                assert_eq!(content[0], 0x88, "status 200, from the static table");
                self.answered.push(stream);
            }
            _ => {}
        }
        Some((head[3], head[4], stream, content))
    }

    async fn until(&mut self, kind: u8) -> Vec<u8> {
        loop {
            // Looked at before the ping that follows it is answered.
            let (found, _, _, content) = self.next().await.unwrap();
            if found == kind {
                return content;
            }
        }
    }

    async fn drain(&mut self) {
        while self.next().await.is_some() {}
    }
}

/// A request, and what has come of its answer at first.
async fn ask(tls: &mut client::TlsStream<TcpStream>, path: &str) -> String {
    tls.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = [0; 256];
    let length = timeout(Duration::from_secs(5), tls.read(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer[..length]).to_lowercase()
}

/// What comes until the server closes.
async fn rest(mut tls: client::TlsStream<TcpStream>) -> String {
    let mut answer = String::new();
    timeout(Duration::from_secs(8), tls.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer.to_lowercase()
}

fn assert_told_to_close(answer: &str) {
    assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
}

fn last_stream(goaway: &[u8]) -> u32 {
    u32::from_be_bytes(goaway[..4].try_into().unwrap())
}

fn error_code(goaway: &[u8]) -> u32 {
    u32::from_be_bytes(goaway[4..8].try_into().unwrap())
}

pub(super) async fn connect(
    server: &Running,
    authority: &CertifiedIssuer<'static, KeyPair>,
    protocol: &str,
) -> client::TlsStream<TcpStream> {
    let mut config = client_config(authority);
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let tcp = TcpStream::connect(server.addr).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}
