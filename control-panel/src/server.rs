//! Connections: so many at once, each for so long.
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections at once; others wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to say what it wants.
const HEADERS_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection lasts. A page that follows what happens connects anew.
const CONNECTION_LIMIT: Duration = Duration::from_secs(660);
/// Bytes of a request's headers at most.
const HEADERS_LEN_MAX: usize = 16 * 1024;
/// After a connection could not be accepted, as for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers whoever connects.
pub async fn serve(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("a connection is not accepted: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_LIMIT)
            .max_buf_size(HEADERS_LEN_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            match tokio::time::timeout(CONNECTION_LIMIT, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => log::debug!("a connection: {error}"),
                Err(_) => log::debug!("a connection lasted too long"),
            }
            drop(place);
        });
    }
}
