//! What a peer remembers of what others say is bounded, whatever they say.

use shoal_wire::{
    PeerId,
    limits::{EARLY_MAX, JOINS_MAX, MESSAGES_PER_PEER_MAX, ROSTER_MAX},
};

use super::Violation;
use crate::World;

pub(crate) fn check_memory(world: &World, peer: PeerId) -> Option<Violation> {
    let swarm = world.swarm(peer)?;
    let held = [
        ("messages of rounds to come", swarm.early_messages(), EARLY_MAX * ROSTER_MAX),
        ("messages of the round", swarm.messages(), MESSAGES_PER_PEER_MAX * ROSTER_MAX + JOINS_MAX),
    ];
    let over = held.into_iter().find(|(_, held, limit)| held > limit);
    over.map(|(what, held, limit)| Violation::Memory { peer, what, held, limit })
}
