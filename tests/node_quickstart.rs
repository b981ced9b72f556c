//! The README's quickstart, command by command, on a real node.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod site;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command, sync::Arc};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;
use site::{Site, on_node, path, run, said};
use xtask::tools::Tool;

/// Stands before each block of the README that is a part of the sequence.
const MARK: &str = "<!-- run by tests/node_quickstart.rs -->\n```sh\n";

/// The marked blocks of the README, in their order.
fn blocks(readme: &str) -> Vec<&str> {
    readme.split(MARK).skip(1).map(|rest| rest.split_once("```").unwrap().0).collect()
}

/// `helm` and `kubectl` as the README calls them. Only one thing is not as the README's reader has it: Google's endpoints,
/// which `helm install` is told by a file of values.
fn programs(site: &Site, directory: &Path) {
    let program = |name: &str, text: String| {
        let file = directory.join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let values = site.endpoints();
    let helm = path(site.tool(Tool::Helm));
    let kubectl = path(site.tool(Tool::Kubectl));
    program(
        "helm",
        format!(
            "#!/bin/sh\n[ \"$1\" = install ] && exec {helm} \"$@\" --values {}\nexec {helm} \"$@\"\n",
            path(&values)
        ),
    );
    program("kubectl", format!("#!/bin/sh\nexec {kubectl} \"$@\"\n"));
}

#[test]
#[ignore = "tier node: needs a real node"]
fn the_readme_leads_to_a_pod_with_a_token() {
    on_node(async |site: Arc<Site>| {
        site.uninstall().await;
        site.kubectl_ok(&["delete", "namespace", "idtoken-system", "shop", "--ignore-not-found"]);
        let bin = tempfile::tempdir().unwrap();
        programs(&site, bin.path());
        let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
        let blocks = blocks(&readme);
        assert_eq!(blocks.len(), 3, "install, bind, mount");
        let script = format!("set -eux\n{}", blocks.concat());
        let mut shell = Command::new("sh");
        shell
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .envs(site.environment())
            .env("PATH", format!("{}:{}", path(bin.path()), std::env::var("PATH").unwrap()))
            .envs([
                ("REGISTRY", "idtoken.test"),
                ("PROJECT", "demo-project"),
                ("URL", "https://orders-abc-uc.a.run.app"),
            ]);
        let (ok, said) = said(run(&mut shell, &script));
        assert!(ok, "{said}\n{}", site.release_logs());
        let token = site.token("shop", "orders").await;
        let mounted = format!("{} /var/run/secrets/idtoken.dev/orders/token\n", token.len());
        assert!(said.contains(&mounted), "{said}");
        assert!(said.contains("Phase:          Succeeded"), "{said}");
        let claims = token.split('.').nth(1).unwrap();
        let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        assert_eq!(claims["aud"], "https://orders-abc-uc.a.run.app");
        assert_eq!(claims["email"], "caller@demo-project.iam.gserviceaccount.com");
        site.uninstall().await;
    });
}
