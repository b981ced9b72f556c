//! A pod as far as it is looked at. The rest, most of a real pod, is skipped while it is read; what is added does not depend on it, and
//! nothing of it is touched.
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess},
};
use serde_json::Value;

use super::{
    lenient::{Flag, Lenient, List, Members, Object, Reader, Room, Text},
    request::{PREFIX, VARIABLES, is_known},
};

/// What is looked at of a pod.
#[derive(Clone, Debug, Default)]
pub struct Pod<'a> {
    looked_at: Object<Looked<'a>>,
    is_cut: bool,
}

#[derive(Clone, Debug, Default)]
struct Looked<'a> {
    metadata: Object<Metadata<'a>>,
    spec: Object<Spec<'a>>,
}

#[derive(Clone, Debug, Default)]
struct Metadata<'a> {
    annotations: Annotations<'a>,
}

/// Those that begin as ours do, and the one that mirror pods have.
#[derive(Clone, Debug, Default)]
struct Annotations<'a> {
    /// Each once, so that there is room for them in any case.
    known: Vec<(Text<'a>, Text<'a>)>,
    unknown: Vec<Text<'a>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Spec<'a> {
    pub(super) volumes: List<Object<Volume<'a>>>,
    pub(super) init_containers: List<Object<Container<'a>>>,
    pub(super) containers: List<Object<Container<'a>>>,
    pub(super) host_network: Flag,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Volume<'a> {
    pub(super) name: Text<'a>,
    pub(super) projected: Object<Projected<'a>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Projected<'a> {
    pub(super) sources: List<Sources<'a>>,
}

/// A source by its types; the API server takes one with one type.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources<'a>(pub(super) Vec<(Text<'a>, Object<Source<'a>>)>);

#[derive(Clone, Debug, Default)]
pub(super) struct Source<'a> {
    pub(super) name: Text<'a>,
    pub(super) path: Text<'a>,
    pub(super) items: List<Object<Item<'a>>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Item<'a> {
    pub(super) key: Text<'a>,
    pub(super) path: Text<'a>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Container<'a> {
    pub(super) name: Text<'a>,
    pub(super) volume_mounts: List<Object<VolumeMount<'a>>>,
    /// Without those whose names can't be ours: there may be many, and places in it don't matter.
    pub(super) env: List<Variable<'a>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct VolumeMount<'a> {
    pub(super) name: Text<'a>,
    pub(super) mount_path: Text<'a>,
    pub(super) sub_path: Text<'a>,
    pub(super) sub_path_expr: Text<'a>,
}

/// Its name.
#[derive(Clone, Debug, Default)]
pub(super) struct Variable<'a>(pub(super) Text<'a>);

/// Says which members an object is made of.
macro_rules! members {
    ($($object:ident { $($field:ident: $name:literal),+ })+) => { $(
        impl<'de> Members<'de> for $object<'de> {
            fn read<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A, room: &Room) -> Result<(), A::Error> {
                match name {
                    $($name => self.$field = value.next_value_seed(Reader::new(room))?,)+
                    _ => _ = value.next_value::<IgnoredAny>()?,
                }
                Ok(())
            }
        }
    )+ };
}

members! {
    Looked { metadata: "metadata", spec: "spec" }
    Metadata { annotations: "annotations" }
    Spec { volumes: "volumes", init_containers: "initContainers", containers: "containers", host_network: "hostNetwork" }
    Volume { name: "name", projected: "projected" }
    Projected { sources: "sources" }
    Source { name: "name", path: "path", items: "items" }
    Item { key: "key", path: "path" }
    Container { name: "name", volume_mounts: "volumeMounts", env: "env" }
    VolumeMount { name: "name", mount_path: "mountPath", sub_path: "subPath", sub_path_expr: "subPathExpr" }
}

impl<'a> Pod<'a> {
    /// The pod that is this whole document.
    #[must_use]
    pub fn of(document: &'a Value) -> Self {
        // What is odd is no error.
        Self::deserialize(document).unwrap_or_default()
    }

