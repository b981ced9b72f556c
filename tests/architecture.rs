//! The rules that keep the source readable: what may import what, what is pure, how long things get, and that every
//! reason is documented.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "architecture/source.rs"]
mod source;

use idtoken_operator::api::Reason;
use source::{Function, Source};

/// What each module at the top may import, down the diagram in `src/lib.rs`:
///
/// ```text
/// cli  →  controller | webhook  →  tls · token · verify · telemetry · cache  →  plan (pure)  →  api
/// ```
///
/// Side by side, only `verify` looks at a neighbour: it fetches keys over `token`'s HTTP client. `clock` stands below
/// everything that acts, and out of reach of what is pure.
const MAY_IMPORT: [(&str, &[&str]); 11] = [
    ("api", &[]),
    ("clock", &[]),
    ("plan", &["api"]),
    ("cache", &[]),
    ("tls", &["api", "plan", "clock"]),
    ("token", &["api", "plan", "clock"]),
    ("verify", &["api", "plan", "clock", "token"]),
    ("telemetry", &["api", "plan", "clock"]),
    ("controller", &["api", "plan", "clock", "cache", "tls", "token", "verify", "telemetry"]),
    ("webhook", &["api", "plan", "clock", "cache", "tls", "token", "verify", "telemetry"]),
    (
        "cli",
        &["api", "plan", "clock", "cache", "tls", "token", "verify", "telemetry", "controller", "webhook"],
    ),
];

/// What a decision may not reach: a runtime, a client, the clock, the environment, files, the network.
const IMPURE: [&str; 16] = [
    "tokio",
    "async fn",
    ".await",
    "kube::Client",
    "kube::client",
    "Client",
    "Api<",
    "::now(",
    "clock",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "reqwest",
    "hyper",
    "tracing",
];

const MAX_FILE_LINES: usize = 400;
const MAX_FUNCTION_LINES: usize = 60;

