//! A keyed permutation of `0..n`: an order that is never stored, so that a place in it is one number.
//!
//! A Feistel network over the next even number of bits, walked until it lands below `n` (Black and Rogaway 2002, "Ciphers with
//! arbitrary finite domains"). Good for shuffling; it keeps no secrets.

/// A permutation of `0..len`, decided by a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permutation {
    len: u64,
    /// Bits of each half.
    half: u32,
    keys: [u64; ROUNDS],
}

const ROUNDS: usize = 6;

impl Permutation {
    pub fn new(len: u64, key: u64) -> Self {
        let bits = 64 - len.saturating_sub(1).leading_zeros();
        let mut state = key;
        let keys = std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(state)
        });
        Self { len, half: bits.div_ceil(2).max(1), keys }
    }

    /// What stands at `place`, which is below the length.
    pub fn at(&self, place: u64) -> u64 {
        debug_assert!(place < self.len);
        let mut value = place;
        // The domain is less than four times as large as `len`: few steps lead back into it.
        loop {
            value = self.encrypt(value);
            if value < self.len {
                return value;
            }
        }
    }

    fn encrypt(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half) - 1;
        let (mut left, mut right) = (value >> self.half, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        (left << self.half) | right
    }
}

/// A number that looks random, from a number: the finisher of SplitMix64.
pub fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The seed of one purpose, from a run's seed.
pub fn derive(seed: u64, purpose: &str) -> u64 {
    let hash = blake3::keyed_hash(&std::array::from_fn(|i| seed.to_le_bytes()[i % 8]), purpose.as_bytes());
    hash.as_bytes()[..8].iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_stands_once(len in 1u64..3000, key: u64) {
            let permutation = Permutation::new(len, key);
            let mut seen: Vec<u64> = (0..len).map(|place| permutation.at(place)).collect();
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq(0..len));
        }
    }

    #[test]
    fn keys_give_orders_that_look_random() {
        let order = |key| (0..1000).map(|place| Permutation::new(1000, key).at(place)).collect::<Vec<_>>();
        assert_ne!(order(1), order(2));
        // Of 1000 places about one keeps its number, and neighbours do not stay neighbours.
        let kept = order(1).iter().zip(0..).filter(|(value, place)| *value == place).count();
        let neighbours = order(1).windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count();
        assert!(kept < 8 && neighbours < 12, "{kept} kept, {neighbours} neighbours");
    }

    #[test]
    fn purposes_have_streams_of_their_own() {
        assert_ne!(derive(1, "a"), derive(1, "b"));
        assert_ne!(derive(1, "a"), derive(2, "a"));
        assert_eq!(derive(1, "a"), derive(1, "a"));
    }
}
