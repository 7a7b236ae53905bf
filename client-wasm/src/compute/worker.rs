//! The loop of the compute worker. One thing at a time; between two training steps it looks for messages,
//! does at once what needs no engine or is a person waiting, and leaves the rest for after the round.

use std::collections::VecDeque;

use shoal_learn::{
    Engine,
    data::Corpus,
    outer,
    trainer::{Go, JudgeOrder, JudgedUpdate, StepReport, TrainError, TrainOrder, TrainOutcome, Trainer},
};
use shoal_swarm::JobId;
use shoal_wire::{Digest, Manifest, PeerId, Round, codec, judging::Score, limits, share::Share};
use web_sys::MessagePort;

use super::{
    Ask, Start,
    engine::{AnyEngine, Choice, SharedEngine},
    sample,
};
use crate::{
    blob::Blob,
    inbox::Inbox,
    messages::{ComputeCommand, ComputeNews, Failure, FromCompute, JudgeJob, ToCompute},
    scope,
};

const HELD_OUT_BATCHES: usize = 8;
/// After measuring a model, this many times as long is for training.
const TRAIN_PER_MEASURE: f64 = 3.0;
/// The page hears of steps at most this often, but of each loss.
const PROGRESS_MS: f64 = 100.0;
/// While pausing between steps, messages are looked for this often.
const PAUSE_SLICE_MS: f64 = 40.0;
const DUTY_MIN: f64 = 0.05;
const REOPEN_MS: f64 = 1000.0;
/// A GPU that fails this often is given up for the CPU.
const GPU_FAILURES_MAX: u32 = 3;

/// A run's manifest, trainer and engine, once the peer worker sent the data.
struct Room {
    manifest: Manifest,
    peer: PeerId,
    engine: SharedEngine,
    trainer: Trainer<SharedEngine>,
    gpu_failures: u32,
}

const NOT_HERE_YET: &str = "The common model is not here yet; try again in a moment.";

struct Worker {
    port: MessagePort,
    inbox: Inbox<Ask>,
    /// What had to wait for the round's training.
    later: VecDeque<Ask>,
    breath: scope::Breath,
    choice: Choice,
    duty: f64,
    common: Option<(Round, Vec<u8>)>,
    /// Slow machines measure some models only: the next not before this time.
    measure_at: f64,
    measure_all: bool,
}

struct TrainJob {
    job: JobId,
    round: Round,
    model: Blob,
    randomness: Digest,
    steps: u32,
    learning_rate_1024: u32,
    settled: Option<Share>,
}

pub async fn run(start: Start, port: MessagePort, inbox: Inbox<Ask>) {
    let mut worker = Worker {
        port,
        inbox,
        later: VecDeque::new(),
        breath: scope::Breath::new(),
        choice: start.engine,
        duty: start.duty.clamp(DUTY_MIN, 1.0),
        common: None,
        measure_at: 0.0,
        measure_all: start.measure_all,
    };
    let mut room = None;
    loop {
        let ask = match worker.later.pop_front() {
            Some(ask) => ask,
            None => worker.inbox.next().await,
        };
        if let Ask::Peer(ToCompute::Setup { manifest, peer, text, residual }) = ask {
            match worker.set_up(&manifest.0, peer, text.0, residual).await {
                Ok(opened) => room = Some(opened),
                Err(error) => scope::post_failure(&Failure::new("engine", &error)),
            }
        } else if let Some(room) = &mut room {
            worker.answer(room, ask).await;
        } else {
            worker.before_setup(ask);
        }
    }
}

impl Worker {
    /// The page may ask before the run's data is here; somebody waits for each answer.
    fn before_setup(&mut self, ask: Ask) {
        match ask {
            Ask::Page(ComputeCommand::Pace { duty }) => self.duty = duty.clamp(DUTY_MIN, 1.0),
            Ask::Page(ComputeCommand::Sample { id, .. }) => {
                scope::post(&ComputeNews::Sample { id, text: NOT_HERE_YET.to_owned(), done: true });
            }
            Ask::Peer(_) => {}
        }
    }

    async fn set_up(
        &self,
        manifest: &[u8],
        peer: PeerId,
        text: Vec<u8>,
        residual: Option<Blob>,
    ) -> Result<Room, String> {
        let manifest: Manifest =
            codec::decode("manifest", manifest, limits::MANIFEST_BYTES_MAX).map_err(|error| error.to_string())?;
        let corpus = Corpus::new(text.into(), manifest.data.held_out_bytes).map_err(|error| error.to_string())?;
        let (engine, why) = AnyEngine::choose(self.choice, &manifest).await.map_err(|error| error.to_string())?;
        let mut room = open_room(manifest, peer, corpus, engine, why, 0)?;
        if let Some(residual) = residual
            && let Err(error) = room.trainer.restore_residual(&residual.0)
        {
            web_sys::console::warn_1(&format!("stored error feedback is left out: {error}").into());
        }
        Ok(room)
    }

