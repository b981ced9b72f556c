//! `values.schema.json`, from the values.

use anyhow::{Context as _, bail, ensure};
use serde_json::{Map, Value, json};

use super::values::{Entry, Values};

/// The text of `values.schema.json`.
pub(super) fn render(values: &Values) -> anyhow::Result<String> {
    let mut root = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Values of the idtoken-operator chart",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "global": {"description": "Set by a parent chart; not used.", "type": "object"},
            "enabled": {"description": "For the condition of a parent chart; not used.", "type": "boolean"},
        },
        "$defs": values.definitions,
    });
    for entry in &values.entries {
        let schema = schema_of(entry, &values.definitions)
            .with_context(|| format!("values.yaml: {}", entry.name()))?;
        properties_above(&mut root, &entry.path)?.insert(entry.path[entry.path.len() - 1].clone(), schema);
    }
    Ok(format!("{}\n", serde_json::to_string_pretty(&root)?))
}

/// The `properties` that hold the last key of `path`.
fn properties_above<'a>(root: &'a mut Value, path: &[String]) -> anyhow::Result<&'a mut Map<String, Value>> {
    let above = path[..path.len() - 1].join("/properties/");
    let pointer =
        if above.is_empty() { "/properties".to_owned() } else { format!("/properties/{above}/properties") };
    let properties = root.pointer_mut(&pointer).and_then(Value::as_object_mut);
    properties.with_context(|| format!("values.yaml: {} is in no section", path.join(".")))
}

fn schema_of(entry: &Entry, definitions: &Map<String, Value>) -> anyhow::Result<Value> {
    let mut schema = entry.schema.clone();
    if let Some(Value::String(name)) = schema.get_mut("$ref") {
        ensure!(definitions.contains_key(name.as_str()), "@schema refers to {name}, which nothing defines");
        *name = format!("#/$defs/{name}");
    } else if !schema.contains_key("enum") && !schema.contains_key("type") {
        schema.insert("type".to_owned(), type_of(entry)?.into());
    }
    schema.insert("description".to_owned(), entry.description.clone().into());
    if entry.is_section {
        schema.insert("additionalProperties".to_owned(), false.into());
        schema.insert("properties".to_owned(), json!({}));
    } else {
        schema.insert("default".to_owned(), entry.default.clone());
    }
    Ok(schema.into())
}

fn type_of(entry: &Entry) -> anyhow::Result<&'static str> {
    Ok(match &entry.default {
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() => "integer",
        Value::String(_) => "string",
        Value::Object(_) if entry.is_section => "object",
        _ => bail!("the default doesn't say the type: write a @schema"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn schema(text: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&render(&Values::parse(text)?)?)?)
    }

    #[test]
    fn sections_are_closed_and_types_come_from_the_defaults() {
        let text = "# @define map {type: object}\n\n# How many.\n# @schema {minimum: 1}\nreplicas: 2\n# TLS.\ntls:\n  \
                    # Which.\n  # @schema {enum: [a, b]}\n  mode: a\n  # Free.\n  # @schema {$ref: map}\n  labels: {}\n";
        assert_eq!(
            schema(text).unwrap(),
            json!({
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "title": "Values of the idtoken-operator chart",
                "type": "object",
                "additionalProperties": false,
                "$defs": {"map": {"type": "object"}},
                "properties": {
                    "global": {"description": "Set by a parent chart; not used.", "type": "object"},
                    "enabled": {"description": "For the condition of a parent chart; not used.", "type": "boolean"},
                    "replicas": {"type": "integer", "minimum": 1, "default": 2, "description": "How many."},
                    "tls": {
                        "type": "object",
                        "additionalProperties": false,
                        "description": "TLS.",
                        "properties": {
                            "mode": {"enum": ["a", "b"], "default": "a", "description": "Which."},
                            "labels": {"$ref": "#/$defs/map", "default": {}, "description": "Free."},
                        },
                    },
                },
            })
        );
    }

    #[test]
    fn what_the_default_does_not_say_must_be_said() {
        let error = |text| format!("{:#}", schema(text).unwrap_err());
        assert_eq!(
            error("# A list.\nlist: []\n"),
            "values.yaml: list: the default doesn't say the type: write a @schema"
        );
        assert_eq!(
            error("# A map.\n# @schema {$ref: nothing}\nmap: {}\n"),
            "values.yaml: map: @schema refers to nothing, which nothing defines"
        );
    }
}
