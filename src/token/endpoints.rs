//! Where Google's APIs are. Configurable for tests, private access and other universes.

use http::Uri;

/// Origins and URLs of the APIs that the sources call, and the universe that they are of.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// `googleapis.com`, or the domain of another universe of Google's.
    pub universe: String,
    /// The pool that a GKE cluster has by itself, where it is not to be found out from the metadata server.
    pub cluster_pool: Option<ClusterPool>,
    /// Origin of the Security Token Service.
    pub sts: Uri,
    /// Origin of Identity Platform's sign-in.
    pub identity_toolkit: Uri,
    /// Origin of Identity Platform's refresh.
    pub secure_token: Uri,
    /// Origin of the metadata server.
    pub metadata: Uri,
    /// Origin of IAM Credentials.
    pub iam_credentials: Uri,
    /// Whole URL of the OAuth token endpoint.
    pub oauth_token: Uri,
}

/// The workload identity pool of a GKE cluster, and the cluster as its provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterPool {
    /// `PROJECT_ID.svc.id.goog`.
    pub pool: String,
    /// `https://container.googleapis.com/v1/projects/PROJECT_ID/locations/LOCATION/clusters/CLUSTER`.
    pub provider: String,
}

/// The universe of everybody who has not been told otherwise.
pub const PUBLIC_UNIVERSE: &str = "googleapis.com";

/// Parses an origin or URL given by a flag: `https`, or `http` where `plain_allowed` or on loopback.
pub fn parse(flag: &str, text: &str, plain_allowed: bool) -> Result<Uri, String> {
    let wrong = |mend: &str| format!("{flag} {text:?} is not valid: {mend}");
    let uri: Uri =
        text.trim_end_matches('/').parse().map_err(|_| wrong("write https://HOST[:PORT][/PATH]"))?;
    let host =
        uri.host().filter(|h| !h.is_empty()).ok_or_else(|| wrong("write https://HOST[:PORT][/PATH]"))?;
    if uri.query().is_some() || uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(wrong("leave out user information and query"));
    }
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if plain_allowed || is_loopback(host) => Ok(uri),
        Some("http") => Err(wrong("use https: credentials would cross the network in the clear")),
        _ => Err(wrong("write https://HOST[:PORT][/PATH]")),
    }
}

/// `base` with `path_and_query` behind it.
pub(super) fn join(base: &Uri, path_and_query: &str) -> Result<Uri, super::http::CallError> {
    let text = format!("{}{path_and_query}", base.to_string().trim_end_matches('/'));
    text.parse()
        .map_err(|_| super::http::CallError::Invalid(format!("{} is no address", without_query(&text))))
}

/// `address` up to its query, which may hold an API key.
pub(super) fn without_query(address: &str) -> &str {
    address.split('?').next().unwrap_or_default()
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
pub(crate) fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(3 * text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}"); // writing to a String can't fail
        }
        out
    })
}

/// Whether plain HTTP to `host` leaves this machine and its hypervisor: not so on loopback and link-local addresses.
pub(super) fn is_beyond_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    let is_link_local = address.is_ok_and(|address| match address {
        std::net::IpAddr::V4(v4) => v4.is_link_local(),
        std::net::IpAddr::V6(v6) => v6.is_unicast_link_local(),
    });
    !is_link_local && !is_loopback(host)
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_and_the_metadata_server() {
        for good in [
            "https://iamcredentials.googleapis.com",
            "https://x/",
            "http://127.0.0.1:80",
            "http://[::1]:9",
            "http://localhost",
        ] {
            assert!(parse("--x", good, false).is_ok(), "{good}");
        }
        for bad in [
            "http://iamcredentials.googleapis.com",
            "ftp://x",
            "x",
            "",
            "https://u@x",
            "https://x?y",
            "http://127.0.0.1.evil.com",
        ] {
            assert!(parse("--x", bad, false).is_err(), "{bad}");
        }
        assert!(parse("--metadata-url", "http://metadata.google.internal", true).is_ok());
        assert_eq!(
            parse("--sts-url", "http://sts.googleapis.com", false).unwrap_err(),
            "--sts-url \"http://sts.googleapis.com\" is not valid: use https: credentials would cross the network in the clear"
        );
    }

    #[test]
    fn paths_are_joined_and_audiences_encoded() {
        let base = parse("--x", "http://127.0.0.1:8080/", false).unwrap();
        assert_eq!(join(&base, "/a?b=c").unwrap().to_string(), "http://127.0.0.1:8080/a?b=c");
        assert_eq!(encode("https://x/?a=b&c#d e"), "https%3A%2F%2Fx%2F%3Fa%3Db%26c%23d%20e");
    }
}
