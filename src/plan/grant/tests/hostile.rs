//! Audiences and identities made from the pattern itself, to look as if it named them. The judge is the crate `url`, which
//! reads addresses as browsers do and shares no code with the patterns.

use proptest::prelude::*;
use url::Url;

use super::super::pattern::{AudiencePattern, IdentityPattern};

/// A pattern, and an address that it names, in parts.
#[derive(Clone, Debug)]
struct Named {
    pattern: String,
    /// In full; below a wildcard's suffix.
    host: String,
    /// What a wildcard names, without the dot; else the host.
    suffix: String,
    port: Option<u16>,
    /// Begins with a slash.
    path: String,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Exact,
    /// `https://*.suffix`.
    Hosts,
    /// `https://*.suffix/*`.
    HostsAndPaths,
    /// `https://host/prefix*`.
    Prefix,
}

fn named() -> impl Strategy<Value = Named> {
    let form =
        prop_oneof![Just(Form::Exact), Just(Form::Hosts), Just(Form::HostsAndPaths), Just(Form::Prefix)];
    let suffix = "([a-z0-9]{1,4}(-[a-z0-9])?\\.){1,2}[a-z]{2,4}";
    let labels = "([a-z0-9]{1,4}\\.){1,2}";
    let port = proptest::option::of(1024_u16..);
    (form, suffix, labels, port, "(/[a-z0-9]{1,4}){0,2}/").prop_map(|(form, suffix, labels, port, path)| {
        let host = format!("{labels}{suffix}");
        let at = port.map(|port| format!(":{port}")).unwrap_or_default();
        let (pattern, suffix, port, path) = match form {
            Form::Exact => (format!("https://{host}{at}{path}"), host.clone(), port, path),
            Form::Hosts => (format!("https://*.{suffix}"), suffix, None, "/".to_owned()),
            Form::HostsAndPaths => (format!("https://*.{suffix}/*"), suffix, None, path),
            Form::Prefix => (format!("https://{host}{at}{path}*"), host.clone(), port, path),
        };
        Named { pattern, host, suffix, port, path, form }
    })
}

impl Named {
    fn authority(&self) -> String {
        self.port.map_or_else(|| self.host.clone(), |port| format!("{}:{port}", self.host))
    }

    /// As harmless as it can be.
    fn good(&self) -> String {
        format!("https://{}{}", self.authority(), self.path)
    }

    /// Every way to write another address so that it looks like a good one.
    fn disguises(&self) -> Vec<String> {
        let Self { suffix, path, .. } = self;
        let good = self.authority();
        let mut all = Vec::new();
        for gap in GAPS {
            for end in ["", path.as_str()] {
                all.push(format!("https://evil.example{gap}{good}{end}"));
                all.push(format!("https://evil.example{gap}{suffix}{end}"));
                all.push(format!("https://{good}{gap}evil.example{end}"));
                all.push(format!("https://{suffix}{gap}evil.example{end}"));
            }
        }
        for user in
            ["user@", "user:password@", "@", ":@", "a@b@", "%40@", "evil.example/@", "evil.example\\@"]
        {
            all.push(format!("https://{user}{good}{path}"));
        }
        for scheme in SCHEMES {
            all.push(format!("{scheme}{good}{path}"));
        }
        for tail in TAILS {
            all.push(format!("https://{good}{path}{tail}"));
        }
        all.extend(self.other_hosts());
        all
    }

