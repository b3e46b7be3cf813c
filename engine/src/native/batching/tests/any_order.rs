//! Random requests, publishes and cancellations, in any order.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Event {
    /// `own`: 0, or which policy the request names.
    Submit {
        prompt: usize,
        group: usize,
        tokens: usize,
        way: usize,
        own: usize,
    },
    Step(usize),
    Publish,
    Abandon(usize),
}

fn text(tokens: &[u32]) -> String {
    tokens.iter().map(|token| format!("<{token}>")).collect()
}

const STOPS: [&str; 2] = ["5><1", "<11>"];

/// Changes how tokens are drawn or completions end: as they are, top-k, top-p with min-p, or stop strings.
fn vary(way: usize, mut request: Request) -> Request {
    let sampling = &mut request.sampling;
    match way {
        1 => sampling.top_k = 3,
        2 => (sampling.top_p, sampling.min_p) = (0.7, 0.05),
        3 => sampling.stop_strings = StopStrings::new(STOPS.map(String::from).to_vec(), text),
        _ => {}
    }
    request
}

/// Checks that the completion ends at the first place where its request says so.
fn check_ending(request: &Request, completion: &Completion) {
    let (last, before) = completion.tokens.split_last().unwrap();
    let stops = |tokens: &[u32]| STOPS.iter().any(|stop| text(tokens).contains(stop));
    let has_strings = !request.sampling.stop_strings.is_empty();
    assert!(!before.contains(&7));
    assert!(!has_strings || !stops(before));
    let stopped = *last == 7 || has_strings && stops(&completion.tokens);
    assert_eq!(completion.finish == Finish::Stop, stopped);
    assert!(stopped || completion.tokens.len() == request.room(CONTEXT).unwrap());
    let is_truncated = request.sampling.top_k > 0 || request.sampling.top_p < 1.0;
    let more = completion.log_probs.iter().zip(&completion.full_log_probs).filter(|(drawn, full)| drawn > full).count();
    assert_eq!(more > 0, is_truncated, "truncation makes the remaining tokens likelier");
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1..CONTEXT - 1, 1..6usize, 1..60usize, 0..4usize, 0..3usize)
            .prop_map(|(prompt, group, tokens, way, own)| Event::Submit { prompt, group, tokens, way, own }),
        4 => (1..20usize).prop_map(Event::Step),
        1 => Just(Event::Publish),
        1 => (0..8usize).prop_map(Event::Abandon),
    ];
    proptest::collection::vec(event, 1..24)
}

/// Plays the events and checks the invariants. Completions under one policy must be `alike` those of the request alone
/// under that policy.
fn check_events<C: Compute>(
    mut batcher: ContinuousBatcher<C>,
    events: Vec<Event>,
    alike: impl Fn(&[Completion], &[Completion]) -> bool,
) -> Result<(), TestCaseError> {
    let max_sequences = batcher.max_sequences;
    let policies: [OwnPolicy; 3] = [None, Some(Arc::new(policy(1001))), Some(Arc::new(policy(1002)))];
    let mut answers: Vec<(Request, OwnPolicy, Answer)> = Vec::new();
    let mut abandoned = BTreeSet::new();
    let mut published = 0;
    for event in events {
        match event {
            Event::Submit { prompt, group, tokens, way, own } => {
                let request = vary(way, request(answers.len() as u64, prompt, group, tokens));
                let own = policies[own].clone();
                answers.push((request.clone(), own.clone(), submit_under(&mut batcher, request, own)));
            }
            Event::Step(steps) => (0..steps).for_each(|_| batcher.step()),
            Event::Publish => {
                published += 1;
                batcher.publish(policy(published));
            }
            Event::Abandon(index) if index < answers.len() => {
                answers[index].2.close();
                abandoned.insert(index);
            }
            Event::Abandon(_) => {}
        }
        prop_assert!(batcher.pool.in_use() <= batcher.pool.capacity());
        prop_assert!(batcher.running.len() <= max_sequences);
    }
    run(&mut batcher);
    for (index, (request, own, mut answer)) in answers.into_iter().enumerate() {
        let Ok(completions) = answer.try_recv() else {
            prop_assert!(abandoned.contains(&index), "request {} was never answered", index);
            continue;
        };
        let completions = completions.unwrap();
        prop_assert_eq!(completions.len(), request.group_size);
        completions.iter().for_each(|completion| check_ending(&request, completion));
        prop_assert!(completions.iter().all(|c| c.tokens.len() == c.log_probs.len() && !c.tokens.is_empty()));
        prop_assert!(completions.iter().all(|c| c.policy.step <= c.last_policy.step));
        if published == 0 || own.is_some() {
            prop_assert!(alike(&completions, &alone_under(Split::Alone, request, own)));
        }
    }
    prop_assert!(batcher.running.is_empty() && batcher.preempted.is_empty() && batcher.waiting.is_empty());
    prop_assert_eq!(batcher.pool.in_use(), batcher.prefixes.len(), "only the prefix cache holds blocks");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_request_is_answered_once_and_no_block_is_lost(
        events in events(), max_sequences in 1..12usize, blocks in 0..40usize, is_shared in any::<bool>(),
    ) {
        let split = if is_shared { Split::Threads } else { Split::Alone };
        check_events(batcher_of(weights(), split, max_sequences, blocks), events, |a, b| a == b)?;
    }

    /// On a device the cache cannot grow, so it holds the longest request from the start.
    #[test]
    fn the_same_holds_on_a_device_and_it_draws_the_same_tokens(
        events in events(), max_sequences in 1..12usize, more in 0..32usize,
    ) {
        let blocks = blocks_of_request(CONTEXT) + more;
        check_events(device_batcher(max_sequences, blocks), events, nearly)?;
    }
}
