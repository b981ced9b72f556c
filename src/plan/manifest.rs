//! A binding and the credentials that it names, from one text instead of from a cluster.

mod document;
mod rules;
mod schema;

use std::{collections::BTreeMap, fmt};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

use crate::api::IdTokenBinding;

/// One binding, and what it may use in its namespace.
pub struct Manifest {
    /// The binding, with the namespace that everything here is in.
    pub binding: IdTokenBinding,
    /// Which document it stands in, from 1.
    pub document: usize,
    /// Secrets by name.
    pub secrets: BTreeMap<String, SecretEntry>,
    /// Metadata of ServiceAccounts by name.
    pub accounts: BTreeMap<String, ObjectMeta>,
}

/// A Secret of a manifest. Its values can't be printed.
pub struct SecretEntry {
    /// Which document it stands in, from 1.
    pub document: usize,
    /// Name, namespace and labels.
    pub metadata: ObjectMeta,
    /// The values, decoded.
    pub data: BTreeMap<String, Vec<u8>>,
}

/// Why a text is no manifest: where, and what to write instead. It never quotes a Secret's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// Which document, from 1; `None`: the text as a whole.
    pub document: Option<usize>,
    /// Kind and name of the object, as far as they are there.
    pub object: String,
    /// The field, such as `spec.source`; empty: the object itself.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(document) = self.document {
            write!(f, "document {document}")?;
            if !self.object.is_empty() {
                write!(f, " ({})", self.object)?;
            }
            let comma = if self.field.is_empty() { "" } else { ", " };
            write!(f, "{comma}{}: ", self.field)?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for ManifestError {}

impl Manifest {
    /// Reads YAML documents, or lists of them as kubectl prints: one IdTokenBinding, Secrets and ServiceAccounts. IdTokenGrants
    /// may stand beside them and are not looked at.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let mut found = Found::default();
        // Editors on Windows begin a file with a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (index, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
            let document_number = index + 1;
            let fail = |object: &Value, Wrong { field, problem }| ManifestError {
                document: Some(document_number),
                object: title(object),
                field,
                problem,
            };
            let (value, twice) =
                document::read(document).map_err(|error| fail(&Value::Null, unreadable(&error)))?;
            if let Some(field) = twice {
                return Err(fail(&value, wrong(field, "is there twice: leave one")));
            }
            for object in objects(value) {
                found.take(document_number, &object).map_err(|wrong| fail(&object, wrong))?;
            }
        }
        found.together()
    }

    /// The namespace that the binding is in.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.binding.metadata.namespace.as_deref().unwrap_or_default()
    }
}

/// What is wrong with an object.
struct Wrong {
    field: String,
    problem: String,
}

fn wrong(field: impl Into<String>, problem: impl Into<String>) -> Wrong {
    Wrong { field: field.into(), problem: problem.into() }
}

/// Only where: the reader's own words quote what stands there.
fn unreadable(error: &serde_yaml_ng::Error) -> Wrong {
    let place = error.location().map(|place| format!(" at line {} column {}", place.line(), place.column()));
    let place = place.unwrap_or_default();
    wrong("", format!("is not readable as YAML{place}: look for brackets, quotes, indentation and tags"))
}

/// What has been read so far.
#[derive(Default)]
struct Found {
    binding: Option<(usize, IdTokenBinding)>,
    secrets: BTreeMap<String, SecretEntry>,
    /// With their documents.
    accounts: BTreeMap<String, (usize, ObjectMeta)>,
}

impl Found {
    fn take(&mut self, document: usize, object: &Value) -> Result<(), Wrong> {
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        match (text("apiVersion"), text("kind")) {
            ("idtoken.dev/v1alpha1", "IdTokenBinding") => {
                if let Some((first, _)) = self.binding {
                    let problem = format!("is a second binding, after that of document {first}: leave one");
                    return Err(wrong("", problem));
                }
                self.binding = Some((document, binding(object)?));
            }
            ("v1", "Secret") => {
                let entry = secret(document, object)?;
                let name = entry.metadata.name.clone().unwrap_or_default();
                if self.secrets.insert(name, entry).is_some() {
                    return Err(wrong("metadata.name", "an earlier Secret has the same name"));
                }
            }
            ("v1", "ServiceAccount") => {
                let metadata = metadata(object)?;
                let name = metadata.name.clone().unwrap_or_default();
                if self.accounts.insert(name, (document, metadata)).is_some() {
                    return Err(wrong("metadata.name", "an earlier ServiceAccount has the same name"));
                }
            }
            ("idtoken.dev/v1alpha1", "IdTokenGrant") => {}
            _ => return Err(foreign(object)),
        }
        Ok(())
    }

