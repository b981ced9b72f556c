//! A request as the API server reads it.

use bytes::Bytes;
use http::{Method, header, request};
use serde_json::Value;

use super::refusal::Refusal;
use super::store::{Name, Resource};

/// What is asked of the API server.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ask {
    /// A list, or a watch from a revision.
    Collection(Resource, Selector, Option<Follow>),
    /// One object.
    Get(Resource, Name),
    /// A new object.
    Create(Resource, Name, Value),
    /// Another version of an object.
    Replace(Resource, Name, Value),
    /// The status of an object, by server-side apply.
    ApplyStatus(Resource, Name, Value),
    /// Another status of a version of an object.
    ReplaceStatus(Resource, Name, Value),
    /// The end of an object.
    Delete(Resource, Name),
    /// An Event, which is counted and forgotten.
    Event,
}

/// Where a watch begins and how long it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Follow {
    pub(super) revision: Option<u64>,
    pub(super) seconds: u64,
}

/// Which objects of a collection: those selectors that the controller uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector {
    namespace: Option<String>,
    fields: Option<(String, String)>,
    labels: Option<(String, String)>,
}

impl Selector {
    /// The only object that can match, where its name is asked for: the API server looks for it by its key, too.
    pub(super) fn only(&self) -> Option<Name> {
        let (_, name) = self.fields.as_ref().filter(|(path, _)| path == "metadata.name")?;
        Some(Name { namespace: self.namespace.clone()?, name: name.clone() })
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let field = self.fields.as_ref().is_none_or(|(path, value)| {
            let pointer = format!("/{}", path.replace('.', "/"));
            object.pointer(&pointer).and_then(Value::as_str) == Some(value)
        });
        let namespace = &object["metadata"]["namespace"];
        let here = self.namespace.as_ref().is_none_or(|name| namespace.as_str() == Some(name));
        let labels = &object["metadata"]["labels"];
        here && field && self.labels.as_ref().is_none_or(|(key, value)| labels[key].as_str() == Some(value))
    }
}

impl Ask {
    pub(super) fn read(head: &request::Parts, body: &Bytes) -> Result<Self, Refusal> {
        let path = head.uri.path();
        let unknown = || Refusal::unknown(&format!("{} {path}", head.method));
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        // Behind "api/v1" or "apis/GROUP/VERSION".
        let (["api", _, rest @ ..] | ["apis", _, _, rest @ ..]) = segments.as_slice() else {
            return Err(unknown());
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        if let ["events", ..] = rest {
            return Ok(Self::Event);
        }
        let [plural, rest @ ..] = rest else { return Err(unknown()) };
        let resource = Resource::of(plural).ok_or_else(unknown)?;
        let named = |name: &str| Name { namespace: namespace.to_owned(), name: name.to_owned() };
        let object = || serde_json::from_slice::<Value>(body).map_err(|_| unknown());
        match (&head.method, rest) {
            (&Method::GET, []) => {
                let query = Query(head.uri.query().unwrap_or_default());
                let namespace = Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty());
                let selector = Selector { namespace, ..query.selector() };
                Ok(Self::Collection(resource, selector, query.follow()))
            }
            (&Method::POST, []) => {
                let object = object()?;
                let name = named(object["metadata"]["name"].as_str().unwrap_or_default());
                Ok(Self::Create(resource, name, object))
            }
            (&Method::GET, [name]) => Ok(Self::Get(resource, named(name))),
            (&Method::PUT, [name]) => Ok(Self::Replace(resource, named(name), object()?)),
            (&Method::DELETE, [name]) => Ok(Self::Delete(resource, named(name))),
            (&Method::PATCH, [name, "status"]) if content_type(head) == "application/apply-patch+yaml" => {
                Ok(Self::ApplyStatus(resource, named(name), object()?))
            }
            (&Method::PUT, [name, "status"]) => {
                let object = object()?;
                if object["metadata"]["resourceVersion"].is_null() {
                    return Err(Refusal::unversioned(resource, &named(name)));
                }
                Ok(Self::ReplaceStatus(resource, named(name), object))
            }
            _ => Err(unknown()),
        }
    }

    /// For the report: what is asked of which kind.
    pub(super) fn label(&self) -> String {
        match self {
            Self::Collection(resource, _, None) => format!("list {}", resource.plural()),
            Self::Collection(resource, _, Some(_)) => format!("watch {}", resource.plural()),
            Self::Get(resource, _) => format!("get {}", resource.plural()),
            Self::Create(resource, ..) => format!("create {}", resource.plural()),
            Self::Replace(resource, ..) => format!("update {}", resource.plural()),
            Self::ApplyStatus(resource, ..) => format!("apply {}/status", resource.plural()),
            Self::ReplaceStatus(resource, ..) => format!("update {}/status", resource.plural()),
            Self::Delete(resource, _) => format!("delete {}", resource.plural()),
            Self::Event => "events".to_owned(),
        }
    }

