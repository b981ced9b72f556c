//! The documentation is true where a program can tell: links lead somewhere, and what it shows of our kinds would be accepted.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use idtoken_operator::{
    api::IdTokenBinding,
    plan::{grant, source::source_name, validate::validate},
};
use serde::Deserialize as _;
use serde_json::Value;

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    let mut followed = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, at)| (file, Some(at)));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            followed += 1;
            let page = page.display();
            let is_page = target.extension().is_some_and(|extension| extension == "md");
            match (target.exists(), anchor) {
                (false, _) => wrong.push(format!("{page}: {link}: there is no such file")),
                (true, Some(anchor))
                    if is_page && !anchors(&fs::read_to_string(&target).unwrap()).contains(anchor) =>
                {
                    wrong.push(format!("{page}: {link}: there is no such heading"));
                }
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(followed > 60, "only {followed} links were found: the reading of pages is broken");
}

#[test]
fn bindings_and_grants_in_the_pages_are_valid() {
    let mut sources = BTreeSet::new();
    let mut grants = 0;
    for page in pages() {
        for (line, object) in objects(&fs::read_to_string(&page).unwrap()) {
            let at = format!("{}:{line}", page.display());
            match object["kind"].as_str() {
                Some("IdTokenBinding") => {
                    let binding: IdTokenBinding =
                        serde_json::from_value(object.clone()).unwrap_or_else(|e| panic!("{at}: {e}"));
                    validate(&binding).unwrap_or_else(|problem| panic!("{at}: {}", problem.message));
                    assert_nothing_lost(&at, &object["spec"], &serde_json::to_value(&binding.spec).unwrap());
                    sources.insert(source_name(&binding.spec.source));
                }
                Some("IdTokenGrant") if object["spec"]["namespaces"]["selector"].is_null() => {
                    grant::file::parse(&object.to_string()).unwrap_or_else(|e| panic!("{at}: {e}"));
                    grants += 1;
                }
                _ => {}
            }
        }
    }
    let all = [
        "identityPlatform",
        "impersonation",
        "kubernetesServiceAccount",
        "metadataServer",
        "serviceAccountKey",
        "signedJwt",
        "userCredentials",
    ];
    assert_eq!(sources.into_iter().collect::<Vec<_>>(), all, "each source is shown");
    assert!(grants >= 6, "{grants} grants were found");
}

/// A plain `kubectl apply` copies the Secret into an annotation.
#[test]
fn no_page_applies_a_secret_on_the_client_side() {
    let mut secrets = 0;
    for page in pages() {
        for line in commands(&fs::read_to_string(&page).unwrap()) {
            let Some((_, behind)) = line.split_once("create secret") else { continue };
            secrets += 1;
            let applied = behind.split_once("kubectl apply").map(|(_, apply)| apply);
            let is_plain = applied.is_some_and(|apply| !apply.contains("--server-side"));
            assert!(!is_plain, "{}: {line}", page.display());
        }
    }
    assert!(secrets >= 5, "only {secrets} commands that make Secrets were found");
}

