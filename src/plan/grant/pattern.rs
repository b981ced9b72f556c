//! The patterns of a grant. Each is parsed whole: what doesn't fit one of the forms matches nothing.

/// Identities that a grant names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityPattern<'p> {
    /// `*`: every identity, the operator's own included. Only with all namespaces.
    Any,
    /// `operator` or one e-mail address.
    Exact(&'p str),
    /// `*@PROJECT.iam.gserviceaccount.com`: every service account of one project.
    Domain(&'p str),
}

impl<'p> IdentityPattern<'p> {
    /// `None` for a star elsewhere than in the three forms.
    #[must_use]
    pub fn parse(text: &'p str) -> Option<Self> {
        match text {
            "" => None,
            "*" => Some(Self::Any),
            _ => match text.strip_prefix("*@") {
                Some(domain) if domain.contains('*') || !domain.ends_with(".iam.gserviceaccount.com") => None,
                Some(domain) => Some(Self::Domain(domain)),
                None if text.contains('*') => None,
                None => Some(Self::Exact(text)),
            },
        }
    }

    /// Whether `identity` is one of them.
    #[must_use]
    pub fn matches(&self, identity: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => *name == identity,
            Self::Domain(domain) => {
                identity.split_once('@').is_some_and(|(local, rest)| !local.is_empty() && rest == *domain)
            }
        }
    }
}

/// Audiences that a grant names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AudiencePattern<'p> {
    /// `*`. Only with all namespaces or a single exact identity.
    Any,
    /// No star at all.
    Exact(&'p str),
    /// `scheme://*.suffix` and `scheme://*.suffix/*`: one or more whole labels before the suffix.
    Subdomains {
        /// As written.
        scheme: &'p str,
        /// Without the leading dot.
        suffix: &'p str,
        /// False: only an empty path or `/`.
        any_path: bool,
    },
    /// `scheme://host/prefix*`.
    Prefix {
        /// As written.
        scheme: &'p str,
        /// Host, with its port if one is written.
        authority: &'p str,
        /// With its leading slash, without the star.
        path: &'p str,
    },
}

impl<'p> AudiencePattern<'p> {
    /// `None` for a star elsewhere than in the four forms.
    #[must_use]
    pub fn parse(text: &'p str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        if !text.contains('*') {
            return (!text.is_empty()).then_some(Self::Exact(text));
        }
        let (scheme, rest) = split_scheme(text)?;
        if let Some(rest) = rest.strip_prefix("*.") {
            let (suffix, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let any_path = match path {
                "" | "/" => false,
                "/*" => true,
                _ => return None,
            };
            return is_suffix(suffix).then_some(Self::Subdomains { scheme, suffix, any_path });
        }
        let (authority, path) = rest.split_at(rest.find('/')?);
        let path = path.strip_suffix('*')?;
        let fits = is_authority(authority) && !path.contains('*') && is_plain_path(path);
        fits.then_some(Self::Prefix { scheme, authority, path })
    }

    /// Whether `audience` is one of them: case-insensitive for scheme and host, exact for the rest. An audience with
    /// user information, a query, a fragment, a backslash or dot segments is matched only by an exact pattern.
    #[must_use]
    pub fn matches(&self, audience: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(pattern) => same_address(pattern, audience),
            Self::Subdomains { scheme, suffix, any_path } => {
                parts(audience).is_some_and(|(s, host, path)| {
                    s.eq_ignore_ascii_case(scheme)
                        && is_below(host, suffix)
                        && (*any_path || path.is_empty() || path == "/")
                })
            }
            Self::Prefix { scheme, authority, path } => parts(audience).is_some_and(|(s, host, p)| {
                s.eq_ignore_ascii_case(scheme) && host.eq_ignore_ascii_case(authority) && p.starts_with(path)
            }),
        }
    }
}

/// Scheme, authority and path of an address plain enough to be matched by a wildcard.
fn parts(audience: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = split_scheme(audience)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    (is_authority(authority) && is_plain_path(path)).then_some((scheme, authority, path))
}

/// `host` is one or more whole labels, a dot, and `suffix`. A port makes it differ.
fn is_below(host: &str, suffix: &str) -> bool {
    let Some(split) = host.len().checked_sub(suffix.len()) else { return false };
    let Some((labels, end)) = host.split_at_checked(split) else { return false };
    end.eq_ignore_ascii_case(suffix) && labels.strip_suffix('.').is_some_and(is_host)
}

fn same_address(pattern: &str, audience: &str) -> bool {
    match (split_scheme(pattern), split_scheme(audience)) {
        (Some((s, a)), Some((t, b))) => {
            let (host_a, rest_a) = a.split_at(a.find(['/', '?', '#']).unwrap_or(a.len()));
            let (host_b, rest_b) = b.split_at(b.find(['/', '?', '#']).unwrap_or(b.len()));
            // User information is case-sensitive: compared exactly together with its host.
            let hosts =
                if host_a.contains('@') { host_a == host_b } else { host_a.eq_ignore_ascii_case(host_b) };
            s.eq_ignore_ascii_case(t) && hosts && rest_a == rest_b
        }
        _ => pattern == audience,
    }
}

fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let first = scheme.bytes().next()?;
    let fits = first.is_ascii_alphabetic()
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    fits.then_some((scheme, rest))
}

/// At least two labels, and no end of an IPv4 address: parsers read such numbers in more than one way.
fn is_suffix(text: &str) -> bool {
    let end = text.rsplit_once('.').map(|(_, end)| end);
    is_host(text) && end.is_some_and(|end| end.starts_with(|first: char| first.is_ascii_alphabetic()))
}

fn is_authority(text: &str) -> bool {
    match text.split_once(':') {
        None => is_host(text),
        Some((host, port)) => is_host(host) && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()),
    }
}

fn is_host(text: &str) -> bool {
    text.split('.')
        .all(|label| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
}

/// No query, fragment, backslash or control character, and no segment that a receiver could resolve away.
fn is_plain_path(path: &str) -> bool {
    let dots = |segment: &str| {
        // Some receivers cut parameters off before they resolve a segment: `..;x`.
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        let plain = plain.split(';').next().unwrap_or_default();
        plain == "." || plain == ".."
    };
    let lower = path.to_ascii_lowercase();
    path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'\\'))
        && !lower.contains("%2f")
        && !lower.contains("%5c")
        && !path.split('/').any(dots)
}
