//! Native peers in one run: an anchor and volunteers, over real links and files, with the CPU engine.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod relay;

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use relay::TestRelay;
use shoal_learn::{init, outer::params_to_bytes, presets::Preset};
use shoal_node::{
    EngineChoice, Node, NodeConfig, NodeError, NodeEvent, NodeHandle,
    verify::{Source, VerifyError, verify},
};
use shoal_store::FileStore;
use shoal_swarm::Event;
use shoal_wire::{
    Digest, Identity, Manifest, PeerId, Round, RunId,
    manifest::{Charter, Chunk, CreditRule, DataSource, DataSpec, Privacy, Timing, Tokenizer},
    sign::Domain,
};
use tokio::{sync::mpsc::Receiver, time::timeout};

const PATIENCE: Duration = Duration::from_mins(2);

/// A relay with one published run, and a place for peers' data.
struct World {
    directory: tempfile::TempDir,
    store: Arc<FileStore>,
    relay: TestRelay,
    manifest: Manifest,
    anchor: Identity,
}

struct Peer {
    handle: NodeHandle,
    events: Receiver<NodeEvent>,
    models: BTreeMap<Round, Digest>,
    paths: BTreeMap<PeerId, bool>,
}

fn text() -> Vec<u8> {
    (0..400).flat_map(|line| format!("line {line} of a text that is easy to learn\n").into_bytes()).collect()
}

fn manifest_of(store: &FileStore, anchor: PeerId) -> Manifest {
    let text = text();
    let preset = Preset::Tiny;
    let genesis = init::genesis(&preset.model(), Digest::of(b"weights")).unwrap();
    let mut recipe = preset.recipe();
    (recipe.local_steps, recipe.batch, recipe.context) = (3, 2, 16);
    Manifest {
        version: shoal_wire::manifest::VERSION,
        name: "a test".into(),
        description: String::new(),
        host: "tests".into(),
        model: preset.model(),
        tokenizer: Tokenizer::Bytes,
        genesis: store.put_blob(&params_to_bytes(&genesis)).unwrap(),
        data: DataSpec {
            sources: vec![DataSource {
                name: "lines".into(),
                licence: "CC0-1.0".into(),
                attribution: String::new(),
                chunks: vec![Chunk { digest: store.put_blob(&text).unwrap(), bytes: text.len() as u32 }],
            }],
            held_out_bytes: 2000,
        },
        recipe,
        timing: Timing {
            train_ms_max: 10_000,
            exchange_ms_max: 5_000,
            view_ms: 3_000,
            recovery_ms: 10_000,
            recovery_window_rounds: 100,
        },
        privacy: Privacy::Public,
        credit: CreditRule::default(),
        charter: Charter::default(),
        anchors: vec![anchor],
        seed: Digest::of(b"seed"),
    }
}

impl World {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With a manifest that differs from the usual one.
    async fn with(change: impl FnOnce(&mut Manifest)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(FileStore::open(directory.path().join("relay")).unwrap());
        let anchor = Identity::from_secret([42; 32]);
        let mut manifest = manifest_of(&store, anchor.peer());
        change(&mut manifest);
        store.put_manifest(&Identity::from_secret([1; 32]).seal(Domain::Manifest, &manifest)).unwrap();
        let relay = TestRelay::start(store.clone()).await;
        Self { directory, store, relay, manifest, anchor }
    }

    fn run(&self) -> RunId {
        self.manifest.run()
    }

    async fn anchor(&self, direct: bool) -> Peer {
        Peer::start(NodeConfig {
            relay: self.relay.client(),
            run: self.run(),
            store: self.store.clone(),
            identity: Some(self.anchor.clone()),
            engine: None,
            archive: true,
            direct,
        })
        .await
    }

    async fn volunteer(&self, name: &str, direct: bool) -> Peer {
        Peer::start(self.volunteer_config(name, direct)).await
    }

