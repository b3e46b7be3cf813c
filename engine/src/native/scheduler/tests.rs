use super::*;
use crate::decoder::{DecoderConfig, Weights};
use crate::kernels::Split;
use crate::native::cpu::Model;
use crate::native::device::{DeviceModel, Slots};
use crate::{Adapter, AdapterHash, Finish, LoraConfig, Precision, Sampling, StopStrings};
use candle_core::{Device, Tensor};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

const CONTEXT: usize = 96;

fn config() -> DecoderConfig {
    serde_json::from_value(serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 40, "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 16, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    }))
    .unwrap()
}

fn random(shape: &[usize], rng: &mut ChaCha8Rng) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-0.6..0.6)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn policy(step: u64) -> Policy {
    let version = PolicyVersion { step, adapter: AdapterHash(step.to_string().into()) };
    Policy { version, adapter: live_adapter(step, if step == 0 { 0.0 } else { 1.0 }) }
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

fn scheduler(max_sequences: usize, blocks: usize) -> Scheduler<Model> {
    scheduler_of(weights(), Split::Alone, max_sequences, blocks)
}

fn scheduler_of(weights: Weights, split: Split, max_sequences: usize, blocks: usize) -> Scheduler<Model> {
    let layout = Layout::of(&config());
    let model = Model::new(config(), weights, 2, split, Precision::F32).unwrap();
    Scheduler::new(model, policy(0), max_sequences, layout, blocks)
}

/// The same model as a device computes it.
fn scheduler_on_operators(max_sequences: usize, blocks: usize) -> Scheduler<DeviceModel> {
    let model = DeviceModel::new(config(), weights(), blocks).unwrap();
    Scheduler::new(model, policy(0), max_sequences, Slots::default(), blocks)
}

fn request(seed: u64, prompt_len: usize, group_size: usize, max_new_tokens: usize) -> Request {
    // Prompts share their beginning, as those with one system message do.
    let prompt: Vec<u32> = (0..prompt_len).map(|i| if i < 20 { 1 } else { (seed as u32 + i as u32) % 40 }).collect();
    let sampling = Sampling { max_new_tokens, ..Sampling::new(1.0, vec![7]) };
    Request { prompt: prompt.into(), group_size, seed, sampling }
}

type Answer = oneshot::Receiver<Result<Vec<Completion>, EngineError>>;

fn submit<C: Compute>(scheduler: &mut Scheduler<C>, request: Request) -> Answer {
    let (reply, answer) = oneshot::channel();
    let room = request.room(CONTEXT).unwrap();
    scheduler.submit(request, room, reply);
    answer
}

fn run<C: Compute>(scheduler: &mut Scheduler<C>) {
    for _ in 0..100_000 {
        if scheduler.is_idle() {
            return;
        }
        scheduler.step();
    }
    panic!("requests are left over");
}

fn alone(request: Request) -> Vec<Completion> {
    alone_in(Split::Alone, request)
}

fn alone_in(split: Split, request: Request) -> Vec<Completion> {
    let mut scheduler = scheduler_of(weights(), split, 1, 0);
    let mut answer = submit(&mut scheduler, request);
    run(&mut scheduler);
    answer.try_recv().unwrap().unwrap()
}

/// A publish before every step must not keep prompts from ending. Every token then has a policy of its own: the
/// first that of the step which computed the prompt's end, though it is drawn in a later one.
#[test]
fn publishes_in_every_step_stop_nothing_and_tokens_name_the_policy_of_their_logits() {
    let mut scheduler = scheduler(4, 60);
    let requests = (0..8).map(|i| request(i, CONTEXT - 12, 2, if i % 2 == 0 { 1 } else { 8 }));
    let mut answers: Vec<Answer> = requests.map(|request| submit(&mut scheduler, request)).collect();
    for step in 1..2000 {
        if scheduler.is_idle() {
            break;
        }
        scheduler.publish(policy(step));
        scheduler.step();
    }
    for (index, answer) in answers.iter_mut().enumerate() {
        let group = answer.try_recv().unwrap().unwrap();
        for completion in &group {
            let (first, last) = (completion.policy.step, completion.last_policy.step);
            assert!(last - first >= completion.tokens.len() as u64 - 1);
            assert_eq!(last == first, completion.tokens.len() == 1);
        }
        // The oldest prompt is computed whole in the first step.
        assert!(index > 0 || group.iter().all(|completion| completion.policy.step == 1));
    }
    assert_eq!(scheduler.pool.in_use(), scheduler.prefixes.len());
}

#[test]
fn a_request_gives_the_same_bits_alone_and_in_any_batch_also_when_preempted() {
    for split in [Split::Alone, Split::Threads] {
        check_the_same_bits(split);
    }
    // Nor does it matter how the work is split.
    assert_eq!(alone_in(Split::Alone, request(2, 40, 4, 30)), alone_in(Split::Threads, request(2, 40, 4, 30)));
}

fn check_the_same_bits(split: Split) {
    for (max_sequences, blocks) in [(64, 1000), (9, 1000), (64, 14), (3, 0)] {
        let mut scheduler = scheduler_of(weights(), split, max_sequences, blocks);
        let requests: Vec<Request> = (0..6).map(|i| request(i, 5 + 13 * i as usize, 4, 30)).collect();
        let mut answers: Vec<Answer> = requests.iter().map(|r| submit(&mut scheduler, r.clone())).collect();
        run(&mut scheduler);
        for (request, answer) in requests.into_iter().zip(&mut answers) {
            let answer = answer.try_recv().unwrap().unwrap();
            assert_eq!(answer, alone_in(split, request), "{split:?} {max_sequences} {blocks}");
        }
    }
}

#[test]
fn a_prompt_is_computed_once_for_its_group_and_its_beginning_once_for_all() {
    let mut scheduler = scheduler(64, 1000);
    let mut first = submit(&mut scheduler, request(1, 40, 8, 1));
    run(&mut scheduler);
    first.try_recv().unwrap().unwrap();
    assert_eq!((scheduler.prefixes.len(), scheduler.pool.in_use()), (2, 2), "the full blocks of 40 tokens");
    let _second = submit(&mut scheduler, request(2, 40, 8, 1));
    scheduler.admit();
    assert_eq!(scheduler.running[0].computed, 16, "the block that both begin with");
}

#[test]
fn a_publish_takes_effect_at_the_next_token_and_both_policies_are_named() {
    let mut scheduler = scheduler(64, 1000);
    let sampling = Sampling { max_new_tokens: 20, ..Sampling::new(1.0, vec![]) };
    let long = Request { sampling, ..request(3, 10, 2, 1) };
    let mut answer = submit(&mut scheduler, long.clone());
    (0..5).for_each(|_| scheduler.step());
    assert_eq!(scheduler.publish(policy(1)).step, 1);
    run(&mut scheduler);
    let (old, new) = (alone(long), answer.try_recv().unwrap().unwrap());
    for (old, new) in old.iter().zip(&new) {
        assert_eq!((new.policy.step, new.last_policy.step), (0, 1));
        assert_eq!(old.log_probs[..5], new.log_probs[..5]);
        assert_ne!(old.log_probs[5..], new.log_probs[5..]);
    }
}

/// Prompts of 80 tokens that come together, of which the first 64 are the same, are computed as 80 and 16 for each
/// other one.
#[test]
fn prompts_that_arrive_together_share_their_beginning() {
    let mut scheduler = scheduler(64, 1000);
    let requests = (0..6u32).map(|i| {
        let prompt: Vec<u32> = (0..80).map(|at| if at < 64 { at % 40 } else { (i + at) % 40 }).collect();
        Request { prompt: prompt.into(), ..request(u64::from(i), 80, 1, 1) }
    });
    let requests: Vec<Request> = requests.collect();
    let mut answers: Vec<Answer> = requests.iter().map(|r| submit(&mut scheduler, r.clone())).collect();
    let mut computed = 0;
    while !scheduler.is_idle() {
        scheduler.prepare();
        computed += scheduler.running.iter().map(|sequence| sequence.chunk).sum::<usize>();
        scheduler.compute().unwrap();
    }
    assert_eq!(computed, 80 + 5 * 16);
    for (request, answer) in requests.into_iter().zip(&mut answers) {
        assert_eq!(answer.try_recv().unwrap().unwrap(), alone(request));
    }
}

/// The context is not reserved: a cache too small for a request grows to the size of it.
#[test]
fn a_cache_grows_to_the_longest_request_and_no_further() {
    let mut scheduler = scheduler(8, 3);
    assert_eq!(scheduler.pool.capacity(), 3);
    for (tokens, capacity) in [(1, 4), (40, 6), (2, 6)] {
        let mut answer = submit(&mut scheduler, request(1, 20, 3, tokens));
        assert_eq!(scheduler.pool.capacity(), capacity);
        run(&mut scheduler);
        assert_eq!(answer.try_recv().unwrap().unwrap(), alone(request(1, 20, 3, tokens)));
    }
}

/// Weights that overflow fail the request, and leave nothing behind in the blocks that the next one gets.
#[test]
fn logits_that_are_not_finite_are_an_error_and_do_not_spread() {
    let (mut scheduler, good) = (scheduler(8, 0), request(1, 40, 2, 8));
    scheduler.publish(Policy { version: policy(1).version, adapter: live_adapter(1, 1e30) });
    let mut answer = submit(&mut scheduler, good.clone());
    run(&mut scheduler);
    assert!(matches!(answer.try_recv().unwrap(), Err(EngineError::Generate(problem)) if problem.contains("finite")));
    scheduler.publish(policy(0));
    let mut answer = submit(&mut scheduler, good.clone());
    run(&mut scheduler);
    assert_eq!(answer.try_recv().unwrap().unwrap(), alone(good));
}

/// One broken row of the head gives one logit that is no number. Top-k would draw another token as if nothing were.
#[test]
fn one_logit_that_is_not_finite_is_an_error_whatever_is_cut_away() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let weights = Weights::from_named(&config(), |name, shape| {
        let tensor = random(shape, &mut rng);
        let broken = Tensor::full(f32::NAN, (1, 32), &Device::Cpu).unwrap();
        Ok(match name {
            "model.embed_tokens.weight" => tensor.slice_assign(&[39..40, 0..32], &broken).unwrap(),
            _ => tensor,
        })
    });
    let mut scheduler = scheduler_of(weights.unwrap(), Split::Alone, 8, 0);
    let mut broken = Request { prompt: vec![1; 20].into(), ..request(1, 20, 1, 8) };
    broken.sampling.top_k = 2;
    let mut answer = submit(&mut scheduler, broken);
    run(&mut scheduler);
    assert!(matches!(answer.try_recv().unwrap(), Err(EngineError::Generate(problem)) if problem.contains("finite")));
}

