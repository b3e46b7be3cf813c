//! Many servers and groups: what outages cost, and what a completion costs.

use futures_util::future::join_all;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::*;

const GROUP: usize = 8;
const CAPACITY: usize = 64;
/// Each server is down once in each period, at a random time.
const PERIOD: u64 = 100;
const OUTAGE: u64 = 5;
const PERIODS: u64 = 2;
const LATENCY: u64 = 2;

/// The times at which servers go down and come up again.
fn outages(servers: usize) -> Vec<(Duration, usize, bool)> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut events = Vec::new();
    for at in 0..servers {
        for period in 0..PERIODS {
            let start =
                Duration::from_secs_f64(rng.random_range(0.0..(PERIOD - OUTAGE) as f64)) + secs(period * PERIOD);
            events.extend([(start, at, false), (start + secs(OUTAGE), at, true)]);
        }
    }
    events.sort_unstable();
    events
}

/// Keeps a group in flight until `end`, and returns how many were answered.
async fn client(fleet: Arc<Fleet<World>>, number: u64, end: Instant) -> usize {
    let mut answered = 0;
    loop {
        let seed = number << 16 | answered as u64;
        match timeout_at(end, fleet.generate(request(seed, GROUP))).await {
            Ok(completions) => assert_whole(&completions.unwrap(), seed, GROUP),
            Err(_) => return answered,
        }
        answered += 1;
    }
}

/// Answered groups in relation to the ideal: every server answers as many at a time as it has room for, all the time
/// that it is up, which is 95 of 100 s, and nothing is lost when it goes down.
async fn efficiency(servers: usize, groups: u64) -> f64 {
    let world = World::with(|state| state.latency = secs(LATENCY));
    let fleet = start(&world, RemoteSettings { retries: 20, ..settings(servers, CAPACITY) }).await;
    let scripts: Vec<_> = (0..servers).map(|at| world.server(at)).collect();
    let began = Instant::now();
    let weather = tokio::spawn(async move {
        for (after, at, up) in outages(scripts.len()) {
            sleep_until(began + after).await;
            if up { scripts[at].come_up() } else { scripts[at].go_down() }
        }
    });
    let end = began + secs(PERIOD * PERIODS);
    let clients = (0..groups).map(|number| tokio::spawn(client(Arc::clone(&fleet), number, end)));
    let answered: usize = join_all(clients).await.into_iter().map(Result::unwrap).sum();
    weather.await.unwrap();
    let taken_out = counter(&fleet, "taken_out");
    // An outage right after another one may find the server still out.
    assert!(taken_out >= servers as u64 * PERIODS * 99 / 100, "{taken_out} outages were noticed");
    let slots = servers * CAPACITY / GROUP;
    let ideal = slots as f64 * ((PERIOD - OUTAGE) * PERIODS) as f64 / LATENCY as f64;
    answered as f64 / ideal
}

#[tokio::test(start_paused = true)]
async fn outages_of_a_hundred_servers_cost_little_more_than_the_time_that_they_are_down() {
    let efficiency = efficiency(100, 1250).await;
    assert!((0.95..=1.0).contains(&efficiency), "{efficiency}");
}

#[tokio::test(start_paused = true)]
#[ignore = "takes long"]
async fn outages_of_a_thousand_servers_cost_little_more_than_the_time_that_they_are_down() {
    let began = std::time::Instant::now();
    let efficiency = efficiency(1000, 12_500).await;
    println!("{efficiency:.4} of the ideal, in {:.1} s of real time", began.elapsed().as_secs_f64());
    assert!((0.95..=1.0).contains(&efficiency), "{efficiency}");
}

/// CPU time of this thread in microseconds (Linux).
fn cpu_us() -> f64 {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    times.split(' ').next().unwrap().parse::<f64>().unwrap() / 1000.0
}

#[tokio::test(start_paused = true)]
#[ignore = "a measurement"]
async fn cpu_time_of_a_completion() {
    const GROUPS: u64 = 1000;
    const ROUNDS: u64 = 100;
    let completions = (GROUPS * ROUNDS) as f64 * GROUP as f64;
    let world = World::new();
    let fleet = start(&world, settings(125, CAPACITY)).await;
    let before = cpu_us();
    let end = Instant::now() + Duration::from_millis(ROUNDS * 1000 + 500);
    let clients = (0..GROUPS).map(|number| tokio::spawn(client(Arc::clone(&fleet), number, end)));
    let answered: usize = join_all(clients).await.into_iter().map(Result::unwrap).sum();
    let whole = (cpu_us() - before) / completions;
    assert_eq!(answered as u64, GROUPS * ROUNDS);
    let policy = world.server(0).with(|state| state.adapters[0].clone());
    let before = cpu_us();
    let alone = (0..GROUPS).map(|number| {
        let (world, policy) = (world.clone(), policy.clone());
        tokio::spawn(async move {
            let script = world.server(number as usize % 125);
            let server = Fake { script, events: Arc::default() };
            for round in 0..ROUNDS {
                server.generate(&policy, &request(round, GROUP)).await.unwrap();
            }
        })
    });
    join_all(alone).await;
    let alone = (cpu_us() - before) / completions;
    println!("{whole:.2} µs of CPU a completion with the fleet, {alone:.2} µs of the scripted servers alone");
}
