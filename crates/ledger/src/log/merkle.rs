//! The Merkle tree of RFC 6962 (section 2.1) and the verification of its proofs (RFC 9162, sections 2.1.3 and 2.1.4).
//!
//! A tree is known here by the hashes of its perfect subtrees ([`Subtrees`]): all of them in memory ([`super::Tree`]),
//! or those that tiles hold ([`super::TileReader`]).

use core::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// A node of a log's tree. It is a SHA-256, unlike every [`shoal_wire::Digest`], because tools for logs compute that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeHash(pub [u8; 32]);

impl TreeHash {
    /// Reads the base64 form that checkpoints and proofs have.
    pub fn from_base64(text: &str) -> Option<Self> {
        STANDARD.decode(text).ok()?.try_into().ok().map(Self)
    }
}

/// In base64, as a checkpoint has it.
impl fmt::Display for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TreeHash({self})")
    }
}

/// Why a proof does not hold.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ProofError {
    #[error("the entry or the older tree lies outside of the tree")]
    OutOfRange,
    #[error("the proof has too few or too many hashes")]
    Length,
    #[error("the proof leads to another root")]
    Root,
}

/// Root of the tree without entries.
pub fn empty_root() -> TreeHash {
    TreeHash(Sha256::digest([]).into())
}

pub fn leaf_hash(entry: &[u8]) -> TreeHash {
    TreeHash(Sha256::new().chain_update([0]).chain_update(entry).finalize().into())
}

pub fn node_hash(left: TreeHash, right: TreeHash) -> TreeHash {
    TreeHash(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// Where the hashes of perfect subtrees come from.
pub trait Subtrees {
    type Error;
    /// Hash of the subtree over the 2^`height` entries from `index` · 2^`height` on, all of which the tree has.
    fn subtree(&mut self, height: u32, index: u64) -> Result<TreeHash, Self::Error>;
}

/// Entries in the left part of a tree of `size` entries, at least two: the largest power of two below `size`.
fn left_part(size: u64) -> u64 {
    1 << (u64::BITS - 1 - (size - 1).leading_zeros())
}

/// Hash over the entries from `start` to before `end`, which are a part that RFC 6962 splits a tree into.
fn part<S: Subtrees>(subtrees: &mut S, start: u64, end: u64) -> Result<TreeHash, S::Error> {
    let size = end - start;
    if size.is_power_of_two() {
        // Parts of that size start at a multiple of it.
        return subtrees.subtree(size.trailing_zeros(), start / size);
    }
    let middle = start + left_part(size);
    Ok(node_hash(part(subtrees, start, middle)?, part(subtrees, middle, end)?))
}

/// Root of the tree over the first `size` entries.
pub fn root_hash<S: Subtrees>(subtrees: &mut S, size: u64) -> Result<TreeHash, S::Error> {
    if size == 0 { Ok(empty_root()) } else { part(subtrees, 0, size) }
}

/// Proof that an entry is in the tree over the first `size` entries. Empty, and good for nothing, when it is not.
pub fn inclusion_proof<S: Subtrees>(subtrees: &mut S, index: u64, size: u64) -> Result<Vec<TreeHash>, S::Error> {
    let mut proof = Vec::new();
    let (mut start, mut end) = (0, size);
    while index < size && end - start > 1 {
        let middle = start + left_part(end - start);
        if index < middle {
            proof.push(part(subtrees, middle, end)?);
            end = middle;
        } else {
            proof.push(part(subtrees, start, middle)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// Proof that the tree over the first `old` entries is the beginning of that over the first `new` ones. Empty when one
/// of them is empty or they have one size, and, good for nothing, when `old` is larger.
pub fn consistency_proof<S: Subtrees>(subtrees: &mut S, old: u64, new: u64) -> Result<Vec<TreeHash>, S::Error> {
    let mut proof = Vec::new();
    if old == 0 || old >= new {
        return Ok(proof);
    }
    let (mut start, mut end) = (0, new);
    while old != end {
        let middle = start + left_part(end - start);
        if old <= middle {
            proof.push(part(subtrees, middle, end)?);
            end = middle;
        } else {
            proof.push(part(subtrees, start, middle)?);
            start = middle;
        }
    }
    // What the verifier has anyway, the whole old root, is left out.
    if start > 0 {
        proof.push(part(subtrees, start, end)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Checks that the entry with hash `leaf` is the one at `index` in the tree of `size` entries with this root. Size and
/// root belong together: they come from one checkpoint.
pub fn verify_inclusion(
    leaf: TreeHash,
    index: u64,
    size: u64,
    proof: &[TreeHash],
    root: TreeHash,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::OutOfRange);
    }
    let (mut at, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in proof {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(*sibling, hash);
            skip_lone_ancestors(&mut at, &mut last);
        } else {
            hash = node_hash(hash, *sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    if last != 0 {
        return Err(ProofError::Length);
    }
    if hash == root { Ok(()) } else { Err(ProofError::Root) }
}

/// Checks that the tree of `old` entries with root `old_root` is the beginning of that of `new` entries with `new_root`.
/// Each size and its root come from one checkpoint.
pub fn verify_consistency(
    old: u64,
    old_root: TreeHash,
    new: u64,
    new_root: TreeHash,
    proof: &[TreeHash],
) -> Result<(), ProofError> {
    if old > new {
        return Err(ProofError::OutOfRange);
    }
    if old == new || old == 0 {
        let expected = if old == new { new_root } else { empty_root() };
        return match proof {
            [] if old_root == expected => Ok(()),
            [] => Err(ProofError::Root),
            _ => Err(ProofError::Length),
        };
    }
    // A whole old tree is a subtree of the new one; then the proof does not repeat its root.
    let (first, rest) = if old.is_power_of_two() {
        (old_root, proof)
    } else {
        let (first, rest) = proof.split_first().ok_or(ProofError::Length)?;
        (*first, rest)
    };
    let (mut at, mut last) = (old - 1, new - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let (mut old_hash, mut new_hash) = (first, first);
    for sibling in rest {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if at & 1 == 1 || at == last {
            old_hash = node_hash(*sibling, old_hash);
            new_hash = node_hash(*sibling, new_hash);
            skip_lone_ancestors(&mut at, &mut last);
        } else {
            new_hash = node_hash(new_hash, *sibling);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    if last != 0 {
        return Err(ProofError::Length);
    }
    if old_hash == old_root && new_hash == new_root { Ok(()) } else { Err(ProofError::Root) }
}

/// The last node of a level has no sibling where the tree is ragged, and moves up as it is.
fn skip_lone_ancestors(at: &mut u64, last: &mut u64) {
    while *at & 1 == 0 && *at != 0 {
        (*at, *last) = (*at >> 1, *last >> 1);
    }
}
