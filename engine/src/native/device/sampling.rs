//! Draws the next tokens of many sequences on the device: [`crate::sampler`] in candle's operators.
//!
//! Each sequence's own generator gives one number on the host: the quantile of its token in the cumulative
//! distribution. So a draw does not depend on the other sequences, except for the rounding of f32 sums.

use candle_core::{D, DType, Device, Result, Tensor};

use crate::native::compute::ChunkOutput;
use crate::sampler::{SampledToken, Sampler};

/// Tokens of the first level of sums.
const CHUNK: usize = 512;

/// The constant tensors for drawing from a vocabulary.
pub struct DeviceSampler {
    vocabulary: usize,
    chunks: CumulativeSum,
    tokens: CumulativeSum,
}

/// For rows of n weights.
struct CumulativeSum {
    /// Upper triangle of ones (n × n): weights · ones = their cumulative sums.
    ones: Tensor,
    /// 0, 1, … (1 × n).
    ranks: Tensor,
}

impl DeviceSampler {
    pub fn new(vocabulary: usize, device: &Device) -> Result<Self> {
        let sums = |n| CumulativeSum::new(n, device);
        Ok(Self { vocabulary, chunks: sums(vocabulary.div_ceil(CHUNK))?, tokens: sums(CHUNK)? })
    }

