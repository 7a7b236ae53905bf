//! The accept loop: hyper with a timer, so that a client which never finishes its headers is cut off, and a cap
//! on connections from one address.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

/// Headers must arrive within this; it also ends a kept-alive connection that nothing is asked on.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(20);
const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_BYTES_MAX: usize = 32 * 1024;

/// Counts the connections of each address.
#[derive(Debug)]
pub struct Admission {
    per_address_max: usize,
    total_max: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// A place that an accepted connection holds.
#[derive(Debug)]
struct Place {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admission {
    pub fn new(per_address_max: usize, total_max: usize) -> Arc<Self> {
        Arc::new(Self { per_address_max, total_max, counts: Mutex::default() })
    }

    fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = group(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let held = counts.by_address.get(&address).copied().unwrap_or(0);
        if held >= self.per_address_max || counts.total >= self.total_max {
            return None;
        }
        counts.total += 1;
        counts.by_address.insert(address, held + 1);
        Some(Place { admission: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.admission.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        if let Some(held) = counts.by_address.get_mut(&self.address) {
            *held -= 1;
            if *held == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

/// One household or server usually holds a whole IPv6 /64, so that is what counts as one address.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let s = v6.segments();
            IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

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
                connections.spawn(async move {
                    serve_one(stream, address, tls, router, stop).await;
                    drop(place);
                });
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
    router: Router,
    stop: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%address, %error, "no TCP_NODELAY");
    }
    let result = match tls {
        None => serve_http(stream, router, stop).await,
        Some(tls) => match timeout(TLS_HANDSHAKE_TIMEOUT, handshake(stream, tls)).await {
            Ok(Ok(Some(stream))) => serve_http(stream, router, stop).await,
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

async fn serve_http<S>(stream: S, router: Router, mut stop: watch::Receiver<bool>) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn an_address_gets_its_share_and_places_come_back() {
        let admission = Admission::new(2, 3);
        let (home, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let places: Vec<_> = (0..2).map(|_| admission.admit(home).expect("within its share")).collect();
        assert!(admission.admit(home).is_none(), "a third from one address");
        let _one_more = admission.admit(other).expect("within the total");
        assert!(admission.admit(other).is_none(), "beyond the total");
        drop(places);
        assert!(admission.admit(home).is_some());
    }

    #[test]
    fn a_v6_network_counts_as_one_address_and_mapped_v4_as_v4() {
        let admission = Admission::new(1, 10);
        let _place = admission.admit("2001:db8::1".parse().unwrap()).unwrap();
        assert!(admission.admit("2001:db8::ffff:2".parse().unwrap()).is_none());
        assert!(admission.admit("2001:db8:0:1::1".parse().unwrap()).is_some());
        let _v4 = admission.admit("::ffff:10.0.0.1".parse().unwrap()).unwrap();
        assert!(admission.admit("10.0.0.1".parse().unwrap()).is_none());
    }
}
