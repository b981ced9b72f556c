//! Values and templates agree: every value is used, and everything used is a value.

use std::collections::BTreeSet;

use super::values::Values;

/// What is wrong, a line each.
pub(super) fn lint(values: &Values, templates: &str) -> Vec<String> {
    let names: BTreeSet<String> = values.entries.iter().map(super::values::Entry::name).collect();
    let used: BTreeSet<String> = references(templates, ".Values.")
        .chain(references(templates, "$own.").flat_map(|name| of_components(&name, &names)))
        .collect();
    let undocumented = used
        .iter()
        .filter(|name| !names.contains(*name))
        .map(|name| format!("a template uses .Values.{name}, which values.yaml doesn't have"));
    let unused = values
        .entries
        .iter()
        .filter(|entry| !entry.is_section && !is_used(&entry.path, &used))
        .map(|entry| format!("no template uses the value {}", entry.name()));
    undocumented.chain(unused).collect()
}

/// Whether the value itself or a section around it is used as a whole.
fn is_used(path: &[String], used: &BTreeSet<String>) -> bool {
    (1..=path.len()).any(|length| used.contains(&path[..length].join(".")))
}

/// The paths that follow a prefix in the templates.
fn references<'a>(templates: &'a str, prefix: &'a str) -> impl Iterator<Item = String> + 'a {
    templates.match_indices(prefix).map(move |(start, _)| {
        let rest = &templates[start + prefix.len()..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len());
        rest[..end].trim_end_matches('.').to_owned()
    })
}

/// `$own` is the section of the component that a template is about: whichever of them has the key.
fn of_components(name: &str, names: &BTreeSet<String>) -> Vec<String> {
    let there: Vec<String> = COMPONENTS
        .iter()
        .map(|component| format!("{component}.{name}"))
        .filter(|name| names.contains(name))
        .collect();
    if there.is_empty() { vec![format!("{}.{name}", COMPONENTS[0])] } else { there }
}

const COMPONENTS: [&str; 3] = ["controller", "webhook", "test"];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const VALUES: &str = "# C.\ncontroller:\n  # R.\n  replicas: 1\n  # L.\n  podLabels: 1\n# W.\nwebhook:\n  # L.\n  \
                          podLabels: 1\n# T.\ntls:\n  # M.\n  mode: a\n";

    #[test]
    fn agreement_is_silent() {
        let values = Values::parse(VALUES).unwrap();
        let templates =
            "{{ .Values.controller.replicas }} {{ toYaml $own.podLabels }} {{ $.Values.tls.mode }}";
        assert_eq!(lint(&values, templates), Vec::<String>::new());
        assert_eq!(
            lint(&values, "{{ .Values.controller.replicas }}{{ $own.podLabels }}{{ .root.Values.tls }}"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_value_without_use_and_a_use_without_value_are_named() {
        let values = Values::parse(VALUES).unwrap();
        let templates =
            "{{ .Values.tls.mod }} {{ $own.podLabel }} {{ .Values.controller.replicas}} {{ $own.podLabels }}";
        assert_eq!(
            lint(&values, templates),
            [
                "a template uses .Values.controller.podLabel, which values.yaml doesn't have",
                "a template uses .Values.tls.mod, which values.yaml doesn't have",
                "no template uses the value tls.mode",
            ]
        );
    }
}