    /// Fills each of `outputs` from its row of `logits` (R × V, f32).
    pub fn fill(&self, logits: &Tensor, outputs: Vec<&mut ChunkOutput>) -> Result<()> {
        let (mut rows, mut queries, mut draws) = (Vec::new(), Vec::new(), Vec::new());
        for (row, output) in outputs.into_iter().enumerate() {
            let on_host = || logits.get(row)?.to_vec1::<f32>();
            match output {
                ChunkOutput::Nothing => {}
                ChunkOutput::Logits(out) => **out = on_host()?,
                ChunkOutput::Sample(sampler, draw) => match Query::of(sampler) {
                    Some(query) => {
                        rows.push(row as u32);
                        queries.push(query);
                        draws.push(draw);
                    }
                    // Truncated sampling needs the tokens in order, on the host.
                    None => **draw = sampler.sample(&on_host()?),
                },
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let rows = Tensor::new(rows.as_slice(), logits.device())?;
        for (draw, drawn) in draws.into_iter().zip(self.draw(&logits.index_select(&rows, 0)?, &queries)?) {
            **draw = drawn;
        }
        Ok(())
    }

    /// One token of each row of `logits` (R × V).
    fn draw(&self, logits: &Tensor, queries: &[Query]) -> Result<Vec<SampledToken>> {
        let (rows, device) = (queries.len(), logits.device());
        let column = |number: fn(&Query) -> f32| {
            Tensor::from_vec(queries.iter().map(number).collect::<Vec<f32>>(), (rows, 1), device)
        };
        let is_greedy = |query: &Query| query.temperature == 0.0;
        let scaled = logits.broadcast_div(&column(|it| if it.temperature == 0.0 { 1.0 } else { it.temperature })?)?;
        let shifted = scaled.broadcast_sub(&scaled.max_keepdim(D::Minus1)?)?;
        let weights = self.in_chunks(&shifted.exp()?)?;
        let sums = weights.sum(D::Minus1)?;
        let total = sums.sum_keepdim(D::Minus1)?;
        let mut tokens = self.pick(&weights, &sums, &(&total * column(|it| it.quantile)?)?)?;
        if queries.iter().any(is_greedy) {
            let greedy: Vec<u8> = queries.iter().map(|query| u8::from(is_greedy(query))).collect();
            tokens = Tensor::from_vec(greedy, (rows, 1), device)?.where_cond(&first_largest(logits)?, &tokens)?;
        }
        let log_probs = (shifted.gather(&tokens, 1)? - total.log()?)?;
        let (tokens, log_probs) = (tokens.flatten_all()?.to_vec1::<u32>()?, log_probs.flatten_all()?.to_vec1::<f32>()?);
        let draw = |(token, log_prob)| SampledToken { token, log_prob, full_log_prob: log_prob };
        Ok(tokens.into_iter().zip(log_probs).map(draw).collect())
    }

    /// Weights (R × V) as (R × chunks × [`CHUNK`]), the last chunk padded with zeros.
    fn in_chunks(&self, weights: &Tensor) -> Result<Tensor> {
        let rows = weights.dim(0)?;
        let missing = self.chunks.len() * CHUNK - self.vocabulary;
        let whole = if missing == 0 { weights.clone() } else { weights.pad_with_zeros(1, 0, missing)? };
        whole.reshape((rows, self.chunks.len(), CHUNK))
    }

    /// The tokens (R × 1) at which the cumulative sums of `weights` (R × chunks × [`CHUNK`]) exceed `targets` (R × 1):
    /// first the chunk, by the chunks' `sums` (R × chunks), then the token in it.
    fn pick(&self, weights: &Tensor, sums: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let rows = weights.dim(0)?;
        let (chunk, below) = self.chunks.search(sums, targets)?;
        let firsts = Tensor::arange(0, rows as u32, weights.device())?.affine(self.chunks.len() as f64, 0.0)?;
        let at = (firsts.unsqueeze(1)? + &chunk)?.flatten_all()?;
        let inside = weights.reshape(((), CHUNK))?.index_select(&at, 0)?;
        let (token, _) = self.tokens.search(&inside, &(targets - below)?)?;
        chunk.affine(CHUNK as f64, 0.0)? + token
    }
}

/// The index of the first of the largest numbers of each row (R × V), as (R × 1). Candle's arg-max returns any of them.
fn first_largest(rows: &Tensor) -> Result<Tensor> {
    let (largest, columns) = (rows.max_keepdim(D::Minus1)?, rows.dim(1)?);
    let from_the_end =
        Tensor::arange(0, columns as u32, rows.device())?.to_dtype(DType::F32)?.affine(-1.0, columns as f64)?;
    let from_the_end = from_the_end.unsqueeze(0)?.broadcast_as(rows.shape())?;
    let nothing = Tensor::new(0f32, rows.device())?.broadcast_as(rows.shape())?;
    rows.broadcast_eq(&largest)?.where_cond(&from_the_end, &nothing)?.argmax_keepdim(D::Minus1)
}

impl CumulativeSum {
    fn new(n: usize, device: &Device) -> Result<Self> {
        let ones = (0..n * n).map(|i| if i / n <= i % n { 1.0f32 } else { 0.0 });
        let ones = Tensor::from_vec(ones.collect::<Vec<_>>(), (n, n), device)?;
        Ok(Self { ones, ranks: Tensor::arange(0, n as u32, device)?.to_dtype(DType::F32)?.unsqueeze(0)? })
    }

    fn len(&self) -> usize {
        self.ranks.elem_count()
    }

    /// The first weight of each row of `weights` (R × n, each at most [`CHUNK`]) at which the cumulative sum exceeds
    /// its target (R × 1), or the largest weight if rounding leaves none. Also the sum of the weights before it. Both
    /// are (R × 1).
    fn search(&self, weights: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
        let (sums, n) = (weights.matmul(&self.ones)?, self.len() as f64);
        let ranks = self.ranks.broadcast_as(weights.shape())?;
        // The first weight that exceeds its target has the highest score; weights that do not have at most 1.
        let scores =
            sums.broadcast_gt(targets)?.where_cond(&ranks.affine(-1.0, n + 1.0)?, &(weights / CHUNK as f64)?)?;
        let nothing = Tensor::new(-1f32, weights.device())?.broadcast_as(weights.shape())?;
        let picked = weights.gt(0f32)?.where_cond(&scores, &nothing)?.argmax_keepdim(D::Minus1)?;
        let below = (sums.gather(&picked, 1)? - weights.gather(&picked, 1)?)?;
        Ok((picked, below))
    }
}

/// What a draw needs from its sampler.
struct Query {
    /// 0 is greedy.
    temperature: f32,
    /// The token's position in the cumulative distribution, on [0, 1).
    quantile: f32,
}

impl Query {
    /// `None` if sampling is truncated.
    fn of(sampler: &mut Sampler) -> Option<Self> {
        /// The largest f32 below 1.
        const MOST: f32 = 1.0 - f32::EPSILON / 2.0;
        let temperature = sampler.untruncated_temperature()?;
        // As on a CPU, a greedy draw takes no number from the generator.
        let quantile = if temperature == 0.0 { 0.0 } else { (sampler.uniform() as f32).min(MOST) };
        Some(Self { temperature, quantile })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sampling;
    use crate::seed::mix_seed;

    /// Logits of a vocabulary that is not a multiple of a chunk; some tokens are impossible.
    fn logits(rows: usize, vocabulary: usize) -> Vec<Vec<f32>> {
        let logit = |row: usize, id: usize| match id % 7 {
            3 => f32::NEG_INFINITY,
            _ => ((id * 37 + row * 11) % 101) as f32 / 12.0,
        };
        (0..rows).map(|row| (0..vocabulary).map(|id| logit(row, id)).collect()).collect()
    }

    fn drawn(logits: &[Vec<f32>], samplers: &mut [Sampler]) -> Vec<SampledToken> {
        let sampler = DeviceSampler::new(logits[0].len(), &Device::Cpu).unwrap();
        let tensor = Tensor::new(logits.to_vec(), &Device::Cpu).unwrap();
        let mut draws = vec![SampledToken::default(); logits.len()];
        let mut outputs: Vec<ChunkOutput> =
            samplers.iter_mut().zip(&mut draws).map(|(s, d)| ChunkOutput::Sample(s, d)).collect();
        sampler.fill(&tensor, outputs.iter_mut().collect()).unwrap();
        draws
    }

    /// With the same generators, in one batch: temperatures 1, below and above it, greedy, and truncated.
    #[test]
    fn a_device_draws_what_the_host_draws() {
        let ways = [(1.0, 0, 1.0), (0.7, 0, 1.0), (3.0, 0, 1.0), (0.0, 0, 1.0), (1.0, 5, 1.0), (1.0, 0, 0.5)];
        for vocabulary in [40, 512, 1300] {
            let logits = logits(ways.len(), vocabulary);
            for seed in 0..40 {
                let sampler = |(i, &(temperature, top_k, top_p)): (usize, &(f32, usize, f32))| {
                    let sampling = Sampling { top_k, top_p, ..Sampling::new(temperature, vec![]) };
                    Sampler::new(mix_seed(seed, i as u64), &sampling)
                };
                let samplers = || ways.iter().enumerate().map(sampler).collect::<Vec<_>>();
                let host: Vec<SampledToken> =
                    samplers().iter_mut().zip(&logits).map(|(s, row)| s.sample(row)).collect();
                for (row, (device, host)) in drawn(&logits, &mut samplers()).iter().zip(&host).enumerate() {
                    assert_eq!(device.token, host.token, "row {row} of {vocabulary}");
                    assert!((device.log_prob - host.log_prob).abs() < 1e-5);
                    assert!((device.full_log_prob - host.full_log_prob).abs() < 1e-5);
                }
            }
        }
    }

    /// Quantiles at both ends, and where a cumulative sum is reached exactly: never a token of weight 0.
    #[test]
    fn only_possible_tokens_are_drawn_at_any_quantile() {
        let weights = [0.0f32, 0.25, 0.0, 0.0, 0.5, 0.25, 0.0, 0.0];
        let sums = CumulativeSum::new(weights.len(), &Device::Cpu).unwrap();
        let check = |quantile: f32, token: u32, before: f32| {
            let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
            let (picked, below) = sums.search(&tensor(&weights), &tensor(&[quantile])).unwrap();
            assert_eq!(picked.to_vec2::<u32>().unwrap(), [[token]], "{quantile}");
            assert_eq!(below.to_vec2::<f32>().unwrap(), [[before]], "{quantile}");
        };
        check(0.0, 1, 0.0);
        check(0.2, 1, 0.0);
        check(0.25, 4, 0.25);
        check(0.75, 5, 0.75);
        check(0.999, 5, 0.75);
        // Rounding can give this quantile.
        check(1.0, 4, 0.25);
    }

    #[test]
    fn of_equally_likely_tokens_the_first_is_the_greedy_one() {
        let mut logits = logits(2, 1300);
        logits[0][7] = 50.0;
        logits[0][1100] = 50.0;
        logits[1].fill(-3.0);
        let mut samplers = [1, 2].map(|seed| Sampler::new(seed, &Sampling::new(0.0, vec![])));
        let tokens: Vec<u32> = drawn(&logits, &mut samplers).iter().map(|draw| draw.token).collect();
        assert_eq!(tokens, [7, 0]);
    }

    #[test]
    fn nan_and_infinite_logits_give_no_finite_draw() {
        let sampler = || Sampler::new(1, &Sampling::new(1.0, vec![]));
        for broken in [f32::NAN, f32::INFINITY] {
            let mut logits = logits(2, 600);
            logits[1][555] = broken;
            let draws = drawn(&logits, &mut [sampler(), sampler()]);
            assert!(draws[0].is_finite() && !draws[1].is_finite());
        }
    }
}
