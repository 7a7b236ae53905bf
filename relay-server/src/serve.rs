//! The accept loop: hyper with timers, so that a client which stops in the middle of something is cut off, and caps on
//! connections, from one address and in all.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use shoal_wire::limits;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;
use tracing::{debug, warn};

use crate::{
    admission::{Admission, Place},
    patience::{Patient, Stalled},
};

/// Headers must arrive within this; it also ends a kept-alive connection that nothing is asked on.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(20);
const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A request's body must go on arriving within this.
const BODY_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// An answer must go on being taken within this. It is long, because a slow link empties megabytes of a system's send
/// buffer before the system takes more.
const ANSWER_STALL_TIMEOUT: Duration = Duration::from_mins(2);

/// Accepts until `stop` turns true, then lets requests that are being answered finish.
pub async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    admission: Arc<Admission>,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // The sender lives as long as the relay; if it is gone, so is the relay.
            _ = stop.wait_for(|&stop| stop) => break,
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection's task failed");
                }
                continue;
            }
        };
        match accepted {
            Ok((stream, address)) => {
                let Some(place) = admission.admit(address.ip()) else {
                    debug!(%address, "too many connections from this address");
                    continue;
                };
                let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
                connections.spawn(serve_one(stream, address, tls, (router, Arc::new(place)), stop));
            }
            Err(error) => {
                // Out of file descriptors, for one: wait for some to be free rather than spin.
                warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve_one(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    app: (Router, Arc<Place>),
    stop: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%address, %error, "no TCP_NODELAY");
    }
    let result = match tls {
        None => serve_http(stream, app, stop).await,
        Some(tls) => match timeout(TLS_HANDSHAKE_TIMEOUT, handshake(stream, tls)).await {
            Ok(Ok(Some(stream))) => serve_http(stream, app, stop).await,
            Ok(Ok(None)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_late) => Err("the TLS handshake took too long".to_owned()),
        },
    };
    if let Err(error) = result {
        debug!(%address, error, "connection ended");
    }
}

/// The first byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// `None` when the client spoke plain HTTP and was told not to.
async fn handshake(
    mut stream: TcpStream,
    tls: TlsAcceptor,
) -> io::Result<Option<tokio_rustls::server::TlsStream<TcpStream>>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
        let text = "This port speaks HTTPS: write https:// before the address.\n";
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
            text.len()
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        return Ok(None);
    }
    tls.accept(stream).await.map(Some)
}

/// The place goes with each request: after an upgrade this function returns, and the WebSocket holds the place.
async fn serve_http<S>(
    stream: S,
    (router, place): (Router, Arc<Place>),
    mut stop: watch::Receiver<bool>,
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = Patient::new(stream, ANSWER_STALL_TIMEOUT);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(place.clone());
        // A router is always ready.
        router.clone().call(request.map(|body| Body::new(Stalled::new(body, BODY_STALL_TIMEOUT))))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_buf_size(limits::HEADERS_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result.map_err(|error| error.to_string()),
        _ = stop.wait_for(|&stop| stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await.map_err(|error| error.to_string())
}
