#![allow(clippy::unwrap_used, clippy::expect_used)]

use shoal_learn::{Batch, StepSettings, init, outer::params_to_bytes, presets::Preset};
use shoal_wire::{
    Digest,
    manifest::{Charter, Chunk, CreditRule, DataSource, DataSpec, Privacy, Tokenizer},
    share::Share,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use EngineChoice::{Auto, Cpu, Gpu};

const STEPS: u32 = 3;

/// Moves every parameter by a little each step; fails at a step when it is told to.
struct Fake {
    gpu: bool,
    fails_at: Option<u32>,
    steps: u32,
    parameters: Vec<f32>,
    losses: Vec<f32>,
}

impl Engine for Fake {
    fn describe(&self) -> String {
        if self.gpu { "gpu" } else { "cpu" }.to_owned()
    }

    fn load(&mut self, parameters: &[f32]) -> Result<(), EngineError> {
        self.parameters = parameters.to_vec();
        Ok(())
    }

    fn reset_moments(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    fn step(&mut self, batch: &Batch, _: &StepSettings) -> Result<(), EngineError> {
        self.steps += 1;
        if self.fails_at.is_some_and(|at| self.steps >= at) {
            return Err(EngineError::DeviceLost("unplugged".to_owned()));
        }
        for (value, token) in self.parameters.iter_mut().zip(batch.inputs.iter().cycle()) {
            *value += 1e-5 * *token as f32;
        }
        self.losses.push(1.0);
        Ok(())
    }

    async fn losses(&mut self) -> Result<Vec<f32>, EngineError> {
        Ok(std::mem::take(&mut self.losses))
    }

    async fn parameters(&mut self) -> Result<Vec<f32>, EngineError> {
        Ok(self.parameters.clone())
    }

    async fn evaluate(&mut self, _: &Batch) -> Result<f32, EngineError> {
        if self.fails_at == Some(0) {
            return Err(EngineError::DeviceLost("unplugged".to_owned()));
        }
        Ok(self.parameters.iter().sum())
    }

    async fn next_logits(&mut self, _: &[u32]) -> Result<Vec<f32>, EngineError> {
        Ok(vec![0.0; 256])
    }
}

/// What comes of opening a GPU.
#[derive(Clone, Copy)]
enum Fate {
    Good,
    FailsAt(u32),
    DoesNotOpen,
}

/// Fates of the GPUs that are opened one after the other.
struct Script {
    gpus: Vec<Fate>,
    opened: Vec<EngineChoice>,
}

impl Engines for Script {
    type Engine = Fake;

    fn open(&mut self, choice: EngineChoice, _: &Manifest) -> Result<Fake, NodeError> {
        self.opened.push(choice);
        let fake = |gpu, fails_at| Fake { gpu, fails_at, steps: 0, parameters: Vec::new(), losses: Vec::new() };
        if choice == Cpu {
            return Ok(fake(false, None));
        }
        match self.gpus.remove(0) {
            Fate::Good => Ok(fake(true, None)),
            Fate::FailsAt(step) => Ok(fake(true, Some(step))),
            Fate::DoesNotOpen => Err(NodeError::Compute("no GPU".to_owned())),
        }
    }

    fn is_gpu(engine: &Fake) -> bool {
        engine.gpu
    }
}

fn text() -> Vec<u8> {
    (0..400).flat_map(|line| format!("line {line} of a text that is easy to learn\n").into_bytes()).collect()
}

fn manifest(genesis: &[u8]) -> Manifest {
    let preset = Preset::Tiny;
    let mut recipe = preset.recipe();
    (recipe.local_steps, recipe.batch, recipe.context) = (STEPS, 2, 16);
    Manifest {
        version: shoal_wire::manifest::VERSION,
        name: "a test".into(),
        description: String::new(),
        host: "tests".into(),
        model: preset.model(),
        tokenizer: Tokenizer::Bytes,
        genesis: Digest::of(genesis),
        data: DataSpec {
            sources: vec![DataSource {
                name: "lines".into(),
                licence: "CC0-1.0".into(),
                attribution: String::new(),
                chunks: vec![Chunk { digest: Digest::of(&text()), bytes: text().len() as u32 }],
            }],
            held_out_bytes: 2000,
        },
        recipe,
        timing: preset.timing(),
        privacy: Privacy::Public,
        credit: CreditRule::default(),
        charter: Charter::default(),
        anchors: Vec::new(),
        seed: Digest::of(b"seed"),
    }
}

struct World {
    room: Room<Script>,
    genesis: Bytes,
    events: UnboundedReceiver<ComputeEvent>,
}

impl World {
    fn new(gpus: &[Fate]) -> Self {
        let genesis = params_to_bytes(&init::genesis(&Preset::Tiny.model(), Digest::of(b"weights")).unwrap());
        let (sender, events) = unbounded_channel();
        let training = Training {
            peer: PeerId([1; 32]),
            engine: Auto,
            corpus: Corpus::new(text().into(), 2000).unwrap(),
            residual: None,
        };
        let script = Script { gpus: gpus.to_vec(), opened: Vec::new() };
        let mut room = Room::new(manifest(&genesis), &training, script, sender);
        room.open(Auto).unwrap();
        Self { room, genesis: Bytes::from(genesis), events }
    }

    fn round(&mut self, round: u64) -> Outcome {
        let model = self.genesis.clone();
        let randomness = Digest::of(b"randomness");
        let work = Job::Train {
            round,
            model,
            randomness,
            steps: STEPS,
            learning_rate_1024: 1024,
            settled: Some(Share::WHOLE),
        };
        self.room.work(&work, &Steering::default())
    }

    /// To judge an update.
    fn judging(&self, update: &Bytes) -> Job {
        let author = PeerId([1; 32]);
        Job::Judge {
            round: 1,
            model: self.genesis.clone(),
            randomness: Digest::of(b"randomness"),
            draw: Digest::of(b"draw"),
            subjects: vec![shoal_swarm::Subject { author, update: update.clone(), steps: STEPS }],
            own: None,
            round_updates: vec![(author, update.clone())],
        }
    }

    fn update(&mut self, round: u64) -> Bytes {
        match self.round(round) {
            Outcome::Trained { update, .. } => update,
            other => panic!("{other:?}"),
        }
    }

    fn takeovers(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            if let ComputeEvent::Engine { name, why } = event {
                assert!(why.contains("unplugged"), "{why}");
                names.push(name);
            }
        }
        names
    }
}

const GOOD: Fate = Fate::Good;
const LOST: Fate = Fate::FailsAt(2);

#[test]
fn a_round_goes_on_when_the_gpu_is_lost_and_opens_again() {
    let mut world = World::new(&[LOST, GOOD]);
    world.update(1);
    assert_eq!(world.room.engines.opened, [Auto, Gpu]);
    assert_eq!(world.takeovers(), ["gpu"]);
}

#[test]
fn a_gpu_that_is_lost_three_times_in_a_row_gives_way_to_the_cpu() {
    let mut world = World::new(&[LOST, LOST, LOST, GOOD]);
    world.update(1);
    assert_eq!(world.room.engines.opened, [Auto, Gpu, Gpu, Cpu]);
    assert_eq!(world.takeovers(), ["gpu", "gpu", "cpu"]);
}

#[test]
fn losses_with_a_finished_round_in_between_are_not_in_a_row() {
    let late = Fate::FailsAt(STEPS + 1);
    let mut world = World::new(&[late, late, late, late, GOOD]);
    for round in 1..=5 {
        world.update(round);
    }
    assert_eq!(world.room.engines.opened, [Auto, Gpu, Gpu, Gpu, Gpu]);
}

#[test]
fn a_gpu_that_does_not_open_again_gives_way_to_the_cpu() {
    let mut world = World::new(&[LOST, Fate::DoesNotOpen, GOOD]);
    world.update(1);
    assert_eq!(world.room.engines.opened, [Auto, Gpu, Cpu]);
    assert_eq!(world.takeovers(), ["cpu"]);
}

#[test]
fn what_is_owed_to_the_run_outlives_a_lost_gpu() {
    let mut steady = World::new(&[GOOD]);
    let mut lost = World::new(&[Fate::FailsAt(STEPS + 1), GOOD]);
    for round in 1..=3 {
        assert_eq!(steady.update(round), lost.update(round), "round {round}");
        assert!(steady.room.residual().unwrap().iter().any(|byte| *byte != 0));
        assert_eq!(steady.room.residual(), lost.room.residual(), "round {round}");
    }
    assert_eq!(lost.takeovers(), ["gpu"]);
}

#[test]
fn a_stopped_round_fails_without_a_step() {
    let mut world = World::new(&[GOOD]);
    let work = Job::Train {
        round: 1,
        model: world.genesis.clone(),
        randomness: Digest::of(b"randomness"),
        steps: STEPS,
        learning_rate_1024: 1024,
        settled: None,
    };
    let steering = Steering::default();
    steering.stop(false);
    assert!(matches!(world.room.work(&work, &steering), Outcome::Failed { .. }));
    assert!(world.events.try_recv().is_err());
}

#[test]
fn the_residual_is_told_after_every_round_that_ends_or_is_stopped() {
    let world = World::new(&[GOOD]);
    let (events, mut news) = unbounded_channel();
    let (sender, jobs) = mpsc::channel();
    let (ready, _ready) = mpsc::channel();
    for (job, stopped) in [(1, false), (2, true)] {
        let steering = Steering::default();
        if stopped {
            steering.stop(false);
        }
        let model = world.genesis.clone();
        let work = Job::Train {
            round: job,
            model,
            randomness: Digest::of(b"r"),
            steps: STEPS,
            learning_rate_1024: 1024,
            settled: None,
        };
        sender.send((job, work, steering)).unwrap();
    }
    drop(sender);
    let training = Training {
        peer: PeerId([1; 32]),
        engine: Cpu,
        corpus: Corpus::new(text().into(), 2000).unwrap(),
        residual: None,
    };
    let script = Script { gpus: Vec::new(), opened: Vec::new() };
    train_jobs(world.room.manifest.clone(), training, script, jobs, events, &ready);
    let mut order = Vec::new();
    while let Ok(event) = news.try_recv() {
        match event {
            ComputeEvent::Done { job, .. } => order.push(format!("job {job}")),
            ComputeEvent::Residual(_) => order.push("residual".to_owned()),
            _ => {}
        }
    }
    assert_eq!(order, ["job 1", "residual", "job 2", "residual"]);
}

#[test]
fn updates_are_judged_also_where_the_gpu_is_lost_on_the_way() {
    let update = World::new(&[GOOD]).update(1);
    let judged = |gpus: &[Fate]| {
        let mut world = World::new(gpus);
        let outcome = world.room.work(&world.judging(&update), &Steering::default());
        let Outcome::Judged { scores } = outcome else { panic!("{outcome:?}") };
        (scores, world.takeovers())
    };
    let (scores, takeovers) = judged(&[GOOD]);
    // The engine's loss is the sum of the parameters, which training made larger.
    assert!(scores.len() == 1 && scores[0].assigned < 0 && scores[0].other < 0, "{scores:?}");
    assert_eq!(takeovers, Vec::<String>::new());
    assert_eq!(judged(&[Fate::FailsAt(0), GOOD]), (scores, vec!["gpu".to_owned()]));
}

#[test]
fn judging_that_is_stopped_or_of_what_is_no_update_fails_with_its_reason() {
    let mut world = World::new(&[GOOD]);
    let stopped = Steering::default();
    stopped.stop(false);
    let update = world.update(1);
    for (update, steering, reason) in
        [(update, stopped, "was stopped"), (Bytes::from([7; 9]), Steering::default(), "cannot be judged")]
    {
        let outcome = world.room.work(&world.judging(&update), &steering);
        assert!(matches!(&outcome, Outcome::Failed { reason: why } if why.contains(reason)), "{outcome:?}");
    }
}
