//! The writes that the API server may be asked for: of a Secret and of a status as the product leaves them.

use anyhow::Context as _;
use http::{Method, Request};
use kube::Client;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fleet;

/// A way to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Way {
    pub(super) object: Object,
    pub(super) write: Write,
    /// Whether the whole object comes back; else its metadata only.
    pub(super) whole_answer: bool,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Object {
    /// A Secret that is not there yet.
    NewSecret,
    /// A Secret that is there.
    Secret,
    /// The first status of a binding.
    Status,
}

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Write {
    Post,
    Put,
    MergePatch,
    JsonPatch,
    Apply,
}

/// A Secret and a status, as the product has written them: the models of all others.
#[derive(Clone, Debug)]
pub(super) struct Templates {
    secret: Value,
    status: Value,
}

/// A binding to write for, and what is known of its objects.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) number: u32,
    pub(super) binding: Version,
    pub(super) secret: Version,
}

/// Which version of an object it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Version {
    #[serde(default)]
    pub(super) uid: String,
    #[serde(default)]
    pub(super) resource_version: String,
}

impl Way {
    /// For people.
    pub(super) fn label(self) -> String {
        let object = match self.object {
            Object::NewSecret => "new Secret",
            Object::Secret => "Secret",
            Object::Status => "status",
        };
        let write = match self.write {
            Write::Post => "POST",
            Write::Put => "PUT",
            Write::MergePatch => "JSON merge patch",
            Write::JsonPatch => "JSON patch",
            Write::Apply => "server-side apply",
        };
        let answer = if self.whole_answer { ", answered whole" } else { "" };
        format!("{object}: {write}{answer}")
    }

    /// Writes once; notes in `target` what came of it. Another `serial` makes another content: a write that changes nothing would cost
    /// the API server less.
    pub(super) async fn write(
        self,
        client: &Client,
        templates: &Templates,
        target: &mut Target,
        serial: u32,
    ) -> anyhow::Result<()> {
        let body = match self.object {
            Object::NewSecret | Object::Secret => templates.secret(self.write, target, serial),
            Object::Status => templates.status(self.write, target, serial),
        };
        let answer: Answer = client
            .request(self.request(target.number, &body)?)
            .await
            .with_context(|| format!("{} of {}", self.label(), fleet::name(target.number)))?;
        match self.object {
            Object::NewSecret | Object::Secret => target.secret = answer.metadata,
            Object::Status => target.binding = answer.metadata,
        }
        Ok(())
    }

    fn request(self, number: u32, body: &Value) -> anyhow::Result<Request<Vec<u8>>> {
        let (namespace, name) = (fleet::namespace(number), fleet::name(number));
        let path = match (self.object, self.write) {
            (Object::NewSecret, Write::Post) => format!("/api/v1/namespaces/{namespace}/secrets"),
            (Object::NewSecret | Object::Secret, _) => {
                format!("/api/v1/namespaces/{namespace}/secrets/{name}-idtoken")
            }
            (Object::Status, _) => format!("{}/idtokenbindings/{name}/status", fleet::path(number)),
        };
        let (method, kind, force) = match self.write {
            Write::Post => (Method::POST, "application/json", ""),
            Write::Put => (Method::PUT, "application/json", ""),
            Write::MergePatch => (Method::PATCH, "application/merge-patch+json", ""),
            Write::JsonPatch => (Method::PATCH, "application/json-patch+json", ""),
            Write::Apply => (Method::PATCH, "application/apply-patch+yaml", "&force=true"),
        };
        let accept = if self.whole_answer { "application/json" } else { METADATA_ONLY };
        let request = Request::builder()
            .method(method)
            .uri(format!("{path}?fieldManager=idtoken-operator{force}"))
            .header("accept", accept)
            .header("content-type", kind);
        Ok(request.body(serde_json::to_vec(body)?)?)
    }
}

impl Templates {
    /// From objects of the product's.
    pub(super) fn new(mut secret: Value, mut binding: Value) -> anyhow::Result<Self> {
        let metadata = secret["metadata"].as_object_mut().context("a Secret without metadata")?;
        metadata.retain(|field, _| ["labels", "annotations", "ownerReferences"].contains(&field.as_str()));
        Ok(Self { secret, status: binding["status"].take() })
    }

    fn secret(&self, write: Write, target: &Target, serial: u32) -> Value {
        let name = fleet::name(target.number);
        let mut secret = self.secret.clone();
        let metadata = &mut secret["metadata"];
        metadata["name"] = format!("{name}-idtoken").into();
        metadata["namespace"] = fleet::namespace(target.number).into();
        metadata["ownerReferences"][0]["name"] = name.into();
        metadata["ownerReferences"][0]["uid"] = target.binding.uid.as_str().into();
        metadata["annotations"]["idtoken.dev/token-sha256"] = format!("{serial:064x}").into();
        if matches!(write, Write::Put | Write::MergePatch) {
            metadata["uid"] = target.secret.uid.as_str().into();
            metadata["resourceVersion"] = target.secret.resource_version.as_str().into();
        }
        secret
    }

    fn status(&self, write: Write, target: &Target, serial: u32) -> Value {
        let mut status = self.status.clone();
        status["secretName"] = format!("{}-idtoken", fleet::name(target.number)).into();
        status["secretResourceVersion"] = serial.to_string().into();
        if write == Write::JsonPatch {
            return json!([
                {"op": "test", "path": "/metadata/uid", "value": target.binding.uid},
                {"op": "add", "path": "/status", "value": status},
            ]);
        }
        let mut metadata = json!({"name": fleet::name(target.number), "uid": target.binding.uid});
        if write == Write::Put {
            metadata["namespace"] = fleet::namespace(target.number).into();
            metadata["resourceVersion"] = target.binding.resource_version.as_str().into();
        }
        json!({
            "apiVersion": "idtoken.dev/v1alpha1",
            "kind": "IdTokenBinding",
            "metadata": metadata,
            "status": status,
        })
    }
}

#[derive(Deserialize)]
struct Answer {
    metadata: Version,
}

/// All that can be compared. The first of each object is what the product uses.
pub(super) const WAYS: [Way; 14] = [
    way(Object::NewSecret, Write::Post, false),
    way(Object::NewSecret, Write::Post, true),
    way(Object::NewSecret, Write::Apply, false),
    way(Object::Secret, Write::Put, false),
    way(Object::Secret, Write::MergePatch, false),
    way(Object::Secret, Write::Apply, false),
    way(Object::Status, Write::Put, false),
    way(Object::Status, Write::Put, true),
    way(Object::Status, Write::Apply, false),
    way(Object::Status, Write::Apply, true),
    way(Object::Status, Write::MergePatch, false),
    way(Object::Status, Write::MergePatch, true),
    way(Object::Status, Write::JsonPatch, false),
    way(Object::Status, Write::JsonPatch, true),
];

const fn way(object: Object, write: Write, whole_answer: bool) -> Way {
    Way { object, write, whole_answer }
}

const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
