//! The pod's annotations, parsed.
use std::collections::BTreeSet;

use serde::Serialize;

use super::{pod::Pod, shorten};
use crate::plan::names::is_dns_subdomain;

/// What a pod asks for: checked, and with every default filled in. Its JSON goes into the hash of `idtoken.dev/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    /// Names of bindings: at least one, each a DNS subdomain, none twice.
    pub bindings: Vec<String>,
    /// The containers that get the mount; `None` means all.
    pub containers: Option<Vec<String>>,
    /// Permissions of the token files.
    pub file_mode: u32,
    /// The directory of the mount: absolute, without a slash at the end.
    pub mount_path: String,
    /// Whether the pod may start before its tokens exist.
    pub optional: bool,
}

/// Why a pod is refused; prints the annotation, its value and the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation}: {:?} {problem}; {mend}", shorten(.value, SHOWN))]
pub struct Refusal {
    /// The annotation's whole key.
    pub annotation: String,
    /// What was found there.
    pub value: String,
    /// What is wrong with it, as the rest of a sentence that begins with the value.
    pub problem: String,
    /// What to do about it.
    pub mend: String,
}

impl Refusal {
    pub(super) fn new(key: &str, value: &str, problem: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            annotation: format!("{PREFIX}{key}"),
            value: value.to_owned(),
            problem: problem.into(),
            mend: mend.into(),
        }
    }
}

/// Parses the pod's annotations. `None` when it asks for nothing, or is a mirror pod.
pub fn request(pod: &Pod<'_>) -> Result<Option<Request>, Refusal> {
    if is_mirror(pod) {
        return Ok(None);
    }
    UNSUPPORTED.iter().try_for_each(|key| unsupported(pod, key))?;
    let Some(inject) = annotation(pod, INJECT) else {
        return Ok(None);
    };
    Ok(Some(Request {
        bindings: bindings(inject)?,
        containers: annotation(pod, CONTAINERS)
            .map(|value| names(CONTAINERS, value, MOST_CONTAINERS, "containers"))
            .transpose()?,
        mount_path: mount_path(annotation(pod, MOUNT_PATH).unwrap_or("/var/run/secrets/idtoken.dev"))?,
        file_mode: file_mode(annotation(pod, FILE_MODE).unwrap_or("0444"))?,
        optional: flag(OPTIONAL, annotation(pod, OPTIONAL).unwrap_or("false"))?,
    }))
}

/// Refuses a pod that has more in it than was looked at.
pub(super) fn whole(pod: &Pod<'_>) -> Result<(), Refusal> {
    if !pod.is_cut() {
        return Ok(());
    }
    let inject = annotation(pod, INJECT).unwrap_or_default();
    Err(Refusal::new(INJECT, inject, TOO_MUCH, "remove some of them"))
}

/// One warning for each annotation under our prefix that has no meaning.
pub(super) fn unknown_keys(pod: &Pod<'_>) -> Vec<String> {
    if is_mirror(pod) {
        return Vec::new();
    }
    let unknown: BTreeSet<&str> = pod.unknown_annotations().collect();
    let warning = |key: &str| format!("annotation {:?} is not known and has no effect", shorten(key, 75));
    unknown.into_iter().map(warning).collect()
}

/// The variable that names the file of `binding`.
pub(super) fn file_variable(binding: &str) -> String {
    let tail: String = binding
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect();
    format!("{VARIABLES}FILE_{tail}")
}

/// Whether an annotation has a meaning here.
pub(super) fn is_known(key: &str) -> bool {
    let ours = |key: &str| KNOWN.contains(&key) || UNSUPPORTED.contains(&key);
    key.strip_prefix(PREFIX).map_or(key == MIRROR, ours)
}

/// The static pods that kubelet shows to the API server: they run whatever the API server says.
fn is_mirror(pod: &Pod<'_>) -> bool {
    pod.annotation(MIRROR).is_some()
}

/// The value of the annotation `idtoken.dev/KEY`, as it stands there.
pub(super) fn ours<'a>(pod: &'a Pod<'_>, key: &str) -> Option<&'a str> {
    pod.annotation(key)?.get()
}

/// The same without blanks around it. A blank value is the same as none.
fn annotation<'a>(pod: &'a Pod<'_>, key: &str) -> Option<&'a str> {
    ours(pod, key).map(str::trim).filter(|value| !value.is_empty())
}

/// Refused rather than ignored: a pod that counts on its guard must not run without it.
fn unsupported(pod: &Pod<'_>, key: &str) -> Result<(), Refusal> {
    match annotation(pod, key) {
        None => Ok(()),
        Some("false") if key == AGENT => Ok(()), // the only one of them that is a yes or no
        Some(value) => Err(Refusal::new(
            key,
            value,
            "asks for a part that this version of idtoken-operator does not have yet",
            "remove the annotation",
        )),
    }
}

