//! Failures, retries, and servers that go and come back.

use super::*;

async fn sequences_of(fleet: &Arc<Fleet<World>>, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        assert_whole(&fleet.generate(request(seed, 2)).await.unwrap(), seed, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_that_failed_is_sent_elsewhere() {
    for kind in [FailureKind::Unreachable, FailureKind::TimedOut, FailureKind::Busy, FailureKind::Broken] {
        let world = World::new();
        let fleet = start(&world, settings(2, 4)).await;
        world.server(0).with(|state| state.failures = [kind].into());
        let completions = fleet.generate(request(7, 3)).await.unwrap();
        assert_whole(&completions, 7, 3);
        assert_eq!((world.server(0).seeds(), world.server(1).seeds()), (vec![7], vec![7]), "{kind}");
        assert_eq!((counter(&fleet, "retries"), counter(&fleet, "taken_out")), (1, 0), "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_only_server_is_asked_again() {
    let world = World::new();
    let fleet = start(&world, settings(1, 4)).await;
    world.server(0).with(|state| state.failures = [FailureKind::Broken, FailureKind::Broken].into());
    assert_whole(&fleet.generate(request(1, 1)).await.unwrap(), 1, 1);
    assert_eq!(world.server(0).seeds(), [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn after_all_retries_the_last_failures_are_named() {
    let world = World::new();
    let fleet = start(&world, RemoteSettings { retries: 2, ..settings(2, 4) }).await;
    for at in 0..2 {
        world.server(at).with(|state| state.failures = [FailureKind::Busy; 9].into());
    }
    let problem = message(fleet.generate(request(1, 1)).await);
    for words in ["3 tries", "http://server-0:8000/: busy: scripted", "http://server-1:8000/: busy"] {
        assert!(problem.contains(words), "{problem}");
    }
    assert_eq!(counter(&fleet, "busy"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refused_group_fails_at_once_in_the_servers_words() {
    let world = World::new();
    let fleet = start(&world, settings(2, 4)).await;
    world.server(0).with(|state| state.failures = [FailureKind::Refused].into());
    let began = tokio::time::Instant::now();
    assert!(message(fleet.generate(request(1, 1)).await).contains("refused: scripted"));
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!((world.server(1).seeds().len(), counter(&fleet, "retries")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn three_failures_in_a_row_take_a_server_out_and_a_check_brings_it_back() {
    let world = World::new();
    let fleet = start(&world, settings(2, 4)).await;
    let failing = world.server(0);
    // Two failures, a success, two failures: never three in a row.
    use FailureKind::Broken;
    failing.with(|state| state.failures = [Broken, Broken].into());
    sequences_of(&fleet, 0..3).await;
    failing.with(|state| state.failures = [Broken, Broken].into());
    sequences_of(&fleet, 3..5).await;
    assert_eq!(counter(&fleet, "taken_out"), 0);
    failing.with(|state| (state.failures, state.probe_failure) = ([Broken; 9].into(), Some(Broken)));
    sequences_of(&fleet, 5..6).await;
    assert_eq!((counter(&fleet, "taken_out"), counter(&fleet, "servers_up"), counter(&fleet, "servers")), (1, 1, 2));
    let before = failing.seeds().len();
    sequences_of(&fleet, 6..8).await;
    assert_eq!(failing.seeds().len(), before, "it got a group while it was out");
    failing.with(|state| (state.failures, state.probe_failure) = (VecDeque::new(), None));
    sleep(secs(10)).await;
    assert_eq!(counter(&fleet, "servers_up"), 2);
    sequences_of(&fleet, 8..9).await;
    assert_eq!(failing.seeds().len(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn checks_come_less_and_less_often() {
    let world = World::new();
    world.prepare(1, 4, |state| state.down = true);
    let fleet = start(&world, settings(2, 4)).await;
    assert_eq!(fleet.endpoints().len(), 1);
    let away = world.server(1);
    let mut times = Vec::new();
    let began = tokio::time::Instant::now();
    for _ in 0..4000 {
        let before = away.with(|state| state.probes);
        sleep(Duration::from_millis(100)).await;
        if away.with(|state| state.probes) > before {
            times.push(began.elapsed().as_secs_f64());
        }
    }
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (gap, expected) in gaps.iter().zip([4.0, 8.0, 16.0, 32.0, 60.0, 60.0]) {
        assert!((expected * 0.74..=expected * 1.26 + 0.5).contains(gap), "{gaps:?}");
    }
    assert!(gaps.len() >= 6, "{gaps:?}");
    away.come_up();
    sleep(secs(80)).await;
    assert_eq!(fleet.endpoints().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lost_its_adapters_is_taken_out_at_once_and_gets_them_again() {
    let world = World::new();
    let fleet = start(&world, settings(2, 4)).await;
    world.server(0).with(|state| state.adapters.clear());
    assert_whole(&fleet.generate(request(1, 2)).await.unwrap(), 1, 2);
    assert_eq!((counter(&fleet, "no_such_policy"), counter(&fleet, "taken_out")), (1, 1));
    sleep(secs(2)).await;
    assert_eq!((counter(&fleet, "servers_up"), world.server(0).with(|state| state.adapters.len())), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn groups_wait_for_a_server_while_none_is_up() {
    let world = World::new();
    let fleet = start(&world, settings(1, 4)).await;
    world.server(0).go_down();
    let waiting = send(&fleet, request(1, 2)).await;
    sleep(secs(300)).await;
    assert_eq!((counter(&fleet, "servers_up"), counter(&fleet, "waiting")), (0, 1));
    world.server(0).come_up();
    assert_whole(&waiting.await.unwrap().unwrap(), 1, 2);
}

#[tokio::test(start_paused = true)]
async fn after_ten_minutes_without_a_server_a_group_fails() {
    let world = World::new();
    let fleet = start(&world, settings(1, 4)).await;
    world.server(0).go_down();
    let began = tokio::time::Instant::now();
    let early = send(&fleet, request(1, 2)).await;
    sleep(secs(120)).await;
    let late = send(&fleet, request(2, 2)).await;
    assert!(message(early.await.unwrap()).contains("unreachable: it is down"));
    assert!((600..605).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let problem = message(late.await.unwrap());
    assert!(problem.contains("600 s") && problem.contains("server-0:8000"), "{problem}");
    assert!((720..722).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn only_silent_servers_are_asked_for_their_health() {
    let world = World::new();
    let fleet = start(&world, settings(2, 2)).await;
    for seed in 0..60 {
        fleet.generate(request(seed, 2)).await.unwrap();
    }
    assert_eq!(world.server(0).with(|state| state.pings), 0);
    assert!((5..=6).contains(&world.server(1).with(|state| state.pings)));
    // An idle server that has gone is noticed without a group.
    world.server(1).go_down();
    sleep(secs(35)).await;
    assert_eq!(counter(&fleet, "servers_up"), 1);
}

async fn fails_to_start(world: &World, servers: usize) -> (String, String) {
    match Fleet::start(world.clone(), settings(servers, 4), adapter(0)).await {
        Err(EngineError::Endpoint { url, problem }) => (url, problem),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it started"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_unfit_server_stops_the_start() {
    let world = World::new();
    world.prepare(1, 4, |state| state.probe_failure = Some(FailureKind::Unfit));
    let (at, problem) = fails_to_start(&world, 3).await;
    assert_eq!((at.as_str(), problem.as_str()), (url(1).as_str(), "scripted probe"));
    assert!(world.server(0).with(|state| state.adapters.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn without_any_usable_server_each_is_named() {
    let world = World::with(|state| state.down = true);
    let (at, problem) = fails_to_start(&world, 2).await;
    assert_eq!(at, url(0).as_str());
    assert!(problem.contains("server-1:8000/: unreachable: it is down"), "{problem}");
    assert!(!fails_to_start(&World::new(), 0).await.1.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_wrong_adapter_is_noticed_before_a_server_is_asked() {
    let mut wrong = adapter(0);
    wrong.hash = adapter(1).hash;
    let started = Fleet::start(World::new(), settings(1, 4), wrong).await;
    assert!(matches!(started, Err(EngineError::WrongAdapter { .. })));
}

#[tokio::test(start_paused = true)]
async fn closing_unloads_and_stops_everybody() {
    let world = World::new();
    let fleet = start(&world, settings(2, 2)).await;
    let _running = [send(&fleet, request(0, 2)).await, send(&fleet, request(1, 2)).await];
    let waiting = send(&fleet, request(2, 2)).await;
    fleet.close().await;
    assert!(matches!(waiting.await.unwrap(), Err(EngineError::Stopped)));
    assert!(matches!(fleet.generate(request(3, 1)).await, Err(EngineError::Stopped)));
    assert!(matches!(fleet.publish(1, adapter(1)).await, Err(EngineError::Stopped)));
    assert!((0..2).all(|at| world.server(at).with(|state| state.adapters.is_empty())));
    assert_eq!(world.events().last().map(String::as_str), Some("retire 0"));
}
