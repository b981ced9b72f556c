//! Asks a program over HTTP whether it is ready.

use anyhow::ensure;
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// Fails unless `url` (plain HTTP) answers with a 2xx.
pub(crate) async fn answers(url: &str) -> anyhow::Result<()> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let status = client.get(url.parse()?).await?.status();
    ensure!(status.is_success(), "{url} answers {status}");
    Ok(())
}
