//! Shoal in a browser: one Wasm module with three entry points.
//!
//! - [`PageLinks`](page::PageLinks) runs on the page and owns the `RTCPeerConnection`s, which may live
//!   nowhere else; it hands their data channels to the peer worker.
//! - [`PeerWorker`](peer::PeerWorker) drives the swarm and the mesh: the relay's WebSocket, data channels,
//!   and the browser's private file system.
//! - [`ComputeWorker`](compute::ComputeWorker) drives the engine: training, checks, the outer step, samples.
//!
//! The cores have no clock, randomness or I/O; this shell gives them the browser's.
#![cfg(all(target_arch = "wasm32", target_os = "unknown"))]

mod bench;
mod blob;
mod compute;
mod files;
mod golden;
mod http;
mod inbox;
mod lane;
mod messages;
mod opfs;
mod page;
mod peer;
mod scope;
mod team;
