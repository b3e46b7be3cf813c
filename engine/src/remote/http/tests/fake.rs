//! A server that gives the same answer to the same route, and remembers what it was asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

#[derive(Clone)]
pub enum Say {
    /// An HTTP answer, byte for byte.
    Bytes(Vec<u8>),
    /// A byte now and then, without end.
    Drip,
}

impl Say {
    pub fn json(status: u16, body: Value) -> Self {
        Self::text(status, &body.to_string())
    }

    pub fn text(status: u16, body: &str) -> Self {
        let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        Self::Bytes([head.as_bytes(), body.as_bytes()].concat())
    }
}

pub struct Seen {
    /// Method and path.
    pub route: String,
    /// The headers in lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub struct Fake {
    pub url: Url,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Fake {
    /// Routes that are not there answer 404. The route `trial` is a completion with `allowed_token_ids`.
    pub async fn start(routes: Vec<(&'static str, Say)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let (routes, seen) = (Arc::new(routes), Arc::<Mutex<Vec<Seen>>>::default());
        let all = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, routes.clone(), all.clone()));
            }
        });
        Self { url, seen }
    }

    /// The requests of one route, oldest first.
    pub fn take(&self, route: &str) -> Vec<Seen> {
        self.seen.lock().unwrap().extract_if(.., |seen| seen.route == route).collect()
    }
}

async fn answer(mut stream: TcpStream, routes: Arc<Vec<(&'static str, Say)>>, all: Arc<Mutex<Vec<Seen>>>) {
    let Some(seen) = read(&mut stream).await else { return };
    let trial = String::from_utf8_lossy(&seen.body).contains("allowed_token_ids");
    let route = if trial { "trial".to_string() } else { seen.route.clone() };
    all.lock().unwrap().push(seen);
    let absent = Say::text(404, "{\"detail\":\"Not Found\"}");
    let say = routes.iter().find(|(name, _)| *name == route).map_or(absent, |(_, say)| say.clone());
    // The client may have gone: that is its right.
    match say {
        Say::Bytes(bytes) => drop(stream.write_all(&bytes).await),
        Say::Drip => {
            let mut bytes = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
            while stream.write_all(&bytes).await.is_ok() {
                bytes = b" ".to_vec();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    drop(stream.shutdown().await);
}

async fn read(stream: &mut TcpStream) -> Option<Seen> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut piece).await {
            Ok(read) if read > 0 => bytes.extend_from_slice(&piece[..read]),
            _ => return None,
        }
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let text = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let head = text.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        if bytes.len() >= end + 4 + length.parse::<usize>().unwrap() {
            let route = text.lines().next().unwrap().strip_suffix(" HTTP/1.1").unwrap().to_string();
            return Some(Seen { route, head, body: bytes.split_off(end + 4) });
        }
    }
}
