//! What the host chooses.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use shoal_ledger::log::VerifierKey;
use shoal_node::witness::WitnessAddress;
use shoal_wire::limits;

use crate::{demo::Demo, socket::Rates};

#[derive(Clone, Debug)]
pub struct Config {
    /// Address for plain HTTP. Browsers train over it on this machine only.
    pub listen: SocketAddr,
    pub https_listen: Option<SocketAddr>,
    pub data_dir: PathBuf,
    /// Runs a peer in this process that archives and anchors the runs that name it.
    pub resident: bool,
    /// Creates a run, if there is none or none that was made from these choices.
    pub demo: Option<Demo>,
    /// Further web sites whose scripts may connect.
    pub allow_origins: Vec<String>,
    /// Sites that may embed the compact page; none means any.
    pub embed_origins: Vec<String>,
    /// What the origins of this relay's logs begin with; without it, a name made from their key.
    pub log_name: Option<String>,
    /// Logs whose checkpoints this relay cosigns as a witness.
    pub witness_logs: Vec<VerifierKey>,
    /// Witnesses that are asked to cosign this relay's checkpoints.
    pub witnesses: Vec<WitnessAddress>,
    pub quota_bytes: u64,
    pub room_peers_max: usize,
    pub connections_per_address_max: usize,
    pub connections_max: usize,
    pub rates: Rates,
}

impl Config {
    /// Defaults with everything in `data_dir`: HTTP on a free port of this machine, nothing else.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            https_listen: None,
            data_dir: data_dir.into(),
            resident: false,
            demo: None,
            allow_origins: Vec::new(),
            embed_origins: Vec::new(),
            log_name: None,
            witness_logs: Vec::new(),
            witnesses: Vec::new(),
            quota_bytes: 16 * 1024 * 1024 * 1024,
            room_peers_max: limits::ROOM_PEERS_MAX,
            connections_per_address_max: 512,
            connections_max: 8192,
            rates: Rates::default(),
        }
    }
}
