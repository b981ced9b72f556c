//! The schemas of all kinds that the chart renders, as kubeconform reads them: Kubernetes' own from its OpenAPI documents, others from
//! CRDs. In Go modules, whose checksums stand in go.sum.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::directory;
use crate::workspace;

/// A directory with a file for each kind: `<group>_<version>_<kind>.json`, in lower case.
#[derive(Debug)]
pub struct Schemas {
    files: TempDir,
}

impl Schemas {
    /// Schemas of the kinds of `objects`.
    pub fn of(objects: &[Value]) -> anyhow::Result<Self> {
        let schemas = Self { files: TempDir::new()? };
        let kinds: BTreeSet<(&str, &str)> = objects.iter().map(kind_of).collect::<anyhow::Result<_>>()?;
        let kubernetes = module("kubernetes", "k8s.io/kubernetes")?.join("api/openapi-spec/v3");
        let crds = [foreign_crds()?, own_crds()?].concat();
        for (api_version, kind) in kinds {
            let schema = match of_crd(&crds, api_version, kind) {
                Some(schema) => schema,
                None if UNKNOWN.contains(&(api_version, kind)) => continue,
                None => of_kubernetes(&kubernetes, api_version, kind)
                    .with_context(|| format!("no schema of {api_version} {kind}"))?,
            };
            // To kubeconform the group of `v1` is v1.
            let (group, version) = api_version.split_once('/').unwrap_or((api_version, api_version));
            let name = format!("{group}_{version}_{kind}.json").to_lowercase();
            fs::write(schemas.directory().join(name), schema.to_string())?;
        }
        Ok(schemas)
    }

    /// Where the files are.
    pub(super) fn directory(&self) -> &Path {
        self.files.path()
    }
}

/// Kinds whose schema is not to be had as a Go module.
pub(super) const UNKNOWN: [(&str, &str); 1] = [("monitoring.googleapis.com/v1", "PodMonitoring")];

fn kind_of(object: &Value) -> anyhow::Result<(&str, &str)> {
    let text = |key: &str| object[key].as_str().with_context(|| format!("an object has no {key}"));
    Ok((text("apiVersion")?, text("kind")?))
}

/// The directory of a Go module that one of ours (in `xtask/tools`) requires.
fn module(ours: &str, wanted: &str) -> anyhow::Result<PathBuf> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", wanted])
        .current_dir(workspace::root().join("xtask/tools").join(ours))
        .env("GOWORK", "off")
        .stdin(Stdio::null())
        .output()
        .context("cannot run go")?;
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    match printed["Dir"].as_str() {
        Some(directory) if output.status.success() => Ok(directory.into()),
        _ => {
            bail!("cannot download {wanted}: {}{}", printed["Error"], String::from_utf8_lossy(&output.stderr))
        }
    }
}

/// The CRDs of the kinds that the chart renders for other people's operators.
pub fn foreign_crds() -> anyhow::Result<Vec<Value>> {
    let cert_manager = module("schemas", "github.com/cert-manager/cert-manager")?.join("deploy/crds");
    let prometheus = module("schemas", "github.com/prometheus-operator/prometheus-operator")?;
    let files = [
        cert_manager.join("cert-manager.io_certificates.yaml"),
        cert_manager.join("cert-manager.io_issuers.yaml"),
        prometheus.join("example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"),
    ];
    files.iter().map(|file| read_yaml(file)).collect()
}

/// All that cert-manager's own chart brings.
pub fn cert_manager_crds() -> anyhow::Result<Vec<Value>> {
    let crds = module("schemas", "github.com/cert-manager/cert-manager")?.join("deploy/crds");
    let files = fs::read_dir(&crds).with_context(|| format!("cannot read {}", crds.display()))?;
    let paths: Vec<_> = files.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
    let is_yaml = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "yaml");
    paths.iter().filter(is_yaml).map(|path| read_yaml(path)).collect()
}

/// Ours.
fn own_crds() -> anyhow::Result<Vec<Value>> {
    let files = ["idtoken.dev_idtokenbindings.yaml", "idtoken.dev_idtokengrants.yaml"];
    files.iter().map(|file| read_yaml(&directory().join("files/crds").join(file))).collect()
}

