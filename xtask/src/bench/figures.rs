//! What rounds come to. The machine has other things to do, and not the same all the time: so a figure is the median of
//! the rounds', and a ratio is the median of the ratios of rounds that ran right after one another.

use std::time::Duration;

use serde::Serialize;

use super::load::Round;

/// A ratio over all rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Ratio {
    pub(super) median: f64,
    /// The least and the most that a round had: how far the median is to be trusted.
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Ratio {
    /// Of what each round had.
    pub(super) fn of(ratios: Vec<f64>) -> Self {
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Self { median: median(ratios), least, most }
    }
}

/// Requests in a second.
pub(super) fn requests_per_second(rounds: &[Round]) -> f64 {
    median(rounds.iter().map(rate).collect())
}

/// Milliseconds of the server's processor time for one request.
pub(super) fn cpu_per_request(rounds: &[Round]) -> f64 {
    median(rounds.iter().map(cpu).collect())
}

/// How many times as many requests in a second as `other` has had.
pub(super) fn rate_ratio(rounds: &[Round], other: &[Round]) -> Ratio {
    ratio(rounds, other, rate)
}

/// How many times as much processor time as `other` has needed for one request.
pub(super) fn cpu_ratio(rounds: &[Round], other: &[Round]) -> Ratio {
    ratio(rounds, other, cpu)
}

/// The latencies, in milliseconds, that these parts of all requests stayed below.
pub(super) fn quantiles<const N: usize>(rounds: &[Round], parts: [f64; N]) -> [f64; N] {
    let mut all: Vec<u32> = rounds.iter().flat_map(|round| round.latencies.iter().copied()).collect();
    all.sort_unstable();
    parts.map(|part| all.get(index(all.len(), part)).map_or(f64::NAN, |nanos| f64::from(*nanos) / 1e6))
}

fn ratio(rounds: &[Round], other: &[Round], figure: fn(&Round) -> f64) -> Ratio {
    Ratio::of(rounds.iter().zip(other).map(|(one, other)| figure(one) / figure(other)).collect())
}

fn rate(round: &Round) -> f64 {
    requests(round) / round.elapsed.as_secs_f64()
}

fn cpu(round: &Round) -> f64 {
    millis(round.cpu) / requests(round)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn requests(round: &Round) -> f64 {
    u32::try_from(round.latencies.len()).map_or(f64::NAN, f64::from)
}

/// The middle one, or the mean of the middle two.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

/// Where in `count` sorted values the one stands that `part` of them do not exceed.
fn index(count: usize, part: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let rank = (count as f64 * part).ceil() as usize;
    rank.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(requests: usize, elapsed: u64, cpu: u64) -> Round {
        Round {
            elapsed: Duration::from_millis(elapsed),
            cpu: Duration::from_millis(cpu),
            latencies: vec![1_000_000; requests],
        }
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "these are exact")]
    fn medians_over_rounds_and_over_their_ratios() {
        let rounds = [round(100, 1000, 50), round(400, 1000, 50), round(200, 1000, 50)];
        let others = [round(200, 1000, 50), round(400, 1000, 25), round(800, 1000, 50)];
        assert_eq!((requests_per_second(&rounds), cpu_per_request(&rounds)), (200.0, 0.25));
        assert_eq!(rate_ratio(&rounds, &others), Ratio { median: 0.5, least: 0.25, most: 1.0 });
        assert_eq!(cpu_ratio(&rounds, &others), Ratio { median: 2.0, least: 2.0, most: 4.0 });
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "these are exact")]
    fn quantiles_are_over_all_rounds() {
        let of = |latencies| Round { latencies, ..Round::default() };
        let rounds = [
            of((1..=50).map(|ms| ms * 1_000_000).collect()),
            of((51..=100).map(|ms| ms * 1_000_000).collect()),
        ];
        assert_eq!(quantiles(&rounds, [0.5, 0.99, 1.0]), [50.0, 99.0, 100.0]);
    }
}
