//! Flags that say where Google's APIs are.

use http::Uri;

use crate::{
    token::endpoints::{Endpoints, parse},
    verify::GOOGLE_ISSUERS,
};

/// Where Google's APIs are: for tests, private access and other universes.
#[derive(Debug, clap::Args)]
#[allow(clippy::struct_field_names)] // the fields are the flags
#[command(next_help_heading = "Google's endpoints")]
pub(super) struct EndpointArgs {
    /// Origin of the metadata server
    #[arg(
        long,
        env = "IDTOKEN_OPERATOR_METADATA_URL",
        value_name = "URL",
        default_value = "http://metadata.google.internal"
    )]
    metadata_url: String,
    /// Origin of the IAM Credentials API
    #[arg(
        long,
        env = "IDTOKEN_OPERATOR_IAM_CREDENTIALS_URL",
        value_name = "URL",
        default_value = "https://iamcredentials.googleapis.com"
    )]
    iam_credentials_url: String,
    /// Whole URL of the OAuth token endpoint
    #[arg(
        long,
        env = "IDTOKEN_OPERATOR_OAUTH_TOKEN_URL",
        value_name = "URL",
        default_value = "https://oauth2.googleapis.com/token"
    )]
    oauth_token_url: String,
    /// Where an issuer publishes its keys; repeatable. The entry of https://accounts.google.com serves both forms of
    /// Google's issuer
    #[arg(
        long,
        env = "IDTOKEN_OPERATOR_JWKS_URL",
        value_name = "ISSUER=URL",
        value_delimiter = ',',
        default_value = "https://accounts.google.com=https://www.googleapis.com/oauth2/v3/certs"
    )]
    jwks_url: Vec<String>,
}

impl EndpointArgs {
    /// Parses the addresses of the APIs.
    pub(super) fn endpoints(&self) -> anyhow::Result<Endpoints> {
        let uri = |flag, text, plain| parse(flag, text, plain).map_err(anyhow::Error::msg);
        Ok(Endpoints {
            metadata: uri("--metadata-url", &self.metadata_url, true)?,
            iam_credentials: uri("--iam-credentials-url", &self.iam_credentials_url, false)?,
            oauth_token: uri("--oauth-token-url", &self.oauth_token_url, false)?,
        })
    }

    /// Issuers and where their keys are.
    pub(super) fn jwks(&self) -> anyhow::Result<Vec<(String, Uri)>> {
        let urls: Vec<_> = self.jwks_url.iter().map(|pair| jwks(pair)).collect::<anyhow::Result<_>>()?;
        let google = GOOGLE_ISSUERS[0];
        anyhow::ensure!(
            urls.iter().any(|(issuer, _)| issuer == google),
            "--jwks-url has no entry for {google}: tokens from Google could not be verified"
        );
        Ok(urls)
    }
}

fn jwks(pair: &str) -> anyhow::Result<(String, Uri)> {
    let (issuer, url) = pair
        .split_once("=http")
        .map(|(issuer, rest)| (issuer, format!("http{rest}")))
        .ok_or_else(|| anyhow::anyhow!("--jwks-url {pair:?} is not valid: write ISSUER=https://…"))?;
    Ok((issuer.to_owned(), parse("--jwks-url", &url, false).map_err(anyhow::Error::msg)?))
}

#[cfg(test)]
mod tests {
    use super::jwks;

    #[test]
    fn an_issuer_may_itself_be_a_url() {
        let (issuer, url) = jwks("https://accounts.google.com=http://127.0.0.1:9/oauth2/v3/certs").unwrap();
        assert_eq!(issuer, "https://accounts.google.com");
        assert_eq!(url.to_string(), "http://127.0.0.1:9/oauth2/v3/certs");
        assert!(jwks("https://accounts.google.com").is_err());
        assert!(jwks("https://accounts.google.com=http://evil.com/certs").is_err());
    }
}
