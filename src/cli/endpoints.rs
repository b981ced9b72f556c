//! Flags that say where Google's APIs are.

use http::Uri;

use super::WrongUsage;
use crate::{
    token::endpoints::{self, ClusterPool, Endpoints, PUBLIC_UNIVERSE},
    verify::jwks::KeyUrls,
};

/// Where the keys of issuers are.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Google's endpoints")]
pub(super) struct KeyArgs {
    /// Domain of the universe of Google's whose APIs are called. Endpoints that are not given are of this universe
    #[arg(long, env = "IDTOKEN_OPERATOR_UNIVERSE_DOMAIN", value_name = "DOMAIN", default_value = PUBLIC_UNIVERSE)]
    universe_domain: String,
    /// Where an issuer publishes its keys; repeatable. ISSUER is `https://accounts.google.com` (both forms of Google's issuer),
    /// `https://securetoken.google.com` (Identity Platform, every project) or gserviceaccount.com (service accounts; URL with
    /// {email})
    #[arg(long, env = "IDTOKEN_OPERATOR_JWKS_URL", value_name = "ISSUER=URL", value_delimiter = ',')]
    jwks_url: Vec<String>,
}

/// Where Google's APIs are: for tests, private access and other universes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Google's endpoints")]
pub(super) struct EndpointArgs {
    #[command(flatten)]
    keys: KeyArgs,
    /// Origin of the metadata server
    #[arg(
        long,
        env = "IDTOKEN_OPERATOR_METADATA_URL",
        value_name = "URL",
        default_value = "http://metadata.google.internal"
    )]
    metadata_url: String,
    /// Origin of the IAM Credentials API [default: `https://iamcredentials.googleapis.com`]
    #[arg(long, env = "IDTOKEN_OPERATOR_IAM_CREDENTIALS_URL", value_name = "URL")]
    iam_credentials_url: Option<String>,
    /// Origin of the Security Token Service [default: `https://sts.googleapis.com`]
    #[arg(long, env = "IDTOKEN_OPERATOR_STS_URL", value_name = "URL")]
    sts_url: Option<String>,
    /// Origin of Identity Platform's sign-in [default: `https://identitytoolkit.googleapis.com`]
    #[arg(long, env = "IDTOKEN_OPERATOR_IDENTITY_TOOLKIT_URL", value_name = "URL")]
    identity_toolkit_url: Option<String>,
    /// Origin of Identity Platform's refresh [default: `https://securetoken.googleapis.com`]
    #[arg(long, env = "IDTOKEN_OPERATOR_SECURE_TOKEN_URL", value_name = "URL")]
    secure_token_url: Option<String>,
    /// Whole URL of the OAuth token endpoint [default: `https://oauth2.googleapis.com/token`]
    #[arg(long, env = "IDTOKEN_OPERATOR_OAUTH_TOKEN_URL", value_name = "URL")]
    oauth_token_url: Option<String>,
    /// Workload identity pool of this GKE cluster, `PROJECT_ID.svc.id.goog`; together with --identity-provider. Not given: both
    /// are found out from the metadata server
    #[arg(long, env = "IDTOKEN_OPERATOR_WORKLOAD_POOL", value_name = "POOL", requires = "identity_provider")]
    workload_pool: Option<String>,
    /// This GKE cluster as identity provider of its pool, `https://container.googleapis.com/v1/projects/PROJECT_ID/locations/LOCATION/clusters/CLUSTER`
    #[arg(long, env = "IDTOKEN_OPERATOR_IDENTITY_PROVIDER", value_name = "URL", requires = "workload_pool")]
    identity_provider: Option<String>,
}