    /// Whether it changes something. That goes on where nobody waits for the answer any more.
    pub(super) fn is_write(&self) -> bool {
        !matches!(self, Self::Collection(..) | Self::Get(..))
    }
}

/// Whether only metadata is to be answered.
pub(super) fn wants_metadata(head: &request::Parts) -> bool {
    let accept = head.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("as=PartialObjectMetadata"))
}

fn content_type(head: &request::Parts) -> &str {
    head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

struct Query<'q>(&'q str);

impl Query<'_> {
    fn value(&self, key: &str) -> Option<String> {
        let pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(name, _)| *name == key).map(|(_, value)| decode(value))
    }

    fn selector(&self) -> Selector {
        let equation = |text: String| {
            text.split_once('=')
                .map(|(key, value)| (key.to_owned(), value.trim_start_matches('=').to_owned()))
        };
        Selector {
            namespace: None,
            fields: self.value("fieldSelector").and_then(equation),
            labels: self.value("labelSelector").and_then(equation),
        }
    }

    fn follow(&self) -> Option<Follow> {
        self.value("watch").filter(|watch| watch == "true" || watch == "1")?;
        let number = |key| self.value(key).and_then(|value| value.parse().ok());
        Some(Follow {
            revision: number("resourceVersion"),
            seconds: number("timeoutSeconds").unwrap_or(1800),
        })
    }
}

/// Undoes the encoding of a form.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*first),
        }
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use http::Request;
    use serde_json::json;

    use super::*;

    fn read(method: &str, uri: &str, content_type: &str, body: &str) -> Result<Ask, u16> {
        let request = Request::builder().method(method).uri(uri).header(header::CONTENT_TYPE, content_type);
        let (head, ()) = request.body(()).unwrap().into_parts();
        Ask::read(&head, &Bytes::from(body.to_owned())).map_err(|refusal| refusal.code)
    }

    #[test]
    fn what_the_controller_asks_is_understood() {
        let name = |namespace: &str, name: &str| Name { namespace: namespace.into(), name: name.into() };
        let watch = read(
            "GET",
            "/api/v1/secrets?&watch=true&timeoutSeconds=290&fieldSelector=type%3Didtoken.dev%2Fid-token&resourceVersion=7",
            "",
            "",
        );
        let fields = Some(("type".to_owned(), "idtoken.dev/id-token".to_owned()));
        let selector = Selector { namespace: None, fields, labels: None };
        assert!(
            selector.matches(&json!({"type": "idtoken.dev/id-token"}))
                && !selector.matches(&json!({"type": "Opaque"}))
        );
        let follow = Follow { revision: Some(7), seconds: 290 };
        assert_eq!(watch, Ok(Ask::Collection(Resource::Secret, selector, Some(follow))));
        let list = read("GET", "/api/v1/namespaces?fieldSelector=metadata.name%3Dshop&limit=500", "", "");
        let Ok(Ask::Collection(Resource::Namespace, selector, None)) = list else { panic!("{list:?}") };
        assert!(selector.matches(&json!({"metadata": {"name": "shop"}})) && !selector.matches(&json!({})));
        let lease = "/apis/coordination.k8s.io/v1/namespaces/idtoken-system/leases/x";
        assert_eq!(read("GET", lease, "", ""), Ok(Ask::Get(Resource::Lease, name("idtoken-system", "x"))));
        let status =
            "/apis/idtoken.dev/v1alpha1/namespaces/shop/idtokenbindings/a/status?&force=true&fieldManager=x";
        assert_eq!(
            read("PATCH", status, "application/apply-patch+yaml", "{}"),
            Ok(Ask::ApplyStatus(Resource::Binding, name("shop", "a"), json!({})))
        );
        assert_eq!(read("PATCH", status, "application/merge-patch+json", "{}"), Err(501));
        let version = r#"{"metadata":{"resourceVersion":"7"}}"#;
        assert_eq!(
            read("PUT", status, "application/json", version),
            Ok(Ask::ReplaceStatus(
                Resource::Binding,
                name("shop", "a"),
                json!({"metadata": {"resourceVersion": "7"}})
            ))
        );
        assert_eq!(read("PUT", status, "application/json", "{}"), Err(422), "of no version");
        let one =
            "/apis/idtoken.dev/v1alpha1/namespaces/shop/idtokenbindings?fieldSelector=metadata.name%3Da";
        let Ok(Ask::Collection(_, selector, None)) = read("GET", one, "", "") else {
            panic!("no list of one")
        };
        let in_namespace = |namespace| json!({"metadata": {"name": "a", "namespace": namespace}});
        assert!(selector.matches(&in_namespace("shop")) && !selector.matches(&in_namespace("other")));
        assert_eq!(selector.only(), Some(name("shop", "a")));
        assert_eq!(read("POST", "/apis/events.k8s.io/v1/namespaces/shop/events", "", "{}"), Ok(Ask::Event));
    }
}