fn read_yaml(file: &Path) -> anyhow::Result<Value> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_yaml_ng::from_str(&text).with_context(|| format!("{} is no YAML", file.display()))
}

fn of_crd(crds: &[Value], api_version: &str, kind: &str) -> Option<Value> {
    let (group, version) = api_version.split_once('/')?;
    let spec = crds
        .iter()
        .map(|crd| &crd["spec"])
        .find(|spec| spec["group"] == group && spec["names"]["kind"] == kind)?;
    let versions = spec["versions"].as_array()?;
    let mut schema = versions.iter().find(|v| v["name"] == version)?["schema"]["openAPIV3Schema"].clone();
    for (key, kind) in [("apiVersion", "string"), ("kind", "string"), ("metadata", "object")] {
        // Every object has them, whether or not its CRD says so.
        schema["properties"][key] = json!({"type": kind});
    }
    close(&mut schema);
    Some(schema)
}

/// Of the document of one group and version, with all that its schemas refer to.
fn of_kubernetes(documents: &Path, api_version: &str, kind: &str) -> anyhow::Result<Value> {
    let file = match api_version.split_once('/') {
        None => format!("api__{api_version}_openapi.json"),
        Some((group, version)) => format!("apis__{group}__{version}_openapi.json"),
    };
    let path = documents.join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut document: Value = serde_json::from_str(&text)?;
    let group_version_kind = match api_version.split_once('/') {
        None => json!({"group": "", "version": api_version, "kind": kind}),
        Some((group, version)) => json!({"group": group, "version": version, "kind": kind}),
    };
    let mut components = document["components"].take();
    let schemas = components["schemas"].as_object_mut().context("a document without schemas")?;
    let is_wanted = |schema: &Value| {
        schema["x-kubernetes-group-version-kind"]
            .as_array()
            .is_some_and(|all| all.contains(&group_version_kind))
    };
    let name = schemas.iter().find(|(_, schema)| is_wanted(schema)).map(|(name, _)| name.clone());
    let name = name.context("the document doesn't have it")?;
    schemas.values_mut().for_each(close);
    ensure!(schemas[&name]["additionalProperties"] == json!(false), "its schema is open");
    Ok(json!({"$ref": format!("#/components/schemas/{name}"), "components": components}))
}

/// Unknown fields are errors, as the API server's strict field validation has it.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if is_open_object(object) {
                object.insert("additionalProperties".to_owned(), false.into());
            }
            object.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// An object with fields of its own, that doesn't say what else it may hold. (Not a `properties` map with a field of that name.)
fn is_open_object(object: &Map<String, Value>) -> bool {
    object.get("type").is_some_and(|kind| kind == "object")
        && object.get("properties").is_some_and(Value::is_object)
        && !object.contains_key("additionalProperties")
        && object.get("x-kubernetes-preserve-unknown-fields") != Some(&Value::Bool(true))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn objects_with_fields_are_closed_and_free_maps_are_not() {
        let mut schema = json!({"type": "object", "properties": {
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "anything": {"type": "object"},
            "raw": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {}},
            "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
        }});
        close(&mut schema);
        assert_eq!(
            schema,
            json!({"type": "object", "additionalProperties": false, "properties": {
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "anything": {"type": "object"},
                "raw": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {}},
                "list": {"type": "array", "items":
                    {"type": "object", "additionalProperties": false, "properties": {"a": {"type": "string"}}}},
            }})
        );
    }

    #[test]
    fn a_kind_of_ours_is_found_in_its_crd() {
        let crd = json!({"spec": {"group": "idtoken.dev", "names": {"kind": "IdTokenGrant"}, "versions": [
            {"name": "v1alpha1", "schema": {"openAPIV3Schema": {"type": "object", "properties": {}}}},
        ]}});
        let found = of_crd(std::slice::from_ref(&crd), "idtoken.dev/v1alpha1", "IdTokenGrant").unwrap();
        assert_eq!(
            found,
            json!({"type": "object", "additionalProperties": false, "properties": {
                "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
            }})
        );
        assert_eq!(of_crd(&[crd], "idtoken.dev/v1", "IdTokenGrant"), None);
    }
}