    async fn answer(&mut self, room: &mut Room, ask: Ask) {
        match ask {
            Ask::Peer(ToCompute::Train { job, round, model, randomness, steps, learning_rate_1024, settled }) => {
                let work = TrainJob { job, round, model, randomness, steps, learning_rate_1024, settled };
                self.train(room, work).await;
            }
            Ask::Peer(ToCompute::Judge(work)) => self.judge(room, &work).await,
            Ask::Peer(ToCompute::Evaluate { round, model }) => {
                let wanted = self.is_newest(room).await && scope::precise_ms() >= self.measure_at;
                if wanted || self.measure_all {
                    self.evaluate(room, round, &model.0).await;
                }
                self.common = Some((round, model.0));
            }
            ask => {
                if let Err(ask) = self.light(&room.manifest, &mut room.engine, ask).await {
                    web_sys::console::warn_1(&format!("out of turn: {ask:?}").into());
                }
            }
        }
    }

    /// What can be done between two steps of training; the rest comes back.
    async fn light(&mut self, manifest: &Manifest, engine: &mut SharedEngine, ask: Ask) -> Result<(), Ask> {
        match ask {
            Ask::Page(ComputeCommand::Pace { duty }) => self.duty = duty.clamp(DUTY_MIN, 1.0),
            Ask::Page(ComputeCommand::Sample { id, prompt }) => self.sample(manifest, engine, id, &prompt).await,
            Ask::Peer(ToCompute::Check { job, update }) => {
                let well_formed = layout(manifest)
                    .is_ok_and(|layout| outer::check(&layout, manifest.recipe.outer.codec, &update.0).is_ok());
                self.reply(&FromCompute::Checked { job, well_formed });
            }
            Ask::Peer(ToCompute::Aggregate { job, model, updates, history, share }) => {
                self.reply(&match aggregate(manifest, &model, &updates, &history, share) {
                    Ok((model, norms)) => FromCompute::Aggregated { job, model: Blob(model), norms },
                    Err(reason) => FromCompute::Failed { job, reason },
                });
            }
            // Its job is over, or still waits: then it never begins.
            Ask::Peer(ToCompute::Stop { job, .. }) => {
                let waiting = self.later.len();
                self.later.retain(|ask| match ask {
                    Ask::Peer(ToCompute::Train { job: late, .. } | ToCompute::Judge(JudgeJob { job: late, .. })) => {
                        *late != job
                    }
                    _ => true,
                });
                if self.later.len() < waiting {
                    let reason = "the round ended before this work began".to_owned();
                    self.reply(&FromCompute::Failed { job, reason });
                }
            }
            ask => return Err(ask),
        }
        Ok(())
    }

    /// A round outlives its engine: the steps begin again on the next one, from the same common model.
    async fn train(&mut self, room: &mut Room, mut work: TrainJob) {
        loop {
            match self.attempt(room, &work).await {
                Ok(Some(TrainOutcome { update, steps, tokens, loss_first, loss_last })) => {
                    let (job, update) = (work.job, Blob(update));
                    room.gpu_failures = 0;
                    self.reply(&FromCompute::Trained { job, update, steps, tokens, loss_first, loss_last });
                    self.reply(&FromCompute::Residual(Blob(room.trainer.residual_bytes())));
                }
                Ok(None) => {}
                Err(error) => {
                    if recover(room, &error).await {
                        // The first attempt has settled it.
                        work.settled = None;
                        continue;
                    }
                    self.reply(&FromCompute::Failed { job: work.job, reason: error.to_string() });
                }
            }
            return;
        }
    }

    /// Judging outlives an engine as a round does.
    async fn judge(&mut self, room: &mut Room, work: &JudgeJob) {
        let job = work.job;
        loop {
            match self.measure(room, work).await {
                Ok(Some(scores)) => self.reply(&FromCompute::Judged { job, scores }),
                Ok(None) => {}
                Err(error) => {
                    if recover(room, &error).await {
                        continue;
                    }
                    self.reply(&FromCompute::Failed { job, reason: error.to_string() });
                }
            }
            return;
        }
    }

