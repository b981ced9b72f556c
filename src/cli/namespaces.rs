//! Flags that say which namespaces are served.

use super::WrongUsage;
use crate::{cache::Scope, plan::names::is_dns_label};

/// Which namespaces are served.
#[derive(Debug, clap::Args)]
pub(super) struct NamespaceArgs {
    /// Serve the bindings of this namespace only; repeatable. None: all namespaces
    #[arg(long, env = "IDTOKEN_OPERATOR_NAMESPACE", value_name = "NAMESPACE", value_delimiter = ',')]
    namespace: Vec<String>,
}

impl NamespaceArgs {
    /// The namespaces. What can't be the name of one is refused: it would silently serve nobody.
    pub(super) fn scope(&self) -> Result<Scope, WrongUsage> {
        let names = self.namespace.iter().map(|name| name.trim()).filter(|name| !name.is_empty());
        for name in names.clone() {
            label(name).map_err(|error| WrongUsage(format!("--namespace {name:?} {error}")))?;
        }
        Ok(Scope::new(names.map(str::to_owned)))
    }
}

/// `name`, if it can be the name of a namespace.
pub(super) fn label(name: &str) -> Result<String, &'static str> {
    if is_dns_label(name) {
        return Ok(name.to_owned());
    }
    Err("can't be the name of a namespace: at most 63 lower-case letters, digits and '-'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_nothing_means_all() {
        let scope = |names: &[&str]| {
            NamespaceArgs { namespace: names.iter().map(|name| (*name).to_owned()).collect() }.scope()
        };
        assert_eq!(scope(&[""]).unwrap(), Scope::default());
        assert_eq!(scope(&["shop", " bank "]).unwrap(), Scope::new(["bank".to_owned(), "shop".to_owned()]));
        for wrong in ["Shop", "shop/x", "-shop", "shop-", "a.b", &"a".repeat(64)] {
            assert!(scope(&[wrong]).unwrap_err().to_string().contains("can't be the name of a namespace"));
        }
    }
}
