//! A run's history as a transparency log that existing tools can check: C2SP `tlog-tiles`, `tlog-checkpoint`,
//! `signed-note`, `tlog-cosignature` and `tlog-witness`, over the Merkle tree of RFC 6962.
//!
//! Everything here is a function of bytes. A shell keeps the entries, serves the tiles, and stores what a witness has
//! seen. `docs/log.md` says how the parts fit.

mod checkpoint;
mod entry;
mod merkle;
mod note;
mod tiles;
mod tree;
mod view;
mod witness;

pub use checkpoint::{Checkpoint, CheckpointError};
pub use entry::{ENTRY_BYTES, Entry, EntryError};
pub use merkle::{
    ProofError, Subtrees, TreeHash, consistency_proof, empty_root, inclusion_proof, leaf_hash, node_hash, root_hash,
    verify_consistency, verify_inclusion,
};
pub use note::{Cosigner, LogSigner, Note, NoteError, NoteSignature, VerifierKey};
pub use tiles::{TILE_WIDTH, Tile, TileError, TileKind, TileReader, decode_bundle, decode_hashes, encode_bundle};
pub use tree::Tree;
pub use view::{View, ViewError};
pub use witness::{Acceptance, AddCheckpoint, Refusal, Seen, Witness};
