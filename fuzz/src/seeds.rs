//! Real values for each target to start from. `cargo run -p shoal-fuzz --bin seeds` writes them into the corpora.

use shoal_learn::{folder::config_json, folder::weights_bytes, outer::Residual};
use shoal_wire::{
    Digest, PeerId, SessionId,
    charter::{Amendment, Ballot, Change},
    codec,
    frame::{Frame, Status, pieces},
    judging::{Equivocation, Judgement, Score},
    manifest::{Chunk, Codec, DataSource, Outer},
    record::{
        Commit, CommitList, Have, Join, Lock, Message, Proposal, RecoveryAnswer, RecoveryCall, Said, Vote, VoteKind,
        seed_hash,
    },
    relay::{FromRelay, LinkSignal, LinkStep, Refusal, ToRelay},
};

use crate::{
    formats::{LAYOUT, MODEL},
    operations::Op,
    ring::{ME, RING, body_after, certificate, empty_content},
    script::slice,
};

/// A file of a corpus.
pub struct Seed {
    pub target: &'static str,
    pub name: String,
    pub bytes: Vec<u8>,
}

pub fn seeds() -> Vec<Seed> {
    let all = [
        ("frames", frames()),
        ("envelopes", envelopes()),
        ("updates", updates()),
        ("certificates", certificates()),
        ("signals", signals()),
        ("weights", weights()),
        ("operations", operations()),
    ];
    let named = |(target, values): (&'static str, Vec<(String, Vec<u8>)>)| {
        values.into_iter().map(move |(name, bytes)| Seed { target, name, bytes })
    };
    all.into_iter().flat_map(named).collect()
}

type Named = Vec<(String, Vec<u8>)>;

fn messages() -> Vec<(&'static str, Message)> {
    let vote = Vote { parent: RING.chain.head().body, view: 0, kind: VoteKind::Precommit, body: Some(Digest([8; 32])) };
    let said = |body: u8| RING.said(1, 2, Message::Vote(Vote { body: Some(Digest([body; 32])), ..vote }));
    let body = body_after(&RING.chain, empty_content(&RING.chain), 0, Vec::new(), Vec::new()).expect("an empty round");
    let score = Score { assigned: 1200, other: -3, own: Some(900), alignment_1024: Some(512), copies: None };
    let source = DataSource {
        name: "a book".to_owned(),
        licence: "CC0-1.0".to_owned(),
        attribution: String::new(),
        chunks: vec![Chunk { digest: Digest([6; 32]), bytes: 100 }],
    };
    let amendment = |change| Amendment { change, reason: "why".to_owned(), closes: 9, effective: 12 };
    vec![
        ("join", Message::Join(Join { durable: true, trains: true })),
        ("leave", Message::Leave),
        ("commit", Message::Commit(commit())),
        ("list", Message::CommitList(CommitList { view: 0, commits: vec![Digest([2; 32])] })),
        ("reveal", Message::Reveal(Digest([3; 32]))),
        ("have", Message::Have(Have { updates: vec![Digest([4; 32])] })),
        ("proposal", Message::Proposal(Box::new(Proposal { view: 1, valid_view: Some(0), body }))),
        ("vote", Message::Vote(vote)),
        ("call", Message::RecoveryCall(RecoveryCall { attempt: 1 })),
        (
            "answer",
            Message::RecoveryAnswer(RecoveryAnswer {
                attempt: 1,
                lock: Some(Lock { view: 0, content: Digest([5; 32]) }),
            }),
        ),
        ("judgement", Message::Judgement(Judgement { draw: Digest([9; 32]), scores: vec![(Digest([4; 32]), score)] })),
        ("equivocation", Message::Equivocation(Box::new(Equivocation { first: said(1), second: said(2) }))),
        ("amendment", Message::Amendment(Box::new(amendment(Change::AddSource(source))))),
        ("stop", Message::Amendment(Box::new(amendment(Change::Stop)))),
        ("ballot", Message::Ballot(Ballot { amendment: Digest([7; 32]), approve: true })),
    ]
}

fn commit() -> Commit {
    Commit {
        parent: RING.chain.head().body,
        update: Digest([4; 32]),
        update_bytes: 64,
        steps: 10,
        tokens: 80,
        loss_first: 2.5,
        loss_last: 2.0,
        seed_hash: seed_hash(Digest([3; 32])),
    }
}

fn frames() -> Named {
    let blob = Digest([1; 32]);
    let status = Status { head: 3, body: blob, envelopes: vec![1, u64::MAX], seen: vec![PeerId([2; 32])] };
    let frames = [
        ("said", Frame::Said(RING.said(0, 2, Message::Leave))),
        ("status", Frame::Status(status)),
        ("ask", Frame::Ask(vec![1, 2, 300])),
        ("get-certificates", Frame::GetCertificates(2)),
        ("certificates", Frame::Certificates(vec![RING.first.clone()])),
        ("get-range", Frame::GetRange { blob, offset: 16_128, bytes: 256 }),
        ("range", Frame::Range { blob, offset: 0, bytes: vec![7; 40] }),
        ("no-blob", Frame::NoBlob(blob)),
    ];
    frames.into_iter().map(|(name, frame)| (name.to_owned(), frame.encode())).collect()
}

