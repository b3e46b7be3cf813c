//! `dump-rl serve`: the native engine's tokens over HTTP, and nothing that a client sends ends it.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use engine::decoder::{DecoderConfig, Weights};
use engine::native::{Native, NativeSettings};
use engine::{Adapter, Completion, Engine, LoraConfig, Precision, Request, Sampling};
use serde_json::{Value, json};

use crate::fixtures::program::{Workspace, dump_rl, parse, text};
use crate::fixtures::runs::block_on;
use crate::fixtures::server::Server;

const PROMPT: [u32; 20] = [5, 9, 14, 7, 7, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44];

/// What the engine in this process answers, under `adapter`.
fn in_process(model: &Path, adapter: Adapter, request: Request) -> Vec<Completion> {
    let decoder = DecoderConfig::load(model).expect("a model");
    let weights = Weights::load(model, &decoder, DType::F32, &Device::Cpu).expect("weights");
    let settings = NativeSettings { max_sequences: 3, cache_bytes: 1 << 20, threads: 1, precision: Precision::F32 };
    let engine = Native::start(decoder, weights, settings, adapter).expect("an engine");
    block_on(engine.generate(request)).expect("a group")
}

/// An adapter of rank 2 on every query projection, whose numbers follow from `seed`.
fn adapter(model: &Path, seed: u32) -> Adapter {
    let decoder = DecoderConfig::load(model).expect("a model");
    let (input, output) = decoder.linear_shape(engine::decoder::Module::Q);
    let mut tensors = BTreeMap::new();
    for layer in 0..decoder.num_hidden_layers {
        for (side, shape) in [("A", [2, input]), ("B", [output, 2])] {
            let values = (0..shape[0] * shape[1]).map(|i| ((i as u32 * 7 + seed * 13) % 11) as f32 / 30.0 - 0.16);
            let tensor = Tensor::from_vec(values.collect::<Vec<_>>(), &shape, &Device::Cpu).expect("a tensor");
            tensors
                .insert(format!("base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{side}.weight"), tensor);
        }
    }
    let bytes = safetensors::serialize(tensors, None).expect("bytes");
    Adapter::new(Arc::new(LoraConfig::new(2, 4.0, vec!["q_proj".into()], String::new())), bytes)
}

/// An adapter that changes nothing.
fn no_adapter() -> Adapter {
    let nothing = BTreeMap::<String, Tensor>::new();
    let bytes = safetensors::serialize(nothing, None).expect("bytes");
    Adapter::new(Arc::new(LoraConfig::new(1, 1.0, Vec::new(), String::new())), bytes)
}

/// Writes PEFT's two files.
fn save(adapter: &Adapter, folder: &Path) {
    std::fs::create_dir_all(folder).expect("a folder");
    std::fs::write(folder.join("adapter_model.safetensors"), &adapter.bytes).expect("a file");
    let config = serde_json::to_vec(&*adapter.config).expect("JSON");
    std::fs::write(folder.join("adapter_config.json"), config).expect("a file");
}

fn request(n: usize, tokens: usize, sampling: Sampling) -> Request {
    let sampling = Sampling { max_new_tokens: tokens, ..sampling };
    Request { prompt: PROMPT.into(), group_size: n, seed: 77, sampling }
}

/// The same request as JSON.
fn body(model: &str, n: usize, tokens: usize) -> Value {
    json!({"model": model, "prompt": PROMPT, "n": n, "seed": 77, "max_tokens": tokens, "logprobs": 0,
        "return_token_ids": true, "full_token_logprobs": true, "ignore_eos": true})
}

/// Ids and both log-probabilities of each choice.
fn tokens(answer: &Value) -> Vec<(Vec<u32>, Vec<f32>, Vec<f32>)> {
    let list = |value: &Value| serde_json::from_value::<Vec<f32>>(value.clone()).expect("numbers");
    let choices = answer["choices"].as_array().expect("choices").iter();
    let one = |choice: &Value| {
        let ids = serde_json::from_value(choice["token_ids"].clone()).expect("ids");
        (ids, list(&choice["logprobs"]["token_logprobs"]), list(&choice["full_token_logprobs"]))
    };
    choices.map(one).collect()
}