#[derive(Debug, Clone)]
enum Event {
    Submit { prompt: usize, group: usize, tokens: usize, cut: usize },
    Step(usize),
    Publish,
    Abandon(usize),
}

fn text(tokens: &[u32]) -> String {
    tokens.iter().map(|token| format!("<{token}>")).collect()
}

const STOPS: [&str; 2] = ["5><1", "<11>"];

/// Another way to draw or to end: all tokens, few of them by number or by probability, or stop strings.
fn cut_to(cut: usize, mut request: Request) -> Request {
    let sampling = &mut request.sampling;
    match cut {
        1 => sampling.top_k = 3,
        2 => (sampling.top_p, sampling.min_p) = (0.7, 0.05),
        3 => sampling.stop_strings = StopStrings::new(STOPS.map(String::from).to_vec(), text),
        _ => {}
    }
    request
}

/// Whether the completion ends where its request says, and no earlier place would have done.
fn check_ending(request: &Request, completion: &Completion) {
    let (last, before) = completion.tokens.split_last().unwrap();
    let stops = |tokens: &[u32]| STOPS.iter().any(|stop| text(tokens).contains(stop));
    let has_strings = !request.sampling.stop_strings.is_empty();
    assert!(!before.contains(&7));
    assert!(!has_strings || !stops(before));
    let stopped = *last == 7 || has_strings && stops(&completion.tokens);
    assert_eq!(completion.finish == Finish::Stop, stopped);
    assert!(stopped || completion.tokens.len() == request.room(CONTEXT).unwrap());
    let is_cut = request.sampling.top_k > 0 || request.sampling.top_p < 1.0;
    let more = completion.log_probs.iter().zip(&completion.full_log_probs).filter(|(cut, full)| cut > full).count();
    assert_eq!(more > 0, is_cut, "what is cut away makes the rest likelier");
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1..CONTEXT - 1, 1..6usize, 1..60usize, 0..4usize)
            .prop_map(|(prompt, group, tokens, cut)| Event::Submit { prompt, group, tokens, cut }),
        4 => (1..20usize).prop_map(Event::Step),
        1 => Just(Event::Publish),
        1 => (0..8usize).prop_map(Event::Abandon),
    ];
    proptest::collection::vec(event, 1..24)
}

