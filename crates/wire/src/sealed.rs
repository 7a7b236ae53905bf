//! Updates that travel before they may be seen.
//!
//! A sealed update is the digest of the update and then the update, under a stream that follows from the author's seed, the
//! author and that digest. Until the seed is revealed it tells its size and that digest, so it can move while the others still
//! train; a copy that somebody else commits to as its own opens to nothing.

use crate::{Digest, PeerId};

const DIGEST_BYTES: usize = 32;

/// Hides an update under the seed of its author's commit.
pub fn seal(seed: Digest, author: PeerId, update: &[u8]) -> Vec<u8> {
    let digest = Digest::of(update);
    let mut sealed = [&digest.0[..], update].concat();
    mask(seed, author, digest, &mut sealed[DIGEST_BYTES..]);
    sealed
}

/// The update in a sealed one; `None` when it is not what this author sealed under this seed.
pub fn open(seed: Digest, author: PeerId, sealed: &[u8]) -> Option<Vec<u8>> {
    let (digest, hidden) = sealed.split_first_chunk::<DIGEST_BYTES>()?;
    let mut update = hidden.to_vec();
    mask(seed, author, Digest(*digest), &mut update);
    (Digest::of(&update).0 == *digest).then_some(update)
}

/// The digest goes into the key, so that a seed that is used again hides another update under another stream.
fn mask(seed: Digest, author: PeerId, digest: Digest, bytes: &mut [u8]) {
    let mut hasher = blake3::Hasher::new_derive_key("shoal 2026 v1 sealed update");
    hasher.update(&seed.0).update(&author.0).update(&digest.0);
    let mut stream = hasher.finalize_xof();
    let mut block = [0; 4096];
    for chunk in bytes.chunks_mut(block.len()) {
        let block = &mut block[..chunk.len()];
        stream.fill(block);
        chunk.iter_mut().zip(block).for_each(|(byte, mask)| *byte ^= *mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Digest = Digest([3; 32]);
    const AUTHOR: PeerId = PeerId([5; 32]);

    #[test]
    fn a_sealed_update_opens_under_its_seed_and_author_alone() {
        let update: Vec<u8> = (0..10_000_u32).map(|at| (at * 7) as u8).collect();
        let sealed = seal(SEED, AUTHOR, &update);
        assert_eq!(open(SEED, AUTHOR, &sealed), Some(update.clone()));
        assert_eq!(open(Digest([4; 32]), AUTHOR, &sealed), None);
        assert_eq!(open(SEED, PeerId([6; 32]), &sealed), None, "a copy is worth nothing to who copied it");
        assert_eq!(open(SEED, AUTHOR, &sealed[..31]), None);
        assert_eq!(open(SEED, AUTHOR, &[]), None);
        let same = sealed[DIGEST_BYTES..].iter().zip(&update).filter(|(a, b)| a == b).count();
        assert!(same < 100, "{same} bytes of 10,000 show through");
    }

    #[test]
    fn one_seed_hides_two_updates_under_two_streams() {
        let (zeros, ones) = (seal(SEED, AUTHOR, &[0; 64]), seal(SEED, AUTHOR, &[1; 64]));
        let differs = zeros[DIGEST_BYTES..].iter().zip(&ones[DIGEST_BYTES..]).any(|(a, b)| a ^ b != 1);
        assert!(differs);
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let sealed = seal(SEED, AUTHOR, b"an update");
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(SEED, AUTHOR, &flipped), None, "bit {bit}");
        }
    }
}
