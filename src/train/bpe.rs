//! Trains the tokenizer of a small model on its domain: byte-level BPE whose merges may cross spaces.
//!
//! Names and roles (" is a knight", ": knight") are split off before merging, so that each becomes one token in any context.
//! All other text merges freely, so that a fixed phrase costs one token ("superword" BPE, arXiv 2503.13423).

use std::path::Path;

use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, Result, SplitDelimiterBehavior, TokenizerBuilder};

/// The token that ends a turn.
pub const END_OF_TURN: &str = "<|im_end|>";
/// The tokens that pad, begin a turn and end a turn.
const CONTROL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", END_OF_TURN];
/// Tags of the answer format: ordinary text, but one token each.
const TAGS: [&str; 4] = ["<think>", "</think>", "<answer>", "</answer>"];
/// A name or a role.
const PIECES: &str = r"[A-Z][a-z]{2,}| is (?:not )?a kn(?:ight|ave)|: kn(?:ight|ave)";

/// ChatML as a Jinja template.
const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Learns merges from `texts` and writes `tokenizer.json` and `tokenizer_config.json` into `dir`.
pub fn train(texts: &[String], vocab_size: usize, dir: &Path) -> Result<()> {
    let names = Split::new(SplitPattern::Regex(PIECES.into()), SplitDelimiterBehavior::Isolated, false)?;
    let bytes = ByteLevel::new(false, false, false);
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(Sequence::new(vec![names.into(), bytes.into()])))
        .with_post_processor(None::<tokenizers::PostProcessorWrapper>)
        .with_decoder(Some(ByteLevelDecoder::default()))
        .build()?;
    let control = CONTROL.map(|text| AddedToken::from(text, true));
    let tags = TAGS.map(|text| AddedToken::from(text, false));
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(control.into_iter().chain(tags).collect())
        .build();
    let between_tags = regex::Regex::new(r"</?\|?\w+\|?>")?;
    let untagged = texts.iter().flat_map(|text| between_tags.split(text)).map(str::to_string);
    tokenizer.train(&mut trainer, untagged)?.save(dir.join("tokenizer.json"), false)?;
    let settings = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": null,
        "eos_token": END_OF_TURN,
        "pad_token": CONTROL[0],
        "clean_up_tokenization_spaces": false,
        "chat_template": CHAT_TEMPLATE,
    });
    std::fs::write(dir.join("tokenizer_config.json"), serde_json::to_string_pretty(&settings)? + "\n")?;
    Ok(())
}
