//! What the demo prints.

use kube::Client;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

/// Numbers and prints the steps.
#[derive(Debug)]
pub(super) struct Show {
    steps: u32,
    started: Instant,
}

impl Default for Show {
    fn default() -> Self {
        Self { steps: 0, started: Instant::now() }
    }
}

impl Show {
    /// Announces the next step.
    pub(super) fn step(&mut self, title: &str) {
        self.steps += 1;
        println!("\n{}. {title}", self.steps);
    }

    /// A sentence on what was observed.
    #[allow(clippy::unused_self)] // only who has the show prints
    pub(super) fn say(&self, text: impl std::fmt::Display) {
        println!("   {text}");
    }

    /// A command, as the user would type it.
    pub(super) fn command(&self, text: &str) {
        self.say(format_args!("$ {text}"));
    }

    /// Text of several lines.
    pub(super) fn block(&self, text: &str) {
        for line in text.trim_end().lines() {
            self.say(format_args!("  {line}"));
        }
    }

    /// The end.
    pub(super) fn finish(&self, text: &str) {
        println!("\n{text} ({} steps, {:.0} s)", self.steps, self.started.elapsed().as_secs_f32());
    }
}

/// The table that `kubectl get -o wide` prints: the API server makes it, kubectl only draws it.
pub(super) async fn table(client: &Client, path: &str) -> anyhow::Result<String> {
    let request = http::Request::get(path)
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())?;
    let table: Table = client.request(request).await?;
    let titles = table.column_definitions.iter().map(|column| column.name.to_uppercase()).collect();
    let mut lines: Vec<Vec<String>> = vec![titles];
    lines.extend(table.rows.iter().map(|row| row.cells.iter().map(cell).collect()));
    Ok(aligned(&lines))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Table {
    column_definitions: Vec<Column>,
    #[serde(default)]
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
}

#[derive(Deserialize)]
struct Row {
    cells: Vec<Value>,
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Columns under each other.
pub(super) fn aligned(lines: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..lines.first().map_or(0, Vec::len))
        .map(|column| lines.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0))
        .collect();
    let drawn = lines.iter().map(|line| {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("   ").trim_end().to_owned()
    });
    drawn.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let lines = [["NAME", "READY"], ["orders", "True"]].map(|line| line.map(str::to_owned).to_vec());
        assert_eq!(aligned(&lines), "NAME     READY\norders   True");
        assert_eq!(aligned(&[]), "");
    }
}
