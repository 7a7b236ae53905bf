//! Signatures that were found good, so that a simulation checks each once however many of its peers receive it.
//!
//! Whether a signature holds follows from the key, the message and the signature alone, so what is remembered is what
//! checking it again would say. Only good ones are remembered, and only so many.

use std::{cell::RefCell, collections::BTreeSet};

use crate::{Digest, PeerId, sign::Signature};

const GOOD_MAX: usize = 1 << 16;

thread_local! {
    static GOOD: RefCell<BTreeSet<Digest>> = const { RefCell::new(BTreeSet::new()) };
}

/// Checks with `check` unless the same was found good before.
pub(crate) fn once<E>(
    peer: PeerId,
    message: Digest,
    signature: &Signature,
    check: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let name = name(peer, message, signature);
    if GOOD.with_borrow(|good| good.contains(&name)) {
        return Ok(());
    }
    check()?;
    remember(name);
    Ok(())
}

/// What a key of this process signed holds; nobody needs to compute that.
pub(crate) fn made(peer: PeerId, message: Digest, signature: &Signature) {
    remember(name(peer, message, signature));
}

fn name(peer: PeerId, message: Digest, signature: &Signature) -> Digest {
    Digest::of(&[&peer.0[..], &message.0, &signature.0].concat())
}

fn remember(name: Digest) {
    GOOD.with_borrow_mut(|good| {
        if good.len() >= GOOD_MAX {
            good.clear();
        }
        good.insert(name);
    });
}

#[cfg(test)]
mod tests {
    use crate::sign::{Domain, Identity, Signature, verify};

    #[test]
    fn what_was_found_good_makes_nothing_else_good() {
        let identity = Identity::from_secret([7; 32]);
        let other = Identity::from_secret([8; 32]);
        let signature = identity.sign(Domain::Swarm, b"said");
        for _ in 0..2 {
            assert_eq!(verify(identity.peer(), Domain::Swarm, b"said", &signature), Ok(()));
        }
        assert!(verify(other.peer(), Domain::Swarm, b"said", &signature).is_err());
        assert!(verify(identity.peer(), Domain::Link, b"said", &signature).is_err());
        assert!(verify(identity.peer(), Domain::Swarm, b"saie", &signature).is_err());
        for bit in 0..512 {
            let mut flipped = signature.0;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(identity.peer(), Domain::Swarm, b"said", &Signature(flipped)).is_err(), "bit {bit}");
        }
    }
}
