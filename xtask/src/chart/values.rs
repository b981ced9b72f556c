//! Reads `values.yaml` with its comments: every key in its order, with its description, default and schema.

use anyhow::{Context as _, bail, ensure};
use serde_json::{Map, Value};

/// The values of a chart.
#[derive(Debug)]
pub(super) struct Values {
    /// Schemas that several keys share, by name.
    pub(super) definitions: Map<String, Value>,
    /// Every key, in the order of the file.
    pub(super) entries: Vec<Entry>,
}

/// A key.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: Vec<String>,
    /// In Markdown, on one line.
    pub(super) description: String,
    pub(super) default: Value,
    /// What its comment says in JSON Schema.
    pub(super) schema: Map<String, Value>,
    /// Whether the keys below it have entries of their own.
    pub(super) is_section: bool,
}

impl Entry {
    /// `webhook.tls.mode`
    pub(super) fn name(&self) -> String {
        self.path.join(".")
    }
}

impl Values {
    /// Reads the text of a `values.yaml`. A key without a description is an error.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let defaults: Value = serde_yaml_ng::from_str(text).context("values.yaml is no YAML")?;
        let mut values = Self { definitions: Map::new(), entries: Vec::new() };
        let (mut comments, mut path) = (Vec::new(), Vec::new());
        for (index, line) in text.lines().enumerate() {
            values
                .line(line, &defaults, &mut comments, &mut path)
                .with_context(|| format!("values.yaml:{}: {line}", index + 1))?;
        }
        Ok(values)
    }

    fn line<'a>(
        &mut self,
        line: &'a str,
        defaults: &Value,
        comments: &mut Vec<&'a str>,
        path: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let content = line.trim_start();
        if let Some(comment) = content.strip_prefix('#') {
            let comment = comment.strip_prefix(' ').unwrap_or(comment);
            if let Some(definition) = comment.strip_prefix("@define ") {
                return self.define(definition);
            }
            comments.push(comment);
        } else if content.is_empty() {
            comments.clear();
        } else if !content.starts_with('-') {
            let (key, _) = content.split_once(':').context("neither a comment nor a key")?;
            path.truncate((line.len() - content.len()) / 2);
            path.push(key.to_owned());
            let entry = entry(path, content, defaults, &std::mem::take(comments))?;
            self.entries.push(entry);
        }
        Ok(())
    }

    fn define(&mut self, definition: &str) -> anyhow::Result<()> {
        let (name, schema) = definition.split_once(' ').context("@define takes a name and a schema")?;
        let schema = serde_yaml_ng::from_str(schema).context("@define: no YAML")?;
        ensure!(self.definitions.insert(name.to_owned(), schema).is_none(), "{name} is defined twice");
        Ok(())
    }
}

fn entry(path: &[String], content: &str, defaults: &Value, comments: &[&str]) -> anyhow::Result<Entry> {
    let pointer = format!("/{}", path.join("/"));
    let default = defaults.pointer(&pointer).with_context(|| format!("there is no value at {pointer}"))?;
    let (annotations, text): (Vec<&str>, Vec<&str>) =
        comments.iter().partition(|comment| comment.starts_with("@schema "));
    let description = text.join(" ").trim().to_owned();
    ensure!(!description.is_empty(), "{} has no description: write a comment above it", path.join("."));
    let schema = match annotations.as_slice() {
        [] => Map::new(),
        [one] => serde_yaml_ng::from_str(one.trim_start_matches("@schema ")).context("@schema: no YAML")?,
        _ => bail!("{} has two @schema", path.join(".")),
    };
    let is_section = default.is_object() && content.ends_with(':');
    Ok(Entry { path: path.to_vec(), description, default: default.clone(), schema, is_section })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use serde_json::json;

    #[test]
    fn keys_come_with_their_comments_in_order() {
        let text = "# A header that belongs to no key.\n#\n# @define strings {type: array, items: {type: string}}\n\n\
                    # The first.\n# In two lines.\n# @schema {minimum: 1}\none: 2\n# A section.\ntwo:\n  \
                    # Below.\n  # @schema {$ref: strings}\n  three:\n  - {a: 1, b: 2}\n  # A free map.\n  four: {x: y}\n";
        let values = Values::parse(text).unwrap();
        assert_eq!(
            Value::Object(values.definitions),
            json!({"strings": {"type": "array", "items": {"type": "string"}}})
        );
        let entries: Vec<_> =
            values.entries.iter().map(|e| (e.name(), e.description.as_str(), e.is_section)).collect();
        assert_eq!(
            entries,
            [
                ("one".to_owned(), "The first. In two lines.", false),
                ("two".to_owned(), "A section.", true),
                ("two.three".to_owned(), "Below.", false),
                ("two.four".to_owned(), "A free map.", false),
            ]
        );
        assert_eq!(values.entries[0].schema["minimum"], json!(1));
        assert_eq!(values.entries[2].default, json!([{"a": 1, "b": 2}]));
    }

    #[test]
    fn a_key_without_a_comment_is_refused() {
        let error = Values::parse("# One.\none: 1\n\ntwo: 2\n").unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "values.yaml:4: two: 2: two has no description: write a comment above it"
        );
    }
}
