//! What of a pod is looked at. The rest, most of a real pod, is skipped while the pod is parsed instead of being built up in
//! memory; what is added to the pod does not depend on it, and nothing of it is touched.
use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

use Keep::{Elements, Members, Whole};

/// Reads a pod, but only what [`inject`](super::inject) looks at. Elements of arrays keep their places.
pub fn excerpt<'de, D: Deserializer<'de>>(pod: D) -> Result<Value, D::Error> {
    POD.deserialize(pod)
}

/// What is kept of a value. Of one that is not of the expected shape it is its type.
#[derive(Clone, Copy)]
enum Keep {
    Whole,
    Members(&'static [(&'static str, Keep)]),
    Elements(&'static Keep),
}

const POD: Keep = Members(&[
    ("metadata", Members(&[("annotations", Whole)])),
    (
        "spec",
        Members(&[
            ("volumes", Elements(&VOLUME)),
            ("initContainers", Elements(&CONTAINER)),
            ("containers", Elements(&CONTAINER)),
            ("hostNetwork", Whole),
        ]),
    ),
]);

const VOLUME: Keep = Members(&[("name", Whole), ("projected", Members(&[("sources", Whole)]))]);

const CONTAINER: Keep = Members(&[
    ("name", Whole),
    ("volumeMounts", Elements(&MOUNT)),
    ("env", Elements(&Members(&[("name", Whole)]))),
]);

const MOUNT: Keep =
    Members(&[("name", Whole), ("mountPath", Whole), ("subPath", Whole), ("subPathExpr", Whole)]);

impl<'de> DeserializeSeed<'de> for Keep {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Value, D::Error> {
        match self {
            Whole => Value::deserialize(value),
            Members(_) | Elements(_) => value.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Keep {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let wanted = if let Members(wanted) = self { wanted } else { &[] };
        let mut kept = Map::new();
        while let Some(member) = map.next_key_seed(Among(wanted))? {
            match member {
                Some((name, keep)) => {
                    kept.insert((*name).to_owned(), map.next_value_seed(*keep)?);
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Object(kept))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        if let Elements(keep) = self {
            while let Some(element) = elements.next_element_seed(*keep)? {
                kept.push(element);
            }
        } else {
            while elements.next_element::<IgnoredAny>()?.is_some() {}
        }
        Ok(Value::Array(kept))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

/// Finds a member's name among those that are wanted.
struct Among(&'static [(&'static str, Keep)]);

impl<'de> DeserializeSeed<'de> for Among {
    type Value = Option<&'static (&'static str, Keep)>;

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<Self::Value, D::Error> {
        name.deserialize_str(self)
    }
}

impl Visitor<'_> for Among {
    type Value = Option<&'static (&'static str, Keep)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, found: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().find(|(name, _)| *name == found))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(pod: &Value) -> Value {
        excerpt(&mut serde_json::Deserializer::from_str(&pod.to_string())).unwrap()
    }

    #[test]
    fn only_what_is_looked_at_is_kept() {
        let pod = json!({
            "kind": "Pod",
            "metadata": {"name": "p", "annotations": {"a/b": "c"}, "managedFields": [{"fieldsV1": {"f:x": {}}}]},
            "spec": {
                "volumes": [
                    {"name": "idtoken", "projected": {"defaultMode": 420, "sources": [
                        {"configMap": {"name": "c"}}, {"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}},
                    ]}},
                    {"name": "data", "emptyDir": {}},
                ],
                "containers": [{
                    "name": "app", "image": "app", "ports": [{"containerPort": 80}],
                    "env": [{"name": "A", "valueFrom": {"fieldRef": {}}}],
                    "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "x", "readOnly": true}],
                }],
                "tolerations": [{"key": "k"}],
            },
            "status": {},
        });
        assert_eq!(
            of(&pod),
            json!({
                "metadata": {"annotations": {"a/b": "c"}},
                "spec": {
                    "volumes": [
                        {"name": "idtoken", "projected": {"sources": [
                            {"configMap": {"name": "c"}}, {"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}},
                        ]}},
                        {"name": "data"},
                    ],
                    "containers": [{
                        "name": "app",
                        "env": [{"name": "A"}],
                        "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "x"}],
                    }],
                },
            })
        );
    }

    #[test]
    fn of_what_has_another_shape_the_type_is_kept() {
        for odd in [json!(null), json!(true), json!(-1), json!(1), json!(1.5), json!("x")] {
            assert_eq!(of(&odd), odd);
            let pod = json!({"spec": {"containers": [odd], "volumes": odd}});
            assert_eq!(of(&pod), pod);
        }
        let swapped = json!({"metadata": [1, {}], "spec": {"containers": {"a": [1]}, "volumes": [[1]]}});
        assert_eq!(of(&swapped), json!({"metadata": [], "spec": {"containers": {}, "volumes": [[]]}}));
    }
}
