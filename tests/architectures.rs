//! Every model family compared with transformers and PEFT (`golden/architectures.py` makes the numbers), in the trainer and in
//! the native engine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use dump_rl::train::lora::Lora;
use dump_rl::train::model::Model;
use dump_rl::train::ops::Entropy;
use dump_rl::train::optim::global_norm;
use dump_rl::train::packed::Packed;
use dump_rl::train::parallel;
use engine::decoder::{Architecture, DecoderConfig, Weights};
use engine::native::{Native, NativeSettings};
use engine::{Adapter, Engine, Precision, Request, Sampling};

use crate::fixtures::root;

const FAMILIES: [(&str, Architecture); 10] = [
    ("llama2", Architecture::Llama),
    ("llama3", Architecture::Llama),
    ("llama-bias", Architecture::Llama),
    ("mistral", Architecture::Mistral),
    ("qwen2", Architecture::Qwen2),
    ("qwen2-linear", Architecture::Qwen2),
    ("qwen3", Architecture::Qwen3),
    ("mistral-window", Architecture::Mistral),
    ("qwen2-window", Architecture::Qwen2),
    ("qwen3-window", Architecture::Qwen3),
];
/// Relative error allowed in f32, for a model of two blocks.
const TOLERANCE: f64 = 1e-4;
/// The same for a whole model, where rounding grows with every block: 1.4e-4 was measured on SmolLM2-135M.
const DEEP_TOLERANCE: f64 = 1e-3;

/// A model, a random adapter, and the results of transformers.
struct Golden {
    folder: PathBuf,
    config: DecoderConfig,
    weights: Weights,
    expected: BTreeMap<String, Tensor>,
}

impl Golden {
    /// The golden numbers of one family.
    fn load(name: &str) -> Self {
        let folder = root().join("tests/golden/architectures").join(name);
        Self::of(&folder, folder.clone())
    }

    /// For the model in the folder `model`. The numbers are in `folder`.
    fn of(model: &Path, folder: PathBuf) -> Self {
        let config = DecoderConfig::load(model).unwrap();
        let weights = Weights::load(model, &config, DType::F32, &Device::Cpu).unwrap();
        let expected = candle_core::safetensors::load(folder.join("expected.safetensors"), &Device::Cpu).unwrap();
        Self { folder, config, weights, expected: expected.into_iter().collect() }
    }

    fn adapter(&self) -> Adapter {
        let config = std::fs::read(self.folder.join("adapter_config.json")).unwrap();
        let bytes = std::fs::read(self.folder.join("adapter_model.safetensors")).unwrap();
        Adapter::new(Arc::new(serde_json::from_slice(&config).unwrap()), bytes)
    }

    fn lora(&self) -> Lora {
        Lora::from_adapter(&self.adapter(), &self.config, &Device::Cpu).unwrap()
    }

    fn tokens(&self) -> Vec<Vec<u32>> {
        self.expected["tokens"].to_dtype(DType::U32).unwrap().to_vec2().unwrap()
    }

    fn model(&self) -> Model {
        Model::new(self.config.clone(), self.weights.clone())
    }
}

/// Log-probabilities of each token from the second on, row by row, with gradient.
fn log_probs(model: &Model, lora: &Lora, rows: &[Vec<u32>]) -> Tensor {
    let mut packed = Packed::default();
    let (mut positions, mut targets) = (Vec::new(), Vec::new());
    for tokens in rows {
        positions.extend(packed.push(tokens).map(|row| row as u32).take(tokens.len() - 1));
        targets.extend_from_slice(&tokens[1..]);
    }
    let hidden = model.hidden(&model.rows(&packed).unwrap(), Some(lora)).unwrap();
    let vector = |ids: Vec<u32>| Tensor::new(ids, &Device::Cpu).unwrap();
    model.log_probs(&hidden, &vector(positions), &vector(targets), 1.0, Entropy::Detached).unwrap().0
}

/// ‖got − want‖ / ‖want‖.
fn error(got: &Tensor, want: &Tensor) -> f64 {
    let norm = |x: Tensor| global_norm(&BTreeMap::from([(String::new(), x)])).unwrap();
    let want = want.flatten_all().unwrap();
    norm((got.flatten_all().unwrap() - &want).unwrap()) / norm(want)
}

#[test]
fn log_probs_and_gradients_are_those_of_transformers_and_peft() {
    for (name, architecture) in FAMILIES {
        let golden = Golden::load(name);
        assert_eq!(golden.config.architecture(), architecture);
        check_trainer(name, &golden, golden.model(), TOLERANCE);
        check_trainer(&format!("{name} as on a GPU"), &golden, golden.model().on_plain_operators(), TOLERANCE);
    }
}

