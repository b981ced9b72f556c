//! Numbers that follow from a seed.

use std::ops::Range;

/// `splitmix64`: small, and good enough to draw a day.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Of a seed, for one purpose, so that another number drawn for one thing changes nothing of another.
    #[must_use]
    pub fn of(seed: u64, purpose: &str) -> Self {
        let mixed = purpose.bytes().fold(seed ^ 0x9e37_79b9, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(17)
        });
        Self(mixed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of `range`, which must not be empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.any() % (range.end - range.start)
    }

    /// Whether something happens that does so in `percent` of all cases.
    pub fn happens(&mut self, percent: u64) -> bool {
        self.within(0..100) < percent
    }

    /// One of `choices`, which must not be empty.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        let count = u64::try_from(choices.len()).unwrap_or(u64::MAX);
        choices[usize::try_from(self.within(0..count)).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_and_purpose_draw_the_same() {
        let draw = |seed, purpose| {
            let mut random = Random::of(seed, purpose);
            [random.within(0..1000), random.within(0..1000), random.within(0..1000)]
        };
        assert_eq!(draw(1, "faults"), draw(1, "faults"));
        assert_ne!(draw(1, "faults"), draw(2, "faults"));
        assert_ne!(draw(1, "faults"), draw(1, "bindings"));
    }

    #[test]
    fn numbers_are_spread_over_their_range() {
        let mut random = Random::of(7, "x");
        let drawn: Vec<_> = (0..1000).map(|_| random.within(10..20)).collect();
        for number in 10..20 {
            assert!(drawn.iter().filter(|drawn| **drawn == number).count() > 50, "{number}");
        }
        assert!(drawn.iter().all(|number| (10..20).contains(number)));
        let happened = (0..1000).filter(|_| random.happens(25)).count();
        assert!((200..300).contains(&happened), "{happened}");
    }
}
