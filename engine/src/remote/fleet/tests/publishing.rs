//! Policies on servers while groups run.

use super::*;

async fn policy_of(fleet: &Fleet<World>, seed: u64) -> u64 {
    let completions = fleet.generate(request(seed, 2)).await.unwrap();
    assert!(completions.iter().all(|completion| completion.policy == completion.last_policy));
    completions[0].policy.step
}

#[tokio::test(start_paused = true)]
async fn every_server_has_the_new_policy_before_one_loses_an_old_one() {
    let world = World::new();
    let fleet = start(&world, settings(2, 4)).await;
    for step in 1..4 {
        let version = fleet.publish(step, adapter(step as u8)).await.unwrap();
        assert_eq!((version.step, version.adapter), (step, adapter(step as u8).hash));
        assert_eq!(policy_of(&fleet, step).await, step);
    }
    let expected = ["load 0", "load 0", "load 1", "load 1", "load 2", "load 2", "unload 0", "unload 0", "retire 0"];
    let then = ["load 3", "load 3", "unload 1", "unload 1", "retire 1"];
    assert_eq!(world.events(), [&expected[..], &then].concat());
    assert!((0..2).all(|at| world.server(at).with(|state| state.peak_adapters) == settings(2, 4).kept_policies));
}

#[tokio::test(start_paused = true)]
async fn names_tell_run_step_and_hash_and_are_never_used_again() {
    let world = World::new();
    let fleet = start(&world, settings(1, 4)).await;
    for _ in 0..2 {
        fleet.publish(7, adapter(1)).await.unwrap();
    }
    // By sha256sum: of the bytes 00 00 00 00, and of 01 01 01 01.
    let names = ["dump-rl-run-s0-0-df3f6198", "dump-rl-run-s7-1-27ecd0a5", "dump-rl-run-s7-2-27ecd0a5"];
    assert_eq!(world.server(0).with(|state| state.adapters.clone()), names[1..]);
    fleet.generate(request(1, 1)).await.unwrap();
    assert_eq!(world.server(0).with(|state| state.groups.clone()), [(1, names[2].to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn groups_go_on_while_a_policy_is_loaded_and_end_under_their_own() {
    let world = World::with(|state| {
        state.latency = secs(3);
        state.load_latency = secs(10);
    });
    let fleet = start(&world, settings(2, 4)).await;
    let publishing = {
        let fleet = Arc::clone(&fleet);
        tokio::spawn(async move { fleet.publish(1, adapter(1)).await })
    };
    for seed in 0..3 {
        assert_eq!(policy_of(&fleet, seed).await, 0);
    }
    let running = send(&fleet, request(9, 2)).await;
    publishing.await.unwrap().unwrap();
    assert!(!running.is_finished());
    assert_eq!(policy_of(&fleet, 10).await, 1);
    assert_eq!(running.await.unwrap().unwrap()[0].last_policy.step, 0);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_a_group_runs_under_stays_loaded() {
    let world = World::with(|state| state.latency = secs(100));
    let fleet = start(&world, settings(1, 4)).await;
    let running = send(&fleet, request(1, 2)).await;
    for step in 1..6 {
        fleet.publish(step, adapter(step as u8)).await.unwrap();
    }
    let numbers =
        || world.server(0).with(|state| state.adapters.iter().map(|name| number(name).to_owned()).collect::<Vec<_>>());
    assert_eq!(numbers(), ["0", "5"]);
    assert_eq!(running.await.unwrap().unwrap()[0].policy.step, 0);
    fleet.publish(6, adapter(6)).await.unwrap();
    assert_eq!(numbers(), ["5", "6"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_load_is_taken_out_and_comes_back_with_the_new_policy() {
    let world = World::new();
    let fleet = start(&world, settings(2, 4)).await;
    world.server(0).with(|state| state.load_failure = Some(FailureKind::Broken));
    fleet.publish(1, adapter(1)).await.unwrap();
    assert_eq!(fleet.endpoints().len(), 1);
    assert_eq!(policy_of(&fleet, 1).await, 1);
    assert!(world.server(0).seeds().is_empty());
    world.server(0).with(|state| state.load_failure = None);
    sleep(secs(10)).await;
    assert_eq!(policy_of(&fleet, 2).await, 1);
    assert_eq!(world.server(0).seeds(), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_publish_waits_for_a_server_if_none_is_up() {
    let world = World::new();
    let fleet = start(&world, settings(2, 4)).await;
    (0..2).for_each(|at| world.server(at).go_down());
    let publishing = {
        let fleet = Arc::clone(&fleet);
        tokio::spawn(async move { fleet.publish(1, adapter(1)).await })
    };
    sleep(secs(60)).await;
    assert!(!publishing.is_finished());
    world.server(1).come_up();
    publishing.await.unwrap().unwrap();
    assert_eq!(policy_of(&fleet, 1).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_publish_fails_if_no_server_comes_or_all_refuse() {
    let world = World::new();
    let fleet = start(&world, settings(1, 4)).await;
    world.server(0).with(|state| state.load_failure = Some(FailureKind::Refused));
    let began = tokio::time::Instant::now();
    let error = fleet.publish(1, adapter(1)).await.unwrap_err().to_string();
    assert!(error.contains("refused: scripted load") && began.elapsed() < secs(1), "{error}");
    world.server(0).with(|state| state.load_failure = None);
    assert_eq!(policy_of(&fleet, 1).await, 0);
    world.server(0).go_down();
    let error = fleet.publish(2, adapter(2)).await.unwrap_err().to_string();
    assert!(error.contains("server-0:8000/: unreachable"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_a_publish_uses_the_new_policy() {
    let world = World::new();
    let fleet = start(&world, settings(1, 4)).await;
    world.server(0).with(|state| state.latency = secs(5));
    let running = send(&fleet, request(1, 2)).await;
    fleet.publish(1, adapter(1)).await.unwrap();
    world.server(0).with(|state| state.outages += 1);
    assert_eq!(running.await.unwrap().unwrap()[0].policy.step, 1);
}

#[tokio::test(start_paused = true)]
async fn policies_of_this_run_from_before_a_restart_are_the_first_to_go() {
    let world = World::new();
    let others = ["dump-rl-other-s0-0-12345678", "dump-rl-run-s1-s0-0-12345678"];
    world.prepare(0, 4, |state| {
        state.adapters = ["dump-rl-run-s8-8-12345678", "dump-rl-run-s9-9-12345678"].map(String::from).to_vec();
        state.adapters.extend(others.map(String::from));
    });
    let _fleet = start(&world, settings(1, 4)).await;
    let left = world.server(0).with(|state| state.adapters.clone());
    let expected = ["dump-rl-run-s9-9-12345678", others[0], others[1], "dump-rl-run-s0-0-df3f6198"];
    assert_eq!(left, expected);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_comes_back_during_a_publish_gets_the_new_policy_before_it_is_used() {
    let world = World::new();
    world.prepare(1, 4, |state| {
        state.down = true;
        state.load_latency = secs(10);
    });
    let fleet = start(&world, settings(2, 4)).await;
    world.server(1).come_up();
    // Its check has begun, and loads the policy of before.
    sleep(secs(5)).await;
    fleet.publish(1, adapter(1)).await.unwrap();
    sleep(secs(30)).await;
    let answered = fleet.generate_at(url(1).as_str(), request(1, 2)).await.unwrap();
    assert_eq!((answered[0].policy.step, counter(&fleet, "no_such_policy")), (1, 0));
}
