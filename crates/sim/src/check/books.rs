//! Peers with the same chain pay everybody the same.

use shoal_wire::PeerId;

use super::Violation;
use crate::World;

/// Compares the books of peers that agree.
pub(crate) fn check_books(world: &World, peers: &[PeerId]) -> Option<Violation> {
    let mut books = peers.iter().filter_map(|peer| Some((*peer, world.swarm(*peer)?.chain())));
    let (first, ours) = books.next()?;
    let differs = |(_, theirs): &(PeerId, &shoal_ledger::Chain)| {
        theirs.head().body == ours.head().body && theirs.credit() != ours.credit()
    };
    books.find(differs).map(|(second, _)| Violation::Credit { first, second })
}
