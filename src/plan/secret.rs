//! The Secret of a binding: whose it is, what it holds by its metadata alone, and what belongs in it.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use serde::{Deserialize, Serialize};

use super::{
    Problem,
    grant::Authority,
    refresh::Lifetime,
    validate::{SecretSpec, Wanted},
};
use crate::api::{Reason, SECRET_TYPE, annotations as keys};

/// What our Secret's annotations say about the token in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `iss`.
    pub issuer: String,
    /// Whom it is for: `email`, or the signer of a signed JWT.
    pub identity: Option<String>,
    /// `iat` and `exp`.
    pub life: Lifetime,
    /// What was asked for when it was written.
    pub spec_hash: String,
    /// Lower-case hex SHA-256 of the raw token.
    pub token_sha256: String,
    /// The forced refresh that it answers.
    pub refresh_handled: Option<String>,
    /// Which state of the binding's own credential it was got by; `None`: the source has none.
    pub credential: Option<String>,
    /// What a grant had to allow for it; `None`: the source needs no grant.
    pub granted: Option<Authority>,
    /// False: the keys of the issuer could not be had when it was written.
    pub signature_checked: bool,
}

/// What stands under the name of the binding's Secret.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)] // one a visit, and mostly the large one
pub enum Observed {
    /// Nothing.
    Absent,
    /// A Secret that is not ours: it stays as it is.
    Foreign(Other),
    /// Our Secret.
    Ours(Ours),
}

/// Who controls a Secret that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Other {
    /// Another binding: mostly a former one of the same name, whose Secret is about to be collected.
    Binding(String),
    /// Something else, in words.
    Else(String),
}

/// Our Secret, without its data.
#[derive(Clone, Debug, PartialEq)]
pub struct Ours {
    /// Its metadata: `uid` and `resourceVersion` are the preconditions of the next write.
    pub metadata: ObjectMeta,
    /// `None`: the annotations are missing or unreadable, so the content counts for nothing.
    pub record: Option<Record>,
    /// Whether the data is as we wrote it.
    pub intact: bool,
}

impl Ours {
    /// `metadata.resourceVersion`.
    #[must_use]
    pub fn resource_version(&self) -> &str {
        self.metadata.resource_version.as_deref().unwrap_or_default()
    }
}

impl Observed {
    /// The record of our Secret, whatever it is worth.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Ours(ours) => ours.record.as_ref(),
            Self::Absent | Self::Foreign(_) => None,
        }
    }

    /// The record of a token that is in the Secret unharmed, was made for `spec_hash` and is good at `now`.
    #[must_use]
    pub fn current(&self, spec_hash: &str, now: Timestamp) -> Option<&Record> {
        let Self::Ours(ours) = self else { return None };
        ours.record.as_ref().filter(|r| ours.intact && r.spec_hash == spec_hash && r.life.is_current(now))
    }
}

impl Observed {
    /// Whether our Secret has the labels and annotations that the binding asks for, and no longer those that it dropped.
    #[must_use]
    pub fn carries(&self, spec: &SecretSpec) -> bool {
        let Self::Ours(Ours { metadata, .. }) = self else { return false };
        let none = BTreeMap::new();
        let labels = metadata.labels.as_ref().unwrap_or(&none);
        let annotations = metadata.annotations.as_ref().unwrap_or(&none);
        spec.labels.iter().all(|(k, v)| labels.get(k) == Some(v))
            && spec.annotations.iter().all(|(k, v)| annotations.get(k) == Some(v))
            && FromBinding::read(annotations).unwrap_or_default() == FromBinding::of(spec)
    }
}

/// The binding as owner of its Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.uid`.
    pub uid: String,
}

