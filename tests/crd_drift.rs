//! The committed CRDs are what `idtoken-operator crd` prints. `UPDATE=1 cargo test --test crd_drift` rewrites them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

/// Where the generated files are kept: for users of plain YAML, and for the chart.
const DIRECTORIES: [&str; 2] = ["crds", "charts/idtoken-operator/files/crds"];

#[test]
fn the_committed_crds_are_what_the_program_prints() {
    let printed = printed();
    let names: Vec<_> = printed.keys().map(String::as_str).collect();
    assert_eq!(names, ["idtoken.dev_idtokenbindings.yaml", "idtoken.dev_idtokengrants.yaml"]);
    for directory in DIRECTORIES.map(|d| Path::new(env!("CARGO_MANIFEST_DIR")).join(d)) {
        if std::env::var_os("UPDATE").is_some() {
            rewrite(&directory, &printed);
        }
        let committed = committed(&directory);
        let differing: Vec<_> = printed
            .keys()
            .chain(committed.keys())
            .filter(|name| printed.get(*name) != committed.get(*name))
            .collect();
        assert!(
            differing.is_empty(),
            "{}: {differing:?} differ from `idtoken-operator crd`; run UPDATE=1 cargo test --test crd_drift",
            directory.display()
        );
    }
}

#[test]
fn a_directory_gets_the_same_as_is_printed() {
    let directory = tempfile::TempDir::new().unwrap();
    let output = crd(&["--output-dir", directory.path().to_str().unwrap()]);
    assert_eq!(output, "");
    assert_eq!(committed(directory.path()), printed());
}

/// The documents that the program prints, under the names of their files.
fn printed() -> BTreeMap<String, String> {
    let output = crd(&[]);
    let documents = output.strip_prefix("---\n").unwrap().split("\n---\n");
    let named = documents.map(|document| {
        let document = format!("{}\n", document.trim_end_matches('\n'));
        let crd: serde_json::Value = serde_yaml_ng::from_str(&document).unwrap();
        assert_eq!(crd["kind"], "CustomResourceDefinition");
        assert_eq!(crd["spec"]["group"], "idtoken.dev");
        (format!("idtoken.dev_{}.yaml", crd["spec"]["names"]["plural"].as_str().unwrap()), document)
    });
    named.collect()
}

fn crd(arguments: &[&str]) -> String {
    let program = env!("CARGO_BIN_EXE_idtoken-operator");
    let output = Command::new(program).arg("crd").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn committed(directory: &Path) -> BTreeMap<String, String> {
    files(directory)
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn rewrite(directory: &Path, printed: &BTreeMap<String, String>) {
    for stale in files(directory) {
        std::fs::remove_file(stale).unwrap();
    }
    for (name, text) in printed {
        std::fs::write(directory.join(name), text).unwrap();
    }
}

fn files(directory: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path())
}
