//! A LoRA adapter in PEFT's format, as the trainer sends it to an engine and writes it to disk.
//!
//! This file is the only place that knows PEFT's names, shapes and configuration. Tensors are f32, named
//! `base_model.model.<module>.lora_A.weight` (rank × in) and `lora_B.weight` (out × rank).
//! Invariant: [`Adapter::hash`] is the SHA-256 of [`Adapter::bytes`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::decoder::{DecoderConfig, Module};
use crate::error::EngineError;
use crate::version::AdapterHash;

/// The file that holds an adapter's tensors.
pub const ADAPTER: &str = "adapter_model.safetensors";
/// The file that holds its [`LoraConfig`].
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

/// The seven linear layers of a block, the default of `target_modules`.
pub const LINEAR_LAYERS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Shape and scale of an adapter, written as PEFT's `adapter_config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// Rank of the update.
    pub r: usize,
    /// The update is scaled by alpha / r.
    pub lora_alpha: f64,
    pub target_modules: Vec<String>,
    /// Always `LORA`.
    pub peft_type: String,
    pub task_type: String,
    pub base_model_name_or_path: String,
    pub bias: String,
    pub lora_dropout: f64,
}

impl LoraConfig {
    pub fn new(rank: usize, alpha: f64, target_modules: Vec<String>, base_model: String) -> Self {
        Self {
            r: rank,
            lora_alpha: alpha,
            target_modules,
            peft_type: "LORA".into(),
            task_type: "CAUSAL_LM".into(),
            base_model_name_or_path: base_model,
            bias: "none".into(),
            lora_dropout: 0.0,
        }
    }

    /// Reads an `adapter_config.json` that PEFT or another program wrote.
    ///
    /// # Errors
    /// [`EngineError::Adapter`] if a key is missing or has a value that asks for something else than alpha / r · B·A on linear
    /// layers. It names the key.
    pub fn read(text: &str) -> Result<Self, EngineError> {
        // These say how it was trained, or what is read from the tensors' names.
        const WITHOUT_EFFECT: [&str; 19] = [
            "auto_mapping",
            "base_model_name_or_path",
            "exclude_modules",
            "inference_mode",
            "init_lora_weights",
            "layers_pattern",
            "layers_to_transform",
            "lora_dropout",
            "lora_alpha",
            "megatron_config",
            "megatron_core",
            "peft_type",
            "peft_version",
            "r",
            "revision",
            "runtime_config",
            "target_modules",
            "task_type",
            "qalora_group_size",
        ];
        let wrong = |problem: String| EngineError::Adapter(format!("{ADAPTER_CONFIG}: {problem}"));
        let all: serde_json::Map<String, Value> = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
        let text = |key: &str| all.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
        if text("peft_type") != "LORA" {
            return Err(wrong(format!("peft_type is {:?}; only \"LORA\" is read", text("peft_type"))));
        }
        // These begin from other base weights than the model's.
        let begin = text("init_lora_weights").to_lowercase();
        if ["pissa", "olora", "corda", "loftq", "lora_ga"].iter().any(|other| begin.starts_with(other)) {
            return Err(wrong(format!("init_lora_weights is {begin:?}, which changes the base weights too")));
        }
        let asks_nothing = |key: &str, value: &Value| {
            WITHOUT_EFFECT.contains(&key) || is_unset(value) || key == "bias" && *value == "none"
        };
        if let Some((key, value)) = all.iter().find(|(key, value)| !asks_nothing(key, value)) {
            return Err(wrong(format!("{key} is {value}, which is not supported")));
        }
        let rank = all.get("r").and_then(Value::as_u64).and_then(|r| usize::try_from(r).ok()).filter(|r| *r > 0);
        let rank = rank.ok_or_else(|| wrong("r must be a whole number from 1".into()))?;
        let alpha = all.get("lora_alpha").and_then(Value::as_f64).filter(|alpha| alpha.is_finite());
        let alpha = alpha.ok_or_else(|| wrong("lora_alpha must be a number".into()))?;
        let modules = match all.get("target_modules") {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).map(String::from).collect(),
            // A pattern; the tensors' names say what it matched.
            _ => Vec::new(),
        };
        Ok(Self::new(rank, alpha, modules, text("base_model_name_or_path")))
    }

    /// What multiplies B·A: alpha / r.
    pub fn scale(&self) -> f64 {
        self.lora_alpha / self.r as f64
    }

    /// The linear layers that `target_modules` names.
    ///
    /// # Errors
    /// If a name is not a linear layer of a block.
    pub fn modules(&self) -> Result<Vec<Module>, EngineError> {
        let module = |name: &String| {
            Module::from_name(name)
                .ok_or_else(|| EngineError::Adapter(format!("{name} is not a linear layer of the model")))
        };
        self.target_modules.iter().map(module).collect()
    }

    /// Whether a tensor belongs to a module of `target_modules`, in any layer.
    fn covers(&self, tensor: &str) -> bool {
        let module = tensor.strip_prefix(PREFIX).and_then(|path| path.strip_prefix('.'));
        let module = module.and_then(|path| SUFFIXES.iter().find_map(|suffix| path.strip_suffix(suffix)));
        let name = module.and_then(|path| path.rsplit('.').next());
        name.is_some_and(|name| self.target_modules.iter().any(|target| target == name))
    }
}