/// Tells whose Secret `metadata` describes: ours is the one whose controller is the binding with `binding_uid`.
/// `intact` is what is known of the data.
#[must_use]
pub fn observe(metadata: Option<&ObjectMeta>, binding_uid: &str, intact: bool) -> Observed {
    let Some(metadata) = metadata else { return Observed::Absent };
    let controller = metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
    match controller {
        Some(owner) if owner.uid == binding_uid => {
            let record = metadata.annotations.as_ref().and_then(record_from);
            Observed::Ours(Ours { metadata: metadata.clone(), record, intact })
        }
        Some(owner) if owner.kind == "IdTokenBinding" => {
            Observed::Foreign(Other::Binding(owner.name.clone()))
        }
        Some(owner) => Observed::Foreign(Other::Else(format!("{} {}", owner.kind, owner.name))),
        None => Observed::Foreign(Other::Else("nobody (it has no controller)".to_owned())),
    }
}

/// What a grant has to allow for what stands in our Secret, whatever its binding asks for now; `None`: nothing. One whose
/// annotations tell nothing is taken for what is `wanted`.
#[must_use]
pub fn held_authority(secret: &Observed, wanted: Option<&Wanted>) -> Option<Authority> {
    let Observed::Ours(ours) = secret else { return None };
    match (&ours.record, wanted) {
        (Some(record), Some(wanted)) if record.spec_hash == wanted.spec_hash => Authority::of(wanted),
        (Some(record), _) => record.granted.clone(),
        (None, wanted) => wanted.and_then(Authority::of),
    }
}

/// The problem of a name that is taken, with the way out.
#[must_use]
pub fn conflict(name: &str, other: &Other) -> Problem {
    let mend = "delete or rename it, or create a binding with another spec.secret.name";
    match other {
        Other::Binding(binding) => Problem::transient(
            Reason::SecretConflict,
            format!(
                "Secret {name} belongs to another IdTokenBinding, {binding}; if that was deleted, the Secret goes soon and \
                 this binding gets its own, else {mend}"
            ),
        ),
        Other::Else(owner) => Problem::on_change(
            Reason::SecretConflict,
            format!("Secret {name} exists and is controlled by {owner}, so it was left alone; {mend}"),
        ),
    }
}

/// Whether `data` is what we wrote: the token by its hash, and the authorization value made from it.
#[must_use]
pub fn is_intact(data: &BTreeMap<String, ByteString>, record: &Record, spec: &SecretSpec) -> bool {
    let Some(token) = data.get(&spec.key) else { return false };
    let authorization = spec.authorization_key.as_ref().is_none_or(|key| {
        data.get(key).and_then(|v| v.0.strip_prefix(BEARER)).is_some_and(|rest| rest == token.0.as_slice())
    });
    authorization && sha256_hex(&token.0) == record.token_sha256
}