fn bindings(value: &str) -> Result<Vec<String>, Refusal> {
    let names = names(INJECT, value, MOST_BINDINGS, "bindings")?;
    let refuse = |problem: String, mend: &str| Err(Refusal::new(INJECT, value, problem, mend));
    if let Some(name) = names.iter().find(|name| !is_dns_subdomain(name)) {
        return refuse(
            format!("contains {:?}, which can't be the name of an IdTokenBinding", shorten(name, SHOWN)),
            "write names of bindings, separated by commas (lower-case letters, digits, '-' and '.')",
        );
    }
    if let Some(name) = repeated(&names, |name| file_variable(name)) {
        return refuse(
            format!(
                "contains two names that both give the variable {}",
                shorten(&file_variable(name), SHOWN)
            ),
            "rename one of the bindings, so that they differ in more than '-' and '.'",
        );
    }
    Ok(names)
}

/// A comma-separated list of at least one name and at most so many, none twice. `what` they are the names of.
fn names(key: &str, value: &str, most: usize, what: &str) -> Result<Vec<String>, Refusal> {
    // Before anything is made of them: whoever creates a pod may write three megabytes here.
    let count = value.split(',').count();
    if count > most {
        let mend = format!("name at most {most} of them in one pod");
        return Err(Refusal::new(key, value, format!("names {count} {what}"), mend));
    }
    let names: Vec<String> = value.split(',').map(|name| name.trim().to_owned()).collect();
    if names.iter().any(String::is_empty) {
        return Err(Refusal::new(
            key,
            value,
            "contains an empty name",
            "write names separated by single commas",
        ));
    }
    match repeated(&names, String::as_str) {
        Some(twice) => {
            let problem = format!("contains {:?} more than once", shorten(twice, SHOWN));
            Err(Refusal::new(key, value, problem, "write each name once"))
        }
        None => Ok(names),
    }
}

/// The first of `names` that has the same `key` as one before it.
fn repeated<'a, K: Ord>(names: &'a [String], key: impl Fn(&'a String) -> K) -> Option<&'a String> {
    // Most pods name one, of which nothing need be made.
    let (first, rest) = names.split_first().filter(|(_, rest)| !rest.is_empty())?;
    let mut seen = BTreeSet::from([key(first)]);
    rest.iter().find(|name| !seen.insert(key(name)))
}

fn mount_path(value: &str) -> Result<String, Refusal> {
    let path = value.strip_suffix('/').unwrap_or(value);
    let plain = |segment: &str| !matches!(segment, "" | ".");
    let sound = path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain));
    if !sound || path.contains("..") || path.contains(':') || path.contains(char::is_control) {
        return Err(Refusal::new(
            MOUNT_PATH,
            value,
            "can't be the directory of the tokens",
            "write an absolute path other than '/', without '..' and ':', such as /var/run/secrets/idtoken.dev",
        ));
    }
    Ok(path.to_owned())
}

fn file_mode(value: &str) -> Result<u32, Refusal> {
    let digits = if value.len() == 4 { value.strip_prefix('0').unwrap_or(value) } else { value };
    let octal = digits.len() == 3 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    octal.then(|| u32::from_str_radix(digits, 8).ok()).flatten().ok_or_else(|| {
        Refusal::new(FILE_MODE, value, "is not a file mode", "write three octal digits, such as 0444 or 0400")
    })
}

fn flag(key: &str, value: &str) -> Result<bool, Refusal> {
    value
        .parse()
        .map_err(|_| Refusal::new(key, value, "is neither true nor false", "write \"true\" or \"false\""))
}

/// How the name of every variable begins that a container gets.
pub(super) const VARIABLES: &str = "IDTOKEN_";
pub(super) const PREFIX: &str = "idtoken.dev/";
const MIRROR: &str = "kubernetes.io/config.mirror";
pub(super) const INJECT: &str = "inject";
pub(super) const CONTAINERS: &str = "containers";
const MOUNT_PATH: &str = "mount-path";
const FILE_MODE: &str = "file-mode";
const OPTIONAL: &str = "optional";
/// Not asked for, but answered: what was injected.
pub(super) const STATUS: &str = "status";
const KNOWN: [&str; 6] = [INJECT, CONTAINERS, MOUNT_PATH, FILE_MODE, OPTIONAL, STATUS];
const AGENT: &str = "agent";
const UNSUPPORTED: [&str; 3] = [AGENT, "proxy", "guard"];

const TOO_MUCH: &str = "asks for tokens in a pod with more containers, mounts, volumes and annotations than are looked at, some thousands together";

/// Each name may cost a read from the API server.
const MOST_BINDINGS: usize = 64;
/// Far more than any pod has.
const MOST_CONTAINERS: usize = 1000;
/// What of a value is shown in a refusal.
const SHOWN: usize = 60;