fn envelopes() -> Named {
    let said = |(name, message): (&str, Message)| {
        (
            name.to_owned(),
            codec::encode(&Said { run: RING.chain.run(), round: 2, session: SessionId([12; 32]), message }),
        )
    };
    let mut all: Named = messages().into_iter().map(said).collect();
    all.push(("manifest".to_owned(), codec::encode(&RING.manifest)));
    all.push(("envelope".to_owned(), codec::encode(&RING.said(0, 2, Message::Leave))));
    all
}

fn updates() -> Named {
    let mut all = Vec::new();
    for (name, codec) in [("dense4", Codec::Dense4), ("topk", Codec::Topk)] {
        let outer = Outer { codec, alpha_1024: 1024, feedback_1024: 1024 };
        let choice = [u8::from(codec == Codec::Topk), 1, 2];
        for (size, scale) in [("zeros", 0.0), ("small", 1e-3), ("large", 1.0)] {
            let delta: Vec<f32> = (0..LAYOUT.len()).map(|at| (at * 37 % 101) as f32 / 101.0 * scale).collect();
            let update = Residual::new(&LAYOUT).compress(&outer, &LAYOUT, &delta).expect("finite values");
            all.push((format!("{name}-{size}"), [&choice[..], &update].concat()));
            all.push((format!("{name}-{size}-unsummed"), [&choice[..], &update[..update.len() - 4]].concat()));
        }
    }
    all
}

fn certificates() -> Named {
    let chain = &RING.chain;
    let leave = RING.said(2, 2, Message::Leave);
    let bodies = [
        ("empty", body_after(chain, empty_content(chain), 0, Vec::new(), Vec::new())),
        ("leave", body_after(chain, empty_content(chain), 1, Vec::new(), vec![leave])),
    ];
    let mut all = vec![("first".to_owned(), codec::encode(&RING.first))];
    for (name, body) in bodies {
        let certificate = certificate(chain, &body.expect("what fits"), 0, &RING.identities);
        all.push((name.to_owned(), codec::encode(&certificate)));
    }
    all
}

fn signals() -> Named {
    let peer = |index: usize| RING.identities[index].peer();
    let run = RING.chain.run();
    let signal = |step| LinkSignal { run, to: peer(ME), attempt: 5, step };
    let sdp = "v=0\r\na=fingerprint:sha-256 00\r\n".to_owned();
    let candidate =
        LinkStep::Candidate { candidate: "candidate:1".to_owned(), mid: Some("0".to_owned()), line: Some(0) };
    let steps = [LinkStep::Offer { sdp: sdp.clone() }, LinkStep::Answer { sdp }, candidate, LinkStep::Invite];
    let from_relay = [
        FromRelay::Challenge { nonce: [1; 32] },
        FromRelay::Entered { peers: (0..ME).map(peer).collect() },
        FromRelay::PeerEntered(peer(1)),
        FromRelay::PeerLeft(peer(1)),
        FromRelay::Signal { from: peer(0), envelope: signal(LinkStep::Invite).seal(&RING.identities[0]) },
        FromRelay::Forward { from: peer(0), piece: vec![1, 2, 3] },
        FromRelay::Pong,
        FromRelay::Draining { retry_ms: 1000 },
        FromRelay::Refused(Refusal::TooFast),
    ];
    let to_relay = [
        ToRelay::enter(&RING.identities[0], run, &[1; 32]),
        ToRelay::Signal { to: peer(1), envelope: signal(LinkStep::Invite).seal(&RING.identities[0]) },
        ToRelay::Forward { to: peer(1), piece: vec![1, 2] },
        ToRelay::Ping,
    ];
    let mut all: Named = Vec::new();
    let mut session = Vec::new();
    for (index, message) in from_relay.iter().enumerate() {
        all.push((format!("from-relay-{index}"), message.encode()));
        happen(&mut session, 0, 0, &message.encode());
    }
    for (index, message) in to_relay.iter().enumerate() {
        all.push((format!("to-relay-{index}"), message.encode()));
    }
    let mut linking = Vec::new();
    for message in &from_relay[..2] {
        happen(&mut linking, 0, 0, &message.encode());
    }
    for (by, step) in (0..ME).cycle().zip(steps.iter().chain(&steps).cloned()) {
        happen(&mut linking, 1, by, &codec::encode(&signal(step)));
    }
    for piece in pieces(&Frame::GetCertificates(1).encode()) {
        happen(&mut linking, 2, 0, &piece);
    }
    happen(&mut linking, 255, 1, b"a frame");
    all.extend([("session".to_owned(), session), ("linking".to_owned(), linking)]);
    all
}

