//! A native peer: drives the mesh and the swarm with tokio, WebRTC links and files.

pub mod audit;
mod compute;
mod driver;
mod engine;
mod error;
pub mod http;
pub mod link;
mod node;
pub mod replay;
pub mod rtc;
mod socket;
mod storage;
mod tls;
mod training;
pub mod verify;
pub mod witness;

pub use engine::EngineChoice;
pub use error::NodeError;
pub use http::{RelayClient, RunSummary, parse_relay};
pub use node::{Node, NodeConfig, NodeEvent, NodeHandle, Status};
pub use tls::Trust;
