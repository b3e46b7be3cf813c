//! Seeds for independent random streams.
//!
//! The engine has the same function for the completions of a request (`engine::seed`); this one needs no engine.

/// The increment of SplitMix64.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// A seed for stream `index` of `seed`. Neighbouring inputs give unrelated streams.
pub fn mix_seed(seed: u64, index: u64) -> u64 {
    finalise(seed ^ index.wrapping_add(1).wrapping_mul(GAMMA))
}

/// The output of SplitMix64 in state `state`.
pub fn splitmix64(state: u64) -> u64 {
    finalise(state.wrapping_add(GAMMA))
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn finalise(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs of the SplitMix64 generator with state 0, from its reference implementation.
    #[test]
    fn streams_of_seed_0_are_the_outputs_of_splitmix64() {
        let expected = [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4, 0x06C4_5D18_8009_454F];
        assert_eq!([0, 1, 2].map(|index| mix_seed(0, index)), expected);
        assert_eq!(splitmix64(0), expected[0]);
    }
}