    async fn measure(&mut self, room: &mut Room, work: &JudgeJob) -> Result<Option<Vec<Score>>, TrainError> {
        let Room { manifest, engine, trainer, .. } = room;
        let order = JudgeOrder {
            model: &work.model.0,
            randomness: work.randomness,
            draw: work.draw,
            subjects: work
                .subjects
                .iter()
                .map(|(author, update, steps)| JudgedUpdate { author: *author, update: &update.0, steps: *steps })
                .collect(),
            own: work.own.as_ref().map(|own| &own.0[..]),
            round_updates: work.round_updates.iter().map(|(author, update)| (*author, &update.0[..])).collect(),
        };
        let mut since = scope::precise_ms();
        trainer
            .judge(&order, async || {
                let busy_ms = scope::precise_ms() - since;
                let go = self.between_steps(manifest, engine, work.job, busy_ms).await;
                since = scope::precise_ms();
                go
            })
            .await
    }

    async fn attempt(&mut self, room: &mut Room, work: &TrainJob) -> Result<Option<TrainOutcome>, TrainError> {
        let order = TrainOrder {
            round: work.round,
            model: &work.model.0,
            randomness: work.randomness,
            peer: room.peer,
            steps: work.steps,
            learning_rate_1024: work.learning_rate_1024,
            settled: work.settled,
        };
        let Room { manifest, engine, trainer, .. } = room;
        let mut gauge = Gauge::new(work.round);
        let worker = &mut *self;
        trainer
            .train(&order, async |report: StepReport| {
                let busy_ms = gauge.report(&report);
                let go = worker.between_steps(manifest, engine, work.job, busy_ms).await;
                if report.loss.is_some() {
                    gauge.go_on();
                }
                go
            })
            .await
    }

    /// Between two steps of training or evaluations of judging: rests as long as the duty cycle asks, and does what came in.
    async fn between_steps(&mut self, manifest: &Manifest, engine: &mut SharedEngine, job: JobId, busy_ms: f64) -> Go {
        let mut rest_ms = busy_ms * (1.0 / self.duty - 1.0);
        loop {
            if rest_ms > 0.0 {
                scope::sleep(rest_ms.min(PAUSE_SLICE_MS)).await;
                rest_ms -= PAUSE_SLICE_MS;
            } else {
                self.breath.take().await;
            }
            while let Some(ask) = self.inbox.try_next() {
                match ask {
                    Ask::Peer(ToCompute::Stop { job: stopped, keep }) if stopped == job => {
                        return if keep { Go::Finish } else { Go::Discard };
                    }
                    ask => {
                        if let Err(ask) = self.light(manifest, engine, ask).await {
                            self.later.push_back(ask);
                        }
                    }
                }
            }
            if rest_ms <= 0.0 {
                return Go::On;
            }
        }
    }

    /// Measuring can wait for whatever peers wait for, and a newer model makes it pointless: a newcomer passes
    /// many rounds on its way to the present.
    async fn is_newest(&mut self, room: &mut Room) -> bool {
        while let Some(ask) = self.inbox.try_next() {
            if let Err(ask) = self.light(&room.manifest, &mut room.engine, ask).await {
                self.later.push_back(ask);
            }
        }
        !self.later.iter().any(|ask| matches!(ask, Ask::Peer(ToCompute::Evaluate { .. })))
    }

    async fn evaluate(&mut self, room: &mut Room, round: Round, model: &[u8]) {
        let started = scope::precise_ms();
        match room.trainer.held_out_loss(model, HELD_OUT_BATCHES).await {
            Ok(loss) => scope::post(&ComputeNews::Evaluated { round, loss }),
            Err(error) => {
                web_sys::console::warn_1(&format!("round {round} could not be measured: {error}").into());
                recover(room, &error).await;
            }
        }
        let now = scope::precise_ms();
        self.measure_at = now + (now - started) * TRAIN_PER_MEASURE;
    }

    async fn sample(&mut self, manifest: &Manifest, engine: &mut SharedEngine, id: u32, prompt: &str) {
        let outcome = match (&self.common, layout(manifest)) {
            (Some((_, model)), Ok(layout)) => {
                let context = manifest.recipe.context as usize;
                sample::write(engine, sample::Order { id, prompt, layout: &layout, context, model }).await
            }
            (None, _) => Err(NOT_HERE_YET.to_owned()),
            (_, Err(error)) => Err(error),
        };
        if let Err(text) = outcome {
            scope::post(&ComputeNews::Sample { id, text, done: true });
        }
    }

    fn reply(&self, answer: &FromCompute) {
        let posted = postcard::to_allocvec(answer)
            .map_err(|error| error.to_string())
            .and_then(|bytes| scope::post_bytes(&self.port, &bytes).map_err(|error| scope::words(&error)));
        if let Err(error) = posted {
            scope::post_failure(&Failure::new("engine", &format!("the peer worker cannot be reached: {error}")));
        }
    }
}