fn happen(script: &mut Vec<u8>, kind: u8, by: usize, bytes: &[u8]) {
    script.extend([kind, by as u8]);
    slice(script, bytes);
}

fn weights() -> Named {
    let flat: Vec<f32> = (0..LAYOUT.len()).map(|at| at as f32 / 256.0).collect();
    let tokens: Vec<u8> = [1_i32, 2, 3, 4, 5, 6].iter().flat_map(|token| token.to_le_bytes()).collect();
    let header = br#"{"tokens":{"dtype":"I32","shape":[1,2,3],"data_offsets":[0,24]}}"#;
    let batches = [&(header.len() as u64).to_le_bytes()[..], header, &tokens].concat();
    vec![
        ("weights".to_owned(), weights_bytes(&LAYOUT, &flat).expect("weights of this layout")),
        ("batches".to_owned(), batches),
        ("config".to_owned(), config_json(&MODEL).expect("a config")),
    ]
}

/// Bytes of a script for the target `operations`.
#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    fn then(mut self, op: Op, arguments: &[u8]) -> Self {
        self.0.push(op as u8);
        self.0.extend(arguments);
        self
    }

    fn times(mut self, count: usize, op: Op, arguments: &[u8]) -> Self {
        for _ in 0..count {
            self = self.then(op, arguments);
        }
        self
    }

    /// All links are up, and the volunteer starts.
    fn start(self) -> Self {
        (0..3).fold(self, |script, by| script.then(Op::LinkUp, &[by])).then(Op::Command, &[0])
    }

    /// Everybody trains, commits, reveals and exchanges.
    fn exchange(self) -> Self {
        let script = self.then(Op::Job, &[0]).then(Op::Commit, &[1, 0, 40]).then(Op::Commit, &[2, 0, 79]);
        let script = script.then(Op::Tick, &[10]).then(Op::List, &[0]).then(Op::Reveal, &[1]).then(Op::Reveal, &[2]);
        let script = script.times(6, Op::Range, &[0]).times(8, Op::Job, &[0]).times(4, Op::Write, &[0]);
        (0..3).fold(script, |script, by| script.then(Op::Have, &[by])).times(8, Op::Job, &[0])
    }

    fn votes(self, kind: u8) -> Self {
        (0..3).fold(self, |script, by| script.then(Op::Vote, &[by, kind, 0, 0])).times(4, Op::Write, &[0])
    }

    /// A body is proposed and certified.
    fn agree(self) -> Self {
        // The wait for others' judgements ends.
        let script =
            self.then(Op::Tick, &[100]).then(Op::Propose, &[0, 0, 0]).times(8, Op::Job, &[0]).times(2, Op::Write, &[0]);
        script.votes(0).votes(1).times(8, Op::Job, &[0]).times(12, Op::Write, &[0])
    }
}

/// Scripts whose outcome is known: the last round that each certifies.
pub fn scripts() -> Vec<(&'static str, Vec<u8>, u64)> {
    let new = || Script::default().start();
    let round = new().exchange().agree();
    let two = new().exchange().agree().exchange().agree();
    let restart = new().exchange().then(Op::Tick, &[100]).then(Op::Propose, &[0, 0, 0]).times(8, Op::Job, &[0]).times(
        3,
        Op::Write,
        &[0],
    );
    let restart = restart.votes(0).then(Op::Restart, &[]).start().exchange().agree();
    let certified = new().exchange().then(Op::Tick, &[100]).then(Op::Propose, &[0, 0, 0]).times(8, Op::Job, &[0]);
    let certified = certified.then(Op::Certify, &[0, 0, 0]);
    let recovery = Script::default().then(Op::LinkUp, &[0]).then(Op::Command, &[0]).then(Op::Job, &[0]);
    let mut recovery = recovery.times(2, Op::Write, &[0]);
    for _ in 0..12 {
        recovery = recovery.then(Op::Tick, &[255]).then(Op::Status, &[0, 0]);
    }
    let recovery = recovery.then(Op::Call, &[0]).then(Op::Recover, &[0]).then(Op::Vote, &[0, 2, 0, 0]);
    // Its votes of the views before are written first.
    let recovery = recovery.times(8, Op::Job, &[0]).times(20, Op::Write, &[0]);
    let messages = messages().into_iter().fold(new(), |mut script, (_, message)| {
        script = script.then(Op::Message, &[1, 0]);
        slice(&mut script.0, &codec::encode(&message));
        script
    });
    let frames = frames().into_iter().fold(new(), |mut script, (_, frame)| {
        script = script.then(Op::Frame, &[2]);
        slice(&mut script.0, &frame);
        script
    });
    vec![
        ("round", round.0, 2),
        ("two-rounds", two.0, 3),
        ("restart", restart.0, 2),
        ("certified", certified.0, 2),
        ("recovery", recovery.0, 2),
        ("messages", messages.0, 1),
        ("frames", frames.0, 1),
    ]
}

fn operations() -> Named {
    scripts().into_iter().map(|(name, bytes, _)| (name.to_owned(), bytes)).collect()
}
