//! The tables of values in the chart's README, from the values.

use anyhow::Context as _;

use super::values::{Entry, Values};

/// The README with its tables as the values have them.
pub(super) fn render(readme: &str, values: &Values) -> anyhow::Result<String> {
    let (before, rest) = readme.split_once(BEGIN).with_context(|| format!("README.md has no {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("README.md has no {END}"))?;
    Ok(format!("{before}{BEGIN}\n{}{END}{after}", tables(values)))
}

/// One table for the keys at the top, and one for each section.
fn tables(values: &Values) -> String {
    let top = || values.entries.iter().filter(|entry| entry.path.len() == 1);
    let alone: String = top().filter(|entry| !entry.is_section).map(row).collect();
    let sections: Vec<String> =
        top().filter(|entry| entry.is_section).map(|entry| section(entry, values)).collect();
    format!("\n{HEADER}{alone}{}\n", sections.concat())
}

fn section(section: &Entry, values: &Values) -> String {
    let inside =
        values.entries.iter().filter(|entry| entry.path.len() > 1 && entry.path[0] == section.path[0]);
    let rows: String = inside.map(row).collect();
    format!("\n### `{}`\n{}\n\n{HEADER}{rows}", section.path[0], section.description)
}

fn row(entry: &Entry) -> String {
    let default = if entry.is_section { String::new() } else { shown(&entry.default) };
    format!("| `{}` | {default} | {} |\n", entry.name(), entry.description.replace('|', "\\|"))
}

fn shown(default: &serde_json::Value) -> String {
    match default.to_string() {
        long if long.len() > LONGEST => "see values.yaml".to_owned(),
        short => format!("`{short}`"),
    }
}

const BEGIN: &str = "<!-- values: made by cargo xtask chart -->";
const END: &str = "<!-- end of values -->";
const HEADER: &str = "| key | default | meaning |\n|---|---|---|\n";
const LONGEST: usize = 80;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_tables_stand_between_the_marks() {
        let values =
            Values::parse("# Format: a|b.\nformat: a\n# The image.\nimage:\n  # Tag.\n  tag: \"\"\n")
                .unwrap();
        let readme =
            "# Chart\n<!-- values: made by cargo xtask chart -->\nold\n<!-- end of values -->\nEnd.\n";
        assert_eq!(
            render(readme, &values).unwrap(),
            "# Chart\n<!-- values: made by cargo xtask chart -->\n\n\
             | key | default | meaning |\n|---|---|---|\n| `format` | `\"a\"` | Format: a\\|b. |\n\n\
             ### `image`\nThe image.\n\n\
             | key | default | meaning |\n|---|---|---|\n| `image.tag` | `\"\"` | Tag. |\n\n\
             <!-- end of values -->\nEnd.\n"
        );
    }

    #[test]
    fn a_readme_without_the_marks_is_an_error() {
        let values = Values::parse("# One.\none: 1\n").unwrap();
        assert!(
            render("# Chart\n", &values).unwrap_err().to_string().starts_with("README.md has no <!-- values")
        );
    }
}
