//! Our settings in mistral.rs's types.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mistralrs::core::{
    AdapterPaths, DefaultSchedulerMethod, LocalModelPaths, MemoryGpuConfig, ModelDType, ModelPaths,
    PagedAttentionConfig, PagedCacheType, Pipeline, SchedulerConfig,
};
use mistralrs_quant::IsqType;

use super::settings::{Cache, Device, MistralSettings};
use super::wave::Wave;
use crate::{CacheFormat, Precision, Quantization};

/// The files of the model in `dir`.
pub fn paths(dir: &Path, weights: &[PathBuf]) -> Box<dyn ModelPaths> {
    Box::new(LocalModelPaths {
        tokenizer_filename: dir.join("tokenizer.json"),
        config_filename: dir.join("config.json"),
        template_filename: None,
        filenames: weights.to_vec(),
        adapter_paths: AdapterPaths::None,
        gen_conf: None,
        preprocessor_config: None,
        processor_config: None,
        chat_template_json_filename: None,
    })
}

pub fn model_dtype(precision: Precision) -> ModelDType {
    match precision {
        Precision::F32 => ModelDType::F32,
        Precision::Bf16 => ModelDType::BF16,
    }
}

/// 0.8.1 quantizes a matrix while it loads it, after the adapter is merged.
pub fn quantization(quantization: Quantization) -> Option<IsqType> {
    match quantization {
        Quantization::None => None,
        Quantization::Q8_0 => Some(IsqType::Q8_0),
        Quantization::Q6K => Some(IsqType::Q6K),
        Quantization::Q5K => Some(IsqType::Q5K),
        Quantization::Q4K => Some(IsqType::Q4K),
    }
}

/// PagedAttention, on a GPU only. The cache has a fixed size: one that follows the free memory would leave none for the
/// trainer, or for the model that a publish builds next.
pub fn paged_attention(device: Device) -> Result<Option<PagedAttentionConfig>, String> {
    let Device::Gpu { cache: Cache { mb, block_size, format }, .. } = device else { return Ok(None) };
    let format = match format {
        CacheFormat::Auto => PagedCacheType::Auto,
        CacheFormat::F8E4M3 => PagedCacheType::F8E4M3,
    };
    PagedAttentionConfig::new(Some(block_size), MemoryGpuConfig::MbAmount(mb), format)
        .map(Some)
        .map_err(|e| e.to_string())
}

/// How mistral.rs schedules sequences.
pub fn scheduler(settings: &MistralSettings, pipeline: &dyn Pipeline) -> SchedulerConfig {
    let max_num_seqs = settings.max_sequences();
    match pipeline.get_metadata().cache_config.clone() {
        Some(config) => SchedulerConfig::PagedAttentionMeta { max_num_seqs, config },
        None => {
            let max_num_seqs = max_num_seqs.try_into().unwrap_or(std::num::NonZeroUsize::MIN);
            SchedulerConfig::DefaultScheduler { method: DefaultSchedulerMethod::Fixed(max_num_seqs) }
        }
    }
}

/// Admission to a model with PagedAttention. 0.8.1 uses one block of the cache itself.
pub fn wave(settings: &MistralSettings, pipeline: &dyn Pipeline) -> Option<Arc<Wave>> {
    let metadata = pipeline.get_metadata();
    let cache = metadata.cache_config.as_ref()?;
    let blocks = cache.num_gpu_blocks.saturating_sub(1);
    Some(Wave::new(settings.max_sequences(), blocks, cache.block_size))
}
