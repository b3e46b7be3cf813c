use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::oneshot;

use super::*;
use crate::decoder::{DecoderConfig, Weights};
use crate::kernels::Split;
use crate::native::cache::BlockLayout;
use crate::native::cpu::CpuModel;
use crate::native::device::{DeviceBlocks, DeviceModel};
use crate::native::live_adapter::LiveAdapter;
use crate::{Adapter, AdapterHash, Completion, Finish, LoraConfig, Precision, Request, Sampling, StopStrings};

mod any_order;

const CONTEXT: usize = 96;

/// A block with full attention, and one with a window that ends within blocks of the cache.
fn config() -> DecoderConfig {
    let config = serde_json::json!({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 40, "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 16, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        "use_sliding_window": true, "sliding_window": 21, "max_window_layers": 1,
    });
    DecoderConfig::parse(&config.to_string()).unwrap()
}

fn random(shape: &[usize], rng: &mut ChaCha8Rng) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-0.6..0.6)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn policy(step: u64) -> LivePolicy {
    let version = PolicyVersion { step, adapter: AdapterHash(step.to_string().into()) };
    LivePolicy::new(version, live_adapter(step, if step == 0 { 0.0 } else { 1.0 }))
}

fn live_adapter(seed: u64, scale: f64) -> LiveAdapter {
    let (config, mut rng) = (config(), ChaCha8Rng::seed_from_u64(seed));
    let path = "base_model.model.model.layers.1.self_attn.v_proj";
    let tensors = [("A", [4, 32]), ("B", [16, 4])]
        .map(|(side, shape)| (format!("{path}.lora_{side}.weight"), (random(&shape, &mut rng) * scale).unwrap()));
    let bytes = safetensors::serialize(tensors.iter().map(|(name, t)| (name, t)), None).unwrap();
    let adapter = Adapter::new(LoraConfig::new(4, 8.0, vec!["v_proj".into()], String::new()).into(), bytes);
    LiveAdapter::new(&adapter, &config, &Device::Cpu).unwrap()
}

fn weights() -> Weights {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    Weights::from_named(&config(), |_, shape| Ok(random(shape, &mut rng))).unwrap()
}

fn batcher(max_sequences: usize, blocks: usize) -> ContinuousBatcher<CpuModel> {
    batcher_of(weights(), Split::Alone, max_sequences, blocks)
}

fn batcher_of(weights: Weights, split: Split, max_sequences: usize, blocks: usize) -> ContinuousBatcher<CpuModel> {
    let layout = BlockLayout::of(&config());
    let model = CpuModel::new(config(), weights, 2, split, Precision::F32).unwrap();
    ContinuousBatcher::new(model, policy(0), max_sequences, layout, blocks)
}

/// The same model on a device's operators.
fn device_batcher(max_sequences: usize, blocks: usize) -> ContinuousBatcher<DeviceModel> {
    let model = DeviceModel::new(config(), weights(), blocks).unwrap();
    ContinuousBatcher::new(model, policy(0), max_sequences, DeviceBlocks::default(), blocks)
}

fn request(seed: u64, prompt_len: usize, group_size: usize, max_new_tokens: usize) -> Request {
    // Prompts share their beginning, as if they had the same system message.
    let prompt: Vec<u32> = (0..prompt_len).map(|i| if i < 20 { 1 } else { (seed as u32 + i as u32) % 40 }).collect();
    let sampling = Sampling { max_new_tokens, ..Sampling::new(1.0, vec![7]) };
    Request { prompt: prompt.into(), group_size, seed, sampling }
}

type Answer = oneshot::Receiver<Result<Vec<Completion>, EngineError>>;

fn submit<C: Compute>(batcher: &mut ContinuousBatcher<C>, request: Request) -> Answer {
    submit_under(batcher, request, None)
}

fn submit_under<C: Compute>(batcher: &mut ContinuousBatcher<C>, request: Request, policy: OwnPolicy) -> Answer {
    let (reply, answer) = oneshot::channel();
    let room = request.room(CONTEXT).unwrap();
    batcher.submit(Submission { request, room, policy, tokens: None, reply });
    answer
}

fn run<C: Compute>(batcher: &mut ContinuousBatcher<C>) {
    for _ in 0..100_000 {
        if batcher.is_idle() {
            return;
        }
        batcher.step();
    }
    panic!("requests are left");
}

fn alone(request: Request) -> Vec<Completion> {
    alone_in(Split::Alone, request)
}

fn alone_in(split: Split, request: Request) -> Vec<Completion> {
    alone_under(split, request, None)
}

