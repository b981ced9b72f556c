//! What is to be reached.

use super::super::report::{Target, at_most, exactly, megabytes};
use super::report::Size;

/// Judges every size by itself, and growth from each to the next.
pub(super) fn targets(sizes: &[Size]) -> Vec<Target> {
    let mut targets: Vec<_> = sizes.iter().flat_map(of_size).collect();
    targets.extend(growth_of_time(sizes));
    targets.extend(growth_of_memory(sizes));
    targets
}

fn of_size(size: &Size) -> Vec<Target> {
    let with = format!("with {} bindings", size.bindings);
    let mut targets = Vec::new();
    // Fewer take no longer than the start of a process.
    if size.bindings >= MANY {
        targets.push(at_most(OF_FLOOR, format!("times the floor's seconds, {with}"), size.of_floor));
    }
    let (start, restart) = (&size.start, &size.restart);
    targets.push(exactly(
        2.0,
        format!("writes a binding at the start, {with}"),
        size.writes_per_binding(start),
    ));
    targets.push(exactly(1.0, format!("mints a token at the start, {with}"), size.mints_per_token(start)));
    targets.push(exactly(
        0.0,
        format!("writes a binding at a restart, {with}"),
        size.writes_per_binding(restart),
    ));
    targets.push(exactly(0.0, format!("mints a token at a restart, {with}"), size.mints_per_token(restart)));
    let (refresh, expired) =
        (&size.refresh, u32::try_from(size.lag.expired).map_or(f64::INFINITY, f64::from));
    targets.push(exactly(
        2.0,
        format!("writes a binding in a refresh, {with}"),
        size.writes_per_binding(refresh),
    ));
    targets.push(exactly(0.0, format!("tokens that expired before the next came, {with}"), expired));
    if size.bindings <= MANY_MORE {
        let peak = megabytes(size.memory_peak_bytes);
        targets.push(at_most(MEMORY, format!("MB of memory at the peak, {with}"), peak));
    }
    targets
}

/// Seconds a binding of the largest, as a multiple of the smallest's.
fn growth_of_time(sizes: &[Size]) -> Option<Target> {
    let (smallest, largest) = ends(sizes)?;
    let each = |size: &Size| size.seconds() / f64::from(size.bindings);
    let what =
        format!("times the seconds for each of {} with {} bindings", smallest.bindings, largest.bindings);
    Some(at_most(GROWTH, what, each(largest) / each(smallest)))
}

/// Bytes of each binding more, between the largest two, as a multiple of those up to there.
fn growth_of_memory(sizes: &[Size]) -> Option<Target> {
    let (smallest, largest) = ends(sizes)?;
    let between =
        sizes.iter().filter(|size| (smallest.bindings + 1..largest.bindings).contains(&size.bindings));
    let middle = between.max_by_key(|size| size.bindings)?;
    let slope = |from: &Size, to: &Size| {
        (megabytes(to.memory_peak_bytes) - megabytes(from.memory_peak_bytes))
            / f64::from(to.bindings - from.bindings)
    };
    let what = format!(
        "times the memory for each binding more from {} to {} as up to there",
        middle.bindings, largest.bindings
    );
    Some(at_most(GROWTH, what, slope(middle, largest) / slope(smallest, middle)))
}

/// The smallest and the largest, where they differ.
fn ends(sizes: &[Size]) -> Option<(&Size, &Size)> {
    let smallest = sizes.iter().min_by_key(|size| size.bindings)?;
    let largest = sizes.iter().max_by_key(|size| size.bindings)?;
    (smallest.bindings < largest.bindings).then_some((smallest, largest))
}

/// Times the floor's seconds.
const OF_FLOOR: f64 = 1.2;
/// Bindings from which on that holds.
const MANY: u32 = 2_000;
/// Megabytes, up to [`MANY_MORE`] bindings.
const MEMORY: f64 = 60.0;
const MANY_MORE: u32 = 10_000;
/// Linear, but for noise.
const GROWTH: f64 = 1.2;

