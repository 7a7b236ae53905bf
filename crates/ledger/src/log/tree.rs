//! A growing tree with all its perfect subtrees in memory: 64 bytes an entry.

use super::{
    Entry, TreeHash, consistency_proof, inclusion_proof, leaf_hash,
    merkle::{Subtrees, node_hash, root_hash},
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Hashes of the perfect subtrees, by height, then in order.
    levels: Vec<Vec<TreeHash>>,
}

/// The tree is smaller than that.
#[derive(Clone, Copy, Debug)]
struct Outside;

struct Perfect<'a>(&'a Tree);

impl Subtrees for Perfect<'_> {
    type Error = Outside;

    fn subtree(&mut self, height: u32, index: u64) -> Result<TreeHash, Outside> {
        let level = self.0.levels.get(height as usize).ok_or(Outside)?;
        usize::try_from(index).ok().and_then(|index| level.get(index)).copied().ok_or(Outside)
    }
}

impl Tree {
    /// The log of these entries. Whoever holds a run's certificates makes its log from them ([`Entry::of`]).
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut tree = Self::default();
        for entry in entries {
            tree.push(leaf_hash(&entry.encode()));
        }
        tree
    }

    /// Adds an entry by its [`leaf_hash`].
    pub fn push(&mut self, leaf: TreeHash) {
        let mut hash = leaf;
        for height in 0.. {
            if self.levels.len() == height {
                self.levels.push(Vec::new());
            }
            let level = &mut self.levels[height];
            level.push(hash);
            let [.., left, right] = level[..] else { return };
            if level.len() % 2 == 1 {
                return;
            }
            hash = node_hash(left, right);
        }
    }

    pub fn size(&self) -> u64 {
        self.levels.first().map_or(0, |leaves| leaves.len() as u64)
    }

    /// Root over the first `size` entries; `None` when there are fewer. So with the proofs below.
    pub fn root_at(&self, size: u64) -> Option<TreeHash> {
        root_hash(&mut Perfect(self), size).ok()
    }

    pub fn inclusion(&self, index: u64, size: u64) -> Option<Vec<TreeHash>> {
        if index < size { inclusion_proof(&mut Perfect(self), index, size).ok() } else { None }
    }

    pub fn consistency(&self, old: u64, new: u64) -> Option<Vec<TreeHash>> {
        if old <= new && new <= self.size() { consistency_proof(&mut Perfect(self), old, new).ok() } else { None }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::log::{ProofError, empty_root, verify_consistency, verify_inclusion};

    /// The entries of Certificate Transparency's test trees, and the roots over none, one, ... all of them.
    const ENTRIES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn numbered(size: u64) -> Tree {
        let mut tree = Tree::default();
        (0..size).for_each(|number| tree.push(leaf_hash(&number.to_be_bytes())));
        tree
    }

    fn leaf(index: u64) -> TreeHash {
        leaf_hash(&index.to_be_bytes())
    }

    /// Every proof that differs from this one in one bit of one hash, or in its length.
    fn altered(proof: &[TreeHash]) -> Vec<Vec<TreeHash>> {
        let mut all = Vec::new();
        for at in 0..proof.len() {
            let mut flipped = proof.to_vec();
            flipped[at].0[at % 32] ^= 1 << (at % 8);
            let mut shorter = proof.to_vec();
            shorter.remove(at);
            all.extend([flipped, shorter]);
        }
        all.push([proof, &[leaf(7)]].concat());
        all
    }

    #[test]
    fn roots_are_those_of_certificate_transparency() {
        let mut tree = Tree::default();
        for entry in ENTRIES {
            tree.push(leaf_hash(&hex::decode(entry).unwrap()));
        }
        for (size, root) in (0..).zip(ROOTS) {
            assert_eq!(hex::encode(tree.root_at(size).unwrap().0), root, "{size} entries");
        }
        assert_eq!(tree.root_at(0), Some(empty_root()));
        assert_eq!(tree.root_at(9), None);
    }

    #[test]
    fn every_inclusion_proof_to_size_64_verifies_and_no_altered_one_does() {
        let tree = numbered(64);
        for size in 1..=64 {
            let root = tree.root_at(size).unwrap();
            for index in 0..size {
                let proof = tree.inclusion(index, size).unwrap();
                verify_inclusion(leaf(index), index, size, &proof, root).unwrap();
                for bad in altered(&proof) {
                    assert!(verify_inclusion(leaf(index), index, size, &bad, root).is_err(), "{index} of {size}");
                }
                for other in (0..size + 2).filter(|other| *other != index) {
                    assert!(verify_inclusion(leaf(index), other, size, &proof, root).is_err());
                    assert!(verify_inclusion(leaf(other), index, size, &proof, root).is_err());
                }
                for other in (index + 1..=64).filter(|other| *other != size) {
                    let root = tree.root_at(other).unwrap();
                    assert!(verify_inclusion(leaf(index), index, other, &proof, root).is_err(), "{other} for {size}");
                }
            }
            assert_eq!(tree.inclusion(size, size), None);
        }
    }

    #[test]
    fn every_consistency_proof_to_size_64_verifies_and_no_altered_one_does() {
        let tree = numbered(64);
        let root = |size| tree.root_at(size).unwrap();
        for new in 1..=64 {
            for old in 0..=new {
                let proof = tree.consistency(old, new).unwrap();
                verify_consistency(old, root(old), new, root(new), &proof).unwrap();
                assert!(proof.len() <= 63 && (proof.is_empty() == (old == 0 || old == new)));
                for bad in altered(&proof) {
                    assert!(verify_consistency(old, root(old), new, root(new), &bad).is_err(), "{old} to {new}");
                }
                for other in (0..=64).filter(|other| *other != old && *other != new) {
                    assert!(verify_consistency(old, root(other), new, root(new), &proof).is_err());
                    // Everything follows from nothing, so an old size of 0 says nothing of the new root.
                    assert!(old == 0 || verify_consistency(old, root(old), new, root(other), &proof).is_err());
                    let moved = verify_consistency(other, root(other), new, root(new), &proof);
                    assert!(moved.is_err() || (other == 0 && proof.is_empty()), "{other} for {old}, to {new}");
                    let moved = verify_consistency(old, root(old), other, root(other), &proof);
                    assert!(moved.is_err() || (old == 0 && proof.is_empty()), "{other} for {new}, from {old}");
                }
            }
            assert_eq!(verify_consistency(new, root(new), new - 1, root(new - 1), &[]), Err(ProofError::OutOfRange));
        }
    }

    #[test]
    fn a_history_that_parted_is_consistent_with_neither_branch() {
        let mut other = numbered(20);
        other.push(leaf(99));
        other.push(leaf(21));
        let tree = numbered(30);
        let proof = tree.consistency(22, 30).unwrap();
        let parted = other.root_at(22).unwrap();
        assert_eq!(verify_consistency(22, parted, 30, tree.root_at(30).unwrap(), &proof), Err(ProofError::Root));
        let early = tree.consistency(20, 30).unwrap();
        verify_consistency(20, other.root_at(20).unwrap(), 30, tree.root_at(30).unwrap(), &early).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn proofs_hold_at_any_size(size in 1_u64..2000, index in any::<u64>(), old in any::<u64>()) {
            let (index, old) = (index % size, old % (size + 1));
            let tree = numbered(size);
            let root = tree.root_at(size).unwrap();
            let proof = tree.inclusion(index, size).unwrap();
            prop_assert_eq!(verify_inclusion(leaf(index), index, size, &proof, root), Ok(()));
            let proof = tree.consistency(old, size).unwrap();
            prop_assert_eq!(verify_consistency(old, tree.root_at(old).unwrap(), size, root, &proof), Ok(()));
        }

        #[test]
        fn made_up_proofs_never_hold_and_never_panic(
            index in any::<u64>(),
            size in any::<u64>(),
            hashes in prop::collection::vec(any::<[u8; 32]>().prop_map(TreeHash), 0..70),
            root in any::<[u8; 32]>().prop_map(TreeHash),
        ) {
            prop_assert!(verify_inclusion(leaf(1), index, size, &hashes, root).is_err());
            if index != size {
                prop_assert!(verify_consistency(index, leaf(1), size, root, &hashes).is_err());
            }
        }
    }
}
