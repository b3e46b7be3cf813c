//! Whatever fails, each group is answered once.

use futures_util::future::join_all;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const CAPACITY: usize = 6;

/// What happens to one server.
#[derive(Debug, Clone)]
struct Fate {
    /// The first groups there fail so.
    failures: Vec<FailureKind>,
    /// Down from then on, for so long.
    outage: (u64, u64),
    loses_adapters_at: u64,
}

/// What happens to one group.
#[derive(Debug, Clone)]
struct Group {
    size: usize,
    at_ms: u64,
    /// Its future is dropped then, if it runs so long.
    dropped_after_ms: Option<u64>,
}

fn fate() -> impl Strategy<Value = Fate> {
    use FailureKind::{Broken, Busy, NoSuchPolicy, TimedOut, Unreachable};
    let kind = select(vec![Broken, Busy, NoSuchPolicy, TimedOut, Unreachable]);
    (vec(kind, 0..5), (0..20u64, 0..200u64), 0..20u64).prop_map(|(failures, outage, loses_adapters_at)| Fate {
        failures,
        outage,
        loses_adapters_at,
    })
}

fn group() -> impl Strategy<Value = Group> {
    (1..=CAPACITY + 2, 0..20_000u64, prop::option::weighted(0.2, 0..10_000u64))
        .prop_map(|(size, at_ms, dropped_after_ms)| Group { size, at_ms, dropped_after_ms })
}

/// Takes as long as the server's fate.
async fn befall(script: Arc<Script>, fate: Fate) {
    script.with(|state| state.failures = fate.failures.into());
    let down = async {
        sleep(secs(fate.outage.0)).await;
        script.go_down();
        sleep(secs(fate.outage.1)).await;
        script.come_up();
    };
    let loses = async {
        sleep(secs(fate.loses_adapters_at)).await;
        script.with(|state| state.adapters.clear());
    };
    tokio::join!(down, loses);
}

/// True: answered; false: dropped before.
async fn one_group(fleet: Arc<Fleet<World>>, seed: u64, group: Group) -> bool {
    sleep(Duration::from_millis(group.at_ms)).await;
    let answer = fleet.generate(request(seed, group.size));
    let patience = group.dropped_after_ms.map_or(secs(100_000), Duration::from_millis);
    match tokio::time::timeout(patience, answer).await {
        Ok(completions) => assert_whole(&completions.unwrap(), seed, group.size),
        Err(_) => return false,
    }
    true
}

async fn answers_each_once(fates: Vec<Fate>, groups: Vec<Group>) {
    let world = World::new();
    let fleet = start(&world, RemoteSettings { retries: 1000, ..settings(fates.len(), CAPACITY) }).await;
    let servers: Vec<_> = (0..fates.len()).map(|at| world.server(at)).collect();
    let befalling = join_all(fates.into_iter().zip(&servers).map(|(fate, script)| befall(Arc::clone(script), fate)));
    let publishing = async {
        for step in 1..8 {
            sleep(secs(3)).await;
            fleet.publish(step, adapter(step as u8)).await.unwrap();
        }
    };
    let groups = groups.into_iter().zip(0..).map(|(group, seed)| one_group(Arc::clone(&fleet), seed, group));
    let (answered, (), _) = tokio::join!(join_all(groups), publishing, befalling);
    let answered = answered.into_iter().filter(|answered| *answered).count();
    let by_servers: usize = servers.iter().map(|script| script.with(|state| state.answered)).sum();
    assert_eq!(by_servers, answered);
    assert_eq!(counter(&fleet, "waiting"), 0);
    for script in servers {
        let (sequences, peak) = script.with(|state| (state.sequences, state.peak_sequences));
        // The largest group is two more than a server's capacity, and runs alone.
        assert!(sequences == 0 && peak <= CAPACITY + 2, "{sequences} {peak}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn random_failures_neither_lose_nor_double_an_answer(fates in vec(fate(), 1..5), groups in vec(group(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(answers_each_once(fates, groups));
    }
}
