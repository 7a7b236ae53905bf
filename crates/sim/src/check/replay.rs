//! A peer's chain, replayed from the genesis model over the updates it lists, gives its model bit for bit.

use shoal_wire::{Digest, PeerId};

use super::Violation;
use crate::World;

pub(crate) fn check_replay(world: &World, peer: PeerId) -> Option<Violation> {
    let swarm = world.swarm(peer)?;
    let (round, model) = swarm.model()?;
    if round != swarm.chain().head().round || world.replayed(peer) == Some(Digest::of(&model)) {
        return None;
    }
    Some(Violation::Replay { peer, round })
}
