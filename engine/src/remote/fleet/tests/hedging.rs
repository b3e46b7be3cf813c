//! A second server for a slow group.

use super::*;

/// Twenty groups of one second, so that there is something to compare with, and then a slow one on server 0.
async fn slow_group(world: &World, hedges: bool) -> (Arc<Fleet<World>>, tokio::task::JoinHandle<Answered>) {
    let fleet = start(world, RemoteSettings { hedges, ..settings(2, 2) }).await;
    for seed in 0..20 {
        fleet.generate(request(seed, 2)).await.unwrap();
    }
    world.server(0).with(|state| state.latency = secs(60));
    let slow = send(&fleet, request(100, 2)).await;
    (fleet, slow)
}

#[tokio::test(start_paused = true)]
async fn a_slow_group_is_sent_to_an_idle_server_and_the_first_answer_wins() {
    let world = World::new();
    let (fleet, slow) = slow_group(&world, true).await;
    let began = tokio::time::Instant::now();
    let completions = slow.await.unwrap().unwrap();
    assert_whole(&completions, 100, 2);
    assert_eq!(completions[0].endpoint.as_deref(), Some(url(1).as_str()));
    // It is slow after 2 × 1 s, and the second server takes 1 s.
    assert!((secs(3)..secs(4)).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!((counter(&fleet, "hedges"), counter(&fleet, "hedges_won")), (1, 1));
    settle().await;
    assert!((0..2).all(|at| world.server(at).with(|state| state.sequences) == 0));
}

#[tokio::test(start_paused = true)]
async fn it_needs_the_setting_and_servers_that_keep_seeds() {
    let world = World::new();
    let (fleet, slow) = slow_group(&world, false).await;
    slow.await.unwrap().unwrap();
    assert_eq!(counter(&fleet, "hedges"), 0);
    let world = World::new();
    world.prepare(1, 2, |state| state.keeps_seeds = false);
    let (fleet, slow) = slow_group(&world, true).await;
    slow.await.unwrap().unwrap();
    assert_eq!(counter(&fleet, "hedges"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_busy_second_server_is_left_alone_until_it_is_idle() {
    let world = World::new();
    let (fleet, slow) = slow_group(&world, true).await;
    world.server(1).with(|state| state.latency = secs(20));
    let other = send(&fleet, request(101, 1)).await;
    sleep(secs(15)).await;
    assert_eq!(counter(&fleet, "hedges"), 0);
    world.server(1).with(|state| state.latency = secs(1));
    other.await.unwrap().unwrap();
    sleep(secs(1)).await;
    assert_eq!(counter(&fleet, "hedges"), 1);
    slow.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_first_server_may_still_win_and_either_may_fail() {
    for (failing, winner) in [(1, 0), (0, 1)] {
        let world = World::new();
        let (fleet, slow) = slow_group(&world, true).await;
        world.server(1).with(|state| state.latency = secs(30));
        sleep(secs(10)).await;
        assert_eq!(counter(&fleet, "hedges"), 1);
        world.server(failing).go_down();
        let completions = slow.await.unwrap().unwrap();
        assert_whole(&completions, 100, 2);
        assert_eq!(completions[0].endpoint.as_deref(), Some(url(winner).as_str()));
        assert_eq!((counter(&fleet, "hedges_won"), counter(&fleet, "retries")), (failing as u64 ^ 1, 0));
    }
}