impl KeyArgs {
    /// Where keys are published.
    pub(super) fn key_urls(&self) -> Result<KeyUrls, WrongUsage> {
        let universe = self.universe()?;
        let www = |path: &str| format!("https://www.{universe}{path}");
        let of = |path: &str| parse("--universe-domain", &www(path));
        let mut urls = KeyUrls {
            google: of("/oauth2/v3/certs")?,
            identity_platform: of("/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com")?,
            service_account: www("/service_accounts/v1/metadata/jwk/{email}"),
        };
        for pair in &self.jwks_url {
            let wrong = |mend: &str| WrongUsage(format!("--jwks-url {pair:?} is not valid: {mend}"));
            let (issuer, url) = issuer_and_url(pair).ok_or_else(|| wrong("write ISSUER=https://…"))?;
            let uri = |text: &str| parse("--jwks-url", text);
            match issuer {
                "https://accounts.google.com" => urls.google = uri(&url)?,
                "https://securetoken.google.com" => urls.identity_platform = uri(&url)?,
                "gserviceaccount.com" if url.contains("{email}") => {
                    uri(&url.replace("{email}", "email"))?;
                    urls.service_account = url;
                }
                "gserviceaccount.com" => return Err(wrong("write {email} where the address belongs")),
                _ => {
                    return Err(wrong(
                        "tokens come from https://accounts.google.com, https://securetoken.google.com and gserviceaccount.com",
                    ));
                }
            }
        }
        Ok(urls)
    }

    fn universe(&self) -> Result<&str, WrongUsage> {
        let domain = self.universe_domain.as_str();
        let label = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if domain.contains('.') && domain.split('.').all(label) {
            return Ok(domain);
        }
        Err(WrongUsage(format!(
            "--universe-domain {domain:?} is not valid: write a domain such as {PUBLIC_UNIVERSE}"
        )))
    }
}

impl EndpointArgs {
    /// Parses the addresses of the APIs.
    pub(super) fn endpoints(&self) -> Result<Endpoints, WrongUsage> {
        let universe = self.keys.universe()?;
        let of = |flag: &str, given: &Option<String>, host: &str, path: &str| {
            let text = given.clone().unwrap_or_else(|| format!("https://{host}.{universe}{path}"));
            parse(flag, &text)
        };
        Ok(Endpoints {
            metadata: endpoints::parse("--metadata-url", &self.metadata_url, true).map_err(WrongUsage)?,
            iam_credentials: of("--iam-credentials-url", &self.iam_credentials_url, "iamcredentials", "")?,
            sts: of("--sts-url", &self.sts_url, "sts", "")?,
            identity_toolkit: of(
                "--identity-toolkit-url",
                &self.identity_toolkit_url,
                "identitytoolkit",
                "",
            )?,
            secure_token: of("--secure-token-url", &self.secure_token_url, "securetoken", "")?,
            oauth_token: of("--oauth-token-url", &self.oauth_token_url, "oauth2", "/token")?,
            cluster_pool: self.cluster_pool()?,
            universe: universe.to_owned(),
        })
    }

    /// Where keys are published.
    pub(super) fn key_urls(&self) -> Result<KeyUrls, WrongUsage> {
        self.keys.key_urls()
    }

    fn cluster_pool(&self) -> Result<Option<ClusterPool>, WrongUsage> {
        let (Some(pool), Some(provider)) = (&self.workload_pool, &self.identity_provider) else {
            return Ok(None);
        };
        if pool.strip_suffix(".svc.id.goog").is_none_or(str::is_empty) {
            return Err(WrongUsage(format!(
                "--workload-pool {pool:?} is not valid: write PROJECT_ID.svc.id.goog"
            )));
        }
        parse("--identity-provider", provider)?;
        Ok(Some(ClusterPool { pool: pool.clone(), provider: provider.clone() }))
    }
}

/// Either part may have `=` in it.
fn issuer_and_url(pair: &str) -> Option<(&str, String)> {
    let (issuer, rest) = pair.split_once("=http")?;
    Some((issuer, format!("http{rest}")))
}

