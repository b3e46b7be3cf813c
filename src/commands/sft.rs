//! `dump-rl sft`: makes a small base model from nothing: tokenizer, random weights, supervised training.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;
use std::time::Instant;

use anyhow::{Context, Result};
use engine::decoder::DecoderConfig;
use engine::sampler::mix_seed;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::commands::data::parse_people;
use crate::config::sft::SftConfig;
use crate::error::InputError;
use crate::task::Message;
use crate::task::kk::demo::{self, CarefulShare, Style};
use crate::task::kk::generate::{Generator, Puzzle};
use crate::task::kk::statement::Statement;
use crate::task::kk::{prompt, text};
use crate::tokenizer::ChatTokenizer;
use crate::train::bpe;
use crate::train::sft::{Example, SftStats, SftTrainer};

/// Puzzles of each size that a run may train or test on, and that are therefore never shown here.
const HELD_OUT: usize = 1000;

/// Trains and saves the model; refuses to overwrite one.
pub fn run(config: &SftConfig) -> Result<()> {
    let dir = &config.out;
    if dir.join("model.safetensors").exists() {
        let problem = "a model is already here; remove it, or choose another folder with --set out=DIR";
        return Err(InputError::new(dir.display(), problem).into());
    }
    std::fs::create_dir_all(dir).map_err(|e| InputError::new(dir.display(), e))?;
    let people = parse_people(&config.data.people).map_err(|e| InputError::new("data.people", e))?;
    let mut demos = Demonstrations::new(config, people);
    let mut trainer = match config.init.as_os_str().is_empty() {
        true => from_nothing(config, &mut demos)?,
        false => from_model(config)?,
    };
    let tokenizer = ChatTokenizer::load(dir, trainer.config())?;
    println!(
        "model of {} parameters, vocabulary of {} tokens",
        trainer.config().parameters(),
        trainer.config().vocab_size
    );
    train(config, &mut trainer, &mut demos, &tokenizer)?;
    trainer.save(dir).with_context(|| format!("saving the model to {}", dir.display()))
}

/// A new tokenizer and random weights.
fn from_nothing(config: &SftConfig, demos: &mut Demonstrations) -> Result<SftTrainer> {
    let sizes = demos.people.clone().flat_map(|n| (0..config.tokenizer.corpus_puzzles).map(move |_| n));
    let corpus: Vec<String> = sizes.map(|n| demos.text(n)).collect();
    bpe::train(&corpus, config.tokenizer.vocab_size, &config.out).map_err(anyhow::Error::from_boxed)?;
    SftTrainer::init(decoder_config(config)?, config.optim.clone(), config.seed)
}

/// The model and the tokenizer in `init`.
fn from_model(config: &SftConfig) -> Result<SftTrainer> {
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let path = config.init.join(name);
        std::fs::copy(&path, config.out.join(name)).map_err(|e| InputError::new(path.display(), e))?;
    }
    SftTrainer::load(&config.init, config.optim.clone())
}

fn train(
    config: &SftConfig,
    trainer: &mut SftTrainer,
    demos: &mut Demonstrations,
    tokenizer: &ChatTokenizer,
) -> Result<()> {
    let mut progress = Progress::new();
    for step in 0..config.max_steps {
        let along = step as f64 / config.max_steps as f64;
        let batch = demos.batch(tokenizer, trainer.config().max_position_embeddings, along)?;
        progress.add(trainer.step(&batch, config.micro_batch_tokens, lr_scale(along))?);
        if (step + 1) % 50 == 0 {
            progress.print(step + 1, config.max_steps);
        }
        if (step + 1) % config.save_interval.max(1) == 0 {
            trainer.save(&config.out)?;
        }
        if step + 1 == config.stop_after {
            break;
        }
    }
    Ok(())
}

/// Constant, then falling linearly over the last three tenths of the run.
fn lr_scale(along: f64) -> f64 {
    ((1.0 - along) / 0.3).clamp(0.02, 1.0)
}

/// The smallest vocabulary that holds the tokenizer, and the sizes asked for.
fn decoder_config(config: &SftConfig) -> Result<DecoderConfig> {
    let path = config.out.join("tokenizer.json");
    let tokenizer = tokenizers::Tokenizer::from_file(&path).map_err(anyhow::Error::from_boxed)?;
    let model = &config.model;
    Ok(DecoderConfig {
        architectures: vec!["LlamaForCausalLM".into()],
        model_type: "llama".into(),
        vocab_size: tokenizer.get_vocab_size(true),
        hidden_size: model.hidden_size,
        intermediate_size: model.intermediate_size,
        num_hidden_layers: model.num_hidden_layers,
        num_attention_heads: model.num_attention_heads,
        num_key_value_heads: model.num_attention_heads,
        head_dim: model.hidden_size / model.num_attention_heads,
        max_position_embeddings: model.max_position_embeddings,
        rms_norm_eps: 1e-5,
        rope_theta: model.rope_theta,
        tie_word_embeddings: true,
        hidden_act: "silu".into(),
        rope_scaling: serde_json::Value::Null,
        bos_token_id: serde_json::Value::Null,
        eos_token_id: tokenizer.token_to_id("<|im_end|>").into(),
    })
}

/// An endless supply of worked puzzles.
struct Demonstrations<'a> {
    config: &'a SftConfig,
    people: RangeInclusive<usize>,
    streams: BTreeMap<usize, Generator>,
    held_out: HashSet<Vec<Statement>>,
    rng: ChaCha8Rng,
}

