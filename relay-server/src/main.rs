//! `shoal-relay`: reads the flags, serves until it is told to stop.

mod cli;

use std::{
    io::{IsTerminal as _, Write as _},
    net::SocketAddr,
    process::ExitCode,
};

use clap::Parser as _;
use shoal_relay::{Relay, RunningRelay};
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, LogFormat};

/// The WebRTC stack tells of every handshake and every packet that came late; that is not news.
const LOG: &str = "info,rtc=error,rtc_ice=error,rtc_dtls=error,rtc_sctp=error,rtc_mdns=error,webrtc=error";

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.log_format);
    match serve(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Each error says its cause itself.
            eprintln!("shoal-relay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("RUST_LOG").unwrap_or_else(|_| EnvFilter::new(LOG));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

async fn serve(cli: Cli) -> anyhow::Result<()> {
    // Listening for signals before anything is started: a signal during the start must not be missed.
    let mut told = signals()?;
    let relay = Relay::start(cli.config()?).await?;
    if let Err(error) = say_where(&relay) {
        // Whoever started the relay may have stopped listening to it; volunteers have not.
        tracing::warn!(%error, "cannot print the addresses");
    }
    told.recv().await;
    tracing::info!("stopping");
    relay.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Addresses for people, and for programs that started this one.
fn say_where(relay: &RunningRelay) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let local = relay.http_addr;
    let host = if local.ip().is_loopback() { "localhost".to_owned() } else { local.ip().to_string() };
    writeln!(out, "Shoal relay")?;
    writeln!(out, "  on this machine   http://{host}:{}/", local.port())?;
    if let Some(https) = relay.https_addr {
        for address in &relay.lan_addresses {
            writeln!(out, "  on the network    https://{}/", SocketAddr::new(*address, https.port()))?;
        }
        writeln!(out, "                    (the certificate is the relay's own: a browser asks once)")?;
    }
    // Which of several runs the flags meant, or all of them when they meant none.
    for run in relay.demo.as_slice().iter().chain(relay.runs.iter().filter(|_| relay.demo.is_none())) {
        writeln!(out, "  run               http://{host}:{}/?run={run}", local.port())?;
    }
    if relay.demo.is_some() && relay.runs.len() > 1 {
        writeln!(out, "                    ({} more at the address of this machine)", relay.runs.len() - 1)?;
    }
    writeln!(out, "  host token        {}", relay.host_token_file.display())?;
    out.flush()?;
    if !local.ip().is_loopback() {
        tracing::warn!("browsers train over plain HTTP on this machine only; others need the HTTPS address");
    }
    Ok(())
}

#[cfg(unix)]
fn signals() -> std::io::Result<tokio::sync::mpsc::Receiver<()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let (tell, told) = tokio::sync::mpsc::channel(1);
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let (mut signal, tell) = (signal(kind)?, tell.clone());
        tokio::spawn(async move {
            if signal.recv().await.is_some() {
                // A second signal while the first is handled changes nothing.
                tell.try_send(()).ok();
            }
        });
    }
    Ok(told)
}

#[cfg(not(unix))]
fn signals() -> std::io::Result<tokio::sync::mpsc::Receiver<()>> {
    let (tell, told) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            // Full: it was told already. Closed: it is ending.
            tell.try_send(()).ok();
        }
    });
    Ok(told)
}