fn open_room(
    manifest: Manifest,
    peer: PeerId,
    corpus: Corpus,
    engine: AnyEngine,
    why: Option<String>,
    gpu_failures: u32,
) -> Result<Room, String> {
    let kind = engine.kind();
    let engine = SharedEngine::new(engine);
    scope::post(&ComputeNews::Engine { kind, name: engine.describe(), why });
    let trainer = Trainer::new(engine.clone(), &manifest, corpus).map_err(|error| error.to_string())?;
    Ok(Room { manifest, peer, engine, trainer, gpu_failures })
}

/// After the GPU failed it is opened anew, and at last the CPU takes over; what is owed to the run is kept.
/// Says whether there is another engine to go on with.
async fn recover(room: &mut Room, error: &TrainError) -> bool {
    if !matches!(error, TrainError::Engine(_)) || room.engine.kind() == Some("cpu") {
        return false;
    }
    web_sys::console::warn_1(&format!("the GPU failed: {error}").into());
    let failures = room.gpu_failures + 1;
    let residual = room.trainer.residual_bytes();
    // The new engine may need the old one's memory.
    room.engine.close();
    let opened = reopen(&room.manifest, failures, error).await.and_then(|(engine, why)| {
        open_room(room.manifest.clone(), room.peer, room.trainer.corpus().clone(), engine, why, failures)
    });
    match opened {
        Ok(opened) => {
            *room = opened;
            // It fitted a moment ago.
            room.trainer.restore_residual(&residual).ok();
            true
        }
        Err(error) => {
            scope::post_failure(&Failure::new("engine", &error));
            false
        }
    }
}

/// The engine after `failures` of the GPU in a row; with the reason in words where it is the CPU.
async fn reopen(manifest: &Manifest, failures: u32, error: &TrainError) -> Result<(AnyEngine, Option<String>), String> {
    for tried in failures..GPU_FAILURES_MAX {
        // The first time the device is to blame, after that perhaps what was remembered of it.
        if let Ok(engine) = AnyEngine::gpu(manifest, tried == 1).await {
            return Ok((engine, None));
        }
        // A browser may need a moment to start its graphics process again.
        scope::sleep(REOPEN_MS).await;
    }
    let engine = AnyEngine::cpu(manifest).await.map_err(|error| error.to_string())?;
    Ok((engine, Some(error.to_string())))
}

fn layout(manifest: &Manifest) -> Result<shoal_learn::Layout, String> {
    shoal_learn::Layout::of(&manifest.model).map_err(|error| error.to_string())
}

fn aggregate(
    manifest: &Manifest,
    model: &Blob,
    updates: &[(u16, Blob)],
    history: &[Vec<u64>],
    share: Share,
) -> Result<(Vec<u8>, Vec<u64>), String> {
    let layout = layout(manifest)?;
    let theta = outer::params_from_bytes(&layout, &model.0).map_err(|error| error.to_string())?;
    let updates: Vec<(u16, &[u8])> = updates.iter().map(|(weight, update)| (*weight, update.0.as_slice())).collect();
    let (next, norms) = outer::aggregate(&layout, &manifest.recipe.outer, &theta, &updates, history, share)
        .map_err(|error| error.to_string())?;
    Ok((outer::params_to_bytes(&next), norms))
}

/// Tells the page how training goes, and measures how long the engine was busy.
struct Gauge {
    round: Round,
    /// When the last loss was read: only then is it known that the steps before are done.
    read_at: f64,
    read_tokens: u64,
    told_at: f64,
    told_tokens: u64,
    tokens_per_second: f64,
}

impl Gauge {
    fn new(round: Round) -> Self {
        let now = scope::precise_ms();
        Self { round, read_at: now, read_tokens: 0, told_at: now, told_tokens: 0, tokens_per_second: 0.0 }
    }

    /// Work begins again: what was between the steps does not count.
    fn go_on(&mut self) {
        self.read_at = scope::precise_ms();
    }

    /// Milliseconds of work since the last read, if there was a read.
    fn report(&mut self, report: &StepReport) -> f64 {
        let now = scope::precise_ms();
        let mut busy_ms = 0.0;
        if report.loss.is_some() {
            busy_ms = now - self.read_at;
            let rate = (report.tokens - self.read_tokens) as f64 * 1000.0 / busy_ms.max(0.001);
            let first = self.tokens_per_second == 0.0;
            self.tokens_per_second = if first { rate } else { 0.6 * self.tokens_per_second + 0.4 * rate };
            self.read_at = now;
            self.read_tokens = report.tokens;
        }
        if report.loss.is_some() || now - self.told_at >= PROGRESS_MS {
            self.told_at = now;
            scope::post(&ComputeNews::Progress {
                round: self.round,
                step: report.step,
                steps: report.steps,
                loss: report.loss,
                tokens: report.tokens - self.told_tokens,
                tokens_per_second: self.tokens_per_second,
            });
            self.told_tokens = report.tokens;
        }
        busy_ms
    }
}