/// PEFT's prefix of every tensor name.
const PREFIX: &str = "base_model.model";
/// What follows the path of a linear layer in the names of its A and its B.
const SUFFIXES: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];

/// PEFT's names of the A and the B of a linear layer.
pub fn tensor_names(layer: usize, module: Module) -> [String; 2] {
    let path = layer_path(layer, module);
    SUFFIXES.map(|suffix| format!("{path}{suffix}"))
}

fn layer_path(layer: usize, module: Module) -> String {
    format!("{PREFIX}.model.layers.{layer}.{}", module.path())
}

/// The two matrices of one linear layer's update.
#[derive(Debug, Clone)]
pub struct LowRankPair {
    /// A (r × in).
    pub a: Tensor,
    /// B (out × r).
    pub b: Tensor,
}

/// The updates of an adapter by layer and module.
pub type LowRankPairs = BTreeMap<(usize, Module), LowRankPair>;

/// An immutable adapter, named by its hash and cheap to clone.
#[derive(Debug, Clone)]
pub struct Adapter {
    pub config: Arc<LoraConfig>,
    /// The content of `adapter_model.safetensors`.
    pub bytes: Arc<[u8]>,
    pub hash: AdapterHash,
}

impl Adapter {
    pub fn new(config: Arc<LoraConfig>, bytes: Vec<u8>) -> Self {
        let hash = hash_bytes(&bytes);
        Self { config, bytes: bytes.into(), hash }
    }

    /// The hash of the bytes, computed now. For a large adapter this takes a while.
    ///
    /// # Errors
    /// [`EngineError::WrongAdapter`] if `hash` names other bytes.
    pub fn verify(&self) -> Result<AdapterHash, EngineError> {
        let loaded = hash_bytes(&self.bytes);
        match loaded == self.hash {
            true => Ok(loaded),
            false => Err(EngineError::WrongAdapter { published: self.hash.clone(), loaded }),
        }
    }

    /// The tensors by name, as f32 on the CPU.
    ///
    /// # Errors
    /// If the bytes are not a safetensors file, or hold anything but f32 matrices.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>, EngineError> {
        let file =
            safetensors::SafeTensors::deserialize(&self.bytes).map_err(|e| EngineError::Adapter(e.to_string()))?;
        file.iter().map(|(name, view)| Ok((name.to_string(), to_tensor(name, &view)?))).collect()
    }

    /// The tensors by name, for an engine that ignores what it does not know.
    ///
    /// # Errors
    /// As [`Adapter::tensors`], or if a tensor belongs to no module of `target_modules`.
    pub fn target_tensors(&self) -> Result<BTreeMap<String, Tensor>, EngineError> {
        let tensors = self.tensors()?;
        match tensors.keys().find(|name| !self.config.covers(name)) {
            Some(name) => {
                Err(EngineError::Adapter(format!("{name} belongs to none of {:?}", self.config.target_modules)))
            }
            None => Ok(tensors),
        }
    }

    /// The updates of the layers that the adapter covers; it need not cover any.
    ///
    /// # Errors
    /// As [`Adapter::tensors`], or if a tensor fits no layer of `decoder`, its shape is wrong, or its partner is
    /// missing.
    pub fn pairs(&self, decoder: &DecoderConfig) -> Result<LowRankPairs, EngineError> {
        let mut tensors = self.tensors()?;
        let mut pairs = BTreeMap::new();
        for layer in 0..decoder.num_hidden_layers {
            for module in Module::ALL {
                if let Some(pair) = take_pair(&mut tensors, layer, module, decoder.linear_shape(module))? {
                    let (rank, r) = (pair.a.dims()[0], self.config.r);
                    if rank != r {
                        let place = layer_path(layer, module);
                        return Err(EngineError::Adapter(format!("{place}: its rank is {rank}, but r is {r}")));
                    }
                    pairs.insert((layer, module), pair);
                }
            }
        }
        match tensors.keys().next() {
            Some(name) => Err(EngineError::Adapter(format!("{name}: the model has no such layer"))),
            None => Ok(pairs),
        }
    }

    /// The updates of every target module in every layer, all of rank `r`.
    ///
    /// # Errors
    /// As [`Adapter::tensors`], or if a tensor that the configuration promises is missing, one is left over, or a shape
    /// is wrong.
    pub fn all_pairs(&self, decoder: &DecoderConfig) -> Result<LowRankPairs, EngineError> {
        let (mut tensors, modules) = (self.tensors()?, self.config.modules()?);
        let keys: BTreeSet<_> = (0..decoder.num_hidden_layers)
            .flat_map(|layer| modules.iter().map(move |module| (layer, *module)))
            .collect();
        let names: BTreeSet<String> = keys.iter().flat_map(|(layer, module)| tensor_names(*layer, *module)).collect();
        if let Some(surplus) = tensors.keys().find(|name| !names.contains(*name)) {
            return Err(EngineError::Adapter(format!("tensor {surplus} belongs to no target module")));
        }
        let mut pairs = BTreeMap::new();
        for (layer, module) in keys {
            let ([a, b], (input, output)) = (tensor_names(layer, module), decoder.linear_shape(module));
            let a = take_tensor(&mut tensors, &a, [self.config.r, input])?;
            let b = take_tensor(&mut tensors, &b, [output, self.config.r])?;
            pairs.insert((layer, module), LowRankPair { a, b });
        }
        Ok(pairs)
    }
}

