//! Writes the files of a model with random weights, some megabytes at a time.
//!
//! No whole tensor is ever in memory. A shard's header follows from shapes only, and numbers are generated while they are written.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::mpsc::sync_channel;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use engine::decoder::{DecoderConfig, Weights};
use half::bf16;
use serde_json::{Map, Value, json};

use super::random::Quantiles;
use crate::seed::mix_seed;

/// Standard deviation of a weight.
pub const STD: f64 = 0.02;
/// Largest shard, the same as in transformers.
const SHARD_BYTES: usize = 5_000_000_000;
/// Bytes that are generated and written at a time: a whole number of words of random bits.
const BLOCK: usize = 16 << 20;
/// Bytes per number in bf16.
const WIDTH: usize = 2;

/// What a tensor is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fill {
    Zeros,
    Ones,
    Normal,
    /// A projection into the residual stream: smaller by √(2·layers), as in GPT-2, so that the stream does not grow with depth.
    Residual,
}

impl Fill {
    fn of(name: &str) -> Self {
        match name {
            _ if name.ends_with(".bias") => Self::Zeros,
            _ if name.ends_with("norm.weight") => Self::Ones,
            _ if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") => Self::Residual,
            _ => Self::Normal,
        }
    }
}

/// A tensor to be written.
struct Planned {
    name: String,
    shape: Vec<usize>,
    /// Its stream of random numbers.
    key: u64,
}

impl Planned {
    fn bytes(&self) -> usize {
        WIDTH * self.shape.iter().product::<usize>()
    }
}

/// Writes all weights of `config` into `dir`. Returns their size in bytes.
///
/// # Errors
/// A disk that is full or cannot be written.
pub fn write(config: &DecoderConfig, seed: u64, dir: &Path) -> Result<usize> {
    let shards = cut(plan(config, seed)?, SHARD_BYTES);
    let fills = Fills::new(config.num_hidden_layers);
    let (count, mut map, mut total) = (shards.len(), Map::new(), 0);
    for (index, shard) in (1..).zip(&shards) {
        let name = match count {
            1 => "model.safetensors".to_string(),
            _ => format!("model-{index:05}-of-{count:05}.safetensors"),
        };
        let path = dir.join(&name);
        write_shard(shard, &fills, &path).map_err(named_full).with_context(|| path.display().to_string())?;
        total += shard.iter().map(Planned::bytes).sum::<usize>();
        map.extend(shard.iter().map(|tensor| (tensor.name.clone(), Value::from(name.clone()))));
    }
    if count > 1 {
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        let path = dir.join("model.safetensors.index.json");
        std::fs::write(&path, serde_json::to_string_pretty(&index)? + "\n").map_err(named_full)?;
    }
    Ok(total)
}

/// Every tensor, in the order of transformers' files.
fn plan(config: &DecoderConfig, seed: u64) -> Result<Vec<Planned>> {
    let (mut planned, nothing) = (Vec::new(), Tensor::zeros((), DType::BF16, &Device::Cpu)?);
    Weights::from_named(config, |name, shape| {
        let key = mix_seed(seed, planned.len() as u64);
        planned.push(Planned { name: name.to_string(), shape: shape.to_vec(), key });
        Ok(nothing.clone())
    })?;
    Ok(planned)
}

/// Shards of at most `most` bytes. A larger tensor gets a shard of its own.
fn cut(tensors: Vec<Planned>, most: usize) -> Vec<Vec<Planned>> {
    let (mut shards, mut shard, mut filled) = (Vec::new(), Vec::new(), 0);
    for tensor in tensors {
        if filled > 0 && filled + tensor.bytes() > most {
            shards.push(std::mem::take(&mut shard));
            filled = 0;
        }
        filled += tensor.bytes();
        shard.push(tensor);
    }
    shards.push(shard);
    shards
}

/// The sources of the numbers.
struct Fills {
    normal: Quantiles,
    residual: Quantiles,
}