fn of(completions: &[Completion]) -> Vec<(Vec<u32>, Vec<f32>, Vec<f32>)> {
    completions.iter().map(|it| (it.tokens.clone(), it.log_probs.clone(), it.full_log_probs.clone())).collect()
}

#[test]
fn tokens_and_log_probabilities_are_those_of_the_engine_in_process_bit_for_bit() {
    let space = Workspace::new();
    let (model, server) = (space.model.path(), Server::with(space.model.path(), &["--name", "base"]));
    let plain = Sampling::new(1.0, vec![]);
    let expected = in_process(model, no_adapter(), request(3, 40, plain.clone()));
    assert_eq!(tokens(&server.ask("/v1/completions", &body("base", 3, 40))), of(&expected));
    // Truncated, and with stop tokens.
    let cut = Sampling { top_k: 20, top_p: 0.9, min_p: 0.01, ..Sampling::new(0.7, vec![expected[0].tokens[3]]) };
    let mut asked = body("base", 3, 40);
    let more = json!({"temperature": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "stop_token_ids": cut.stop_tokens.to_vec()});
    asked.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let answer = server.ask("/v1/completions", &asked);
    let expected = in_process(model, no_adapter(), request(3, 40, cut));
    assert_eq!(tokens(&answer), of(&expected));
    assert!(tokens(&answer).iter().any(|(_, drawn, full)| drawn != full), "the cut changes probabilities");
    assert_eq!(answer["usage"]["prompt_tokens"], PROMPT.len());
    assert_eq!(answer["usage"]["completion_tokens"], expected.iter().map(|it| it.tokens.len()).sum::<usize>());
}

#[test]
fn two_adapters_and_the_base_answer_at_the_same_time_each_as_if_alone() {
    let space = Workspace::new();
    let (model, server) = (space.model.path(), Server::with(space.model.path(), &["--name", "base"]));
    let adapters = [adapter(model, 1), adapter(model, 2)];
    for (name, adapter) in ["one", "two"].iter().zip(&adapters) {
        save(adapter, &space.path(name));
        let (status, answer) = server.upload(name, &space.path(name));
        assert_eq!((status, answer["adapter"].as_str()), (200, Some(&*adapter.hash.0)), "{answer}");
    }
    let names = ["base", "one", "two"];
    let answers: Vec<_> = std::thread::scope(|scope| {
        let server = &server;
        let ask = |name| scope.spawn(move || tokens(&server.ask("/v1/completions", &body(name, 2, 60))));
        let asked: Vec<_> = names.iter().copied().map(ask).collect();
        asked.into_iter().map(|it| it.join().expect("an answer")).collect()
    });
    let [one, two] = adapters;
    for (adapter, answer) in [no_adapter(), one, two].into_iter().zip(answers) {
        assert_eq!(answer, of(&in_process(model, adapter, request(2, 60, Sampling::new(1.0, vec![])))));
    }
    let (_, models) = server.get("/v1/models");
    let listed: Vec<Value> =
        parse(&models)["data"].as_array().expect("a list").iter().map(|it| it["id"].clone()).collect();
    assert_eq!(listed, names);
}