/// The Secret as it should be, holding `token`. Labels and annotations that others put on `existing` stay; those that
/// came from the binding before and no longer do, go.
#[must_use]
pub fn desired(
    owner: &Owner,
    spec: &SecretSpec,
    record: &Record,
    existing: Option<&ObjectMeta>,
    token: &str,
) -> Secret {
    let earlier =
        existing.and_then(|m| m.annotations.as_ref()).and_then(FromBinding::read).unwrap_or_default();
    let others = |map: Option<&BTreeMap<String, String>>, ours: &[String]| {
        let kept =
            map.into_iter().flatten().filter(|(k, _)| !ours.contains(k) && !k.starts_with(keys::PREFIX));
        kept.map(|(k, v)| (k.clone(), v.clone())).collect::<BTreeMap<_, _>>()
    };
    let mut labels = others(existing.and_then(|m| m.labels.as_ref()), &earlier.labels);
    labels.extend(spec.labels.clone());
    labels.insert(keys::MANAGED_BY.to_owned(), "idtoken-operator".to_owned());
    labels.insert(keys::VELERO_EXCLUDE.to_owned(), "true".to_owned());
    let mut annotations = others(existing.and_then(|m| m.annotations.as_ref()), &earlier.annotations);
    annotations.extend(spec.annotations.clone());
    annotations.extend(record_into(record));
    annotations.insert(keys::RELOADER_IGNORE.to_owned(), "true".to_owned());
    annotations.insert(keys::FROM_BINDING.to_owned(), FromBinding::of(spec).write());
    let mut data = BTreeMap::from([(spec.key.clone(), ByteString(token.as_bytes().to_vec()))]);
    if let Some(key) = &spec.authorization_key {
        data.insert(key.clone(), ByteString([BEARER, token.as_bytes()].concat()));
    }
    Secret {
        metadata: ObjectMeta {
            name: Some(spec.name.clone()),
            namespace: Some(owner.namespace.clone()),
            uid: existing.and_then(|m| m.uid.clone()),
            resource_version: existing.and_then(|m| m.resource_version.clone()),
            finalizers: existing.and_then(|m| m.finalizers.clone()),
            owner_references: Some(owners(owner, existing)),
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        type_: Some(SECRET_TYPE.to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

/// Lower-case hex SHA-256 of `bytes`.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(HEX[usize::from(half)]);
    digest(&SHA256, bytes).as_ref().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Which keys came from the binding, as kept in an annotation.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct FromBinding {
    labels: Vec<String>,
    annotations: Vec<String>,
}

impl FromBinding {
    fn of(spec: &SecretSpec) -> Self {
        Self {
            labels: spec.labels.keys().cloned().collect(),
            annotations: spec.annotations.keys().cloned().collect(),
        }
    }

    fn read(annotations: &BTreeMap<String, String>) -> Option<Self> {
        serde_json::from_str(annotations.get(keys::FROM_BINDING)?).ok()
    }

    fn write(&self) -> String {
        serde_json::json!({"labels": self.labels, "annotations": self.annotations}).to_string()
    }
}

fn owners(owner: &Owner, existing: Option<&ObjectMeta>) -> Vec<OwnerReference> {
    let ours = OwnerReference {
        api_version: "idtoken.dev/v1alpha1".to_owned(),
        kind: "IdTokenBinding".to_owned(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
        controller: Some(true),
        // Setting it would need the right to update the finalizers of bindings, and nothing here waits for the Secret.
        block_owner_deletion: None,
    };
    let others = existing.and_then(|m| m.owner_references.clone()).unwrap_or_default();
    others.into_iter().filter(|o| o.uid != owner.uid).chain([ours]).collect()
}

fn record_from(annotations: &BTreeMap<String, String>) -> Option<Record> {
    let text = |key: &str| annotations.get(key).cloned();
    let time = |key: &str| annotations.get(key)?.parse::<Timestamp>().ok();
    let granted = annotations.get(keys::GRANTED).map(|text| serde_json::from_str(text)).transpose().ok()?;
    Some(Record {
        granted,
        issuer: text(keys::ISSUER)?,
        identity: text(keys::IDENTITY),
        life: Lifetime { issued: time(keys::ISSUE_TIME)?, expires: time(keys::EXPIRATION_TIME)? },
        spec_hash: text(keys::SPEC_HASH)?,
        token_sha256: text(keys::TOKEN_SHA256)?,
        refresh_handled: text(keys::REFRESH_HANDLED),
        credential: text(keys::CREDENTIAL_HASH),
        signature_checked: text(keys::SIGNATURE_CHECKED)? == "true",
    })
}

fn record_into(record: &Record) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::from(
        [
            (keys::ISSUER, record.issuer.clone()),
            (keys::ISSUE_TIME, record.life.issued.to_string()),
            (keys::EXPIRATION_TIME, record.life.expires.to_string()),
            (keys::SPEC_HASH, record.spec_hash.clone()),
            (keys::TOKEN_SHA256, record.token_sha256.clone()),
            (keys::SIGNATURE_CHECKED, record.signature_checked.to_string()),
        ]
        .map(|(k, v)| (k.to_owned(), v)),
    );
    let optional = [
        (keys::IDENTITY, &record.identity),
        (keys::REFRESH_HANDLED, &record.refresh_handled),
        (keys::CREDENTIAL_HASH, &record.credential),
    ];
    annotations.extend(optional.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v.clone()?))));
    let granted = record.granted.as_ref().and_then(|granted| serde_json::to_string(granted).ok());
    annotations.extend(granted.map(|granted| (keys::GRANTED.to_owned(), granted)));
    annotations
}

const BEARER: &[u8] = b"Bearer ";
const HEX: [u8; 16] = *b"0123456789abcdef";

#[cfg(test)]
mod tests;
