//! The endpoints file while a run goes on.

use super::*;

struct File(std::path::PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dump-rl-fleet-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }

    fn settings(&self, servers: usize) -> RemoteSettings {
        RemoteSettings { endpoints_file: Some(self.0.clone()), ..settings(servers, 3) }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

fn names(fleet: &Fleet<World>) -> Vec<String> {
    fleet.endpoints().iter().map(|url| url.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn servers_come_and_go_with_their_lines() {
    let world = World::new();
    let file = File::new("lines", "# none yet\n");
    let fleet = start(&world, file.settings(1)).await;
    let [first, second] = [url(0).to_string(), url(1).to_string()];
    assert_eq!(names(&fleet), [first.as_str()]);

    file.write(&format!("nonsense\n{second}\n{first} # also in the settings\n"));
    sleep(secs(4)).await;
    assert_eq!(names(&fleet), [first.clone(), second.clone()]);
    assert_eq!((fleet.concurrency(1), counter(&fleet, "servers")), (8, 2));

    world.server(1).with(|state| state.latency = secs(20));
    let _here = send(&fleet, request(0, 3)).await;
    let running = send(&fleet, request(1, 2)).await;
    assert_eq!(world.server(1).seeds(), [1]);
    file.write("");
    sleep(secs(5)).await;
    // It gets nothing new, but its group ends there.
    assert_eq!((names(&fleet), counter(&fleet, "servers")), (vec![first.clone()], 2));
    assert_whole(&running.await.unwrap().unwrap(), 1, 2);
    sleep(secs(1)).await;
    assert_eq!(counter(&fleet, "servers"), 1);
    assert!(world.server(1).with(|state| state.adapters.is_empty()));

    file.write(&second);
    sleep(secs(4)).await;
    assert_eq!(names(&fleet), [first, second]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_returns_while_it_drains_gets_what_was_published_since() {
    let world = World::new();
    let file = File::new("returns", url(1).as_str());
    let fleet = start(&world, file.settings(0)).await;
    world.server(1).with(|state| state.latency = secs(60));
    let running = send(&fleet, request(1, 1)).await;
    file.write(&format!("{}\n", url(2)));
    sleep(secs(4)).await;
    fleet.publish(1, adapter(1)).await.unwrap();
    file.write(&format!("{}\n{}\n", url(1), url(2)));
    sleep(secs(4)).await;
    assert_eq!(names(&fleet), [url(1).to_string(), url(2).to_string()]);
    let new = fleet.generate_at(url(1).as_str(), request(2, 1)).await.unwrap();
    assert_eq!((new[0].policy.step, running.await.unwrap().unwrap()[0].policy.step), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_missing_for_a_while_changes_nothing() {
    let world = World::new();
    let file = File::new("missing", url(1).as_str());
    let fleet = start(&world, file.settings(0)).await;
    std::fs::remove_file(&file.0).unwrap();
    sleep(secs(10)).await;
    assert_eq!(names(&fleet), [url(1).to_string()]);
    file.write(url(2).as_str());
    sleep(secs(4)).await;
    assert_eq!(names(&fleet), [url(2).to_string()]);
}

#[tokio::test(start_paused = true)]
async fn a_bad_line_or_a_missing_file_stops_the_start() {
    let fails = async |settings: RemoteSettings| match Fleet::start(World::new(), settings, adapter(0)).await {
        Err(EngineError::Endpoint { url, .. }) => url,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it started"),
    };
    let file = File::new("bad", "http://server-0:8000\n\nserver-1:8000\n");
    assert_eq!(fails(file.settings(1)).await, format!("{}:3", file.0.display()));
    std::fs::remove_file(&file.0).unwrap();
    assert_eq!(fails(file.settings(1)).await, file.0.display().to_string());
}
