//! Attention as a GPU computes it, forward and backward, on one CPU core: in blocks, and with all scores of a sequence kept,
//! as candle's own operators do. Time, and how much memory it takes beyond its inputs.
//!
//! `cargo bench --bench attention --no-default-features --features train`. Each line runs in a process of its own.

#![allow(clippy::print_stdout)]

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{D, Device, Result, Tensor, Var};
use dump_rl::memory::process::{peak_mb, resident_mb};
use dump_rl::train::ops::{BlockedAttention, Heads, PLAIN_SCORES};
use dump_rl::train::packed::Segment;

const HEADS: Heads = Heads { query: 8, key_value: 2, dim: 64 };
const WAYS: [&str; 3] = ["all scores", "blocks of 4 M", "blocks of 32 M"];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [way, tokens] = arguments.as_slice() {
        return measure(way, tokens.parse().expect("a number of tokens"));
    }
    println!("{HEADS:?}, f32, one thread\n{:<15}  tokens  seconds    MB", "");
    for tokens in [1024, 2048, 4096] {
        for way in WAYS {
            let program = std::env::current_exe()?;
            let status =
                Command::new(program).args([way, &tokens.to_string()]).env("RAYON_NUM_THREADS", "1").status()?;
            assert!(status.success(), "{way} with {tokens} tokens failed");
        }
    }
    Ok(())
}

/// One forward and backward.
fn measure(way: &str, tokens: usize) -> Result<()> {
    let random = |width| Var::randn(0f32, 1.0, (tokens, width), &Device::Cpu);
    let (q, k, v) = (random(HEADS.query_width())?, random(HEADS.key_value_width())?, random(HEADS.key_value_width())?);
    let (before, start) = (resident_mb(), Instant::now());
    let out = match way {
        "all scores" => all_scores(&q, &k, &v, tokens)?,
        _ => {
            let most = if way == WAYS[1] { 4 << 20 } else { PLAIN_SCORES };
            let segments: Arc<[Segment]> = [Segment { rows: 0..tokens, prefix: 0..0 }].into();
            Arc::new(BlockedAttention::new(segments, HEADS, most, &Device::Cpu)?).attention(&q, &k, &v, None)?
        }
    };
    let grads = out.sqr()?.backward()?;
    assert!(grads.get(&q).is_some());
    let (seconds, megabytes) = (start.elapsed().as_secs_f64(), peak_mb() - before);
    println!("{way:<15}  {tokens:>6}  {seconds:>7.2}  {megabytes:>4.0}");
    Ok(())
}

/// The textbook's attention, whose backward is candle's.
fn all_scores(q: &Tensor, k: &Tensor, v: &Tensor, tokens: usize) -> Result<Tensor> {
    let split = |x: &Tensor, heads: usize| x.reshape((tokens, heads, HEADS.dim))?.transpose(0, 1)?.contiguous();
    let repeat = |x: Tensor| {
        let shape = (HEADS.key_value, HEADS.group(), tokens, HEADS.dim);
        x.unsqueeze(1)?.broadcast_as(shape)?.reshape((HEADS.query, tokens, HEADS.dim))
    };
    let (q, k, v) = (split(q, HEADS.query)?, repeat(split(k, HEADS.key_value)?)?, repeat(split(v, HEADS.key_value)?)?);
    let scores = (q.matmul(&k.t()?)? * (1.0 / (HEADS.dim as f64).sqrt()))?;
    let hidden = |at: usize| if at % tokens > at / tokens { f32::NEG_INFINITY } else { 0.0 };
    let mask = Tensor::from_vec((0..tokens * tokens).map(hidden).collect(), (tokens, tokens), q.device())?;
    let weights = candle_nn::ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
    weights.matmul(&v)?.transpose(0, 1)?.reshape((tokens, HEADS.query_width()))
}