/// A page that says "this test shows it" names one that is there.
#[test]
fn every_test_that_is_cited_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut wrong, mut cited) = (Vec::new(), 0);
    for page in pages() {
        for (file, function) in citations(&fs::read_to_string(&page).unwrap()) {
            cited += 1;
            let source = fs::read_to_string(root.join(&file)).unwrap_or_default();
            if !is_test(&source, &function) {
                wrong.push(format!("{}: {file}::{function}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "these are no tests: {wrong:#?}");
    assert!(cited > 60, "only {cited} citations were found");
}

/// Every field as written stands in what was read: none is misspelt.
fn assert_nothing_lost(at: &str, written: &Value, read: &Value) {
    match written {
        Value::Object(fields) => {
            for (name, value) in fields {
                assert!(read.get(name).is_some(), "{at}: there is no field {name}");
                assert_nothing_lost(at, value, &read[name]);
            }
        }
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(i, v)| assert_nothing_lost(at, v, &read[i]));
        }
        value => assert_eq!(value, read, "{at}"),
    }
}

/// What stands as `` `path.rs::function` ``.
fn citations(text: &str) -> Vec<(String, String)> {
    let quoted = text.split('`').skip(1).step_by(2).filter(|quoted| !quoted.contains('\n'));
    quoted
        .filter_map(|quoted| quoted.split_once(".rs::"))
        .map(|(file, function)| (format!("{file}.rs"), function.to_owned()))
        .collect()
}

/// Whether the source has a test of that name; of a property its attribute stands within the macro.
fn is_test(source: &str, function: &str) -> bool {
    let Some((before, _)) = source.split_once(&format!("fn {function}(")) else { return false };
    let own = before.rsplit('}').next().unwrap_or_default();
    own.contains("#[test]") || own.contains("#[tokio::test")
}

/// Every page of the documentation.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages: Vec<_> = [".", "docs", "docs/sources", "charts/idtoken-operator"]
        .iter()
        .flat_map(|directory| fs::read_dir(root.join(directory)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.sort();
    pages
}

/// Targets of links within the repository.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
    targets.filter(|link| !link.contains("://") && !link.contains(' ')).collect()
}

/// What headings are called in links.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = outside_blocks(text).filter_map(|line| line.strip_prefix('#'));
    headings
        .map(|line| {
            let plain = line.trim_start_matches('#').trim().to_lowercase();
            let kept = plain.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

fn outside_blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        if line.trim_start().starts_with("```") {
            inside = !inside;
            return false;
        }
        !inside
    })
}

/// The lines of a page, with those together that a backslash joins.
fn commands(text: &str) -> Vec<String> {
    text.replace("\\\n", " ").lines().map(str::to_owned).collect()
}

/// Objects in YAML blocks, and in what shell blocks feed to kubectl, with the line at which their block begins.
fn objects(text: &str) -> Vec<(usize, Value)> {
    let mut objects = Vec::new();
    let mut from: Option<usize> = None;
    let lines: Vec<_> = text.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        let (begins, ends) =
            (line.starts_with("```yaml") || line.ends_with("<<EOF"), *line == "```" || *line == "EOF");
        match from {
            None if begins => from = Some(number + 1),
            Some(first) if ends => {
                // The shell would put values in place of these.
                let text = lines[first..number]
                    .join("\n")
                    .replace("$URL", "https://x.a.run.app")
                    .replace("$PROJECT", "p");
                for document in serde_yaml_ng::Deserializer::from_str(&text) {
                    objects.push((first, Value::deserialize(document).unwrap_or_default()));
                }
                from = None;
            }
            _ => {}
        }
    }
    objects
}

#[test]
fn links_headings_and_objects_are_found() {
    assert_eq!(commands("a \\\n  b\nc"), ["a    b", "c"]);
    let found = citations("`a/b.rs::c_d` `e.rs` f.rs::g\n`src/h.rs::i`");
    assert_eq!(found, [("a/b.rs", "c_d"), ("src/h.rs", "i")].map(|(a, b)| (a.to_owned(), b.to_owned())));
    let source = "#[test]\nfn a() {}\nfn b() {}\n#[tokio::test(flavor)]\n#[ignore]\nasync fn c() {}";
    assert_eq!(["a", "b", "c", "d"].map(|name| is_test(source, name)), [true, false, true, false]);
    assert_eq!(links("[a](b.md#c) [d](https://e) [f](#g)"), ["b.md#c", "#g"]);
    let found = anchors("# A b\n```sh\n# not one\n```\n### Reason: TokenFresh\n## `x y` (z)\n");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a-b", "reason-tokenfresh", "x-y-z"]);
    let text = "```yaml\na: 1\n---\nb: 2\n```\n```sh\nkubectl apply -f - <<EOF\nc: $PROJECT\nEOF\n```\n";
    let found: Vec<_> = objects(text).into_iter().map(|(line, value)| (line, value.to_string())).collect();
    assert_eq!(
        found,
        [(1, r#"{"a":1}"#.to_owned()), (1, r#"{"b":2}"#.to_owned()), (7, r#"{"c":"p"}"#.to_owned())]
    );
}