#[test]
fn adapters_come_and_go_by_rules() {
    let space = Workspace::new();
    let model = space.model.path();
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        save(&adapter(model, seed), &space.path("loras").join(name));
    }
    save(&adapter(model, 4), &space.path("outside"));
    let loras = space.path("loras");
    let allowed = loras.display().to_string();
    let server = Server::with(model, &["--adapters", &allowed, "--max-adapters", "2", "--name", "base"]);
    let load =
        |name: &str, path: &Path| server.post("/v1/load_lora_adapter", &json!({"lora_name": name, "lora_path": path}));
    let refused = |answer: (u16, Value), status: u16, says: &str| {
        assert!(
            answer.0 == status && answer.1["error"]["message"].as_str().is_some_and(|it| it.contains(says)),
            "{answer:?}"
        );
    };
    assert_eq!(load("dump-rl-1", &loras.join("a")).0, 200);
    assert_eq!(load("dump-rl-1", &loras.join("a")).0, 200, "the same again");
    refused(load("dump-rl-1", &loras.join("b")), 400, "another adapter");
    assert_eq!(load("mine", Path::new("b")).0, 200, "a path inside the folder");
    // A trainer's adapter gives way; somebody's own does not.
    assert_eq!(load("dump-rl-2", &loras.join("c")).0, 200);
    assert_eq!(server.post("/v1/completions", &body("dump-rl-1", 1, 2)).0, 404);
    assert_eq!(server.post("/v1/completions", &body("mine", 1, 2)).0, 200);
    refused(load("dump-rl-3", &space.path("outside")), 400, "lora_path");
    let pickled = loras.join("pickled");
    std::fs::create_dir(&pickled).expect("a folder");
    refused(load("dump-rl-3", &pickled), 400, "adapter_config.json: is not there");
    std::fs::write(pickled.join("adapter_config.json"), "{}").expect("a file");
    refused(load("dump-rl-3", &pickled), 400, "adapter_model.safetensors: is not there");
    std::fs::write(pickled.join("adapter_model.bin"), "").expect("a file");
    refused(load("dump-rl-3", &pickled), 400, "adapter_model.bin is not read: save the adapter as safetensors");
    refused(load("dump-rl-3", &loras.join("../outside")), 400, "lora_path");
    refused(load("../x", &loras.join("a")), 400, "lora_name");
    refused(load("base", &loras.join("a")), 400, "base model");
    let unload = |name: &str| server.post("/v1/unload_lora_adapter", &json!({"lora_name": name}));
    assert_eq!((unload("dump-rl-2").0, unload("mine").0, unload("mine").0), (200, 200, 404));
    // Other weights than the model has room for, and damaged ones.
    let other = loras.join("a/adapter_model.safetensors");
    let good = std::fs::read(&other).expect("a file");
    std::fs::write(&other, &good[..good.len() / 2]).expect("a file");
    refused(load("x", &loras.join("a")), 400, "adapter");
    std::fs::write(&other, good).expect("a file");
    let config = loras.join("a/adapter_config.json");
    let dora = std::fs::read_to_string(&config).expect("a file").replacen('{', "{\"use_dora\": true,", 1);
    std::fs::write(&config, dora).expect("a file");
    refused(load("x", &loras.join("a")), 400, "use_dora");
    save(
        &Adapter { config: Arc::new(LoraConfig::new(4, 4.0, Vec::new(), String::new())), ..adapter(model, 1) },
        &loras.join("a"),
    );
    refused(load("x", &loras.join("a")), 400, "its rank is 2, but r is 4");
}

/// The pieces of a streamed answer, without the last line.
fn pieces(server: &Server, path: &str, body: &Value) -> Vec<Value> {
    let (status, stream) = server.post_bytes(path, "application/json", body.to_string().as_bytes());
    assert_eq!(status, 200, "{stream}");
    let mut lines: Vec<&str> = stream.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(lines.pop(), Some("[DONE]"));
    lines.into_iter().map(parse).collect()
}