    fn volunteer_config(&self, name: &str, direct: bool) -> NodeConfig {
        NodeConfig {
            relay: self.relay.client(),
            run: self.run(),
            store: Arc::new(FileStore::open(self.directory.path().join(name)).unwrap()),
            identity: None,
            engine: Some(EngineChoice::Cpu),
            archive: false,
            direct,
        }
    }
}

impl Peer {
    async fn start(config: NodeConfig) -> Self {
        let mut handle = Node::start(config).await.unwrap();
        let events = handle.events().unwrap();
        Self { handle, events, models: BTreeMap::new(), paths: BTreeMap::new() }
    }

    async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let event = timeout(PATIENCE, self.events.recv()).await;
            let event = event.unwrap_or_else(|_| panic!("{what}: {:?}", self.handle.status().borrow().snapshot));
            match event.unwrap() {
                NodeEvent::Swarm(Event::Certified { round, model, .. }) => {
                    self.models.insert(round, model);
                }
                NodeEvent::Linked { peer, direct } => {
                    self.paths.insert(peer, direct);
                }
                NodeEvent::Unlinked(peer) => {
                    self.paths.remove(&peer);
                }
                _ => {}
            }
        }
    }

    async fn until_round(&mut self, round: Round) {
        self.until(&format!("round {round}"), |peer| peer.models.contains_key(&round)).await;
    }

    fn last(&self) -> Round {
        self.models.keys().next_back().copied().unwrap_or(0)
    }
}