/// Lets everything happen and checks what must hold whatever happens; completions under one policy are `alike` those of the
/// request alone.
fn check_events<C: Compute>(
    mut scheduler: Scheduler<C>,
    events: Vec<Event>,
    alike: impl Fn(&[Completion], &[Completion]) -> bool,
) -> Result<(), TestCaseError> {
    let max_sequences = scheduler.max_sequences;
    let mut answers: Vec<(Request, Answer)> = Vec::new();
    let mut abandoned = BTreeSet::new();
    let mut published = 0;
    for event in events {
        match event {
            Event::Submit { prompt, group, tokens, cut } => {
                let request = cut_to(cut, request(answers.len() as u64, prompt, group, tokens));
                answers.push((request.clone(), submit(&mut scheduler, request)));
            }
            Event::Step(steps) => (0..steps).for_each(|_| scheduler.step()),
            Event::Publish => {
                published += 1;
                scheduler.publish(policy(published));
            }
            Event::Abandon(index) if index < answers.len() => {
                answers[index].1.close();
                abandoned.insert(index);
            }
            Event::Abandon(_) => {}
        }
        prop_assert!(scheduler.pool.in_use() <= scheduler.pool.capacity());
        prop_assert!(scheduler.running.len() <= max_sequences);
    }
    run(&mut scheduler);
    for (index, (request, mut answer)) in answers.into_iter().enumerate() {
        let Ok(completions) = answer.try_recv() else {
            prop_assert!(abandoned.contains(&index), "request {} was never answered", index);
            continue;
        };
        let completions = completions.unwrap();
        prop_assert_eq!(completions.len(), request.group_size);
        completions.iter().for_each(|completion| check_ending(&request, completion));
        prop_assert!(completions.iter().all(|c| c.tokens.len() == c.log_probs.len() && !c.tokens.is_empty()));
        prop_assert!(completions.iter().all(|c| c.policy.step <= c.last_policy.step));
        if published == 0 {
            prop_assert!(alike(&completions, &alone(request)));
        }
    }
    prop_assert!(scheduler.running.is_empty() && scheduler.preempted.is_empty() && scheduler.queue.is_empty());
    prop_assert_eq!(scheduler.pool.in_use(), scheduler.prefixes.len(), "only the prefix cache holds blocks");
    Ok(())
}