/// For a model of the user. `golden/architectures.py --model` makes its numbers, runs this test, and shows what it prints.
#[test]
#[ignore = "needs DUMP_RL_MODEL and DUMP_RL_GOLDEN, see tests/golden/architectures.py"]
fn a_real_model_is_that_of_transformers_and_peft() {
    let [model, golden] = ["DUMP_RL_MODEL", "DUMP_RL_GOLDEN"].map(|name| std::env::var(name).expect(name));
    let golden = Golden::of(Path::new(&model), golden.into());
    check_trainer(&model, &golden, golden.model(), DEEP_TOLERANCE);
}

fn check_trainer(name: &str, golden: &Golden, model: Model, tolerance: f64) {
    let lora = golden.lora();
    let log_probs = log_probs(&model, &lora, &golden.tokens());
    let off = error(&log_probs, &golden.expected["log_probs"]);
    let weights = golden.expected["weights"].flatten_all().unwrap();
    let loss = (log_probs * weights).unwrap().sum_all().unwrap();
    let grads = parallel::gradients(&loss, &lora.vars()).unwrap();
    assert_eq!(grads.len(), golden.expected.keys().filter(|key| key.starts_with("grad.")).count());
    let gradients = grads.iter().map(|(variable, grad)| {
        let want = &golden.expected[&format!("grad.{variable}")];
        (error(grad, want), variable)
    });
    let (worst, variable) = gradients.max_by(|a, b| a.0.total_cmp(&b.0)).expect("gradients");
    println!(
        "{name}: log-probabilities are off by {off:.1e} of their norm, the worst gradient by {worst:.1e} ({variable})"
    );
    assert!(off < tolerance && worst < tolerance, "{name}: {off:e} and {worst:e} are not below {tolerance:e}");
}

/// By its CPU kernels, and as on a GPU.
#[tokio::test]
async fn the_native_engine_gives_the_same_distributions() {
    for (name, _) in FAMILIES {
        let golden = Golden::load(name);
        let settings = NativeSettings { max_sequences: 4, cache_bytes: 1 << 20, threads: 2, precision: Precision::F32 };
        for start in [Native::start, Native::start_on_operators] {
            let engine = start(golden.config.clone(), golden.weights.clone(), settings, golden.adapter()).unwrap();
            check_engine(name, &golden, &engine).await;
        }
    }
}

/// Checks the distribution after the last prompt token, and then, over several drawn tokens, the engine's paged cache. The
/// golden windows are shorter than the prompt, and one of them longer than a block of the cache.
async fn check_engine(name: &str, golden: &Golden, engine: &Native) {
    for (row, tokens) in golden.tokens().into_iter().enumerate() {
        let logits = golden.expected["logits"].get(row).unwrap();
        let want = candle_nn::ops::log_softmax(&logits, 0).unwrap().to_vec1::<f32>().unwrap();
        let sampling = Sampling { max_new_tokens: 1, ..Sampling::new(1.0, vec![]) };
        let request = Request { prompt: tokens.into(), group_size: 24, seed: 3, sampling };
        for completion in engine.generate(request).await.unwrap() {
            let (token, got) = (completion.tokens[0] as usize, completion.log_probs[0]);
            assert!((got - want[token]).abs() < 1e-4, "{name}: {got} is not {}", want[token]);
        }
    }
    // Over several tokens, compared with the trainer's forward.
    let (model, lora, sampling) = (golden.model(), golden.lora(), Sampling::new(1.0, vec![]));
    let sampling = Sampling { max_new_tokens: 60, ..sampling };
    let prompt: Vec<u32> = golden.tokens().remove(0);
    let request = Request { prompt: prompt.clone().into(), group_size: 3, seed: 4, sampling };
    let completions = engine.generate(request.clone()).await.unwrap();
    let alone = engine.generate(Request { group_size: 1, ..request }).await.unwrap();
    assert_eq!(alone[0].tokens, completions[0].tokens, "{name}: alone and in a group");
    for completion in completions {
        let sequence = [prompt.as_slice(), &completion.tokens].concat();
        let all = log_probs(&model, &lora, &[sequence]).detach().to_vec1::<f32>().unwrap();
        let own = &all[prompt.len() - 1..];
        let worst = own.iter().zip(&completion.log_probs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{name}: engine and trainer differ by {worst}");
    }
}
