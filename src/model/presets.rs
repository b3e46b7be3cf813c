//! Shapes of well-known models, for predictions without a download and for random models.

use engine::decoder::DecoderConfig;
use serde_json::{Value, json};

/// A model family in one size: part of its name on the hub, in lower case, and the values of its `config.json`.
struct Preset {
    name: &'static str,
    architecture: &'static str,
    /// Width, inner width, layers, query heads, key-value heads, width of a head.
    sizes: [usize; 6],
    vocabulary: usize,
    tied: bool,
    theta: f64,
    context: usize,
}

/// From their `config.json` on the hub. The first name that is part of a model's name counts.
const PRESETS: [Preset; 9] = [
    // The model in data/.
    preset("kk-tiny", "Llama", [128, 384, 6, 4, 4, 32], 847, true, 1e4, 1024),
    preset("smollm2-135m", "Llama", [576, 1536, 30, 9, 3, 64], 49152, true, 1e5, 8192),
    preset("qwen2.5-0.5b", "Qwen2", [896, 4864, 24, 14, 2, 64], 151_936, true, 1e6, 32768),
    preset("qwen2.5-1.5b", "Qwen2", [1536, 8960, 28, 12, 2, 128], 151_936, true, 1e6, 32768),
    preset("qwen2.5-3b", "Qwen2", [2048, 11008, 36, 16, 2, 128], 151_936, true, 1e6, 32768),
    // Uses dual chunk attention after its first 262,144 tokens.
    preset("qwen2.5-7b-instruct-1m", "Qwen2", [3584, 18944, 28, 28, 4, 128], 152_064, false, 1e7, 262_144),
    preset("qwen2.5-7b", "Qwen2", [3584, 18944, 28, 28, 4, 128], 152_064, false, 1e6, 32768),
    preset("llama-3.1-8b", "Llama", [4096, 14336, 32, 32, 8, 128], 128_256, false, 5e5, 131_072),
    preset("qwen3-4b", "Qwen3", [2560, 9728, 36, 32, 8, 128], 151_936, true, 1e6, 40960),
];

const fn preset(
    name: &'static str,
    architecture: &'static str,
    sizes: [usize; 6],
    vocabulary: usize,
    tied: bool,
    theta: f64,
    context: usize,
) -> Preset {
    Preset { name, architecture, sizes, vocabulary, tied, theta, context }
}

/// The sizes of the model of this name on the hub, if they are known.
pub fn find(id: &str) -> Option<DecoderConfig> {
    let id = id.to_lowercase();
    PRESETS.iter().find(|preset| id.contains(preset.name))?.config()
}

/// A model that uses another kind of attention within its context.
const NOT_PLAIN: &str = "qwen2.5-7b-instruct-1m";

/// The name and shape of an architecture. For Qwen2.5 the size alone is a name too.
pub fn architecture(name: &str) -> Option<(&'static str, DecoderConfig)> {
    let name = name.to_lowercase();
    let is_named = |preset: &&Preset| {
        preset.name != NOT_PLAIN && (preset.name == name || preset.name.strip_prefix("qwen2.5-") == Some(&name))
    };
    let preset = PRESETS.iter().find(is_named)?;
    Some((preset.name, preset.config()?))
}

/// The names that [`architecture`] knows.
pub fn architectures() -> Vec<&'static str> {
    PRESETS.iter().map(|preset| preset.name).filter(|name| *name != NOT_PLAIN).collect()
}

impl Preset {
    fn config(&self) -> Option<DecoderConfig> {
        let &Self { name, architecture, sizes, vocabulary, tied, theta, context } = self;
        let [hidden, intermediate, layers, heads, kv_heads, head_dim] = sizes;
        let scaling = match name {
            "llama-3.1-8b" => {
                json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192})
            }
            _ => Value::Null,
        };
        let config = json!({
            "architectures": [format!("{architecture}ForCausalLM")], "model_type": architecture.to_lowercase(),
            "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": intermediate,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
            "head_dim": head_dim, "max_position_embeddings": context,
            "rms_norm_eps": if architecture == "Llama" { 1e-5 } else { 1e-6 }, "rope_theta": theta,
            "rope_scaling": scaling, "tie_word_embeddings": tied,
        });
        DecoderConfig::parse(&config.to_string()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of parameters that the models' cards give.
    #[test]
    fn every_preset_has_as_many_parameters_as_its_card_says() {
        let millions = [1.39, 135.0, 494.0, 1544.0, 3086.0, 7616.0, 7616.0, 8030.0, 4022.0];
        for (preset, millions) in PRESETS.iter().zip(millions) {
            let config = find(preset.name).expect(preset.name);
            let found = config.parameters() as f64 / 1e6;
            assert!((found / millions - 1.0).abs() < 0.005, "{}: {found} M", preset.name);
        }
        assert!(find("Qwen/Qwen2.5-7B-Instruct-1M").is_some_and(|config| config.rope_theta == 1e7));
        assert!(find("nobody/knows").is_none());
    }

    #[test]
    fn an_architecture_has_its_own_name_and_a_short_one() {
        let name = |name: &str| architecture(name).map(|(name, _)| name);
        let known = [("7b", "qwen2.5-7b"), ("Qwen2.5-0.5B", "qwen2.5-0.5b"), ("llama-3.1-8b", "llama-3.1-8b")];
        known.iter().for_each(|(short, long)| assert_eq!(name(short), Some(*long)));
        for unknown in ["8b", "qwen2.5", "", "7b-instruct-1m", "Qwen/Qwen2.5-7B"] {
            assert_eq!(name(unknown), None, "{unknown}");
        }
        assert!(architectures().iter().all(|known| name(known) == Some(known)));
        // As their files on the hub say it.
        for (name, eps) in [("smollm2-135m", 1e-5), ("7b", 1e-6), ("llama-3.1-8b", 1e-5), ("qwen3-4b", 1e-6)] {
            assert_eq!(architecture(name).map(|(_, config)| config.rms_norm_eps), Some(eps), "{name}");
        }
    }
}