/// Whether two groups are the same but for the rounding of log-probabilities.
fn nearly(a: &[Completion], b: &[Completion]) -> bool {
    let near = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
    let same = |a: &Completion, b: &Completion| {
        (&a.tokens, a.finish, &a.policy) == (&b.tokens, b.finish, &b.policy)
            && near(&a.log_probs, &b.log_probs)
            && near(&a.full_log_probs, &b.full_log_probs)
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_request_is_answered_once_and_no_block_is_lost(
        events in events(), max_sequences in 1..12usize, blocks in 0..40usize, is_shared in any::<bool>(),
    ) {
        let split = if is_shared { Split::Threads } else { Split::Alone };
        check_events(scheduler_of(weights(), split, max_sequences, blocks), events, |a, b| a == b)?;
    }

    /// On a device the cache cannot grow: it holds the longest request from the beginning.
    #[test]
    fn the_same_holds_on_a_device_which_draws_the_same_tokens(
        events in events(), max_sequences in 1..12usize, more in 0..32usize,
    ) {
        let blocks = Layout::blocks_of_request(CONTEXT) + more;
        check_events(scheduler_on_operators(max_sequences, blocks), events, nearly)?;
    }
}

/// Nothing that was in the cache is used afterwards, and every block can be had again.
#[test]
fn a_cache_that_was_given_back_begins_anew() {
    let mut scheduler = scheduler_on_operators(4, 12);
    for _ in 0..3 {
        let mut answer = submit(&mut scheduler, request(1, 40, 3, 12));
        scheduler.step();
        scheduler.suspend();
        assert_eq!(scheduler.pool.in_use(), 0);
        assert!(nearly(&answer.try_recv().unwrap().unwrap(), &alone(request(1, 40, 3, 12))));
        scheduler.resume().unwrap();
    }
}

#[test]
fn a_request_that_a_device_has_no_room_for_is_an_error() {
    let mut scheduler = scheduler_on_operators(8, 4);
    let mut answers = [20, 33].map(|prompt| submit(&mut scheduler, request(1, prompt, 2, 8)));
    run(&mut scheduler);
    assert!(answers[0].try_recv().unwrap().is_ok());
    let error = answers[1].try_recv().unwrap().unwrap_err().to_string();
    assert!(error.contains("41 tokens") && error.contains("cache of 64"), "{error}");
}

/// An adapter of other shapes stands for a device that fails in the midst of a pass.
#[test]
fn where_a_pass_fails_everybody_is_told_and_the_next_one_works() {
    let mut scheduler = scheduler_on_operators(2, 40);
    let requests = (0..4).map(|i| request(i, 10 + 15 * i as usize, 3, 12));
    let mut answers: Vec<Answer> = requests.map(|request| submit(&mut scheduler, request)).collect();
    (0..6).for_each(|_| scheduler.step());
    let Policy { version, .. } = policy(1);
    let mut tensors = BTreeMap::new();
    for (side, shape) in [("A", [4, 48]), ("B", [16, 4])] {
        let name = format!("base_model.model.model.layers.0.self_attn.v_proj.lora_{side}.weight");
        tensors.insert(name, Tensor::zeros(&shape, candle_core::DType::F32, &Device::Cpu).unwrap());
    }
    let bytes = safetensors::serialize(tensors, None).unwrap();
    let adapter = Adapter::new(LoraConfig::new(4, 8.0, vec!["v_proj".into()], String::new()).into(), bytes);
    let wider = DecoderConfig { hidden_size: 48, ..config() };
    scheduler.publish(Policy { version, adapter: LiveAdapter::new(&adapter, &wider, &Device::Cpu).unwrap() });
    run(&mut scheduler);
    for answer in &mut answers {
        assert!(matches!(answer.try_recv().unwrap(), Err(EngineError::Generate(problem)) if problem.contains("shape")));
    }
    assert_eq!(scheduler.pool.in_use(), 0);
    scheduler.publish(policy(0));
    let mut answer = submit(&mut scheduler, request(1, 40, 3, 12));
    run(&mut scheduler);
    assert!(nearly(&answer.try_recv().unwrap().unwrap(), &alone(request(1, 40, 3, 12))));
}