/// The one file that a predicate on its path picks, with one byte flipped.
fn flip_a_byte(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volunteers_train_together_directly_and_go_on_without_the_relay() {
    let world = World::new().await;
    let mut anchor = world.anchor(true).await;
    let mut a = world.volunteer("a", true).await;
    let mut b = world.volunteer("b", true).await;
    let everyone_direct = |peer: &Peer| peer.paths.len() == 2 && peer.paths.values().all(|direct| *direct);
    for peer in [&mut anchor, &mut a, &mut b] {
        peer.until("direct links", everyone_direct).await;
        peer.until_round(3).await;
    }

    world.relay.kill();
    let alone_from = a.last().max(b.last()) + 3;
    for peer in [&mut a, &mut b, &mut anchor] {
        peer.until_round(alone_from).await;
    }
    for round in 1..=alone_from {
        let models: Vec<Digest> =
            [&a, &b, &anchor].iter().filter_map(|peer| peer.models.get(&round)).copied().collect();
        assert!(models.windows(2).all(|pair| pair[0] == pair[1]), "round {round}");
    }

    // The relay comes back at its address, and its ledger is what the peers did meanwhile.
    let relay = TestRelay::start_at(world.store.clone(), world.relay.address).await;
    let run = world.run();
    for peer in [a, b, anchor] {
        peer.handle.leave().await;
    }
    let verified = verify(&Source::Relay(relay.client()), run, |_| {}).await.unwrap();
    assert!(verified.rounds >= alone_from);
    assert!(verified.accepted > 0);
    assert!(verified.checkpoints > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_hide_their_address_train_through_the_relay() {
    let world = World::new().await;
    let anchor = world.anchor(true).await;
    let mut a = world.volunteer("a", false).await;
    let mut b = world.volunteer("b", true).await;
    a.until_round(2).await;
    b.until_round(2).await;
    assert!(a.paths.values().all(|direct| !direct));
    assert!(world.relay.forwarded() > 0);
    drop(anchor);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volunteer_that_crashed_goes_on_where_it_was_and_one_that_comes_late_catches_up() {
    let world = World::new().await;
    let mut anchor = world.anchor(true).await;
    let mut a = world.volunteer("a", true).await;
    a.until_round(2).await;
    let (peer, before) = (a.handle.peer(), a.last());
    drop(a);

    let mut again = None;
    while again.is_none() {
        // The crashed peer's threads end a moment later; until then its identity is in use.
        match Node::start(world.volunteer_config("a", true)).await {
            Ok(handle) => again = Some(handle),
            Err(NodeError::InUse) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
    let mut handle = again.unwrap();
    assert_eq!(handle.peer(), peer);
    assert!(handle.status().borrow().snapshot.head >= before - 1, "history was stored");
    let events = handle.events().unwrap();
    let mut a = Peer { handle, events, models: BTreeMap::new(), paths: BTreeMap::new() };
    a.until_round(before + 2).await;

    let mut late = world.volunteer("late", true).await;
    late.until_round(before + 4).await;
    anchor.until_round(before + 4).await;
    let round = before + 4;
    assert_eq!(late.models[&round], anchor.models[&round]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_flipped_byte_of_a_copy_fails_verification_and_names_the_round() {
    let world = World::new().await;
    let run = world.run();
    let mut anchor = world.anchor(true).await;
    let mut a = world.volunteer("a", true).await;
    a.until_round(4).await;
    anchor.until_round(4).await;
    let last = anchor.models.clone();
    a.handle.leave().await;
    anchor.handle.leave().await;

    let data = world.store.directory();
    let source = || Source::directory(data).unwrap();
    let verified = verify(&source(), run, |_| {}).await.unwrap();
    assert!(verified.rounds >= 4);
    assert_eq!(Digest::of(&verified.bytes), verified.model);

    let certificate = data.join(format!("runs/{run}/certificates/{:010}.cert", 2));
    let blob = |digest: Digest| data.join(format!("blobs/{}/{digest}", &digest.to_string()[..2]));
    let step_two = shoal_ledger_step(&world, 2);
    let cases = [
        (certificate, 2),
        (blob(step_two), 2),
        (blob(last[&4]), 4),
        (blob(world.manifest.genesis), 0),
        (data.join(format!("runs/{run}/manifest")), 0),
    ];
    for (file, round) in cases {
        let sound = fs::read(&file).unwrap();
        flip_a_byte(&file);
        match verify(&source(), run, |_| {}).await {
            Err(VerifyError::Fails(failure)) => assert_eq!(failure.round, round, "{}: {}", file.display(), failure.why),
            other => panic!("{}: {other:?}", file.display()),
        }
        match verify(&Source::Relay(world.relay.client()), run, |_| {}).await {
            Err(VerifyError::Fails(failure)) => assert_eq!(failure.round, round, "{}: {}", file.display(), failure.why),
            // The test's relay does not answer for a damaged manifest.
            other => assert!(round == 0, "{}: {other:?}", file.display()),
        }
        fs::write(&file, sound).unwrap();
    }
    verify(&source(), run, |_| {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_is_too_large_or_not_as_announced_is_refused_before_it_fills_the_memory() {
    let refusal = async |change: fn(&mut Vec<Chunk>)| {
        let world = World::with(|manifest| change(&mut manifest.data.sources[0].chunks)).await;
        Node::start(world.volunteer_config("a", true)).await.map(|_| ()).unwrap_err()
    };
    // One blob, listed so often that the text would fill any memory.
    let endless = refusal(|chunks| {
        let chunk = Chunk { bytes: 256 << 20, ..chunks[0] };
        *chunks = vec![chunk; 5000];
    });
    assert!(matches!(endless.await, NodeError::TextTooLarge { bytes, .. } if bytes == (5000 << 28)));
    let shorter = refusal(|chunks| chunks[0].bytes += 1);
    assert!(matches!(shorter.await, NodeError::OtherLength { .. }));
    let longer = refusal(|chunks| chunks[0].bytes -= 1);
    assert!(matches!(longer.await, NodeError::TooLarge { .. }));
}

/// Address of an update that a round accepted.
fn shoal_ledger_step(world: &World, round: Round) -> Digest {
    let mut chain = shoal_ledger::Chain::new(world.manifest.clone());
    let mut accepted = None;
    for certificate in world.store.certificates(world.run(), 1, round as usize).unwrap() {
        accepted = chain.apply(&certificate).unwrap().accepted.first().map(|update| update.update);
    }
    accepted.unwrap()
}
