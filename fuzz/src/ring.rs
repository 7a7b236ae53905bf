//! A run of four members whose keys are all known, after its first round: an anchor and three volunteers, the last of
//! which the targets stand in for.

use std::sync::LazyLock;

use shoal_ledger::Chain;
use shoal_sim::toy_manifest;
use shoal_wire::{
    Envelope, Identity, Manifest, Round, SessionId,
    record::{Body, Certificate, Content, Join, Message, Said, Vote, VoteKind},
};

pub struct Ring {
    pub manifest: Manifest,
    /// The anchor first; the peer under test last.
    pub identities: [Identity; 4],
    /// Takes the three volunteers in.
    pub first: Certificate,
    /// After that round.
    pub chain: Chain,
}

pub const ME: usize = 3;

pub static RING: LazyLock<Ring> = LazyLock::new(Ring::new);

impl Ring {
    fn new() -> Self {
        let identities = [1, 2, 3, 4].map(|secret| Identity::from_secret([secret; 32]));
        let manifest = toy_manifest(vec![identities[0].peer()]);
        let mut chain = Chain::new(manifest.clone());
        let join = |identity: &Identity| {
            let message = Message::Join(Join { durable: true, trains: true });
            Said { run: chain.run(), round: 1, session: SessionId(identity.peer().0), message }.seal(identity)
        };
        let joins = identities[1..].iter().map(join).collect();
        let body = body_after(&chain, empty_content(&chain), 0, joins, Vec::new()).expect("joins that hold");
        let first = certificate(&chain, &body, 0, &identities[..1]);
        chain.apply(&first).expect("a certificate that holds");
        Self { manifest, identities, first, chain }
    }

    /// Something that a member says about a round.
    pub fn said(&self, by: usize, round: Round, message: Message) -> Envelope {
        let identity = &self.identities[by];
        Said { run: self.chain.run(), round, session: session(&self.chain, identity), message }.seal(identity)
    }
}

/// The session that the roster has, or the first one that somebody opens.
fn session(chain: &Chain, identity: &Identity) -> SessionId {
    chain.member(identity.peer()).map_or(SessionId(identity.peer().0), |member| member.session)
}

/// The content of a round in which nobody committed.
pub fn empty_content(chain: &Chain) -> Content {
    Content {
        list: None,
        commits: Vec::new(),
        seeds: Vec::new(),
        judgements: Vec::new(),
        verdicts: Vec::new(),
        norms: Vec::new(),
        model: chain.head().model,
    }
}

/// The body around a content; none when joins or leaves do not fit.
pub fn body_after(
    chain: &Chain,
    content: Content,
    view: u32,
    mut joins: Vec<Envelope>,
    leaves: Vec<Envelope>,
) -> Option<Body> {
    joins.sort_by_key(|envelope| envelope.from);
    let mut body = Body {
        run: chain.run(),
        round: chain.head().round + 1,
        parent: chain.head().body,
        view,
        randomness: chain.randomness_after(&content.seeds),
        content,
        joins,
        leaves,
        proofs: Vec::new(),
        charter: Vec::new(),
        recovery: None,
        roster: Vec::new(),
    };
    body.roster = chain.roster_after(&body).ok()?;
    Some(body)
}

/// A body with the votes of these peers under it.
pub fn certificate(chain: &Chain, body: &Body, view: u32, signers: &[Identity]) -> Certificate {
    let kind = if body.recovery.is_some() { VoteKind::Recovery } else { VoteKind::Precommit };
    let vote = Vote { parent: body.parent, view, kind, body: Some(body.digest()) };
    let sign = |identity: &Identity| {
        let message = Message::Vote(vote);
        let said = Said { run: chain.run(), round: body.round, session: session(chain, identity), message };
        (identity.peer(), said.seal(identity).signature)
    };
    let mut signatures: Vec<_> = signers.iter().map(sign).collect();
    signatures.sort_by_key(|(peer, _)| *peer);
    Certificate { body: body.clone(), view, signatures }
}