#[test]
fn a_streamed_answer_is_the_whole_one_in_pieces() {
    let space = Workspace::new();
    let server = Server::with(space.model.path(), &["--name", "base"]);
    let mut plain = body("base", 2, 50);
    let whole = server.ask("/v1/completions", &plain);
    let part = whole["choices"][0]["text"].as_str().expect("text").chars().skip(10).take(3).collect::<String>();
    for stop in [json!([]), json!([part])] {
        plain["stop"] = stop;
        plain.as_object_mut().expect("an object").shift_remove("stream");
        let whole = server.ask("/v1/completions", &plain);
        plain["stream"] = true.into();
        let pieces = pieces(&server, "/v1/completions", &plain);
        for index in 0..2 {
            let own = || pieces.iter().map(|piece| &piece["choices"][0]).filter(|choice| choice["index"] == index);
            let text: String = own().filter_map(|choice| choice["text"].as_str()).collect();
            let ids: Vec<Value> =
                own().filter_map(|choice| choice["token_ids"].as_array()).flatten().cloned().collect();
            let expected = &whole["choices"][index];
            assert_eq!(
                (Value::from(text), Value::from(ids)),
                (expected["text"].clone(), expected["token_ids"].clone())
            );
            let last = own().next_back().expect("an end");
            assert_eq!(
                (&last["finish_reason"], &last["stop_reason"]),
                (&expected["finish_reason"], &expected["stop_reason"])
            );
        }
    }
    assert_eq!(
        server.ask("/v1/completions", &{
            plain["stream"] = false.into();
            plain.clone()
        })["choices"][0]["stop_reason"],
        part
    );
    let chat = json!({"model": "base", "seed": 1, "max_tokens": 30, "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]});
    let whole = server.ask("/v1/chat/completions", &chat);
    let mut streamed = chat;
    (streamed["stream"], streamed["stream_options"]) = (true.into(), json!({"include_usage": true}));
    let pieces = self::pieces(&server, "/v1/chat/completions", &streamed);
    let text: String = pieces.iter().filter_map(|piece| piece["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(whole["choices"][0]["message"]["content"], text);
    assert_eq!(pieces.last().expect("an end")["usage"], whole["usage"]);
}

#[test]
fn only_who_has_the_token_is_answered() {
    let space = Workspace::new();
    let server = Server::with_token(space.model.path(), "let-me-in");
    assert_eq!(server.get("/v1/models").0, 200);
    let status = |answer: Result<ureq::Response, ureq::Error>| match answer {
        Ok(response) | Err(ureq::Error::Status(_, response)) => response.status(),
        Err(error) => panic!("{error}"),
    };
    let route = |path: &str| format!("{}{path}", server.url());
    assert_eq!(status(ureq::get(&route("/v1/models")).call()), 401);
    assert_eq!(status(ureq::get(&route("/v1/models")).set("Authorization", "Bearer let-me-on").call()), 401);
    assert_eq!(status(ureq::get(&route("/health")).call()), 200);
    // Whoever still sends a long body is told too.
    assert_eq!(status(ureq::post(&route("/v1/load_lora_adapter")).send_bytes(&vec![0; 3 << 20])), 401);
    let model = space.model.path().display().to_string();
    space.refused(
        &["serve", &model, "--host", "0.0.0.0", "--port", "0"],
        &["--host", "DUMP_RL_API_KEY", "--api-key-file"],
    );
    let empty = space.file("token", "\n");
    space.refused(&["serve", &model, "--api-key-file", &empty], &["--api-key-file", "is empty"]);
}

#[test]
fn what_is_not_done_is_refused_by_name_and_garbage_ends_nothing() {
    let space = Workspace::new();
    let server = Server::with(space.model.path(), &["--name", "base", "--max-requests", "4"]);
    let refused = |changes: Value, parameter: &str| {
        let mut asked = body("base", 1, 2);
        asked.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
        let (status, answer) = server.post("/v1/completions", &asked);
        assert_eq!((status, answer["error"]["param"].as_str()), (400, Some(parameter)), "{answer}");
    };
    refused(json!({"logit_bias": {"5": 3}}), "logit_bias");
    refused(json!({"best_of": 3}), "best_of");
    refused(json!({"presence_penalty": 0.5}), "presence_penalty");
    refused(json!({"logprobs": 3}), "logprobs");
    refused(json!({"n": 1_000_000_000}), "n");
    refused(json!({"n": 0}), "n");
    refused(json!({"n": 4096, "max_tokens": 400, "prompt": [[1, 2], [3], [4], [5]]}), "max_tokens");
    refused(json!({"max_tokens": 100_000}), "max_tokens");
    refused(json!({"temperature": -1}), "temperature");
    refused(json!({"temperature": "hot"}), "temperature");
    refused(json!({"prompt": []}), "prompt");
    refused(json!({"prompt": [1_000_000]}), "prompt");
    refused(json!({"prompt": vec![1; 600]}), "prompt");
    refused(json!({"prompt": {"a": 1}}), "prompt");
    refused(json!({"stop": [""]}), "stop");
    refused(json!({"seed": -1}), "seed");
    let chat = |messages: Value| server.post("/v1/chat/completions", &json!({"model": "base", "messages": messages})).0;
    assert_eq!(chat(json!([{"role": "user", "content": "x", "tool_calls": [{}]}])), 400);
    assert_eq!(chat(json!([{"role": "user", "content": [{"type": "image_url"}]}])), 400);
    let deep = "[".repeat(200_000);
    let mut garbage: Vec<Vec<u8>> = vec![b"{".into(), deep.into(), vec![0xFF; 1000], Vec::new()];
    garbage.push(format!("{{\"model\":\"base\",\"prompt\":\"{}\"}}", "a".repeat(17 << 20)).into_bytes());
    for bytes in &garbage {
        for path in ["/v1/completions", "/v1/chat/completions", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"] {
            for kind in ["application/json", "multipart/form-data; boundary=x", "multipart/form-data"] {
                let (status, answer) = server.post_bytes(path, kind, bytes);
                assert!((400..500).contains(&status), "{path} {kind}, {} bytes: {status} {answer}", bytes.len());
            }
        }
    }
    // No HTTP, and a client that leaves in the middle.
    let address = server.url().trim_start_matches("http://");
    for bytes in
        [&b"\x16\x03\x01\x02"[..], b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"mo"]
    {
        TcpStream::connect(address).expect("a connection").write_all(bytes).expect("sent");
    }
    assert_eq!(server.post("/v1/completions", &body("base", 1, 2)).0, 200);
    assert!(server.get("/metrics").1.contains("dump_rl_requests_failed_total 0\n"));
}

/// More at a time than allowed are told to come again.
#[test]
fn too_many_requests_are_sent_away_and_those_of_a_client_that_left_are_given_up() {
    let space = Workspace::new();
    let server = Server::with(space.model.path(), &["--name", "base", "--max-requests", "1"]);
    let asked = body("base", 64, 480).to_string();
    let address = server.url().trim_start_matches("http://");
    let mut busy = TcpStream::connect(address).expect("a connection");
    let head = format!("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", asked.len());
    busy.write_all((head + &asked).as_bytes()).expect("sent");
    crate::fixtures::wait_until("it runs", || server.get("/metrics").1.contains("dump_rl_requests_running 1\n"));
    assert_eq!(server.post("/v1/completions", &body("base", 1, 1)).0, 503);
    drop(busy);
    crate::fixtures::wait_until("it is given up", || server.get("/metrics").1.contains("dump_rl_requests_running 0\n"));
    assert_eq!(server.post("/v1/completions", &body("base", 1, 1)).0, 200);
}

#[test]
fn a_run_is_served_with_its_newest_policy_and_a_signal_ends_it_well() {
    let space = Workspace::new();
    let checkpoint = space.run_with_checkpoint();
    let mut server = Server::with(&space.path("run"), &["--name", "base"]);
    let answer = server.ask("/v1/completions", &body("run", 1, 8));
    assert_eq!(answer["model"], "run");
    let bytes = std::fs::read(checkpoint.join("adapter_model.safetensors")).expect("an adapter");
    let hash = engine::adapter::hash_bytes(&bytes);
    assert!(server.get("/v1/models").1.contains(&*hash.0));
    Command::new("kill").args(["-TERM", &server.id().to_string()]).status().expect("a signal");
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn what_cannot_be_served_is_refused() {
    let space = Workspace::new();
    space.refused(&["serve", &space.path("nothing").display().to_string()], &["nothing"]);
    let model = space.model.path().display().to_string();
    space.refused(&["serve", &model, "--model", "x"], &["--model", "no run's folder"]);
    let server = Server::of(space.model.path());
    let port = server.url().rsplit(':').next().expect("a port").to_string();
    space.refused(&["serve", &model, "--port", &port], &["--port", &port]);
    let output = dump_rl(&["serve", &model, "--dtype", "f16"]);
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("f32 or bf16"));
}