/// Takes both matrices of a linear layer, of any rank; `None` if the adapter does not cover it.
fn take_pair(
    tensors: &mut BTreeMap<String, Tensor>,
    layer: usize,
    module: Module,
    (input, output): (usize, usize),
) -> Result<Option<LowRankPair>, EngineError> {
    let fail = |problem: String| Err(EngineError::Adapter(format!("{}: {problem}", layer_path(layer, module))));
    let [a, b] = tensor_names(layer, module).map(|name| tensors.remove(&name));
    let (a, b) = match (a, b) {
        (None, None) => return Ok(None),
        (Some(a), Some(b)) => (a, b),
        _ => return fail("one of lora_A and lora_B is missing".into()),
    };
    let rank = a.dims()[0];
    if a.dims() != [rank, input] || b.dims() != [output, rank] {
        return fail(format!(
            "expected (rank × {input}) and ({output} × rank), found {:?} and {:?}",
            a.dims(),
            b.dims()
        ));
    }
    Ok(Some(LowRankPair { a, b }))
}

/// Takes one tensor, which must have this shape.
fn take_tensor(
    tensors: &mut BTreeMap<String, Tensor>,
    name: &str,
    expected: [usize; 2],
) -> Result<Tensor, EngineError> {
    let tensor = tensors.remove(name).ok_or_else(|| EngineError::Adapter(format!("tensor {name} is missing")))?;
    match tensor.dims() == expected {
        true => Ok(tensor),
        false => {
            let found = tensor.dims();
            Err(EngineError::Adapter(format!("{name}: expected shape {expected:?}, found {found:?}")))
        }
    }
}

fn to_tensor(name: &str, view: &safetensors::tensor::TensorView) -> Result<Tensor, EngineError> {
    if view.dtype() != safetensors::Dtype::F32 || view.shape().len() != 2 {
        let found = (view.dtype(), view.shape());
        return Err(EngineError::Adapter(format!("{name}: expected an f32 matrix, found {found:?}")));
    }
    let values: Vec<f32> = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Tensor::from_vec(values, view.shape(), &candle_core::Device::Cpu)
        .map_err(|e| EngineError::Adapter(format!("{name}: {e}")))
}

