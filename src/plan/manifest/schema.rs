//! The CRD's own schema, for a spec that no API server has seen: which fields there are, and what may stand in them.

use kube::CustomResourceExt as _;
use serde_json::{Map, Value};

use super::{Wrong, wrong};
use crate::api::IdTokenBinding;

/// `spec` without its nulls, if it is as the schema says.
pub(super) fn checked(spec: &Value) -> Result<Value, Wrong> {
    let crd = serde_json::to_value(IdTokenBinding::crd()).unwrap_or_default();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let spec = without_nulls(spec);
    check(&spec, schema, "spec")?;
    Ok(spec)
}

/// A field that is null counts as absent, as it does for the API server.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            kept.map(|(name, value)| (name.clone(), without_nulls(value))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

fn check(value: &Value, schema: &Value, path: &str) -> Result<(), Wrong> {
    match (schema["type"].as_str().unwrap_or_default(), value) {
        (_, Value::Null) => Err(wrong(path, "is missing")),
        ("object", Value::Object(fields)) => object(fields, schema, path),
        ("array", Value::Array(items)) => {
            within(items.len(), schema, ["minItems", "maxItems"], "entries", path)?;
            let mut items = items.iter().enumerate();
            items.try_for_each(|(i, item)| check(item, &schema["items"], &format!("{path}[{i}]")))
        }
        ("string", Value::String(text)) => {
            within(text.chars().count(), schema, ["minLength", "maxLength"], "characters", path)
        }
        ("integer", Value::Number(number)) if number.is_i64() => number_within(number.as_i64(), schema, path),
        ("boolean", Value::Bool(_)) => Ok(()),
        ("object", _) => Err(wrong(path, "must be an object")),
        ("array", _) => Err(wrong(path, "must be a list")),
        ("string", _) => Err(wrong(path, "must be a text: put it in quotes")),
        ("integer", _) => Err(wrong(path, "must be a whole number")),
        _ => Err(wrong(path, "must be true or false")),
    }
}

fn object(fields: &Map<String, Value>, schema: &Value, path: &str) -> Result<(), Wrong> {
    let none = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(missing) = required.into_iter().find(|name| !fields.contains_key(*name)) {
        return Err(wrong(format!("{path}.{missing}"), "is missing"));
    }
    within(fields.len(), schema, ["minProperties", "maxProperties"], "entries", path)?;
    for (name, value) in fields {
        let at = format!("{path}.{name}");
        match (properties.get(name), &schema["additionalProperties"]) {
            (Some(property), _) => check(value, property, &at)?,
            (None, Value::Object(_)) => check(value, &schema["additionalProperties"], &at)?,
            (None, _) => {
                let known: Vec<_> = properties.keys().map(String::as_str).collect();
                return Err(wrong(at, format!("there is no such field; there are: {}", known.join(", "))));
            }
        }
    }
    Ok(())
}

fn within(size: usize, schema: &Value, bounds: [&str; 2], unit: &str, path: &str) -> Result<(), Wrong> {
    let [least, most] = bounds.map(|bound| schema[bound].as_u64().and_then(|n| usize::try_from(n).ok()));
    if least.is_some_and(|least| size < least) || most.is_some_and(|most| size > most) {
        let (least, most) = (least.unwrap_or(0), most.map_or("any number of".to_owned(), |n| n.to_string()));
        return Err(wrong(path, format!("has {size} {unit}: {least} to {most} are allowed")));
    }
    Ok(())
}

fn number_within(number: Option<i64>, schema: &Value, path: &str) -> Result<(), Wrong> {
    // The schema writes bounds as decimal numbers.
    #[allow(clippy::cast_possible_truncation)]
    let [least, most] = ["minimum", "maximum"].map(|bound| schema[bound].as_f64().map(|n| n as i64));
    let outside =
        number.is_none_or(|n| least.is_some_and(|least| n < least) || most.is_some_and(|most| n > most));
    if outside {
        let (least, most) = (least.unwrap_or(i64::MIN), most.unwrap_or(i64::MAX));
        return Err(wrong(path, format!("must be {least} to {most}")));
    }
    Ok(())
}