impl Fills {
    fn new(layers: usize) -> Self {
        Self { normal: Quantiles::new(STD), residual: Quantiles::new(STD / (2.0 * layers as f64).sqrt()) }
    }

    /// Fills `bytes` with the numbers of `tensor` from index `first` on.
    fn fill(&self, tensor: &Planned, first: u64, bytes: &mut [u8]) {
        match Fill::of(&tensor.name) {
            Fill::Zeros => bytes.fill(0),
            Fill::Ones => {
                bytes.chunks_exact_mut(WIDTH).for_each(|number| number.copy_from_slice(&bf16::ONE.to_le_bytes()))
            }
            Fill::Normal => self.normal.fill(tensor.key, first, bytes),
            Fill::Residual => self.residual.fill(tensor.key, first, bytes),
        }
    }
}

fn write_shard(shard: &[Planned], fills: &Fills, path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&header(shard))?;
    write_tensors(shard, fills, &mut file)?;
    file.sync_all()
}

/// Generates the next block while the last one is written.
fn write_tensors(shard: &[Planned], fills: &Fills, file: &mut (impl Write + Send)) -> io::Result<()> {
    let (full, blocks) = sync_channel::<Vec<u8>>(1);
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || blocks.into_iter().try_for_each(|block| file.write_all(&block)));
        let made = shard.iter().flat_map(|tensor| {
            let starts = (0..tensor.bytes()).step_by(BLOCK);
            starts.map(move |start| (tensor, start, BLOCK.min(tensor.bytes() - start)))
        });
        for (tensor, start, length) in made {
            let mut block = vec![0; length];
            fills.fill(tensor, (start / WIDTH) as u64, &mut block);
            // The writer failed; its error is returned below.
            if full.send(block).is_err() {
                break;
            }
        }
        drop(full);
        writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The start of a safetensors file: the length of its header, and the header, padded to whole words.
fn header(shard: &[Planned]) -> Vec<u8> {
    let mut entries = Map::from_iter([("__metadata__".to_string(), json!({"format": "pt"}))]);
    let mut end = 0;
    for tensor in shard {
        let start = end;
        end += tensor.bytes();
        let entry = json!({"dtype": "BF16", "shape": tensor.shape, "data_offsets": [start, end]});
        entries.insert(tensor.name.clone(), entry);
    }
    let mut text = Value::from(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text].concat()
}

/// The error; a full disk is named.
fn named_full(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            io::Error::new(error.kind(), "the disk is full; nothing was left on it: choose another with --out DIR")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::presets;

    /// A disk with room for this many bytes.
    struct Small(usize);

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_disk_that_fills_up_is_named() {
        let (_, config) = presets::architecture("kk-tiny").expect("a preset");
        let (shard, fills) = (plan(&config, 1).expect("a plan"), Fills::new(6));
        let bytes: usize = shard.iter().map(Planned::bytes).sum();
        assert!(write_tensors(&shard, &fills, &mut Small(bytes)).is_ok());
        let full = write_tensors(&shard, &fills, &mut Small(bytes - 1)).map_err(named_full).expect_err("it is full");
        assert!(full.to_string().contains("the disk is full"), "{full}");
    }

    /// As transformers' `save_pretrained`, which cuts the 7B model into four shards of at most 5 GB.
    #[test]
    fn shards_are_as_large_as_they_may_be() {
        let shards = |arch: &str| {
            let (_, config) = presets::architecture(arch).expect("a preset");
            let shards = cut(plan(&config, 0).expect("a plan"), SHARD_BYTES);
            shards.iter().map(|shard| shard.iter().map(Planned::bytes).sum::<usize>()).collect::<Vec<_>>()
        };
        assert_eq!(shards("0.5b").len(), 1);
        let seven = shards("7b");
        assert_eq!((seven.len(), seven.iter().sum::<usize>()), (4, 2 * 7_615_616_512));
        assert!(seven.iter().all(|bytes| *bytes <= SHARD_BYTES), "{seven:?}");
    }
}
