//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, ValueEnum};
use shoal_learn::presets::Preset;
use shoal_ledger::log::VerifierKey;
use shoal_node::witness::WitnessAddress;
use shoal_relay::{Config, Demo};
use shoal_wire::manifest::Codec;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Introduces volunteers to each other, keeps runs and their data, and serves the pages.
///
/// Try it: `shoal-relay --demo --resident`, then open the printed address.
#[derive(Debug, Parser)]
#[command(name = "shoal-relay", version)]
pub struct Cli {
    /// Address for plain HTTP; browsers train over it on this machine only (`localhost` is secure to them)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", env = "SHOAL_LISTEN")]
    listen: SocketAddr,

    /// Address for HTTPS, with a certificate of the relay's own, for others on the network
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443", env = "SHOAL_HTTPS_LISTEN")]
    https_listen: SocketAddr,

    /// Serve this machine only
    #[arg(long)]
    no_https: bool,

    /// Where runs, blobs, the index and the keys are kept
    #[arg(long, value_name = "DIR", default_value = "shoal-data", env = "SHOAL_DATA_DIR")]
    data_dir: PathBuf,

    /// Run a peer in this process that archives the runs and anchors those that name it
    #[arg(long)]
    resident: bool,

    /// A further web site whose scripts may connect, such as https://example.org (repeatable)
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,

    /// A site that may embed the compact page, such as https://example.org (repeatable; none given: any site)
    #[arg(long, value_name = "ORIGIN")]
    embed_origin: Vec<String>,

    /// Name of this relay in the origins of its logs, such as relay.example.org [default: one made from their key]
    #[arg(long, value_name = "NAME")]
    log_name: Option<String>,

    /// A witness that cosigns the checkpoints of this relay's logs (repeatable)
    #[arg(long, value_name = "URL+VKEY", value_parser = WitnessAddress::parse)]
    witness: Vec<WitnessAddress>,

    /// Key of a log whose checkpoints this relay cosigns as a witness (repeatable)
    #[arg(long, value_name = "VKEY", value_parser = VerifierKey::parse)]
    witness_log: Vec<VerifierKey>,

    /// Bytes that uploads may take in all
    #[arg(long, value_name = "BYTES", default_value_t = 16 * 1024 * 1024 * 1024)]
    quota_bytes: u64,

    /// Connections from one address (an IPv6 /64 counts as one)
    #[arg(long, value_name = "NUMBER", default_value_t = 512)]
    connections_per_address: usize,

    /// How the log on the standard error stream looks; RUST_LOG=debug says more
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Create a demo run, if the data directory has none or none that is as chosen below
    #[arg(long)]
    demo: bool,

    #[command(flatten)]
    demo_run: DemoRun,
}

/// What `--demo` makes. The same choices find the same run again; other choices make another run beside it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Demo run")]
struct DemoRun {
    /// Size of the model: tiny (forty thousand parameters), small (half a million), base (ten million)
    /// [default: small]
    #[arg(long, value_name = "SIZE", requires = "demo")]
    model: Option<Preset>,

    /// Name of the run
    #[arg(long, requires = "demo")]
    name: Option<String>,

    /// Plain text (UTF-8) to train on, instead of the bundled stories
    #[arg(long, value_name = "FILE", requires = "demo")]
    data: Option<PathBuf>,

    /// SPDX licence of your text, shown to volunteers [default: LicenseRef-Host]
    #[arg(long, value_name = "SPDX", requires = "data")]
    licence: Option<String>,

    /// Sequences in a batch
    #[arg(long, value_name = "NUMBER", requires = "demo")]
    batch: Option<u32>,

    /// Tokens in a sequence
    #[arg(long, value_name = "NUMBER", requires = "demo")]
    context: Option<u32>,

    /// The most training steps in a round
    #[arg(long, value_name = "NUMBER", requires = "demo")]
    local_steps: Option<u32>,

    /// Peak learning rate
    #[arg(long, value_name = "RATE", requires = "demo")]
    learning_rate: Option<f32>,

    /// How updates are compressed
    #[arg(long, value_enum, requires = "demo")]
    codec: Option<CodecName>,

    /// Bytes at the end of the text that measure the model and are not trained on
    #[arg(long, value_name = "BYTES", requires = "demo")]
    held_out_bytes: Option<u64>,

    /// A round's training ends after this
    #[arg(long, value_name = "MS", requires = "demo")]
    train_ms_max: Option<u32>,

    /// Time to exchange updates before the leader proposes what most have
    #[arg(long, value_name = "MS", requires = "demo")]
    exchange_ms_max: Option<u32>,

    /// First timeout of each step of agreement
    #[arg(long, value_name = "MS", requires = "demo")]
    view_ms: Option<u32>,

    /// With too few peers present for this long, anchors recover
    #[arg(long, value_name = "MS", requires = "demo")]
    recovery_ms: Option<u32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CodecName {
    /// 4 bits a value
    Dense4,
    /// 64 of each 4,096 values
    Topk,
}

impl From<DemoRun> for Demo {
    fn from(run: DemoRun) -> Self {
        let codec = run.codec.map(|codec| match codec {
            CodecName::Dense4 => Codec::Dense4,
            CodecName::Topk => Codec::Topk,
        });
        Self {
            preset: run.model,
            name: run.name,
            data: run.data,
            licence: run.licence,
            batch: run.batch,
            context: run.context,
            local_steps: run.local_steps,
            learning_rate: run.learning_rate,
            codec,
            held_out_bytes: run.held_out_bytes,
            train_ms_max: run.train_ms_max,
            exchange_ms_max: run.exchange_ms_max,
            view_ms: run.view_ms,
            recovery_ms: run.recovery_ms,
        }
    }
}

impl Cli {
    pub fn config(self) -> anyhow::Result<Config> {
        for origin in self.allow_origin.iter().chain(&self.embed_origin) {
            check_origin(origin)?;
        }
        let demo = self.demo.then(|| self.demo_run.into());
        Ok(Config {
            listen: self.listen,
            https_listen: (!self.no_https).then_some(self.https_listen),
            resident: self.resident,
            demo,
            allow_origins: self.allow_origin,
            embed_origins: self.embed_origin,
            log_name: self.log_name,
            witness_logs: self.witness_log,
            witnesses: self.witness,
            quota_bytes: self.quota_bytes,
            connections_per_address_max: self.connections_per_address,
            ..Config::new(self.data_dir)
        })
    }
}

/// An origin goes into headers as it is, so it must be nothing but an origin.
fn check_origin(origin: &str) -> anyhow::Result<()> {
    let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let plain =
        |host: &str| !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-[]".contains(&b));
    anyhow::ensure!(
        authority.is_some_and(plain),
        "{origin:?} is not an origin: write it as https://example.org, without a path"
    );
    Ok(())
}
