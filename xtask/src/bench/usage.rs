//! What a process has used, as the kernel counts it.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// What a process has used so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, in user mode and in the kernel.
    pub cpu: Duration,
    /// Bytes of memory that are resident now.
    pub resident: u64,
    /// The most that there have ever been.
    pub peak: u64,
}

impl Usage {
    /// That of the process `pid`.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{pid}/{file}"))
                .context("the server's process can't be observed")
        };
        let (stat, status) = (read("stat")?, read("status")?);
        Ok(Self {
            cpu: cpu(&stat).context("/proc/PID/stat is not as expected")?,
            resident: bytes(&status, "VmRSS:").context("/proc/PID/status has no VmRSS")?,
            peak: bytes(&status, "VmHWM:").context("/proc/PID/status has no VmHWM")?,
        })
    }
}

/// `utime` and `stime`, the 14th and 15th field; the 2nd is a name in brackets that may have blanks in it.
fn cpu(stat: &str) -> Option<Duration> {
    let mut after_name = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || after_name.next()?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks()? + ticks()?) * MILLIS_PER_TICK))
}

fn bytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Linux counts in hundredths of a second here, whatever its own clock's rate is.
const MILLIS_PER_TICK: u64 = 10;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let stat = "4711 (a ) name) S 1 4711 4711 0 -1 4194560 5 0 0 0 250 50 0 0 20 0 4 0 100 1 2 3";
        assert_eq!(cpu(stat), Some(Duration::from_secs(3)));
        let status = "Name:\tx\nVmHWM:\t   14336 kB\nVmRSS:\t   10240 kB\n";
        assert_eq!((bytes(status, "VmHWM:"), bytes(status, "VmRSS:")), (Some(14_680_064), Some(10_485_760)));
    }

    #[test]
    fn our_own_process_is_observed() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident > 100_000 && usage.peak >= usage.resident);
    }
}