#[cfg(test)]
mod tests {
    use super::super::fleet::Fleet;
    use super::super::observer::Wave;
    use super::super::phase::{Cpu, Phase};
    use super::super::run::{Floor, Measured};
    use super::*;

    /// What meets every target, just so.
    fn measured(bindings: u32) -> Measured {
        let floor = Floor { seconds: f64::from(bindings) / 1000.0, cpu: Cpu::default() };
        let phase = |seconds, writes, mints| Phase {
            seconds,
            writes,
            mints,
            memory_peak_bytes: 20_000_000 + u64::from(bindings) * 4_000,
            ..Phase::default()
        };
        let (writes, tokens) = (u64::from(bindings) * 2, u64::from(bindings) / 10);
        Measured {
            fleet: Fleet(bindings),
            floors: vec![floor],
            starts: vec![phase(floor.seconds * 1.2, writes, tokens)],
            wave: Wave { refreshed: 1, ..Wave::default() },
            refresh: phase(9.0, writes, tokens),
            restart: phase(1.0, 0, 0),
            steady: phase(60.0, 0, 0),
        }
    }

    /// Of one size with a flaw: the targets that it misses.
    fn missed(bindings: u32, flaw: impl Fn(&mut Measured)) -> Vec<String> {
        let mut measured = measured(bindings);
        flaw(&mut measured);
        of_all(vec![measured])
    }

    fn of_all(measured: Vec<Measured>) -> Vec<String> {
        let sizes: Vec<_> = measured.into_iter().map(Size::of).collect();
        targets(&sizes).into_iter().filter(|target| !target.met).map(|target| target.what).collect()
    }

    #[test]
    fn what_is_just_good_enough_misses_nothing() {
        assert_eq!(of_all([1_000, 2_000, 10_000, 20_000].map(measured).into()), [""; 0]);
    }

    #[test]
    fn each_flaw_misses_its_target() {
        assert_eq!(
            missed(2_000, |m| m.starts[0].seconds = 2.41),
            ["times the floor's seconds, with 2000 bindings"]
        );
        assert_eq!(missed(1_000, |m| m.starts[0].seconds = 9.0), [""; 0], "few are not judged by the floor");
        assert_eq!(
            missed(1_000, |m| m.starts[0].writes += 1),
            ["writes a binding at the start, with 1000 bindings"]
        );
        assert_eq!(
            missed(1_000, |m| m.starts[0].writes -= 1),
            ["writes a binding at the start, with 1000 bindings"]
        );
        assert_eq!(
            missed(1_000, |m| m.starts[0].mints += 1),
            ["mints a token at the start, with 1000 bindings"]
        );
        assert_eq!(
            missed(1_000, |m| m.restart.writes = 1),
            ["writes a binding at a restart, with 1000 bindings"]
        );
        assert_eq!(
            missed(1_000, |m| m.restart.mints = 1),
            ["mints a token at a restart, with 1000 bindings"]
        );
        assert_eq!(
            missed(1_000, |m| m.refresh.writes += 1),
            ["writes a binding in a refresh, with 1000 bindings"]
        );
        assert_eq!(
            missed(1_000, |m| m.wave.expired = 1),
            ["tokens that expired before the next came, with 1000 bindings"]
        );
        assert_eq!(
            missed(10_000, |m| m.steady.memory_peak_bytes = 60_000_001),
            ["MB of memory at the peak, with 10000 bindings"]
        );
        assert_eq!(missed(10_010, |m| m.steady.memory_peak_bytes = 90_000_000), [""; 0]);
    }

    #[test]
    fn growth_beyond_the_linear_misses() {
        let sizes = || [1_000, 10_000, 20_000].map(measured);
        let mut slow = sizes();
        slow[2].starts[0].seconds *= 1.21;
        slow[2].floors[0].seconds *= 1.21;
        assert_eq!(of_all(slow.into()), ["times the seconds for each of 1000 with 20000 bindings"]);
        let mut fat = sizes();
        fat[2].starts[0].memory_peak_bytes += 8_100_000;
        let expected = "times the memory for each binding more from 10000 to 20000 as up to there";
        assert_eq!(of_all(fat.into()), [expected]);
    }
}