fn parse(flag: &str, text: &str) -> Result<Uri, WrongUsage> {
    endpoints::parse(flag, text, false).map_err(WrongUsage)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        endpoints: EndpointArgs,
    }

    fn flags(flags: &[&str]) -> EndpointArgs {
        Flags::try_parse_from(std::iter::once(&"x").chain(flags)).unwrap().endpoints
    }

    #[test]
    fn without_flags_google_is_called() {
        let endpoints = flags(&[]).endpoints().unwrap();
        let Endpoints {
            universe,
            cluster_pool,
            sts,
            identity_toolkit,
            secure_token,
            metadata,
            iam_credentials,
            oauth_token,
        } = endpoints;
        assert_eq!((universe.as_str(), cluster_pool), ("googleapis.com", None));
        let urls = [metadata, iam_credentials, sts, identity_toolkit, secure_token, oauth_token]
            .map(|u| u.to_string());
        assert_eq!(
            urls,
            [
                "http://metadata.google.internal/",
                "https://iamcredentials.googleapis.com/",
                "https://sts.googleapis.com/",
                "https://identitytoolkit.googleapis.com/",
                "https://securetoken.googleapis.com/",
                "https://oauth2.googleapis.com/token",
            ]
        );
        let keys = flags(&[]).key_urls().unwrap();
        assert_eq!(keys.google.to_string(), "https://www.googleapis.com/oauth2/v3/certs");
        assert_eq!(
            keys.service_account,
            "https://www.googleapis.com/service_accounts/v1/metadata/jwk/{email}"
        );
        assert_eq!(
            keys.identity_platform.to_string(),
            "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com"
        );
    }

    #[test]
    fn another_universe_has_its_own_endpoints_but_for_those_given() {
        let flags = flags(&["--universe-domain=s3nsapis.fr", "--sts-url=https://sts.example.com"]);
        let endpoints = flags.endpoints().unwrap();
        assert_eq!(endpoints.iam_credentials.to_string(), "https://iamcredentials.s3nsapis.fr/");
        assert_eq!(endpoints.sts.to_string(), "https://sts.example.com/");
        for bad in ["", "x", "a..b", "https://x.y", "A.b"] {
            let flags = super::tests::flags(&[&format!("--universe-domain={bad}")]);
            assert!(flags.endpoints().is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_replaced_issuer_by_issuer() {
        let flags = flags(&[
            "--jwks-url=https://accounts.google.com=http://127.0.0.1:9/certs,gserviceaccount.com=http://127.0.0.1:9/jwk/{email}",
        ]);
        let keys = flags.key_urls().unwrap();
        assert_eq!(keys.google.to_string(), "http://127.0.0.1:9/certs");
        assert_eq!(keys.service_account, "http://127.0.0.1:9/jwk/{email}");
        assert!(keys.identity_platform.to_string().starts_with("https://www.googleapis.com/"));
        for bad in [
            "https://accounts.google.com",
            "https://accounts.google.com=http://evil.com/certs",
            "https://evil.com=https://evil.com/certs",
            "gserviceaccount.com=https://www.googleapis.com/jwk",
            "gserviceaccount.com=http://evil.com/{email}",
        ] {
            assert!(super::tests::flags(&[&format!("--jwks-url={bad}")]).key_urls().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_clusters_pool_is_given_whole_or_not_at_all() {
        assert!(Flags::try_parse_from(["x", "--workload-pool=p.svc.id.goog"]).is_err());
        let provider =
            "--identity-provider=https://container.googleapis.com/v1/projects/p/locations/l/clusters/c";
        let given = flags(&["--workload-pool=p.svc.id.goog", provider]).endpoints().unwrap();
        assert_eq!(
            given.cluster_pool,
            Some(ClusterPool {
                pool: "p.svc.id.goog".to_owned(),
                provider: "https://container.googleapis.com/v1/projects/p/locations/l/clusters/c".to_owned(),
            })
        );
        assert!(flags(&["--workload-pool=p", provider]).endpoints().is_err());
    }
}