/// Whether a value stands for a key that is not there.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// SHA-256 of `bytes` in hexadecimal.
pub fn hash_bytes(bytes: &[u8]) -> AdapterHash {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    AdapterHash(hex.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn decoder() -> DecoderConfig {
        let config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8, "hidden_size": 6,
            "intermediate_size": 10, "num_hidden_layers": 2, "num_attention_heads": 1, "max_position_embeddings": 8,
            "rms_norm_eps": 1e-5,
        });
        DecoderConfig::parse(&config.to_string()).unwrap()
    }

    /// An adapter of rank 2 on `up_proj` (6 → 10), after a change of its tensors.
    fn adapter(change: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> Adapter {
        let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let pair = |layer| tensor_names(layer, Module::Up).into_iter().zip([zeros((2, 6)), zeros((10, 2))]);
        let mut tensors: BTreeMap<String, Tensor> = (0..2).flat_map(pair).collect();
        change(&mut tensors);
        let bytes = safetensors::serialize(tensors, None).unwrap();
        Adapter::new(LoraConfig::new(2, 4.0, vec!["up_proj".into()], String::new()).into(), bytes)
    }

    #[test]
    fn both_readers_find_every_pair() {
        let adapter = adapter(|_| {});
        for pairs in [adapter.pairs(&decoder()).unwrap(), adapter.all_pairs(&decoder()).unwrap()] {
            assert_eq!(pairs.keys().collect::<Vec<_>>(), [&(0, Module::Up), &(1, Module::Up)]);
            assert!(pairs.values().all(|pair| pair.a.dims() == [2, 6] && pair.b.dims() == [10, 2]));
        }
        assert_eq!(adapter.target_tensors().unwrap().len(), 4);
    }

    #[test]
    fn tensors_that_do_not_fit_are_refused_by_name() {
        let b = tensor_names(1, Module::Up)[1].clone();
        let check = |adapter: Adapter, engine: Option<&str>, trainer: &str| {
            let error = |pairs: Result<LowRankPairs, EngineError>| pairs.err().map(|error| error.to_string());
            let (found, all) = (error(adapter.pairs(&decoder())), error(adapter.all_pairs(&decoder())).unwrap());
            assert_eq!(found.is_some(), engine.is_some(), "{found:?}");
            assert!(found.is_none_or(|found| found.contains(engine.unwrap())));
            assert!(all.contains(trainer), "{all}");
        };
        check(
            adapter(|tensors| drop(tensors.remove(&b))),
            Some("one of lora_A and lora_B"),
            &format!("{b} is missing"),
        );
        let renamed = |tensors: &mut BTreeMap<String, Tensor>| {
            let tensor = tensors.remove(&b).unwrap();
            tensors.insert(b.replace("layers.1", "layers.9"), tensor);
        };
        check(adapter(renamed), Some("one of lora_A and lora_B"), "belongs to no target module");
        let transposed = |tensors: &mut BTreeMap<String, Tensor>| {
            let tensor = tensors[&b].t().unwrap().contiguous().unwrap();
            tensors.insert(b.clone(), tensor);
        };
        check(adapter(transposed), Some("(10 × rank)"), "expected shape [10, 2], found [2, 10]");
        // The engine takes an adapter that covers one layer only.
        check(adapter(|tensors| tensors.retain(|name, _| name.contains("layers.0"))), None, "is missing");
    }

    /// What PEFT 0.19 writes for `LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj"])`.
    const PEFT: &str = r#"{"alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null,
        "base_model_name_or_path": "m", "bias": "none", "corda_config": null, "ensure_weight_tying": false, "eva_config": null,
        "exclude_modules": null, "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true,
        "layer_replication": null, "layers_pattern": null, "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 32,
        "lora_bias": false, "lora_dropout": 0.05, "megatron_config": null, "megatron_core": "megatron.core",
        "modules_to_save": null, "peft_type": "LORA", "peft_version": "0.19.1", "qalora_group_size": 16, "r": 16,
        "rank_pattern": {}, "revision": null, "target_modules": ["q_proj"], "target_parameters": null,
        "task_type": "CAUSAL_LM", "trainable_token_indices": null, "use_dora": false, "use_qalora": false, "use_rslora": false}"#;

    #[test]
    fn a_configuration_of_peft_is_read_and_what_changes_the_computation_is_refused() {
        let read = LoraConfig::read(PEFT).unwrap();
        assert_eq!((read.r, read.scale(), read.target_modules), (16, 2.0, vec!["q_proj".to_string()]));
        for (from, to, says) in [
            (r#""use_dora": false"#, r#""use_dora": true"#, "use_dora"),
            (r#""use_rslora": false"#, r#""use_rslora": true"#, "use_rslora"),
            (r#""bias": "none""#, r#""bias": "all""#, "bias"),
            (r#""alpha_pattern": {}"#, r#""alpha_pattern": {"q_proj": 1}"#, "alpha_pattern"),
            (r#""modules_to_save": null"#, r#""modules_to_save": ["lm_head"]"#, "modules_to_save"),
            (r#""init_lora_weights": true"#, r#""init_lora_weights": "pissa_niter_4""#, "pissa"),
            (r#""peft_type": "LORA""#, r#""peft_type": "IA3""#, "IA3"),
            (r#""r": 16,"#, r#""r": 0,"#, "r must be"),
            (r#""lora_alpha": 32"#, r#""lora_alpha": "x""#, "lora_alpha"),
            (r#""use_qalora": false"#, r#""use_something_new": true"#, "use_something_new"),
        ] {
            assert!(PEFT.contains(from));
            let error = LoraConfig::read(&PEFT.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_tensor_of_no_target_module_is_refused() {
        let other = |tensors: &mut BTreeMap<String, Tensor>| {
            let tensor = tensors.values().next().unwrap().clone();
            tensors.insert(tensor_names(0, Module::Down)[0].clone(), tensor);
        };
        let error = adapter(other).target_tensors().unwrap_err().to_string();
        assert!(error.contains("mlp.down_proj.lora_A.weight belongs to none of"), "{error}");
    }
}
