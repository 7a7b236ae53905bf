//! What all subcommands that talk to a relay share.

use std::future::Future;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use shoal_node::{RelayClient, Trust, parse_relay};
use shoal_wire::RunId;
use tracing_subscriber::EnvFilter;

/// Whom to trust when the relay is reached by HTTPS.
#[derive(clap::Args, Clone)]
pub struct TlsArgs {
    /// Accept any certificate, such as a relay's own; what is signed or has a digest stays checked
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
    /// PEM file with the relay's certificate, or that of who signed it
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl TlsArgs {
    pub fn client(&self, relay: &str) -> Result<RelayClient> {
        let trust = match &self.ca {
            _ if self.insecure => Trust::Anyone,
            Some(file) => Trust::File(file.clone()),
            None => Trust::System,
        };
        Ok(RelayClient::new(parse_relay(relay)?, trust)?)
    }
}

/// Reads a run's id as `shoal run list` prints it.
pub fn parse_run(text: &str) -> Result<RunId> {
    RunId::from_hex(text).ok_or_else(|| {
        anyhow!("{text:?} is not a run's id, which has 64 hexadecimal digits; see `shoal run list RELAY`")
    })
}

/// Runs a future to its end, with room for WebRTC's threads.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    // More than two threads make webrtc-rs slower, not faster.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    runtime.block_on(future)
}

/// Logs to standard error what `RUST_LOG` asks for; warnings unless told otherwise.
pub fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,webrtc=error,rtc=error"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if subscriber.try_init().is_err() {
        // Another subscriber is there already, and gets the same records.
    }
}