    fn together(self) -> Result<Manifest, ManifestError> {
        let Some((document, binding)) = self.binding else {
            return Err(ManifestError {
                document: None,
                object: String::new(),
                field: String::new(),
                problem: "there is no IdTokenBinding in it".to_owned(),
            });
        };
        let namespace = binding.metadata.namespace.clone().unwrap_or_default();
        let secrets = self.secrets.values().map(|entry| (entry.document, "Secret", &entry.metadata));
        let accounts = self.accounts.values().map(|(at, metadata)| (*at, "ServiceAccount", metadata));
        for (at, kind, metadata) in secrets.chain(accounts) {
            if metadata.namespace.as_ref().is_some_and(|other| *other != namespace) {
                return Err(ManifestError {
                    document: Some(at),
                    object: format!("{kind} {}", metadata.name.as_deref().unwrap_or_default()),
                    field: "metadata.namespace".to_owned(),
                    problem: format!(
                        "is not {namespace}, where the binding is: a binding uses what is in its own namespace"
                    ),
                });
            }
        }
        let accounts = self.accounts.into_iter().map(|(name, (_, mut metadata))| {
            metadata.namespace = Some(namespace.clone());
            (name, metadata)
        });
        Ok(Manifest { document, accounts: accounts.collect(), binding, secrets: self.secrets })
    }
}

/// What kubectl prints of several objects is a list.
fn objects(value: Value) -> Vec<Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Object(mut list) if list.get("kind").is_some_and(|kind| kind == "List") => {
            match list.remove("items") {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            }
        }
        object => vec![object],
    }
}

/// Kind and name.
fn title(object: &Value) -> String {
    let (kind, name) = (object["kind"].as_str(), object["metadata"]["name"].as_str());
    [kind, name].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn foreign(object: &Value) -> Wrong {
    const TAKEN: &str = "write an IdTokenBinding (idtoken.dev/v1alpha1), a Secret or a ServiceAccount (v1)";
    match (object["apiVersion"].as_str(), object["kind"].as_str()) {
        (Some(version), Some(kind)) => wrong("kind", format!("{kind} of {version} has no use here: {TAKEN}")),
        (None, Some(_)) => wrong("apiVersion", format!("is missing: {TAKEN}")),
        _ => wrong("kind", format!("is missing: {TAKEN}")),
    }
}

fn binding(object: &Value) -> Result<IdTokenBinding, Wrong> {
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    let unknown =
        object.as_object().into_iter().flat_map(Map::keys).find(|key| !known.contains(&key.as_str()));
    if let Some(unknown) = unknown {
        return Err(wrong(unknown, "there is no such field"));
    }
    let mut metadata = metadata(object)?;
    metadata.namespace.get_or_insert_with(|| "default".to_owned());
    let spec = schema::checked(&object["spec"])?;
    let spec = serde_json::from_value(spec).map_err(|error| wrong("spec", error.to_string()))?;
    let mut binding = IdTokenBinding::new("", spec);
    binding.metadata = metadata;
    rules::secret_of(&binding)?;
    Ok(binding)
}

fn secret(document: usize, object: &Value) -> Result<SecretEntry, Wrong> {
    let metadata = metadata(object)?;
    let mut data = BTreeMap::new();
    for (key, text) in texts(&object["data"], "data")? {
        // As the API server does, which ignores line breaks.
        let compact: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        let value = BASE64_STANDARD
            .decode(compact)
            .map_err(|_| wrong(format!("data.{key}"), "is not base64; stringData takes a value as it is"))?;
        data.insert(key, value);
    }
    data.extend(texts(&object["stringData"], "stringData")?.into_iter().map(|(k, v)| (k, v.into_bytes())));
    rules::keyed(&data)?;
    Ok(SecretEntry { document, metadata, data })
}

/// The parts of the metadata that matter here.
fn metadata(object: &Value) -> Result<ObjectMeta, Wrong> {
    let metadata = &object["metadata"];
    let text = |field: &str| match &metadata[field] {
        Value::Null => Ok(None),
        Value::String(text) if !text.is_empty() => Ok(Some(text.clone())),
        _ => Err(wrong(format!("metadata.{field}"), "must be a text that is not empty")),
    };
    let name = text("name")?.ok_or_else(|| wrong("metadata.name", "is missing"))?;
    let metadata = ObjectMeta {
        name: Some(name),
        namespace: text("namespace")?,
        uid: text("uid")?,
        resource_version: text("resourceVersion")?,
        labels: Some(texts(&metadata["labels"], "metadata.labels")?),
        annotations: Some(texts(&metadata["annotations"], "metadata.annotations")?),
        ..ObjectMeta::default()
    };
    rules::named(&metadata)?;
    Ok(metadata)
}

/// A map of texts. YAML reads `true` and `12` as something else, and the API server refuses them as well.
fn texts(value: &Value, path: &str) -> Result<BTreeMap<String, String>, Wrong> {
    let entries = match value {
        Value::Null => return Ok(BTreeMap::new()),
        Value::Object(entries) => entries,
        _ => return Err(wrong(path, "must be a map of texts")),
    };
    let text = |(key, value): (&String, &Value)| match value {
        Value::String(text) => Ok((key.clone(), text.clone())),
        _ => Err(wrong(format!("{path}.{key}"), "must be a text: put it in quotes")),
    };
    entries.iter().map(text).collect()
}

#[cfg(test)]
mod tests;