    fn other_hosts(&self) -> Vec<String> {
        let Self { host, suffix, path, .. } = self;
        let mut all = Vec::new();
        for host in [
            format!("{host}."),
            format!("{host}.."),
            format!(".{suffix}"),
            format!("x..{suffix}"),
            format!("%2e{suffix}"),
            format!("evil{suffix}"),
            format!("\u{ff45}vil.{suffix}"),
            format!("xn--80ak6aa92e.{suffix}"),
            format!("xn--a.{suffix}"),
            format!("127.0.0.1.{suffix}"),
            format!("0x7f.1.{suffix}"),
            format!("[::1].{suffix}"),
            "[::1]".to_owned(),
            format!("[::ffff:{suffix}]"),
            "127.1".to_owned(),
            suffix.replace('.', "\u{3002}"),
            format!("x.{}", suffix.replace('.', "\u{ff0e}")),
            format!("x.{}", suffix.replace('.', "%2e")),
            format!("x.{}", suffix.replace('s', "\u{17f}").replace('k', "\u{212a}")),
            format!("x.{}", suffix.replace('a', "\u{430}").replace('e', "\u{435}")),
        ] {
            for port in ["", ":", ":443", ":80", ":8443", ":443443", ":+443", ":\u{ff14}"] {
                all.push(format!("https://{host}{port}{path}"));
            }
        }
        all
    }

    /// Whether this is an address that the pattern names, as a browser reads both. An address that no browser can read names nobody.
    fn judge(&self, audience: &str) -> Result<(), String> {
        let Ok(url) = Url::parse(audience) else { return Ok(()) };
        let host = url.host_str().unwrap_or_default();
        let is_host = match self.form {
            Form::Exact | Form::Prefix => host == self.host,
            Form::Hosts | Form::HostsAndPaths => host
                .strip_suffix(&self.suffix)
                .is_some_and(|labels| labels.ends_with('.') && labels.len() > 1),
        };
        let is_path = match self.form {
            Form::Exact => url.path() == self.path,
            Form::Hosts => url.path() == "/",
            Form::HostsAndPaths => url.path().starts_with('/'),
            Form::Prefix => url.path().starts_with(&self.path),
        };
        let plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        let named = url.scheme() == "https" && is_host && url.port() == self.port && is_path && plain;
        if named {
            Ok(())
        } else {
            Err(format!("{} names {url}, which {} must not match", audience.escape_debug(), self.pattern))
        }
    }

    fn check(&self, audience: &str) -> Result<(), String> {
        if AudiencePattern::parse(&self.pattern).unwrap().matches(audience) {
            self.judge(audience)
        } else {
            Ok(())
        }
    }
}

/// What may stand between the true host and the one that is to be seen.
const GAPS: [&str; 50] = [
    "/",
    "/.",
    "//",
    "?",
    "?.",
    "#",
    "#.",
    "\\",
    "\\.",
    "\\\\",
    "@",
    ":@",
    ":443@",
    ":443.",
    ":",
    ".",
    "-",
    "",
    ";",
    "&",
    "%2f",
    "%2f.",
    "%5c.",
    "%23.",
    "%3f.",
    "%40",
    "%00.",
    "%2e",
    "\t.",
    "\n.",
    "\r\n.",
    "/\t.",
    "\u{3002}",
    "\u{ff0e}",
    "\u{ff61}",
    "\u{ff0f}.",
    "\u{ff1f}.",
    "\u{ff03}.",
    "\u{ff20}",
    "\u{2044}.",
    "\u{ad}.",
    "\u{200d}.",
    "\u{2100}.",
    " .",
    "|.",
    "<.",
    "^.",
    "_.",
    "\u{0}.",
    "\u{7f}.",
];
/// What may stand in the place of `https://`.
const SCHEMES: [&str; 15] = [
    "http://",
    "ftp://",
    "https:",
    "https:/",
    "https:///",
    "https:\\\\",
    "https:/\\",
    "//",
    "",
    "javascript://",
    "https://https://",
    " https://",
    "ht\ttps://",
    "https\u{ff1a}//",
    "file://",
];
/// What may follow a path.
const TAILS: [&str; 21] = [
    "?", "?x", "#", "#x", "\\", "..", "../x", "../../x", "%2e%2e/x", ".%2E/x", "..;/x", "..;a/x", "..%2fx",
    "..%5cx", "..\\x", "./x", "x/..", "\t../x", "%00", " ", "\u{e9}",
];

