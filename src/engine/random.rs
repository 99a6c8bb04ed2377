//! Numbers that look random and are the same on every machine.
//!
//! Number `i` of a stream is a hash of seed, stream and `i` (the finalizer of SplitMix64:
//! Steele, Lea and Flood, 2014), so any of them can be had in any order. Nothing of a
//! platform's mathematical library takes part.

/// A stream of numbers.
#[derive(Clone, Copy, Debug)]
pub struct Random(u64);

/// 2^64 divided by the golden ratio, odd: consecutive multiples are far apart.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Random {
    /// The stream `name` of `seed`.
    pub fn new(seed: u64, name: &str) -> Random {
        let hash = |h: u64, byte: u8| mix((h ^ u64::from(byte)).wrapping_add(GOLDEN));
        Random(name.bytes().fold(mix(seed.wrapping_add(GOLDEN)), hash))
    }

    /// Number `i`.
    pub fn bits(self, i: u64) -> u64 {
        mix(self.0.wrapping_add(i.wrapping_add(1).wrapping_mul(GOLDEN)))
    }

    /// Number `i` as one of `0..bound`.
    ///
    /// # Panics
    /// When `bound` is 0.
    pub fn below(self, i: u64, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below 0");
        ((u128::from(self.bits(i)) * u128::from(bound)) >> 64) as u64
    }

    /// Number `i` of a distribution with mean 0 and variance 1 that is close to the normal one:
    /// the sum of twelve uniform numbers, less 6. It stays within (-6, 6).
    pub fn normal(self, i: u64) -> f32 {
        let lanes =
            |bits: u64| -> i64 { (0..4).map(|k| ((bits >> (16 * k)) & 0xffff) as i64).sum() };
        let sum: i64 = (0..3).map(|k| lanes(self.bits(3 * i + k))).sum();
        // 12 lanes of mean 32767.5; exact, as the sum has 20 bits.
        (sum - 6 * 65535) as f32 / 65536.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_these() {
        // SplitMix64 from state 0, as its authors publish it.
        let zero = Random(0);
        assert_eq!(zero.bits(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(zero.bits(1), 0x6e78_9e6a_a1b9_65f4);
        assert_ne!(Random::new(1, "a").bits(0), Random::new(1, "b").bits(0));
        assert_ne!(Random::new(1, "a").bits(0), Random::new(2, "a").bits(0));
    }

    #[test]
    fn moments() {
        let r = Random::new(7, "x");
        let n = 20_000;
        let all: Vec<f64> = (0..n).map(|i| f64::from(r.normal(i))).collect();
        let mean = all.iter().sum::<f64>() / n as f64;
        let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        // Three standard errors of the mean and of the variance of 20000 numbers.
        assert!(
            mean.abs() < 0.022 && (variance - 1.0).abs() < 0.03,
            "{mean} {variance}"
        );
        let mut seen = [0; 5];
        (0..5000).for_each(|i| seen[r.below(i, 5) as usize] += 1);
        assert!(seen.iter().all(|&c| (880..1120).contains(&c)), "{seen:?}");
    }
}
