//! The golden bytes in `docs/protocol.md` are those of the values that it shows.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Debug;

use serde::Serialize;
use shoal_wire::{
    Digest, Envelope, Identity, Manifest, PeerId, RunId, SessionId, WireError,
    charter::{Amendment, Ballot, Change},
    codec,
    frame::{Frame, Status, pieces},
    judging::{Equivocation, Judgement, Score, Standing},
    manifest::{
        AdamW, Charter, Chunk, Codec, CreditRule, DataSource, DataSpec, ModelSpec, Optimizer, Outer, Privacy, Recipe,
        RopeScaling, Timing, Tokenizer, VERSION,
    },
    record::{
        Body, Certificate, Commit, CommitList, Content, Have, Join, Lock, Member, Message, Proposal, Recovery,
        RecoveryAnswer, RecoveryCall, Said, Verdict, Vote, VoteKind, seed_hash,
    },
    relay::{FromRelay, LinkSignal, LinkStep, Refusal, ToRelay},
    sign::Domain,
};

const PAGE: &str = include_str!("../../../docs/protocol.md");
const START: &str = "<!-- golden bytes: what `cargo test -p shoal-wire --test protocol` says -->\n";
const END: &str = "<!-- end of golden bytes -->";

const RUN: RunId = RunId([1; 32]);
const PEER: PeerId = PeerId([5; 32]);
const SESSION: SessionId = SessionId([12; 32]);

fn digest(byte: u8) -> Digest {
    Digest([byte; 32])
}

fn me() -> Identity {
    Identity::from_secret([7; 32])
}

fn said(message: Message) -> Said {
    Said { run: RUN, round: 17, session: SESSION, message }
}

fn vote() -> Vote {
    Vote { parent: digest(6), view: 3, kind: VoteKind::Precommit, body: Some(digest(8)) }
}

fn commit() -> Commit {
    Commit {
        parent: digest(6),
        update: digest(3),
        update_bytes: 1000,
        steps: 20,
        tokens: 10_240,
        loss_first: 5.5,
        loss_last: 5.25,
        seed_hash: seed_hash(digest(4)),
    }
}

fn body(recovery: Option<Recovery>) -> Body {
    let content = Content {
        list: None,
        commits: Vec::new(),
        seeds: vec![Some(digest(4)), None],
        judgements: Vec::new(),
        verdicts: vec![Verdict::Accepted, Verdict::Withheld],
        norms: vec![1 << 40],
        model: digest(9),
    };
    Body {
        run: RUN,
        round: 17,
        parent: digest(6),
        view: 0,
        content,
        joins: Vec::new(),
        leaves: Vec::new(),
        proofs: Vec::new(),
        charter: Vec::new(),
        recovery,
        roster: Vec::new(),
        randomness: digest(5),
    }
}

fn member() -> Member {
    let join = Join { durable: true, trains: true };
    let standing = Standing {
        evidence: 1946,
        unproven: 0,
        margin_1024: Some(900),
        scatter_1024: 410,
        dissent: 875,
        rating: -40,
        bans: 1,
    };
    Member { session: SESSION, session_round: 16, valid: 12, missed: 1, standing, ..Member::new(PEER, 3, join) }
}

/// A small run of each kind of field.
fn manifest() -> Manifest {
    let source = DataSource {
        name: "a text".to_owned(),
        licence: "CC0-1.0".to_owned(),
        attribution: String::new(),
        chunks: vec![Chunk { digest: digest(3), bytes: 100_000 }],
    };
    Manifest {
        version: VERSION,
        name: "tiny".to_owned(),
        description: String::new(),
        host: "somebody".to_owned(),
        model: ModelSpec {
            vocab_size: 256,
            hidden_size: 64,
            intermediate_size: 192,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            max_position_embeddings: 128,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Default,
            tie_word_embeddings: true,
        },
        tokenizer: Tokenizer::Bytes,
        genesis: digest(9),
        data: DataSpec { sources: vec![source], held_out_bytes: 4096 },
        recipe: Recipe {
            batch: 4,
            context: 128,
            local_steps: 20,
            inner: Optimizer::AdamW(AdamW {
                lr: 0.001,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.1,
                grad_clip: Some(1.0),
            }),
            warmup_rounds: 2,
            decay_from: 10,
            decay_rounds: 0,
            outer: Outer { codec: Codec::Dense4, alpha_1024: 1024, feedback_1024: 973 },
        },
        timing: Timing {
            train_ms_max: 20_000,
            exchange_ms_max: 10_000,
            view_ms: 1_000,
            recovery_ms: 15_000,
            recovery_window_rounds: 3,
        },
        privacy: Privacy::Public,
        credit: CreditRule::TrainedTokens,
        charter: Charter::default(),
        anchors: vec![PEER],
        seed: digest(5),
    }
}

