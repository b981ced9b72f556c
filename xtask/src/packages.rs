//! Debian packages that a command needs: found, or installed by apt-get.

use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::progress::Step;

/// Installs those of `packages` that are missing. Needs root on Debian or Ubuntu, unless nothing is missing.
pub fn ensure(packages: &[&str]) -> anyhow::Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("to install by hand: apt-get install {}", missing.join(" "));
    let step = Step::start(format!("installing {}", missing.join(", ")), "about a minute");
    apt_get(&["update", "--quiet"]).with_context(|| by_hand.clone())?;
    // Never at the price of what is there: Docker's own packages, say, exclude Debian's containerd.
    let install = ["install", "--yes", "--quiet", "--no-install-recommends", "--no-remove"];
    apt_get(&[&install[..], &missing[..]].concat()).with_context(|| by_hand)?;
    step.done();
    Ok(())
}

/// Whether dpkg knows the package as installed; false where there is no dpkg.
fn is_installed(package: &str) -> bool {
    let query =
        Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]).output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

fn apt_get(args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("apt-get")
        // Several commands may install at a time: the later ones wait.
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .context("there is no apt-get: this needs Debian or Ubuntu")?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!(
            "apt-get {} failed: {}",
            args.join(" "),
            crate::process::tail(&String::from_utf8_lossy(&said), 15)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn nothing_to_install_needs_no_rights() {
        ensure(&[]).unwrap();
    }

    #[test]
    fn a_package_that_does_not_exist_is_not_installed() {
        assert!(!is_installed("no-such-package-as-this"));
    }
}