fn alone_under(split: Split, request: Request, policy: OwnPolicy) -> Vec<Completion> {
    let mut batcher = batcher_of(weights(), split, 1, 0);
    let mut answer = submit_under(&mut batcher, request, policy);
    run(&mut batcher);
    answer.try_recv().unwrap().unwrap()
}

/// A publish before every step must not keep prompts from finishing. Every token then has another policy. That of the
/// first token is the policy of the step that computed the prompt's end, though the token is drawn in a later step.
/// Whether two groups are equal up to the rounding of log-probabilities.
fn nearly(a: &[Completion], b: &[Completion]) -> bool {
    let near = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
    let same = |a: &Completion, b: &Completion| {
        (&a.tokens, a.finish, &a.policy) == (&b.tokens, b.finish, &b.policy)
            && near(&a.log_probs, &b.log_probs)
            && near(&a.full_log_probs, &b.full_log_probs)
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
}

#[test]
fn requests_finish_under_a_publish_per_step_and_tokens_name_the_policy_of_their_logits() {
    let mut batcher = batcher(4, 60);
    let requests = (0..8).map(|i| request(i, CONTEXT - 12, 2, if i % 2 == 0 { 1 } else { 8 }));
    let mut answers: Vec<Answer> = requests.map(|request| submit(&mut batcher, request)).collect();
    for step in 1..2000 {
        if batcher.is_idle() {
            break;
        }
        batcher.publish(policy(step));
        batcher.step();
    }
    for (index, answer) in answers.iter_mut().enumerate() {
        let group = answer.try_recv().unwrap().unwrap();
        for completion in &group {
            let (first, last) = (completion.policy.step, completion.last_policy.step);
            assert!(last - first >= completion.tokens.len() as u64 - 1);
            assert_eq!(last == first, completion.tokens.len() == 1);
        }
        // The first step computes the whole of the oldest prompt.
        assert!(index > 0 || group.iter().all(|completion| completion.policy.step == 1));
    }
    assert_eq!(batcher.pool.in_use(), batcher.prefixes.len());
}

#[test]
fn a_request_gives_the_same_bits_alone_in_any_batch_and_when_preempted() {
    for split in [Split::Alone, Split::Threads] {
        check_the_same_bits(split);
    }
    // The split of the work does not matter either.
    assert_eq!(alone_in(Split::Alone, request(2, 40, 4, 30)), alone_in(Split::Threads, request(2, 40, 4, 30)));
}

fn check_the_same_bits(split: Split) {
    for (max_sequences, blocks) in [(64, 1000), (9, 1000), (64, 14), (3, 0)] {
        let mut batcher = batcher_of(weights(), split, max_sequences, blocks);
        let requests: Vec<Request> = (0..6).map(|i| request(i, 5 + 13 * i as usize, 4, 30)).collect();
        let mut answers: Vec<Answer> = requests.iter().map(|r| submit(&mut batcher, r.clone())).collect();
        run(&mut batcher);
        for (request, answer) in requests.into_iter().zip(&mut answers) {
            let answer = answer.try_recv().unwrap().unwrap();
            assert_eq!(answer, alone_in(split, request), "{split:?} {max_sequences} {blocks}");
        }
    }
}

#[test]
fn a_prompt_is_computed_once_per_group_and_a_shared_prefix_once() {
    let mut batcher = batcher(64, 1000);
    let mut first = submit(&mut batcher, request(1, 40, 8, 1));
    run(&mut batcher);
    first.try_recv().unwrap().unwrap();
    assert_eq!((batcher.prefixes.len(), batcher.pool.in_use()), (2, 2), "the full blocks of 40 tokens");
    let _second = submit(&mut batcher, request(2, 40, 8, 1));
    batcher.admit();
    assert_eq!(batcher.running[0].computed, 16, "the block that both prompts begin with");
}

#[test]
fn a_publish_takes_effect_at_the_next_token_and_both_policies_are_named() {
    let mut batcher = batcher(64, 1000);
    let sampling = Sampling { max_new_tokens: 20, ..Sampling::new(1.0, vec![]) };
    let long = Request { sampling, ..request(3, 10, 2, 1) };
    let mut answer = submit(&mut batcher, long.clone());
    (0..5).for_each(|_| batcher.step());
    assert_eq!(batcher.publish(policy(1)).step, 1);
    run(&mut batcher);
    let (old, new) = (alone(long), answer.try_recv().unwrap().unwrap());
    for (old, new) in old.iter().zip(&new) {
        assert_eq!((new.policy.step, new.last_policy.step), (0, 1));
        assert_eq!(old.log_probs[..5], new.log_probs[..5]);
        assert_ne!(old.log_probs[5..], new.log_probs[5..]);
    }
}

/// Two requests with the same prompt under two policies: neither computes with the other's adapter or its keys, and a
/// publish in between changes nothing.
#[test]
fn a_request_with_its_own_policy_is_answered_under_it_alone() {
    let own: Vec<OwnPolicy> = [5, 6].map(|step| Some(Arc::new(policy(step)))).into();
    let mut batcher = batcher(64, 1000);
    let long = request(3, 40, 2, 20);
    let mut answers: Vec<Answer> = own.iter().map(|it| submit_under(&mut batcher, long.clone(), it.clone())).collect();
    (0..5).for_each(|_| batcher.step());
    batcher.publish(policy(1));
    run(&mut batcher);
    let answers: Vec<_> = answers.iter_mut().map(|answer| answer.try_recv().unwrap().unwrap()).collect();
    for (answer, own) in answers.iter().zip(&own) {
        assert_eq!(answer, &alone_under(Split::Alone, long.clone(), own.clone()));
    }
    assert_eq!(answers.iter().map(|answer| answer[0].last_policy.step).collect::<Vec<_>>(), [5, 6]);
    assert_ne!(answers[0][0].log_probs, answers[1][0].log_probs, "the two policies differ");
    // Each found its own prefix in the cache only.
    let mut again = submit_under(&mut batcher, long.clone(), own[1].clone());
    run(&mut batcher);
    assert_eq!(again.try_recv().unwrap().unwrap(), answers[1]);
}

#[test]
fn tokens_are_sent_as_they_are_drawn() {
    let mut batcher = batcher(64, 1000);
    let (sink, mut sent) = tokio::sync::mpsc::unbounded_channel();
    let (reply, mut answer) = oneshot::channel();
    let request = request(3, 10, 3, 12);
    let room = request.room(CONTEXT).unwrap();
    batcher.submit(Submission { request, room, policy: None, tokens: Some(sink), reply });
    batcher.step();
    batcher.step();
    let early = std::iter::from_fn(|| sent.try_recv().ok()).collect::<Vec<_>>();
    assert!(!early.is_empty() && answer.try_recv().is_err(), "before the group is done");
    run(&mut batcher);
    let all: Vec<DrawnToken> = early.into_iter().chain(std::iter::from_fn(|| sent.try_recv().ok())).collect();
    for (index, completion) in answer.try_recv().unwrap().unwrap().into_iter().enumerate() {
        let of = all.iter().filter(|token| token.index == index);
        let (tokens, log_probs): (Vec<u32>, Vec<f32>) = of.map(|it| (it.token, it.log_prob)).unzip();
        assert_eq!((tokens, log_probs), (completion.tokens, completion.log_probs));
    }
}

/// Six prompts of 80 tokens that arrive together and share the first 64: one computes 80 tokens, each other one 16.
#[test]
fn prompts_that_arrive_together_share_their_prefix() {
    let mut batcher = batcher(64, 1000);
    let requests = (0..6u32).map(|i| {
        let prompt: Vec<u32> = (0..80).map(|at| if at < 64 { at % 40 } else { (i + at) % 40 }).collect();
        Request { prompt: prompt.into(), ..request(u64::from(i), 80, 1, 1) }
    });
    let requests: Vec<Request> = requests.collect();
    let mut answers: Vec<Answer> = requests.iter().map(|r| submit(&mut batcher, r.clone())).collect();
    let mut computed = 0;
    while !batcher.is_idle() {
        batcher.prepare();
        computed += batcher.running.iter().map(|sequence| sequence.scheduled).sum::<usize>();
        batcher.compute().unwrap();
    }
    assert_eq!(computed, 80 + 5 * 16);
    for (request, answer) in requests.into_iter().zip(&mut answers) {
        assert_eq!(answer.try_recv().unwrap().unwrap(), alone(request));
    }
}

/// The context is not reserved: a cache that is too small for a request grows to its size.
#[test]
fn a_cache_grows_to_the_longest_request_and_no_further() {
    let mut batcher = batcher(8, 3);
    assert_eq!(batcher.pool.capacity(), 3);
    for (tokens, capacity) in [(1, 4), (40, 6), (2, 6)] {
        let mut answer = submit(&mut batcher, request(1, 20, 3, tokens));
        assert_eq!(batcher.pool.capacity(), capacity);
        run(&mut batcher);
        assert_eq!(answer.try_recv().unwrap().unwrap(), alone(request(1, 20, 3, tokens)));
    }
}

/// An overflow fails the request, and leaves nothing in the blocks that the next request gets.
#[test]
fn infinite_and_nan_logits_are_an_error_and_do_not_spread() {
    let (mut batcher, good) = (batcher(8, 0), request(1, 40, 2, 8));
    batcher.publish(LivePolicy::new(policy(1).version, live_adapter(1, 1e30)));
    let mut answer = submit(&mut batcher, good.clone());
    run(&mut batcher);
    assert!(matches!(answer.try_recv().unwrap(), Err(EngineError::Generate(problem)) if problem.contains("finite")));
    batcher.publish(policy(0));
    let mut answer = submit(&mut batcher, good.clone());
    run(&mut batcher);
    assert_eq!(answer.try_recv().unwrap().unwrap(), alone(good));
}

/// One broken row of the head gives one NaN logit. Top-k alone would hide it and draw another token.
#[test]
fn one_nan_logit_is_an_error_even_if_truncation_removes_it() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let weights = Weights::from_named(&config(), |name, shape| {
        let tensor = random(shape, &mut rng);
        let broken = Tensor::full(f32::NAN, (1, 32), &Device::Cpu).unwrap();
        Ok(match name {
            "model.embed_tokens.weight" => tensor.slice_assign(&[39..40, 0..32], &broken).unwrap(),
            _ => tensor,
        })
    });
    let mut batcher = batcher_of(weights.unwrap(), Split::Alone, 8, 0);
    let mut broken = Request { prompt: vec![1; 20].into(), ..request(1, 20, 1, 8) };
    broken.sampling.top_k = 2;
    let mut answer = submit(&mut batcher, broken);
    run(&mut batcher);
    assert!(matches!(answer.try_recv().unwrap(), Err(EngineError::Generate(problem)) if problem.contains("finite")));
}

