//! Every tool can be had on this machine, and is the program that it is said to be.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Command;

use xtask::tools::{Tool, Tools};

#[test]
#[ignore = "tier api: needs a kube-apiserver"]
fn every_tool_can_be_had_and_runs() {
    let tools = Tools::find(&[
        Tool::KubeApiserver,
        Tool::KubeControllerManager,
        Tool::Kubectl,
        Tool::Etcd,
        Tool::Helm,
        Tool::HelmUnittest,
        Tool::Kubeconform,
        Tool::KubeScore,
        Tool::CertManager,
    ])
    .unwrap();
    for (tool, arguments, expected) in [
        (Tool::KubeApiserver, ["--version"].as_slice(), "Kubernetes v1."),
        (Tool::KubeControllerManager, &["--version"], "Kubernetes v1."),
        (Tool::Kubectl, &["version", "--client"], "Client Version: v1."),
        (Tool::Etcd, &["--version"], "etcd Version: 3."),
        (Tool::Helm, &["version", "--short"], "v"),
        (Tool::HelmUnittest, &["--help"], "Running chart unittest"),
        (Tool::Kubeconform, &["-h"], "Usage: "),
        (Tool::KubeScore, &["version"], "kube-score version: "),
        (Tool::CertManager, &["--version"], "cert-manager 1."),
    ] {
        let output = Command::new(tools.path(tool)).args(arguments).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(
            printed.trim_start().starts_with(expected),
            "{} prints {printed}",
            tools.path(tool).display()
        );
    }
}