#[test]
fn imports_point_down_only() {
    let mut wrong = Vec::new();
    for file in Source::all_below("src") {
        let Some(module) = top_module(&file.path) else { continue };
        let (_, allowed) = MAY_IMPORT
            .iter()
            .find(|(name, _)| *name == module)
            .unwrap_or_else(|| panic!("{}: put the module {module} into the table", file.path));
        for import in file.imports().iter().filter(|i| **i != module && !allowed.contains(&i.as_str())) {
            wrong.push(format!("{} imports crate::{import}", file.path));
        }
        if file.supers() >= depth(&file.path) {
            wrong.push(format!("{} reaches the crate's root by super::", file.path));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_table_of_imports_has_no_circle_and_every_module() {
    for (position, (module, allowed)) in MAY_IMPORT.iter().enumerate() {
        for import in *allowed {
            let below = MAY_IMPORT.iter().position(|(name, _)| name == import).unwrap();
            assert!(below < position, "{module} → {import} points up");
        }
    }
    let root = Source::all_below("src").into_iter().find(|s| s.path == "src/lib.rs").unwrap();
    let mut modules: Vec<_> =
        root.code.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    modules.sort_unstable();
    let mut table: Vec<_> = MAY_IMPORT.iter().map(|(name, _)| *name).collect();
    table.sort_unstable();
    assert_eq!(modules, table);
}

#[test]
fn decisions_are_pure() {
    let mut wrong = Vec::new();
    for file in Source::all_below("src/plan") {
        for word in IMPURE.iter().filter(|word| file.code.contains(**word)) {
            wrong.push(format!("{} mentions {word}", file.path));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A verifier that takes what nobody signed is for the command line; the controller must never have one.
#[test]
fn unsigned_tokens_are_for_trying_things_out_alone() {
    let files = Source::all_below("src");
    let makers: Vec<_> =
        files.iter().filter(|f| f.code.contains("Verifier::unsigned")).map(|f| f.path.as_str()).collect();
    assert_eq!(makers, ["src/cli/token/mint.rs"]);
    let verifier = files.iter().find(|f| f.path == "src/verify/mod.rs").unwrap();
    assert_eq!(verifier.code.matches("takes_unsigned: true").count(), 1, "there is no other way to make one");
}

#[test]
fn files_and_functions_are_short() {
    let mut wrong = Vec::new();
    for file in ["src", "xtask/src", "tests/simulation/src"].into_iter().flat_map(Source::all_below) {
        if file.lines() > MAX_FILE_LINES {
            wrong.push(format!("{} has {} lines, at most {MAX_FILE_LINES}", file.path, file.lines()));
        }
        for Function { name, lines } in file.functions() {
            if lines > MAX_FUNCTION_LINES {
                wrong.push(format!(
                    "{}: fn {name} has {lines} lines, at most {MAX_FUNCTION_LINES}",
                    file.path
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn most_functions_are_small() {
    let files: Vec<_> =
        ["src", "xtask/src", "tests/simulation/src"].into_iter().flat_map(Source::all_below).collect();
    let mut lines: Vec<_> = files.iter().flat_map(Source::functions).map(|f| f.lines).collect();
    lines.sort_unstable();
    assert!(lines.len() > 100, "only {} functions found: the counter is broken", lines.len());
    assert!(lines[lines.len() / 2] <= 12, "median {}", lines[lines.len() / 2]);
    assert!(lines[lines.len() * 9 / 10] <= 30, "nine of ten have up to {}", lines[lines.len() * 9 / 10]);
}

#[test]
fn every_reason_is_explained_to_whom_it_troubles() {
    let page = read("docs/troubleshooting.md");
    let entries: Vec<_> = page.lines().filter_map(|l| l.strip_prefix("### Reason: ")).collect();
    let mut expected: Vec<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
    let mut found = entries.clone();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
    for (heading, next) in entries.iter().zip(entries[1..].iter().map(Some).chain([None])) {
        let start = page.find(&format!("### Reason: {heading}\n")).unwrap();
        let end = next.map_or(page.len(), |n| page.find(&format!("### Reason: {n}\n")).unwrap());
        let text = page[start..end].lines().skip(1).filter(|l| !l.trim().is_empty()).count();
        assert!(text >= 2, "the entry of {heading} says nothing");
    }
}

#[test]
fn the_list_of_reasons_is_whole() {
    let file = Source::parse("", &read("src/api/condition.rs"));
    let body = file.code.split("pub enum Reason {").nth(1).unwrap().split('}').next().unwrap();
    let variants: Vec<_> = body.lines().filter_map(|l| l.trim().strip_suffix(',')).collect();
    let listed: Vec<_> = Reason::ALL.iter().map(|r| format!("{r:?}")).collect();
    assert_eq!(variants, listed);
    for reason in Reason::ALL {
        assert_eq!(reason.as_str(), format!("{reason:?}"));
    }
}

/// `plan` for `src/plan/x.rs` and `src/plan.rs`; none for the roots of library and binary.
fn top_module(path: &str) -> Option<&str> {
    let inner = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let module = inner.split('/').next()?;
    (!["lib", "main"].contains(&module)).then_some(module)
}

/// How many modules deep the file's own module is: 1 for `src/plan.rs` and `src/plan/mod.rs`.
fn depth(path: &str) -> usize {
    path.trim_end_matches("/mod.rs").matches('/').count()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The checks above are worth what their reading of the source is worth.
mod the_reading_of_source {
    use super::{Function, Source, depth, top_module};

    fn parse(text: &str) -> Source {
        Source::parse("src/x.rs", text)
    }

    #[test]
    fn blanks_comments_and_literals() {
        let code = parse(
            "a(\"tokio \\\" x\", 'y', '\\'', b\"z\", r#\"q \" q\"#); // tokio\n/* tokio /* x */ y */ fn f<'a>(x: &'a str) {}",
        )
        .code;
        for gone in ["tokio", "y", "z", "q", "\""] {
            assert!(!code.contains(gone), "{gone}: {code}");
        }
        assert!(code.contains("fn f<'a>(x: &'a str) {}"), "{code}");
    }

    #[test]
    fn cuts_tests_out() {
        let source = parse("a\n#[cfg(test)]\nmod tests;\nb\n#[cfg(test)]\nmod tests {\n  { \"}\" }\n}\n");
        assert_eq!(source.code.split_whitespace().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn finds_imports_of_every_form() {
        let source = parse(
            "use crate::api::X;\nuse crate::{clock, plan::{a, b::{c}}, token::http as h};\nfn f() { crate::verify::g() }\n\
             // crate::cli::x\nlet x = \"crate::webhook::y\"; mycrate::tls::z",
        );
        assert_eq!(source.imports(), ["api", "clock", "plan", "token", "verify"]);
        assert_eq!(parse("use super::super::x; use super::y;").supers(), 2);
    }

    #[test]
    fn measures_functions() {
        let source = parse(
            "trait T { fn a(&self); }\nfn b(x: [u8; 2]) -> u8 {\n  if x { 1 } else { 2 }\n}\nlet f: fn(u8) -> u8;\n\
             impl X {\n  async fn c() {\n    fn d() {}\n  }\n}\n",
        );
        let of = |name: &str, lines| Function { name: name.to_owned(), lines };
        assert_eq!(source.functions(), [of("b", 3), of("c", 3), of("d", 1)]);
        assert_eq!(parse("a\n\nb\n\n#[cfg(test)]\nmod tests {\n}\n").lines(), 3);
    }

    #[test]
    fn knows_where_a_file_stands() {
        assert_eq!(top_module("src/plan/grant/pattern.rs"), Some("plan"));
        assert_eq!(top_module("src/clock.rs"), Some("clock"));
        assert_eq!(top_module("src/lib.rs"), None);
        assert_eq!(
            [depth("src/clock.rs"), depth("src/plan/mod.rs"), depth("src/plan/grant/pattern.rs")],
            [1, 1, 3]
        );
    }
}
