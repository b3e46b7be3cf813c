//! Who gets a group, and who waits.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_group_goes_where_least_is_outstanding_per_capacity() {
    let world = World::new();
    world.prepare(0, 4, |_| {});
    world.prepare(1, 16, |_| {});
    let fleet = start(&world, settings(2, 4)).await;
    let mut sent = Vec::new();
    for seed in 0..5 {
        sent.push(send(&fleet, request(seed, 2)).await);
    }
    // Loads by capacity after each: 2/4 0/16, then the second is filled up to 8/16 before the first gets its next.
    assert_eq!(world.server(0).seeds(), [0]);
    assert_eq!(world.server(1).seeds(), [1, 2, 3, 4]);
    for (seed, answered) in sent.into_iter().enumerate() {
        let completions = answered.await.unwrap().unwrap();
        assert_whole(&completions, seed as u64, 2);
        assert!(completions.iter().all(|completion| completion.endpoint == completions[0].endpoint));
    }
    assert_eq!(fleet.concurrency(2), (2 + 1) + (8 + 1));
}

#[tokio::test(start_paused = true)]
async fn tokens_count_not_groups() {
    let world = World::new();
    let fleet = start(&world, settings(2, 8)).await;
    let mut long = request(0, 1);
    long.prompt = vec![1; 5000].into();
    let _long = send(&fleet, long).await;
    let _short = send(&fleet, request(1, 1)).await;
    let _short = send(&fleet, request(2, 1)).await;
    assert_eq!((world.server(0).seeds(), world.server(1).seeds()), (vec![0], vec![1, 2]));
}

#[tokio::test(start_paused = true)]
async fn groups_without_room_wait_in_their_order_and_a_large_one_is_not_overtaken() {
    let world = World::new();
    let fleet = start(&world, settings(1, 4)).await;
    let mut sent = vec![send(&fleet, request(0, 2)).await];
    // Larger than the server: it needs it for itself alone. The small one behind would fit at once.
    for (seed, size) in [(1, 6), (2, 1), (3, 3), (4, 2)] {
        sent.push(send(&fleet, request(seed, size)).await);
    }
    assert_eq!(world.server(0).seeds(), [0]);
    assert_eq!(counter(&fleet, "waiting"), 4);
    for answered in sent {
        answered.await.unwrap().unwrap();
    }
    assert_eq!(world.server(0).seeds(), [0, 1, 2, 3, 4]);
    assert_eq!(world.server(0).with(|state| state.peak_sequences), 6);
    assert_eq!(counter(&fleet, "waiting"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_future_frees_its_slot_and_its_turn() {
    let world = World::new();
    let fleet = start(&world, settings(1, 2)).await;
    let running = send(&fleet, request(0, 2)).await;
    let waiting = send(&fleet, request(1, 2)).await;
    let last = send(&fleet, request(2, 2)).await;
    waiting.abort();
    settle().await;
    assert_eq!(counter(&fleet, "waiting"), 1);
    running.abort();
    settle().await;
    assert_eq!(world.server(0).seeds(), [0, 2]);
    last.await.unwrap().unwrap();
    assert_eq!(world.server(0).with(|state| state.sequences), 0);
}

#[tokio::test(start_paused = true)]
async fn a_place_that_was_granted_to_a_dropped_future_is_free_again() {
    let world = World::new();
    let fleet = start(&world, settings(1, 2)).await;
    let running = send(&fleet, request(0, 2)).await;
    let waiting = send(&fleet, request(1, 2)).await;
    // The place is granted when the first is dropped, and the second is dropped before it can look.
    running.abort();
    waiting.abort();
    settle().await;
    let answered = tokio::time::timeout(secs(2), fleet.generate(request(2, 2))).await;
    assert_whole(&answered.unwrap().unwrap(), 2, 2);
}

#[tokio::test(start_paused = true)]
async fn a_group_for_one_server_goes_there_and_keeps_its_turn() {
    let world = World::new();
    let fleet = start(&world, settings(2, 2)).await;
    let names = fleet.endpoints();
    assert_eq!(names.iter().map(|url| url.to_string()).collect::<Vec<_>>(), [url(0).to_string(), url(1).to_string()]);
    let _first = send(&fleet, request(0, 2)).await;
    let _second = send(&fleet, request(1, 2)).await;
    let here = {
        let (fleet, name) = (Arc::clone(&fleet), names[1].clone());
        tokio::spawn(async move { fleet.generate_at(&name, request(2, 2)).await })
    };
    settle().await;
    let _later = send(&fleet, request(3, 2)).await;
    let completions = here.await.unwrap().unwrap();
    assert_eq!(completions[0].endpoint, Some(names[1].clone()));
    assert_eq!((world.server(0).seeds(), world.server(1).seeds()), (vec![0, 3], vec![1, 2]));
    assert!(message(fleet.generate_at("http://nowhere/", request(4, 1)).await).contains("no server of this run"));
}