/// Hexadecimal lines as wide as the page.
fn wrapped(bytes: &[u8]) -> String {
    let text = hex::encode(bytes);
    let lines = text.as_bytes().chunks(112).map(|line| String::from_utf8_lossy(line).into_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// A value and its bytes.
fn value<T: Debug + Serialize>(value: &T) -> String {
    format!("{value:?}\n{}\n\n", wrapped(&codec::encode(value)))
}

fn bytes(what: &str, bytes: &[u8]) -> String {
    format!("{what}\n{}\n\n", wrapped(bytes))
}

fn section(title: &str, blocks: &[String]) -> String {
    format!("\n### {title}\n\n```text\n{}\n```\n", blocks.concat().trim_end())
}

fn messages() -> Vec<String> {
    let score = Score { assigned: 1200, other: -3, own: Some(900), alignment_1024: Some(-512), copies: None };
    let other = Vote { body: None, ..vote() };
    let sealed = |vote| said(Message::Vote(vote)).seal(&me());
    let messages = [
        Message::Join(Join { durable: true, trains: false }),
        Message::Leave,
        Message::Commit(commit()),
        Message::CommitList(CommitList { view: 1, commits: vec![digest(2)] }),
        Message::Reveal(digest(4)),
        Message::Have(Have { updates: vec![digest(3)] }),
        Message::Proposal(Box::new(Proposal { view: 2, valid_view: Some(0), body: body(None) })),
        Message::Vote(vote()),
        Message::RecoveryCall(RecoveryCall { attempt: 1 }),
        Message::RecoveryAnswer(RecoveryAnswer { attempt: 1, lock: Some(Lock { view: 2, content: digest(10) }) }),
        Message::Judgement(Judgement { draw: digest(5), scores: vec![(digest(3), score)] }),
        Message::Equivocation(Box::new(Equivocation { first: sealed(vote()), second: sealed(other) })),
        Message::Amendment(Box::new(Amendment {
            change: Change::ScaleLearningRate(512),
            reason: "it diverges".to_owned(),
            closes: 40,
            effective: 50,
        })),
        Message::Ballot(Ballot { amendment: digest(11), approve: true }),
    ];
    messages.iter().map(value).collect()
}

fn signing() -> Vec<String> {
    let envelope = said(Message::Leave).seal(&me());
    let enter = ToRelay::enter(&me(), RUN, &[6; 32]);
    vec![
        bytes("the public key of the secret 07 07 ... 07", &me().peer().0),
        value(&said(Message::Leave)),
        bytes("its envelope by that key", &codec::encode(&envelope)),
        bytes("the envelope's id", &envelope.id().0),
        bytes("the seed hash of 04 04 ... 04", &seed_hash(digest(4)).0),
        bytes("Enter of that key for the nonce 06 06 ... 06", &enter.encode()),
    ]
}

fn records() -> Vec<String> {
    let body = body(None);
    let signature = said(Message::Vote(Vote { body: Some(body.digest()), ..vote() })).seal(&me()).signature;
    let recovered = Recovery { attempt: 1, answers: Vec::new() };
    let certificate = Certificate { body: body.clone(), view: 3, signatures: vec![(me().peer(), signature)] };
    vec![
        value(&body.content),
        bytes("its digest", &body.content.digest().0),
        value(&body),
        bytes("its digest", &body.digest().0),
        bytes("a certificate of it", &codec::encode(&certificate)),
        value(&recovered),
        value(&member()),
        value(&manifest()),
        bytes("its digest, the run's id", &manifest().run().0),
    ]
}

fn frames() -> Vec<String> {
    let envelope =
        Envelope { from: me().peer(), payload: vec![1, 2, 3], signature: me().sign(Domain::Swarm, &[1, 2, 3]) };
    let status = Status { head: 300, body: digest(9), envelopes: vec![1, 1 << 40], seen: vec![PEER] };
    let frames = [
        Frame::Said(envelope),
        Frame::Status(status),
        Frame::Ask(vec![1, 2, 300]),
        Frame::GetCertificates(128),
        Frame::Certificates(Vec::new()),
        Frame::GetRange { blob: digest(0xab), offset: 16_128, bytes: 256 },
        Frame::Range { blob: digest(0xab), offset: 0, bytes: vec![255; 4] },
        Frame::NoBlob(digest(0xab)),
    ];
    let mut all: Vec<String> = frames.iter().map(value).collect();
    let cut: Vec<Vec<u8>> = pieces(&Frame::GetCertificates(128).encode()).collect();
    all.push(bytes("the only piece of GetCertificates(128)", &cut.concat()));
    all
}

fn signals() -> Vec<String> {
    let signal = |step| LinkSignal { run: RUN, to: PEER, attempt: 9, step };
    let sealed = signal(LinkStep::Invite).seal(&me());
    let mut all = vec![
        value(&signal(LinkStep::Offer { sdp: "v=0".to_owned() })),
        value(&signal(LinkStep::Answer { sdp: "v=0".to_owned() })),
        value(&signal(LinkStep::Candidate { candidate: "c".to_owned(), mid: Some("0".to_owned()), line: None })),
        value(&signal(LinkStep::Invite)),
    ];
    let to_relay = [
        ToRelay::Signal { to: PEER, envelope: sealed.clone() },
        ToRelay::Forward { to: PEER, piece: vec![1, 3, 5] },
        ToRelay::Ping,
    ];
    let from_relay = [
        FromRelay::Challenge { nonce: [6; 32] },
        FromRelay::Entered { peers: vec![PEER] },
        FromRelay::PeerEntered(PEER),
        FromRelay::PeerLeft(PEER),
        FromRelay::Signal { from: me().peer(), envelope: sealed },
        FromRelay::Forward { from: PEER, piece: vec![1, 3, 5] },
        FromRelay::Pong,
        FromRelay::Draining { retry_ms: 1000 },
        FromRelay::Refused(Refusal::TooFast),
    ];
    all.extend(to_relay.iter().map(value));
    all.extend(from_relay.iter().map(value));
    all
}

#[test]
fn the_page_shows_these_bytes() {
    let wanted = [
        section("Signing", &signing()),
        section("Messages", &messages()),
        section("Records", &records()),
        section("Frames", &frames()),
        section("Signalling", &signals()),
    ];
    let wanted = wanted.concat() + "\n";
    let (_, rest) = PAGE.split_once(START).expect("the page's marker");
    let (shown, _) = rest.split_once(END).expect("the page's second marker");
    if shown != wanted {
        println!("{START}{wanted}{END}");
    }
    assert!(shown == wanted, "docs/protocol.md shows other bytes: put what is printed above in their place");
}

#[test]
fn a_manifest_of_another_version_is_refused_and_both_versions_are_named() {
    for found in [1, VERSION + 1] {
        let sealed = me().seal(Domain::Manifest, &Manifest { version: found, ..manifest() });
        let error = Manifest::open(&sealed).unwrap_err();
        assert_eq!(error, WireError::OtherVersion { found, ours: VERSION });
        assert!(error.to_string().contains(&format!("version {found}")), "{error}");
    }
    assert_eq!(Manifest::open(&me().seal(Domain::Manifest, &manifest())), Ok(manifest()));
}
