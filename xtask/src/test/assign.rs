//! Which test belongs to which tier.

use std::collections::BTreeSet;
use std::path::Path;

use super::Tier;
use super::binaries::Binary;
use super::declared::Declared;
use super::report::Report;

/// A test binary with its tests by tier.
#[derive(Debug)]
pub(super) struct Suite {
    pub(super) binary: Binary,
    tests: Vec<(Tier, String)>,
}

impl Suite {
    /// The names of the tests of a tier.
    pub(super) fn tests(&self, tier: Tier) -> Vec<&str> {
        self.tests.iter().filter(|(of, _)| *of == tier).map(|(_, name)| name.as_str()).collect()
    }
}

/// Gives every test of every binary its tier. A test or a declaration that is left over is a problem.
pub(super) fn assign(
    binaries: Vec<Binary>,
    declared: &[Declared],
    report: &mut Report,
) -> anyhow::Result<Vec<Suite>> {
    let mut suites = Vec::new();
    let mut used = BTreeSet::new();
    for binary in binaries {
        let (all, ignored) = binary.list()?;
        let mut tests = Vec::new();
        for test in all {
            if !ignored.contains(&test) {
                tests.push((Tier::Unit, test));
                continue;
            }
            match declaration(&binary.source, &test, declared) {
                Some(index) => {
                    used.insert(index);
                    tests.push((declared[index].tier, test));
                }
                None => report.problem(format!(
                    "{}: the tier of the ignored test {test} can't be told from the sources",
                    binary.name
                )),
            }
        }
        suites.push(Suite { binary, tests });
    }
    for (_, left) in declared.iter().enumerate().filter(|(index, _)| !used.contains(index)) {
        report.problem(format!("{}: the test {} is in no test binary", left.file.display(), left.function));
    }
    Ok(suites)
}

/// The declaration of the test `a::b::name` in the binary made from `source`: of those with that function name the one
/// in the file that is nearest to the module `a::b`. None where two of different tiers are equally near.
fn declaration(source: &Path, test: &str, declared: &[Declared]) -> Option<usize> {
    let mut modules: Vec<&str> = test.split("::").collect();
    let function = modules.pop()?;
    let near = declared.iter().enumerate().filter(|(_, declared)| declared.function == function);
    let near: Vec<(usize, usize, Tier)> = near
        .filter_map(|(index, declared)| {
            let path = module_path(source, &declared.file)?;
            let fits = path.len() <= modules.len() && path.iter().zip(&modules).all(|(a, b)| a == b);
            fits.then_some((path.len(), index, declared.tier))
        })
        .collect();
    let nearest = near.iter().map(|(length, ..)| *length).max()?;
    let mut nearest = near.iter().filter(|(length, ..)| *length == nearest);
    let (_, index, tier) = nearest.next()?;
    nearest.all(|(_, _, other)| other == tier).then_some(*index)
}

/// The module that `file` is in the target compiled from `source`. Modules of `tests/x.rs` stand in `tests/x`.
fn module_path(source: &Path, file: &Path) -> Option<Vec<String>> {
    if source == file {
        return Some(Vec::new());
    }
    let relative = file.strip_prefix(source.parent()?).ok()?.with_extension("");
    let mut path: Vec<String> =
        relative.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    path.pop_if(|last| last == "mod");
    let is_own =
        path.first().is_some_and(|first| source.file_stem().is_some_and(|own| own == first.as_str()));
    Some(path.split_off(usize::from(is_own)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(entries: &[(&str, &str, Tier)]) -> Vec<Declared> {
        let of = |(file, function, tier): &(&str, &str, Tier)| Declared {
            file: file.into(),
            function: (*function).to_owned(),
            tier: *tier,
        };
        entries.iter().map(of).collect()
    }

    #[test]
    fn the_file_nearest_to_the_module_declares_the_test() {
        let declared = declared(&[
            ("/w/src/google/tests/python.rs", "verifies", Tier::Clients),
            ("/w/src/lib.rs", "verifies", Tier::Api),
            ("/w/src/tls/mod.rs", "serves", Tier::Api),
        ]);
        let find = |test: &str| declaration(Path::new("/w/src/lib.rs"), test, &declared);
        assert_eq!(find("google::tests::python::verifies"), Some(0));
        assert_eq!(find("tests::verifies"), Some(1));
        assert_eq!(find("tls::tests::serves"), Some(2));
        assert_eq!(find("tests::unknown"), None);
    }

    #[test]
    fn integration_tests_do_not_take_each_others_declarations() {
        let declared = declared(&[
            ("/w/tests/api_crd.rs", "works", Tier::Api),
            ("/w/tests/clients_python.rs", "works", Tier::Clients),
        ]);
        assert_eq!(declaration(Path::new("/w/tests/api_crd.rs"), "works", &declared), Some(0));
        assert_eq!(declaration(Path::new("/w/tests/clients_python.rs"), "works", &declared), Some(1));
    }

    #[test]
    fn modules_of_an_integration_test_stand_in_its_directory() {
        let declared = declared(&[
            ("/w/tests/clients_python/files.rs", "works", Tier::Clients),
            ("/w/tests/api_crd/files.rs", "works", Tier::Api),
        ]);
        let find = |source: &str, test: &str| declaration(Path::new(source), test, &declared);
        assert_eq!(find("/w/tests/clients_python.rs", "files::works"), Some(0));
        assert_eq!(find("/w/tests/api_crd.rs", "files::works"), Some(1));
        assert_eq!(find("/w/tests/api_crd.rs", "works"), None);
        assert_eq!(find("/w/tests/node_image.rs", "files::works"), None);
    }

    #[test]
    fn two_tiers_at_one_place_are_not_guessed_at() {
        let declared =
            declared(&[("/w/src/lib.rs", "works", Tier::Api), ("/w/src/lib.rs", "works", Tier::Clients)]);
        assert_eq!(declaration(Path::new("/w/src/lib.rs"), "a::works", &declared), None);
    }
}