/// Characters that separate, vanish, or look like others.
fn nasty() -> impl Strategy<Value = String> {
    let alphabet: Vec<char> =
        "./:@?#\\%;&=+*-_~!$'()[],|<>^`{}\" \t\r\n\u{0}aZ09\u{ad}\u{200b}\u{3002}\u{ff0e}\u{ff0f}\u{ff20}\u{ff45}\u{2100}\u{212a}\u{17f}\u{430}\u{e9}".chars().collect();
    prop_oneof![
        4 => proptest::sample::select(alphabet).prop_map(String::from),
        1 => "%[0-9a-fA-F]{2}",
        1 => Just("evil.example".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_pattern_names_it_matches_in_either_case(named in named()) {
        let pattern = AudiencePattern::parse(&named.pattern).unwrap();
        prop_assert!(pattern.matches(&named.good()), "{}", named.good());
        let shouted = format!("HTTPS://{}{}", named.authority().to_uppercase(), named.path);
        prop_assert!(pattern.matches(&shouted), "{}", shouted);
        prop_assert_eq!(named.judge(&named.good()), Ok(()), "the judge knows it");
    }

    #[test]
    fn no_disguise_makes_a_pattern_match_an_address_that_it_does_not_name(named in named()) {
        for audience in named.disguises() {
            prop_assert_eq!(named.check(&audience), Ok(()));
        }
    }

    #[test]
    fn neither_does_anything_put_into_a_good_address(named in named(), put in proptest::collection::vec((any::<prop::sample::Index>(), nasty()), 1..4)) {
        let mut audience: Vec<char> = named.good().chars().collect();
        for (place, what) in put {
            let at = place.index(audience.len() + 1);
            audience.splice(at..at, what.chars());
        }
        let audience: String = audience.into_iter().collect();
        prop_assert_eq!(named.check(&audience), Ok(()));
    }

    #[test]
    fn no_identity_of_another_project_is_matched(
        project in "[a-z][a-z0-9-]{2,6}", account in "[a-z][a-z0-9-]{2,6}", put in proptest::collection::vec((any::<prop::sample::Index>(), nasty()), 0..4),
        ends in proptest::sample::select(vec!["", ".", ".evil.example", "@evil.example", " ", "\n"]), starts in proptest::sample::select(vec!["", "evil@", "*", "@", " "]),
    ) {
        let domain = format!("{project}.iam.gserviceaccount.com");
        let pattern = format!("*@{domain}");
        let mut identity: Vec<char> = format!("{starts}{account}@{domain}{ends}").chars().collect();
        for (place, what) in put {
            let at = place.index(identity.len() + 1);
            identity.splice(at..at, what.chars());
        }
        let identity: String = identity.into_iter().collect();
        let exact = format!("{account}@{domain}");
        if IdentityPattern::parse(&pattern).unwrap().matches(&identity) {
            let (local, of) = identity.rsplit_once('@').unwrap();
            prop_assert_eq!(of, &domain);
            prop_assert!(!local.is_empty() && !local.contains('@'), "{}", identity);
        }
        prop_assert_eq!(IdentityPattern::parse(&exact).unwrap().matches(&identity), identity == exact);
    }
}

/// So that the tests above prove something: the judge tells disguises from what they imitate.
#[test]
fn the_judge_sees_through_disguises() {
    let named = Named {
        pattern: "https://*.a.run.app".to_owned(),
        host: "x.a.run.app".to_owned(),
        suffix: "a.run.app".to_owned(),
        port: None,
        path: "/".to_owned(),
        form: Form::Hosts,
    };
    let (told, all) =
        (named.disguises().iter().filter(|a| named.judge(a).is_err()).count(), named.disguises().len());
    assert!(told * 3 > all, "{told} of {all}");
    for evil in [
        "https://evil.example\\.a.run.app",
        "https://x.a.run.app@evil.example",
        "https://evil.example#.a.run.app",
        "https://x.a.run.app:8443",
        "https://evil.example\u{ff0f}a.run.app",
    ] {
        let seen = named.judge(evil).is_err() || Url::parse(evil).is_err();
        assert!(seen, "{evil}");
    }
}