    /// Whether there is more to look at than was read.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub(super) fn spec(&self) -> Option<&Spec<'a>> {
        self.looked_at.0.as_ref()?.spec.0.as_ref()
    }

    /// The value of the annotation `key` (without our prefix), of those that have a meaning; none in it where it is no string.
    pub(super) fn annotation(&self, key: &str) -> Option<&Text<'a>> {
        let is_it = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name) == key;
        self.annotations()?.known.iter().find(|(name, _)| is_it(name.as_str())).map(|(_, value)| value)
    }

    /// The names of those annotations that look like ours, but have no meaning.
    pub(super) fn unknown_annotations(&self) -> impl Iterator<Item = &str> {
        self.annotations().into_iter().flat_map(|annotations| annotations.unknown.iter().map(Text::as_str))
    }

    fn annotations(&self) -> Option<&Annotations<'a>> {
        Some(&self.looked_at.0.as_ref()?.metadata.0.as_ref()?.annotations)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Pod<'a> {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        let room = Room::new(MOST_KEPT);
        let looked_at = Reader::new(&room).deserialize(value)?;
        Ok(Self { looked_at, is_cut: room.is_spent() })
    }
}

impl<'de> Lenient<'de> for Annotations<'de> {
    fn other() -> Self {
        Self::default()
    }

    fn object<A: MapAccess<'de>>(mut members: A, room: &Room) -> Result<Self, A::Error> {
        let mut annotations = Self::default();
        while let Some(name) = members.next_key_seed(Reader::<Text<'_>>::new(room))? {
            if is_known(name.as_str()) {
                let value = members.next_value_seed(Reader::new(room))?;
                annotations.known.retain(|(other, _)| other.as_str() != name.as_str()); // the last one counts
                annotations.known.push((name, value));
                continue;
            }
            members.next_value::<IgnoredAny>()?;
            if name.as_str().starts_with(PREFIX) && room.take::<Text<'_>>() {
                annotations.unknown.push(name);
            }
        }
        Ok(annotations)
    }
}

impl<'de> Lenient<'de> for Sources<'de> {
    fn other() -> Self {
        Self::default()
    }

    fn object<A: MapAccess<'de>>(mut members: A, room: &Room) -> Result<Self, A::Error> {
        let mut sources = Self::default();
        while let Some(name) = members.next_key_seed(Reader::<Text<'_>>::new(room))? {
            let source = members.next_value_seed(Reader::new(room))?;
            if room.take::<(Text<'_>, Object<Source<'_>>)>() {
                sources.0.push((name, source));
            }
        }
        Ok(sources)
    }
}

impl<'de> Lenient<'de> for Variable<'de> {
    fn other() -> Self {
        Self::default()
    }

    fn object<A: MapAccess<'de>>(mut members: A, room: &Room) -> Result<Self, A::Error> {
        let mut variable = Self::default();
        while let Some(member) = members.next_key_seed(Reader::<Text<'_>>::new(room))? {
            if member.as_str() == "name" {
                variable.0 = members.next_value_seed(Reader::new(room))?;
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(variable)
    }

    fn is_looked_at(&self) -> bool {
        self.0.as_str().starts_with(VARIABLES)
    }
}

/// Some ten thousand containers, mounts, volumes and the like together: far more than any pod has that fits into etcd, unless it is made
/// for it.
const MOST_KEPT: usize = 2 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_plain_is_borrowed_and_what_is_escaped_is_read_too() {
        let text = r#"{"metadata": {"annotations": {
            "a/b": "c", "idtoken.dev/x": {}, "idtoken.dev/inject": "c", "idtoken.dev/optional": "\u0065", "idtoken.dev/agent": 1
        }, "managedFields": [{}]}}"#;
        let pod: Pod<'_> = serde_json::from_str(text).unwrap();
        let read = ["inject", "optional", "agent", "proxy"].map(|key| pod.annotation(key).map(Text::get));
        assert_eq!(read, [Some(Some("c")), Some(Some("e")), Some(None), None]);
        assert_eq!(pod.unknown_annotations().collect::<Vec<_>>(), ["idtoken.dev/x"]);
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
                assert!(pod.annotation("inject").is_none());
                assert_eq!(pod.spec().is_some(), text.contains(r#""spec":{"#));
            }
        }
    }

    #[test]
    fn an_array_is_never_an_object() {
        // serde's own structs would take one for their fields in order.
        let pod = json!([{"annotations": {"idtoken.dev/inject": "b"}}, {"containers": []}]);
        assert!(Pod::of(&pod).spec().is_none() && Pod::of(&pod).annotation("inject").is_none());
    }
}