impl<'a> Demonstrations<'a> {
    fn new(config: &'a SftConfig, people: RangeInclusive<usize>) -> Self {
        let data = &config.data;
        let streams = people.clone().map(|n| (n, Generator::new(n, data.seed))).collect();
        let held_out = people
            .clone()
            .flat_map(|n| Generator::new(n, data.held_out_seed).take(HELD_OUT))
            .map(|p| p.statements)
            .collect();
        let rng = ChaCha8Rng::seed_from_u64(mix_seed(config.seed, 0xDE30));
        Self { config, people, streams, held_out, rng }
    }

    /// A new puzzle; once all of a size were seen they come again.
    fn puzzle(&mut self, people: usize) -> Puzzle {
        loop {
            let stream = self.streams.entry(people).or_insert_with(|| Generator::new(people, 0));
            match stream.next() {
                Some(puzzle) if !self.held_out.contains(&puzzle.statements) => return puzzle,
                Some(_) => {}
                None => *stream = Generator::new(people, self.rng.random()),
            }
        }
    }

    fn completion(&mut self, puzzle: &Puzzle, along: f64) -> String {
        let data = &self.config.data;
        let late = CarefulShare { at_3: data.careful_at_3, at_14: data.careful_at_14 };
        let share = if along < data.hasty_from { 1.0 } else { late.of(puzzle.people()) };
        let hasty = Style::Hasty { percent_right: data.hasty_percent_right };
        let style = if self.rng.random_bool(share) { Style::Careful } else { hasty };
        demo::completion(puzzle, style, &mut self.rng)
    }

    /// One text for the tokenizer to learn from.
    fn text(&mut self, people: usize) -> String {
        let puzzle = self.puzzle(people);
        let completion = self.completion(&puzzle, 1.0);
        let chat = |m: Message| format!("<|im_start|>{}\n{}<|im_end|>\n", m.role, m.content);
        let mut messages = prompt::messages(text::quiz(&puzzle));
        messages.push(Message::new("assistant", completion));
        messages.into_iter().map(chat).collect()
    }

    /// About `batch_tokens` tokens of examples, none longer than `context`; `along` (0 to 1) is how far the run is.
    fn batch(&mut self, tokenizer: &ChatTokenizer, context: usize, along: f64) -> Result<Vec<Example>> {
        let (mut batch, mut tokens) = (Vec::new(), 0);
        let (least, most) = (*self.people.start(), *self.people.end());
        let grown = (along / self.config.data.easy_first.max(1e-9)).min(1.0);
        let largest = (least as f64 + (most - least) as f64 * grown).round().clamp(least as f64, most as f64) as usize;
        while tokens < self.config.batch_tokens {
            let people = self.size(least..=largest);
            let exercise = along < self.config.data.exercises_until && self.rng.random();
            let example = match exercise {
                true => self.exercise(tokenizer, people)?,
                false => self.example(tokenizer, people, along)?,
            };
            if example.tokens.len() <= context {
                tokens += example.tokens.len();
                batch.push(example);
            }
        }
        Ok(batch)
    }

    /// One of the sizes, with a probability inverse to it: so each has about as many tokens.
    fn size(&mut self, sizes: RangeInclusive<usize>) -> usize {
        let sizes: Vec<usize> = sizes.collect();
        let drawn = sizes.choose_weighted(&mut self.rng, |&people| 1.0 / people as f64);
        *drawn.expect("sizes are a range of numbers above zero")
    }

    fn exercise(&mut self, tokenizer: &ChatTokenizer, people: usize) -> Result<Example> {
        let puzzle = self.puzzle(people);
        let (list, quotes) = demo::quoting_exercise(&puzzle, 4 * people, &mut self.rng);
        Ok(self.weighted(&tokenizer.encode(&list)?, &tokenizer.encode(&quotes)?))
    }

    fn example(&mut self, tokenizer: &ChatTokenizer, people: usize, along: f64) -> Result<Example> {
        let puzzle = self.puzzle(people);
        let prompt = tokenizer.encode_prompt(&prompt::messages(text::quiz(&puzzle)))?;
        let mut completion = tokenizer.encode(&self.completion(&puzzle, along))?;
        completion.push(tokenizer.stop_tokens[0]);
        Ok(self.weighted(&prompt, &completion))
    }

    /// `given` counts as a prompt does, `learned` in full.
    fn weighted(&self, given: &[u32], learned: &[u32]) -> Example {
        let mut weights = vec![self.config.prompt_loss_weight; given.len()];
        let tokens = [given, learned].concat();
        weights.resize(tokens.len(), 1.0);
        Example { tokens, weights }
    }
}

/// Means since the last line.
struct Progress {
    since: Instant,
    stats: Vec<SftStats>,
}

impl Progress {
    fn new() -> Self {
        Self { since: Instant::now(), stats: Vec::new() }
    }

    fn add(&mut self, stats: SftStats) {
        self.stats.push(stats);
    }

    fn print(&mut self, step: u64, max_steps: u64) {
        let mean = |f: fn(&SftStats) -> f64| self.stats.iter().map(f).sum::<f64>() / self.stats.len() as f64;
        let tokens: usize = self.stats.iter().map(|s| s.tokens).sum();
        println!(
            "step {step}/{max_steps}  completion loss {:.4}  loss {:.4}  grad norm {:.2}  {:.0} tokens/s",
            mean(|s| s.completion_loss),
            mean(|s| s.loss),
            mean(|s| s.grad_norm),
            tokens as f64 / self.since.elapsed().as_secs_f64(),
        );
        *self = Self::new();
    }
}
