//! HTTPS with a certificate of the relay's own, because browsers give WebGPU and storage to secure contexts only.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use thiserror::Error;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

use crate::files::{self, FileError};

/// Browsers refuse longer-lived certificates even when told to trust them.
const LIFETIME: Duration = Duration::from_hours(390 * 24);
const RENEW_BEFORE: Duration = Duration::from_hours(30 * 24);

#[derive(Debug, Error)]
pub enum TlsError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("{path}: {error}; delete it to have a new certificate made")]
    Unusable { path: PathBuf, error: String },
}

/// The addresses at which others on the network reach `listener`.
pub fn lan_addresses(listener: SocketAddr) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = match if_addrs::get_if_addrs() {
        Ok(interfaces) => {
            interfaces.iter().filter(|i| !i.is_loopback() && !i.is_link_local()).map(if_addrs::Interface::ip).collect()
        }
        Err(error) => {
            tracing::warn!(%error, "cannot list this machine's addresses");
            Vec::new()
        }
    };
    found.retain(|&address| hears(listener.ip(), address));
    found.sort_unstable();
    found.dedup();
    found
}

/// Whether a listener on `own` answers at `address`. One on `::` takes IPv4, too.
fn hears(own: IpAddr, address: IpAddr) -> bool {
    own == address || own.is_unspecified() && (own.is_ipv6() || address.is_ipv4())
}

/// Loads the certificate in `dir`, or makes one for this machine and `addresses`. Returns which of these it names.
pub fn acceptor(dir: &Path, addresses: &[IpAddr]) -> Result<(TlsAcceptor, Vec<IpAddr>), TlsError> {
    let (certificate, key, about) = (dir.join("https.cert.pem"), dir.join("https.key.pem"), dir.join("https.names"));
    let known = if certificate.exists() && key.exists() { names_that_last(&about)? } else { Vec::new() };
    let names = if covers(&known, addresses) { known } else { make(&certificate, &key, &about, addresses)? };
    let named = addresses.iter().copied().filter(|address| names.contains(&address.to_string())).collect();
    Ok((load(&certificate, &key)?, named))
}

/// Whether a certificate with these names will do. Each IPv4 address must be named. Of the IPv6 addresses any is
/// enough: a machine that hides its interface's address gets new ones every day, and with a new certificate every
/// browser on the network would be asked again.
fn covers(names: &[String], addresses: &[IpAddr]) -> bool {
    let named = |address: &IpAddr| names.contains(&address.to_string());
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|address| address.is_ipv4());
    names.iter().any(|name| name == LOCALHOST) && v4.iter().all(named) && (v6.is_empty() || v6.iter().any(named))
}

const LOCALHOST: &str = "localhost";

fn make(certificate: &Path, key: &Path, about: &Path, addresses: &[IpAddr]) -> Result<Vec<String>, TlsError> {
    let mut names = vec![LOCALHOST.to_owned(), Ipv4Addr::LOCALHOST.to_string(), Ipv6Addr::LOCALHOST.to_string()];
    names.extend(addresses.iter().map(ToString::to_string));
    let pair = KeyPair::generate()?;
    let mut params = CertificateParams::new(names.clone())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "shoal-relay");
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    // A day of slack for clients whose clock is behind.
    params.not_before = epoch + (since_epoch().saturating_sub(Duration::from_hours(24)));
    params.not_after = epoch + (since_epoch() + LIFETIME);
    let signed = params.self_signed(&pair)?;
    files::write_secret(key, pair.serialize_pem().as_bytes())?;
    files::write(certificate, signed.pem().as_bytes())?;
    let until = (since_epoch() + LIFETIME).as_secs();
    files::write(about, format!("{until}\n{}\n", names.join("\n")).as_bytes())?;
    Ok(names)
}

/// The names in the certificate that `about` describes; none when it ends soon, or when nothing is known of it.
fn names_that_last(about: &Path) -> Result<Vec<String>, TlsError> {
    let text = match fs::read_to_string(about) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError { path: about.to_owned(), error }.into()),
    };
    let mut lines = text.lines();
    let until = lines.next().and_then(|line| line.parse().ok()).unwrap_or(0);
    let lasts = Duration::from_secs(until) > since_epoch() + RENEW_BEFORE;
    Ok(lines.filter(|_| lasts).map(str::to_owned).collect())
}

fn load(certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let unusable = |path: &Path, error: String| TlsError::Unusable { path: path.to_owned(), error };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(certificate, error.to_string()))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|error: rustls::Error| unusable(certificate, error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn since_epoch() -> Duration {
    // A clock set before 1970 counts as 1970.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn a_certificate_is_kept_until_the_machine_has_another_address() {
        let dir = tempfile::tempdir().unwrap();
        let certificate = || fs::read(dir.path().join("https.cert.pem")).unwrap();
        let home = IpAddr::from([192, 168, 1, 5]);
        acceptor(dir.path(), &[home]).unwrap();
        let first = certificate();
        acceptor(dir.path(), &[home]).unwrap();
        assert_eq!(certificate(), first);
        acceptor(dir.path(), &[]).unwrap();
        assert_eq!(certificate(), first, "fewer addresses need no new certificate");
        acceptor(dir.path(), &[home, IpAddr::from([10, 0, 0, 1])]).unwrap();
        assert_ne!(certificate(), first);
    }

    #[test]
    fn a_new_ipv6_address_beside_a_known_one_needs_no_new_certificate_and_is_not_offered() {
        let dir = tempfile::tempdir().unwrap();
        let certificate = || fs::read(dir.path().join("https.cert.pem")).unwrap();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (home, steady) = (address("192.168.1.5"), address("2001:db8::5"));
        let (monday, tuesday) = (address("2001:db8::a1"), address("2001:db8::a2"));
        let (_, named) = acceptor(dir.path(), &[home, steady, monday]).unwrap();
        assert_eq!(named, [home, steady, monday]);
        let first = certificate();
        let (_, named) = acceptor(dir.path(), &[home, steady, tuesday]).unwrap();
        assert_eq!((named, certificate()), (vec![home, steady], first.clone()));
        let (_, named) = acceptor(dir.path(), &[home]).unwrap();
        assert_eq!((named, certificate()), (vec![home], first.clone()), "it listens on IPv4 only by now");
        let (_, named) = acceptor(dir.path(), &[home, tuesday]).unwrap();
        assert_eq!(named, [home, tuesday]);
        assert_ne!(certificate(), first, "none of the IPv6 addresses was named");
    }

    #[test]
    fn a_listener_is_offered_only_where_it_answers() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (v4, v6) = (address("192.168.1.5"), address("2001:db8::5"));
        for (own, hears_v4, hears_v6) in [
            ("0.0.0.0", true, false),
            ("::", true, true),
            ("192.168.1.5", true, false),
            ("2001:db8::5", false, true),
            ("127.0.0.1", false, false),
        ] {
            assert_eq!((hears(address(own), v4), hears(address(own), v6)), (hears_v4, hears_v6), "{own}");
        }
    }

    #[test]
    fn a_broken_certificate_is_named() {
        let dir = tempfile::tempdir().unwrap();
        acceptor(dir.path(), &[]).unwrap();
        fs::write(dir.path().join("https.key.pem"), "nonsense").unwrap();
        let error = acceptor(dir.path(), &[]).err().expect("refused").to_string();
        assert!(error.contains("https.key.pem"), "{error}");
    }
}
