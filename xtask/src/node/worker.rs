//! containerd, kubelet and kube-proxy of a node.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Node;

use super::configuration::{self, Files, NODE_NAME};
use super::control_plane::{client, in_network};
use super::images;
use super::sandbox::Sandbox;
use crate::cluster::start::while_alive;
use crate::process::{Process, wait_for};
use crate::tools::{Tool, Tools};

/// Starts the node itself and waits until it is Ready.
pub(super) fn start(files: &Files, sandbox: &Sandbox, tools: &Tools) -> anyhow::Result<()> {
    write_configuration(files)?;
    let containerd = sandbox
        .program(files, Path::new("containerd"))
        .arg("--config")
        .arg(files.containerd_configuration())
        .spawn(&files.log("containerd"))?;
    in_network(sandbox, start_all(files, sandbox, tools, containerd))
}

async fn start_all(
    files: &Files,
    sandbox: &Sandbox,
    tools: &Tools,
    mut containerd: Process,
) -> anyhow::Result<()> {
    let socket = files.containerd_socket();
    let opened = wait_for("containerd", START_LIMIT, async || {
        ensure!(socket.exists(), "it has not opened {}", socket.display());
        Ok(())
    });
    while_alive(&mut containerd, opened).await?;
    let spawn = |tool: Tool, flags: Vec<String>| {
        sandbox.program(files, tools.path(tool)).args(flags).spawn(&files.log(tool.name()))
    };
    let proxy_flag = format!("--config={}", files.kube_proxy_configuration().display());
    let proxy = spawn(Tool::KubeProxy, vec![proxy_flag])?;
    let mut kubelet = spawn(Tool::Kubelet, configuration::kubelet_flags(files))?;
    let nodes: kube::Api<Node> = kube::Api::all(client(files).await?);
    let ready = wait_for("the node to be Ready", START_LIMIT, async || {
        let node = nodes.get(NODE_NAME).await?;
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
        let ready = ready.context("it has no condition yet")?;
        ensure!(ready.status == "True", "{}", ready.message.unwrap_or_default());
        Ok(())
    });
    while_alive(&mut kubelet, ready).await?;
    for process in [containerd, proxy, kubelet] {
        process.leave_running();
    }
    Ok(())
}

fn write_configuration(files: &Files) -> anyhow::Result<()> {
    fs::create_dir_all(files.cni())?;
    fs::write(files.cni().join("10-pods.conflist"), configuration::network().to_string())?;
    fs::write(files.containerd_configuration(), configuration::containerd(files, images::PAUSE))?;
    fs::write(files.kubelet_configuration(), configuration::kubelet(files).to_string())?;
    fs::write(files.kube_proxy_configuration(), configuration::kube_proxy(files).to_string())?;
    // Nobody answers names here. The kubelet wants a file all the same.
    fs::write(files.resolv_conf(), "")?;
    Ok(())
}

const START_LIMIT: Duration = Duration::from_secs(90);
