//! A pod as far as it is looked at. The rest, most of a real pod, is skipped while it is read; what is added does not depend on it, and
//! nothing of it is touched.
use serde::{Deserialize, Deserializer, de::MapAccess};
use serde_json::Value;

use super::lenient::{Flag, Lenient, List, Object, Text, lenient};

/// What is looked at of a pod.
#[derive(Clone, Debug, Default)]
pub struct Pod<'a>(Object<Looked<'a>>);

#[derive(Clone, Debug, Deserialize)]
struct Looked<'a> {
    #[serde(borrow, default)]
    metadata: Object<Metadata<'a>>,
    #[serde(borrow, default)]
    spec: Object<Spec<'a>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Metadata<'a> {
    #[serde(borrow, default)]
    annotations: Named<'a, Text<'a>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec<'a> {
    #[serde(borrow, default)]
    pub(super) volumes: List<Object<Volume<'a>>>,
    #[serde(borrow, default)]
    pub(super) init_containers: List<Object<Container<'a>>>,
    #[serde(borrow, default)]
    pub(super) containers: List<Object<Container<'a>>>,
    #[serde(default)]
    pub(super) host_network: Flag,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Volume<'a> {
    #[serde(borrow, default)]
    pub(super) name: Text<'a>,
    #[serde(borrow, default)]
    pub(super) projected: Object<Projected<'a>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Projected<'a> {
    /// Each by its types; the API server takes one with one type.
    #[serde(borrow, default)]
    pub(super) sources: List<Named<'a, Object<Source<'a>>>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Source<'a> {
    #[serde(borrow, default)]
    pub(super) name: Text<'a>,
    #[serde(borrow, default)]
    pub(super) path: Text<'a>,
    #[serde(borrow, default)]
    pub(super) items: List<Object<Item<'a>>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Item<'a> {
    #[serde(borrow, default)]
    pub(super) key: Text<'a>,
    #[serde(borrow, default)]
    pub(super) path: Text<'a>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container<'a> {
    #[serde(borrow, default)]
    pub(super) name: Text<'a>,
    #[serde(borrow, default)]
    pub(super) volume_mounts: List<Object<Mount<'a>>>,
    #[serde(borrow, default)]
    pub(super) env: List<Object<Variable<'a>>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mount<'a> {
    #[serde(borrow, default)]
    pub(super) name: Text<'a>,
    #[serde(borrow, default)]
    pub(super) mount_path: Text<'a>,
    #[serde(borrow, default)]
    pub(super) sub_path: Text<'a>,
    #[serde(borrow, default)]
    pub(super) sub_path_expr: Text<'a>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Variable<'a> {
    #[serde(borrow, default)]
    pub(super) name: Text<'a>,
}

/// The members of an object whose names are not known before.
#[derive(Clone, Debug)]
pub(super) struct Named<'a, T>(pub(super) Vec<(Text<'a>, T)>);

impl<'a> Pod<'a> {
    /// The pod that is this whole document.
    #[must_use]
    pub fn of(document: &'a Value) -> Self {
        // What is odd is no error.
        Self::deserialize(document).unwrap_or_default()
    }

    pub(super) fn spec(&self) -> Option<&Spec<'a>> {
        self.0.0.as_ref()?.spec.0.as_ref()
    }

    /// The names of its annotations with their values.
    pub(super) fn annotations(&self) -> impl Iterator<Item = (&str, &Text<'a>)> {
        let metadata = self.0.0.as_ref().and_then(|pod| pod.metadata.0.as_ref());
        let members = metadata.map_or(&[][..], |metadata| &metadata.annotations.0);
        members.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pod<'a> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        Object::deserialize(value).map(Self)
    }
}

impl<T> Default for Named<'_, T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Lenient<'de> for Named<'de, T> {
    fn other() -> Self {
        Self::default()
    }

    fn object<A: MapAccess<'de>>(mut members: A) -> Result<Self, A::Error> {
        let mut read = Vec::new();
        while let Some(member) = members.next_entry()? {
            read.push(member);
        }
        Ok(Self(read))
    }
}

impl<'de: 'a, 'a, T: Deserialize<'de>> Deserialize<'de> for Named<'a, T> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        lenient::<Named<'de, T>, D>(value)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_plain_is_borrowed_and_what_is_escaped_is_read_too() {
        let text =
            r#"{"metadata": {"annotations": {"a/b": "c", "d": "\u0065", "f": 1}, "managedFields": [{}]}}"#;
        let pod: Pod<'_> = serde_json::from_str(text).unwrap();
        let read: Vec<_> = pod.annotations().map(|(name, value)| (name, value.get())).collect();
        assert_eq!(read, [("a/b", Some("c")), ("d", Some("e")), ("f", None)]);
    }

    #[test]
    fn whatever_stands_there_is_no_error() {
        let odd = [
            json!(null),
            json!(true),
            json!(-1),
            json!(1),
            json!(1.5),
            json!("x"),
            json!([1, {}]),
            json!({"a": [1]}),
        ];
        for odd in &odd {
            let text = json!({"metadata": {"annotations": odd}, "spec": {
                "containers": [odd, {"name": odd, "env": [odd], "volumeMounts": odd}],
                "volumes": [odd, {"name": odd, "projected": {"sources": [odd, {"secret": odd}]}}],
                "hostNetwork": odd,
            }})
            .to_string();
            let pod: Pod<'_> = serde_json::from_str(&text).unwrap();
            let spec = pod.spec().unwrap();
            assert_eq!((spec.containers.elements().len(), spec.volumes.elements().len()), (2, 2), "{odd}");
            assert_eq!(spec.host_network.0, *odd == json!(true));
            for text in [odd.to_string(), json!({"metadata": odd, "spec": odd}).to_string()] {
                let pod: Pod<'_> = serde_json::from_str(&text).unwrap();
                assert_eq!(pod.annotations().count(), 0);
                assert_eq!(pod.spec().is_some(), text.contains(r#""spec":{"#));
            }
        }
    }

    #[test]
    fn an_array_is_never_an_object() {
        // serde's own structs would take one for their fields in order.
        let pod = json!([{"annotations": {"a": "b"}}, {"containers": []}]);
        assert!(Pod::of(&pod).spec().is_none() && Pod::of(&pod).annotations().count() == 0);
    }
}
