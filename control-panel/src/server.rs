//! Connections: so many at once, each for so long.
use crate::tokens::must_be_private;
use anyhow::{Context, Result, ensure};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

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
pub async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, router: Router) {
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
        let (router, tls) = (router.clone(), tls.clone());
        tokio::spawn(async move {
            let served = async {
                match tls {
                    None => answer(stream, router).await,
                    Some(tls) => match tokio::time::timeout(HEADERS_LIMIT, tls.accept(stream)).await {
                        Ok(Ok(stream)) => answer(stream, router).await,
                        Ok(Err(error)) => log::debug!("a connection: TLS: {error}"),
                        Err(_) => log::debug!("a connection: it takes too long to begin TLS"),
                    },
                }
            };
            if tokio::time::timeout(CONNECTION_LIMIT, served).await.is_err() {
                log::debug!("a connection lasted too long");
            }
            drop(place);
        });
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_LIMIT)
        .max_buf_size(HEADERS_LEN_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = connection.await {
        log::debug!("a connection: {error}");
    }
}

/// What is needed for TLS, from files in PEM.
pub fn tls(certificates: &Path, key: &Path) -> Result<TlsAcceptor> {
    let wrong = |path: &Path, what: &str| format!("{}: expected {what} in PEM", path.display());
    let chain = CertificateDer::pem_file_iter(certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| wrong(certificates, "certificates"))?;
    ensure!(!chain.is_empty(), wrong(certificates, "certificates"));
    let file = File::open(key).with_context(|| format!("{}: cannot be read", key.display()))?;
    must_be_private(key, &file)?;
    let secret = PrivateKeyDer::from_pem_reader(&file).with_context(|| wrong(key, "a private key"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .with_context(|| format!("{} and {}", certificates.display(), key.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
