//! What the client costs: for docs/scaling.md, by `just bench-scale`.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use url::Url;

use super::settings;
use crate::remote::http::HttpServers;
use crate::remote::http::program::Program;
use crate::remote::{Connect, EndpointSettings, RemoteSettings, ServedModel, Server};
use crate::{Request, Sampling};

const EACH: usize = 8;
const PROMPT: usize = 200;
const TOKENS: usize = 128;
/// How long the servers take for a group.
const LATENCY: Duration = Duration::from_secs(1);

/// A server in threads of its own: a whole group to whatever is asked, after [`LATENCY`].
fn serve() -> Url {
    let prompt: Vec<u32> = (0..PROMPT as u32).collect();
    let choice = |index: usize| {
        let log_probs: Vec<f32> = (0..TOKENS).map(|at| -((at * 37 + index) as f32 % 91.0) / 17.3).collect();
        let names: Vec<String> = (0..TOKENS).map(|at| format!("token_id:{at}")).collect();
        json!({"index": index, "text": "", "token_ids": (0..TOKENS).collect::<Vec<_>>(), "finish_reason": "length",
            "prompt_token_ids": prompt, "full_token_logprobs": log_probs,
            "logprobs": {"tokens": names, "token_logprobs": log_probs, "top_logprobs": null, "text_offset": prompt}})
    };
    let body = json!({"id": "x", "choices": (0..EACH).map(choice).collect::<Vec<_>>()}).to_string();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(stream, answer.clone()));
            }
        });
    });
    Url::parse(&format!("http://{}", told.recv().unwrap())).unwrap()
}

async fn connection(mut stream: TcpStream, answer: String) {
    let (mut bytes, mut piece) = (Vec::new(), [0; 8192]);
    // A request ends with its JSON object.
    while let Ok(read @ 1..) = stream.read(&mut piece).await {
        bytes.extend_from_slice(&piece[..read]);
        if bytes.ends_with(b"}") {
            bytes.clear();
            tokio::time::sleep(LATENCY).await;
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// Seconds that this thread has computed.
fn computed() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() * 1e-9
}

#[test]
#[ignore = "a measurement, on Linux; just bench-scale runs it"]
fn completions_over_http() {
    let url = serve();
    let model = ServedModel { vocab_size: 1000, context: PROMPT + TOKENS, ..settings().model };
    let settings = RemoteSettings { model, ..settings() };
    let endpoint = EndpointSettings { url, model: None, max_sequences: usize::MAX };
    let server = HttpServers::new(&settings).unwrap().connect(&endpoint).unwrap();
    // What the probe would have found.
    *server.program.lock().unwrap() = Some(Program::Ours);
    let sampling = Sampling { max_new_tokens: TOKENS, ..Sampling::new(1.0, vec![]) };
    let request = Request { prompt: (0..PROMPT as u32).collect(), group_size: EACH, seed: 1, sampling };
    for groups in [125, 1000] {
        Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            // Opens the connections.
            join_all((0..groups).map(|_| server.generate("p", &request))).await;
            let (before, since) = (computed(), Instant::now());
            let answers = join_all((0..groups).map(|_| server.generate("p", &request))).await;
            let (cpu, wall) = (computed() - before, since.elapsed() - LATENCY);
            assert!(answers.into_iter().all(|answer| answer.is_ok_and(|answers| answers.len() == EACH)));
            let completions = groups * EACH;
            println!(
                "{completions} completions of {TOKENS} tokens in flight: {:.1} µs of CPU and {:.1} µs of time each",
                1e6 * cpu / completions as f64,
                1e6 * wall.as_secs_f64() / completions as f64
            );
        });
    }
}
