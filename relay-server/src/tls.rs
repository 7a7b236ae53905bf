//! HTTPS with a certificate of the relay's own, because browsers give WebGPU and storage to secure contexts only.

use std::{
    fs, io,
    net::IpAddr,
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

/// The addresses of this machine that others on its network can reach.
pub fn lan_addresses() -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = match if_addrs::get_if_addrs() {
        Ok(interfaces) => {
            interfaces.iter().filter(|i| !i.is_loopback() && !i.is_link_local()).map(if_addrs::Interface::ip).collect()
        }
        Err(error) => {
            tracing::warn!(%error, "cannot list this machine's addresses");
            Vec::new()
        }
    };
    found.sort_unstable();
    found.dedup();
    found
}

/// Loads the certificate in `dir`, or makes one for localhost and `addresses`.
pub fn acceptor(dir: &Path, addresses: &[IpAddr]) -> Result<TlsAcceptor, TlsError> {
    let (certificate, key, about) = (dir.join("https.cert.pem"), dir.join("https.key.pem"), dir.join("https.names"));
    let names = names(addresses);
    if !usable(&about, &names)? || !certificate.exists() || !key.exists() {
        let pair = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.clone())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "shoal-relay");
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        // A day of slack for clients whose clock is behind.
        params.not_before = epoch + (since_epoch().saturating_sub(Duration::from_hours(24)));
        params.not_after = epoch + (since_epoch() + LIFETIME);
        let signed = params.self_signed(&pair)?;
        files::write_secret(&key, pair.serialize_pem().as_bytes())?;
        files::write(&certificate, signed.pem().as_bytes())?;
        let until = (since_epoch() + LIFETIME).as_secs();
        files::write(&about, format!("{until}\n{}\n", names.join("\n")).as_bytes())?;
    }
    load(&certificate, &key)
}

fn names(addresses: &[IpAddr]) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend(addresses.iter().map(ToString::to_string));
    names
}

/// Whether the certificate that `about` describes is valid for a while and for every name.
fn usable(about: &Path, names: &[String]) -> Result<bool, TlsError> {
    let text = match fs::read_to_string(about) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(FileError { path: about.to_owned(), error }.into()),
    };
    let mut lines = text.lines();
    let until = lines.next().and_then(|line| line.parse().ok()).unwrap_or(0);
    let known: Vec<&str> = lines.collect();
    let fresh = Duration::from_secs(until) > since_epoch() + RENEW_BEFORE;
    Ok(fresh && names.iter().all(|name| known.contains(&name.as_str())))
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
    fn a_broken_certificate_is_named() {
        let dir = tempfile::tempdir().unwrap();
        acceptor(dir.path(), &[]).unwrap();
        fs::write(dir.path().join("https.key.pem"), "nonsense").unwrap();
        let error = acceptor(dir.path(), &[]).err().expect("refused").to_string();
        assert!(error.contains("https.key.pem"), "{error}");
    }
}
