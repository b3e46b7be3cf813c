//! A tiny random model with its own tokenizer, made on the spot.

use std::path::{Path, PathBuf};

use dump_rl::config::optim::OptimConfig;
use dump_rl::task::kk;
use dump_rl::train::{bpe, sft::SftTrainer};
use engine::decoder::DecoderConfig;
use temp_dir::TempDir;

/// The engines that run on a CPU: with CUDA built in, mistral.rs 0.8.1 computes on a card only.
pub const ENGINES: &[&str] =
    if cfg!(all(feature = "mistralrs", not(feature = "cuda"))) { &["native", "mistralrs"] } else { &["native"] };

/// Sizes of the random model: two blocks, grouped-query attention.
pub fn decoder_config(vocab_size: usize) -> DecoderConfig {
    serde_json::from_value(serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": true,
        "eos_token_id": 2
    }))
    .expect("a valid configuration")
}

/// A model folder that lasts as long as the value.
pub struct TinyModel {
    folder: TempDir,
}

impl TinyModel {
    /// Random weights and a tokenizer trained on a few puzzles.
    pub fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let (rows, _) = kk::splits(3..=5, 20, 0, 1).expect("puzzles");
        let texts: Vec<String> = rows.iter().flat_map(|row| row.prompt.iter().map(|m| m.content.clone())).collect();
        bpe::train(&texts, 600, folder.path()).expect("a tokenizer");
        let tokenizer = tokenizers::Tokenizer::from_file(folder.path().join("tokenizer.json")).expect("a tokenizer");
        let config = decoder_config(tokenizer.get_vocab_size(true));
        let trainer = SftTrainer::init(config, OptimConfig::default(), 3).expect("a model");
        trainer.save(folder.path()).expect("a model");
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
