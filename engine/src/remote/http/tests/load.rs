//! Adapters: uploads, folders, and what counts as no failure.

use std::fs;

use serde_json::json;

use super::*;
use crate::remote::{FailureKind, Server};
use crate::{Adapter, LoraConfig};

/// More than one piece of an upload.
fn adapter() -> Adapter {
    let bytes = (0..(1 << 20) + 77).map(|i: u32| (i % 251) as u8).collect();
    Adapter::new(LoraConfig::new(2, 4.0, vec!["up_proj".into()], "base".into()).into(), bytes)
}

const LOAD: &str = "POST /v1/load_lora_adapter";

#[tokio::test]
async fn our_server_gets_an_upload_and_must_load_the_same_bytes() {
    let adapter = adapter();
    let good = Say::json(200, json!({"lora_name": "p-2", "adapter": &*adapter.hash.0}));
    let fake = Fake::start(with(ours(), LOAD, good)).await;
    connect(&fake, &settings()).load("p-2", &adapter).await.unwrap();
    let seen = fake.take(LOAD).remove(0);
    assert!(seen.head.contains("content-type: multipart/form-data"));
    let at = |part: &[u8]| seen.body.windows(part.len()).position(|window| window == part);
    for name in ["name=\"lora_name\"\r\n\r\np-2\r\n", "name=\"adapter_config\"", "name=\"adapter_model\""] {
        assert!(at(name.as_bytes()).is_some(), "{name}");
    }
    assert!(at(b"\"peft_type\":\"LORA\"").is_some());
    assert!(at(&[b"\r\n\r\n", &adapter.bytes[..], b"\r\n"].concat()).is_some());
    let other = Say::json(200, json!({"lora_name": "p-2", "adapter": "0badc0de"}));
    let fake = Fake::start(with(ours(), LOAD, other)).await;
    let failure = connect(&fake, &settings()).load("p-2", &adapter).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Broken);
    assert!(failure.problem.contains("0badc0de") && failure.problem.contains(&*adapter.hash.0), "{failure}");
}

fn shared(name: &str) -> RemoteSettings {
    let here = std::env::temp_dir().join(format!("engine-http-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&here);
    RemoteSettings { adapters: Some(AdapterFolders { here, at_server: "/mnt/adapters".into() }), ..settings() }
}

#[tokio::test]
async fn other_servers_read_a_folder_that_is_there_until_it_is_retired() {
    let settings = shared("folder");
    let here = settings.adapters.clone().unwrap().here;
    let said = |text: &str| Say::json(400, json!({"error": {"message": text}}));
    let vllm = Fake::start(with(vllm(), LOAD, said("The lora adapter 'p-2' has already been loaded."))).await;
    let sglang = Fake::start(sglang()).await;
    let servers = HttpServers::new(&settings).unwrap();
    let endpoint = |fake: &Fake| EndpointSettings { url: fake.url.clone(), model: None, max_sequences: 8 };
    servers.connect(&endpoint(&vllm)).unwrap().load("p-2", &adapter()).await.unwrap();
    let body = vllm.take(LOAD).pop().unwrap().json();
    assert_eq!(body, json!({"lora_name": "p-2", "lora_path": "/mnt/adapters/p-2"}));
    let failure = servers.connect(&endpoint(&sglang)).unwrap().load("p-2", &adapter()).await.unwrap_err();
    assert_eq!((failure.kind, failure.problem.as_str()), (FailureKind::Refused, "status 422: Field required"));
    assert_eq!(sglang.take("POST /load_lora_adapter").pop().unwrap().json(), body);
    assert_eq!(fs::read(here.join("p-2/adapter_model.safetensors")).unwrap(), *adapter().bytes);
    servers.retire("p-2").await;
    assert!(!here.join("p-2").exists());
    fs::remove_dir_all(here).unwrap();
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named() {
    let settings = shared("file");
    let here = settings.adapters.clone().unwrap().here;
    fs::write(&here, "").unwrap();
    let fake = Fake::start(vllm()).await;
    let failure = connect(&fake, &settings).load("p-2", &adapter()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused);
    assert!(failure.problem.contains(here.to_str().unwrap()), "{failure}");
    fs::remove_file(here).unwrap();
}

#[tokio::test]
async fn unloading_what_is_not_there_is_no_failure() {
    const UNLOAD: &str = "POST /v1/unload_lora_adapter";
    for (status, good) in [(200, true), (404, true), (400, false), (500, false)] {
        let fake = Fake::start(with(vllm(), UNLOAD, Say::text(status, "{}"))).await;
        assert_eq!(connect(&fake, &settings()).unload("p-1").await.is_ok(), good, "{status}");
        assert_eq!(fake.take(UNLOAD)[0].json(), json!({"lora_name": "p-1"}));
    }
}

#[tokio::test]
async fn adapters_are_the_models_with_a_parent() {
    for routes in [ours(), vllm()] {
        let fake = Fake::start(routes).await;
        assert_eq!(connect(&fake, &settings()).adapters().await.unwrap(), ["p-1"]);
    }
}
