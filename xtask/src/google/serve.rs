//! The listeners: one per API, each request taken through log, fault and handler in that order. hyper is used directly
//! because only a service error, which axum's handlers cannot give, closes a connection without an answer.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::fault::{Endpoint, Fault};
use super::form::Form;
use super::jwt::Jwt;
use super::reply::{Handled, Reply};
use super::state::Simulator;
use super::{certs, iam, identity_platform, metadata, oauth, sts};

/// The APIs, each on its own port.
#[derive(Clone, Copy, Debug)]
pub(super) enum Api {
    Metadata,
    IamCredentials,
    Sts,
    /// The token endpoint and the published keys.
    Oauth,
    /// Identity Platform's sign-in.
    IdentityToolkit,
    /// Identity Platform's refresh.
    SecureToken,
}

impl Api {
    fn endpoint(self, path: &str) -> Endpoint {
        match self {
            Self::Metadata => metadata::endpoint(path),
            Self::IamCredentials => iam::endpoint(path),
            Self::Sts => sts::endpoint(path),
            Self::Oauth if path == oauth::PATH => Endpoint::OauthToken,
            Self::Oauth => certs::endpoint(path),
            Self::IdentityToolkit => identity_platform::sign_in_endpoint(path),
            Self::SecureToken => identity_platform::refresh_endpoint(path),
        }
    }

    fn handle(self, sim: &Simulator, call: &Call, fault: Option<&Fault>) -> Handled {
        match self {
            Self::Metadata => metadata::handle(sim, call, fault),
            Self::IamCredentials => iam::handle(sim, call, fault),
            Self::Sts => sts::handle(sim, call, fault),
            Self::Oauth if call.endpoint == Endpoint::OauthToken => oauth::handle(sim, call, fault),
            Self::Oauth => certs::handle(sim, call),
            Self::IdentityToolkit | Self::SecureToken => identity_platform::handle(sim, call, fault),
        }
    }

    /// Headers that this API puts on every answer.
    fn finish(self, sim: &Simulator, reply: Reply) -> Reply {
        match self {
            Self::Metadata => metadata::finish(sim, reply),
            _ => reply,
        }
    }
}

/// One request, read whole.
pub(super) struct Call {
    pub(super) endpoint: Endpoint,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Call {
    async fn read(api: Api, request: Request<Incoming>) -> anyhow::Result<Self> {
        let (parts, body) = request.into_parts();
        let body =
            Limited::new(body, MAX_BODY).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
        let endpoint = api.endpoint(parts.uri.path());
        Ok(Self { endpoint, method: parts.method, uri: parts.uri, headers: parts.headers, body })
    }

    /// The query, decoded.
    pub(super) fn query(&self) -> Form {
        Form::parse(self.uri.query().unwrap_or_default())
    }

    /// The body as a form.
    pub(super) fn form(&self) -> Form {
        Form::parse(&String::from_utf8_lossy(&self.body))
    }

    /// The body as JSON.
    pub(super) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// A header's text.
    pub(super) fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The audience that the caller wants a token for.
    pub(super) fn audience(&self) -> Option<String> {
        match self.endpoint {
            Endpoint::MetadataIdentity => self.query().get("audience").map(Into::into),
            Endpoint::GenerateIdToken => Some(self.json()?.get("audience")?.as_str()?.into()),
            Endpoint::Sts => sts::Params::of(self)?.get("audience"),
            Endpoint::OauthToken => {
                let form = self.form();
                let assertion = Jwt::parse(form.get("assertion")?)?;
                Some(assertion.claims.get("target_audience")?.as_str()?.into())
            }
            _ => None,
        }
    }
}

/// Accepts until it is aborted; its connections end with it.
pub(super) async fn accept(sim: Arc<Simulator>, api: Api, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(secured(Arc::clone(&sim), api, stream));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The metadata server speaks plain HTTP always, the others only where no TLS is asked for.
async fn secured(sim: Arc<Simulator>, api: Api, stream: TcpStream) {
    let _ = stream.set_nodelay(true); // only speed is lost
    match &sim.tls {
        Some(tls) if !matches!(api, Api::Metadata) => {
            // A handshake that fails is the client's to tell.
            if let Ok(stream) = tls.clone().accept(stream).await {
                connection(sim, api, stream).await;
            }
        }
        _ => connection(sim, api, stream).await,
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin>(sim: Arc<Simulator>, api: Api, stream: S) {
    let service = service_fn(move |request| {
        let sim = Arc::clone(&sim);
        async move { answer(&sim, api, request).await.map(|reply| *reply) }
    });
    let served =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(?api, %error, "a connection to the Google simulator ended early");
    }
}

/// One request's way; an error closes the connection.
async fn answer(sim: &Simulator, api: Api, request: Request<Incoming>) -> anyhow::Result<Reply> {
    let call = Call::read(api, request).await?;
    let entry = sim.log.open(sim.now(), &call);
    let fault = sim.faults.take(call.endpoint);
    match &fault {
        Some(Fault::DropConnection) => anyhow::bail!("dropped, as asked"),
        Some(Fault::Latency(time)) => tokio::time::sleep(*time).await,
        Some(Fault::Held) => sim.faults.released(call.endpoint).await,
        _ => {}
    }
    let refused = fault.as_ref().and_then(|fault| fault.reply(sim, &call));
    let reply =
        refused.unwrap_or_else(|| api.handle(sim, &call, fault.as_ref()).unwrap_or_else(|error| error));
    sim.log.close(entry, reply.status().as_u16());
    Ok(api.finish(sim, reply))
}

/// A listener with its origin.
pub(super) async fn bind(scheme: &str, address: IpAddr, port: u16) -> anyhow::Result<(TcpListener, String)> {
    let listener =
        TcpListener::bind((address, port)).await.with_context(|| format!("binding {address}:{port}"))?;
    let origin = format!("{scheme}://{}", listener.local_addr()?);
    Ok((listener, origin))
}

const MAX_BODY: usize = 1 << 20;
