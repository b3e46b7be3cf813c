//! Connections: how many, and how long one may take to say what it wants.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// More wait until one closes.
const CONNECTIONS: usize = 8192;
/// How long a client may take for the head of a request, and a connection may be idle.
const HEAD: Duration = Duration::from_secs(60);
/// How long running requests may take when the server stops.
const LAST_REQUESTS: Duration = Duration::from_secs(10);

/// Answers connections by `routes` until `stop` turns true, then lets running requests end.
pub async fn accept(listener: TcpListener, routes: Router, mut stop: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let running = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            next = next => next,
        };
        let Some(stream) = usable(accepted).await else { continue };
        let service = TowerToHyperService::new(routes.clone());
        let connection = running.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // A client that breaks off, or that sends no HTTP, is not worth a line.
            let _ = connection.await;
            drop(slot);
        });
    }
    let _ = tokio::time::timeout(LAST_REQUESTS, running.shutdown()).await;
}

/// The connection, without the delay that waits for more to send. After an error, such as too many open files, a moment passes.
async fn usable(accepted: io::Result<(TcpStream, std::net::SocketAddr)>) -> Option<TcpStream> {
    match accepted {
        Ok((stream, _)) => {
            // Without it the connection is only slower.
            let _ = stream.set_nodelay(true);
            Some(stream)
        }
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}