/// Nothing that was in the cache is used afterwards, and every block is free.
#[test]
fn a_suspended_cache_starts_empty_after_a_resume() {
    let mut batcher = device_batcher(4, 12);
    for _ in 0..3 {
        let mut answer = submit(&mut batcher, request(1, 40, 3, 12));
        batcher.step();
        batcher.suspend();
        assert_eq!(batcher.pool.in_use(), 0);
        assert!(nearly(&answer.try_recv().unwrap().unwrap(), &alone(request(1, 40, 3, 12))));
        batcher.resume().unwrap();
    }
}

#[test]
fn a_request_that_does_not_fit_a_devices_cache_is_an_error() {
    let mut batcher = device_batcher(8, 4);
    let mut answers = [20, 33].map(|prompt| submit(&mut batcher, request(1, prompt, 2, 8)));
    run(&mut batcher);
    assert!(answers[0].try_recv().unwrap().is_ok());
    let error = answers[1].try_recv().unwrap().unwrap_err().to_string();
    assert!(error.contains("41 tokens") && error.contains("cache of 64"), "{error}");
}

/// An adapter of the wrong shapes simulates a device that fails during a pass.
#[test]
fn a_failed_pass_answers_every_request_with_the_error_and_the_next_pass_works() {
    let mut batcher = device_batcher(2, 40);
    let requests = (0..4).map(|i| request(i, 10 + 15 * i as usize, 3, 12));
    let mut answers: Vec<Answer> = requests.map(|request| submit(&mut batcher, request)).collect();
    (0..6).for_each(|_| batcher.step());
    let LivePolicy { version, .. } = policy(1);
    let mut tensors = BTreeMap::new();
    for (side, shape) in [("A", [4, 48]), ("B", [16, 4])] {
        let name = format!("base_model.model.model.layers.0.self_attn.v_proj.lora_{side}.weight");
        tensors.insert(name, Tensor::zeros(&shape, candle_core::DType::F32, &Device::Cpu).unwrap());
    }
    let bytes = safetensors::serialize(tensors, None).unwrap();
    let adapter = Adapter::new(LoraConfig::new(4, 8.0, vec!["v_proj".into()], String::new()).into(), bytes);
    let wider = DecoderConfig { hidden_size: 48, ..config() };
    batcher.publish(LivePolicy::new(version, LiveAdapter::new(&adapter, &wider, &Device::Cpu).unwrap()));
    run(&mut batcher);
    for answer in &mut answers {
        assert!(matches!(answer.try_recv().unwrap(), Err(EngineError::Generate(problem)) if problem.contains("shape")));
    }
    assert_eq!(batcher.pool.in_use(), 0);
    batcher.publish(policy(0));
    let mut answer = submit(&mut batcher, request(1, 40, 3, 12));
    run(&mut batcher);
    assert!(nearly(&answer.try_recv().unwrap().unwrap(), &alone(request(1, 40, 3, 12))));
}
