//! Ports of loopback for programs that must be told one before they listen.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::Context as _;

/// A port of loopback that is free now, and that nobody gets by chance before the program that is told it listens: it lies
/// below the range from which systems give ports to outgoing connections and to those who ask for any, and each call of this
/// process gives another one.
pub fn free() -> anyhow::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes beside this one begin elsewhere, also those with the next numbers.
    let start = std::process::id().wrapping_mul(61) % u32::from(COUNT);
    let start = u16::try_from(start).unwrap_or_default();
    (0..COUNT)
        .map(|_| FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .context("no port between 20000 and 29999 is free")
}

/// Linux gives ports from 32768 on by itself, macOS and Windows from 49152; 30000 to 32767 are Kubernetes' node ports.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_are_free_and_out_of_the_systems_range() {
        let ports: std::collections::BTreeSet<_> = (0..200).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 200);
        assert!(ports.iter().all(|port| (20_000..30_000).contains(port)));
    }
}
