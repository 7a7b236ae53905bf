//! [`ResumingEngine`]: a [`GpuEngine`] that outlives its device. Drivers are reset, graphics processes crash, memory runs out;
//! what was trained until then must not be lost.

use shoal_learn::{Batch, Engine, EngineError, StepSettings};
use shoal_wire::manifest::ModelSpec;
use web_time::Instant;

use crate::engine::{Counters, GpuEngine, Options};

/// Losses of a device in a row, without a snapshot in between, that are dealt with here.
const RESUMES_MAX: u32 = 2;
/// What was done since the last snapshot is done again when the device is lost, so snapshots are taken this often…
const SNAPSHOT_EVERY_MS: f64 = 2000.0;
/// …unless they would take more than this share of the time.
const SNAPSHOT_SHARE: f64 = 0.02;
/// A snapshot, or a list of what came after it, that needs more memory is not kept: then the caller hears of a loss.
const SNAPSHOT_BYTES_MAX: usize = 256 << 20;
/// Losses are read this often when steps are repeated.
const READ_EVERY: usize = 64;

/// Something that changed the engine.
#[derive(Clone, Debug)]
enum Deed {
    Load(Vec<f32>),
    ResetMoments,
    Step(Batch, StepSettings),
}

impl Deed {
    fn bytes(&self) -> usize {
        match self {
            Self::Load(values) => values.len() * 4,
            Self::ResetMoments => 0,
            Self::Step(batch, _) => batch.tokens() * 8,
        }
    }
}

#[derive(Debug)]
struct Snapshot {
    parameters: Vec<f32>,
    moments: [Vec<f32>; 2],
}

/// Keeps a snapshot of the training and a list of what came after. When the device is lost, another is opened and the list
/// is done again: no step is lost, only the time since the snapshot. Where memory ran out, the batch is trained in smaller
/// parts from then on.
#[derive(Debug)]
pub struct ResumingEngine {
    model: ModelSpec,
    batch: usize,
    context: usize,
    binding_bytes_max: u64,
    engine: GpuEngine,
    /// What went wrong in a call that could not wait for another device.
    broken: Option<EngineError>,
    /// `None` before the first: then the list begins with the engine's life.
    snapshot: Option<Snapshot>,
    deeds: Vec<Deed>,
    deed_bytes: usize,
    /// Set when a snapshot or the list would take too much memory.
    forgetful: bool,
    /// Steps at the list's end whose losses were not read yet.
    unread: usize,
    /// Losses before those, read when steps were done again, that nobody asked for yet.
    carried: Vec<f32>,
    resumes: u32,
    snapshot_at: Instant,
    snapshot_ms: f64,
    tell: fn(&EngineError),
}

impl ResumingEngine {
    /// See [`GpuEngine::with_options`].
    pub async fn open(
        model: &ModelSpec,
        batch: usize,
        context: usize,
        options: Options<'_>,
    ) -> Result<Self, EngineError> {
        let engine = GpuEngine::with_options(model, batch, context, options).await?;
        let forgetful = engine.parameter_count().saturating_mul(12) > SNAPSHOT_BYTES_MAX;
        Ok(Self {
            model: model.clone(),
            batch,
            context,
            binding_bytes_max: options.binding_bytes_max,
            engine,
            broken: None,
            snapshot: None,
            deeds: Vec::new(),
            deed_bytes: 0,
            forgetful,
            unread: 0,
            carried: Vec::new(),
            resumes: 0,
            snapshot_at: Instant::now(),
            snapshot_ms: 0.0,
            tell: |_| {},
        })
    }

    /// Calls this whenever a device fails and another takes over.
    #[must_use]
    pub fn on_failure(mut self, tell: fn(&EngineError)) -> Self {
        self.tell = tell;
        self
    }

    /// See [`GpuEngine::forms`].
    pub fn forms(&self) -> String {
        self.engine.forms()
    }

    /// See [`GpuEngine::counters`].
    pub fn counters(&self) -> Counters {
        self.engine.counters()
    }

    /// The engine, until its device is lost.
    pub fn engine(&self) -> &GpuEngine {
        &self.engine
    }

    fn note(&mut self, deed: Deed) {
        if self.forgetful {
            return;
        }
        // Parameters that nothing was done with before others took their place need not be loaded again.
        if let (Deed::Load(_), Some(last @ Deed::Load(_))) = (&deed, self.deeds.last()) {
            self.deed_bytes -= last.bytes();
            self.deeds.pop();
        }
        self.deed_bytes += deed.bytes();
        self.deeds.push(deed);
        if self.deed_bytes > SNAPSHOT_BYTES_MAX {
            self.forgetful = true;
            self.snapshot = None;
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.deeds.clear();
        self.deed_bytes = 0;
    }

    /// What failed is tried again on another device when somebody waits.
    fn defer(&mut self, result: Result<(), EngineError>) -> Result<(), EngineError> {
        match result {
            Err(error) if self.is_worth_resuming(&error) => {
                self.broken.get_or_insert(error);
                Ok(())
            }
            result => result,
        }
    }

    fn is_worth_resuming(&self, error: &EngineError) -> bool {
        let passing = matches!(error, EngineError::DeviceLost(_) | EngineError::OutOfMemory(_));
        passing && !self.forgetful && self.resumes < RESUMES_MAX
    }

    /// Opens another device and does again what was done since the snapshot; the losses of the unread steps come back.
    async fn resume(&mut self, error: &EngineError) -> Result<Vec<f32>, EngineError> {
        self.resumes += 1;
        self.broken = None;
        (self.tell)(error);
        let forms = self.engine.forms();
        let smaller = usize::from(matches!(error, EngineError::OutOfMemory(_)));
        let options = Options {
            remembered: Some(&forms),
            skipped_ways: self.engine.way() + smaller,
            binding_bytes_max: self.binding_bytes_max,
        };
        // The lost device may hold memory that the next one needs.
        self.engine.destroy_device();
        self.engine = GpuEngine::with_options(&self.model, self.batch, self.context, options).await?;
        if let Some(Snapshot { parameters, moments }) = &self.snapshot {
            self.engine.load(parameters)?;
            self.engine.load_moments(moments)?;
        }
        let mut losses = Vec::new();
        for (index, deed) in self.deeds.iter().enumerate() {
            match deed {
                Deed::Load(parameters) => self.engine.load(parameters)?,
                Deed::ResetMoments => self.engine.reset_moments()?,
                Deed::Step(batch, settings) => self.engine.step(batch, settings)?,
            }
            if index % READ_EVERY == READ_EVERY - 1 {
                losses.extend(self.engine.losses().await?);
            }
        }
        losses.extend(self.engine.losses().await?);
        let unread = core::mem::take(&mut self.unread);
        Ok(losses.split_off(losses.len() - unread.min(losses.len())))
    }

    /// Takes a snapshot when it is time.
    async fn keep(&mut self) -> Result<(), EngineError> {
        let due_ms = SNAPSHOT_EVERY_MS.max(self.snapshot_ms / SNAPSHOT_SHARE);
        if self.forgetful || self.deeds.is_empty() || self.snapshot_at.elapsed().as_secs_f64() * 1e3 < due_ms {
            return Ok(());
        }
        self.take_snapshot().await
    }

    /// Reads back parameters and moments, so that nothing before now need be done again. Losses that are unread on the
    /// device would be lost with it, so they are read first.
    pub async fn take_snapshot(&mut self) -> Result<(), EngineError> {
        let started = Instant::now();
        let losses = self.settle().await?;
        self.carried.extend(losses);
        let parameters = self.engine.parameters().await?;
        let moments = self.engine.moments().await?;
        self.snapshot = Some(Snapshot { parameters, moments });
        self.forget();
        self.resumes = 0;
        self.snapshot_at = Instant::now();
        self.snapshot_ms = started.elapsed().as_secs_f64() * 1e3;
        Ok(())
    }

    /// Losses of the unread steps, on another device where this one is lost.
    async fn settle(&mut self) -> Result<Vec<f32>, EngineError> {
        let mut error = match self.broken.take() {
            Some(error) => error,
            None => match self.engine.losses().await {
                Ok(losses) => {
                    self.unread = 0;
                    return Ok(losses);
                }
                Err(error) => error,
            },
        };
        while self.is_worth_resuming(&error) {
            match self.resume(&error).await {
                Ok(losses) => return Ok(losses),
                Err(next) => {
                    // What was done again only in part must not be gone on with.
                    self.engine.destroy_device();
                    error = next;
                }
            }
        }
        self.resumes = RESUMES_MAX;
        Err(error)
    }
}

/// Asks the engine, and once more after another device took over. Losses that are still unread wait for who reads them.
macro_rules! patiently {
    ($self:ident, $call:expr) => {{
        // A step that failed must be done again before anything is asked.
        let first = match $self.broken.take() {
            Some(error) => Err(error),
            None => $call.await,
        };
        match first {
            Err(error) if $self.is_worth_resuming(&error) => {
                $self.broken = Some(error);
                let losses = $self.settle().await?;
                $self.carried.extend(losses);
                $call.await
            }
            result => result,
        }
    }};
}

impl Engine for ResumingEngine {
    fn describe(&self) -> String {
        self.engine.describe()
    }

    fn load(&mut self, parameters: &[f32]) -> Result<(), EngineError> {
        let result = self.engine.load(parameters);
        self.defer(result)?;
        self.note(Deed::Load(parameters.to_vec()));
        Ok(())
    }

    fn reset_moments(&mut self) -> Result<(), EngineError> {
        let result = self.engine.reset_moments();
        self.defer(result)?;
        self.note(Deed::ResetMoments);
        Ok(())
    }

    fn step(&mut self, batch: &Batch, settings: &StepSettings) -> Result<(), EngineError> {
        let result = if self.broken.is_some() { Ok(()) } else { self.engine.step(batch, settings) };
        let result = self.defer(result);
        if result.is_ok() {
            self.note(Deed::Step(batch.clone(), *settings));
            self.unread += 1;
        }
        result
    }

    fn steps_ahead(&self) -> u32 {
        self.engine.steps_ahead()
    }

    async fn losses(&mut self) -> Result<Vec<f32>, EngineError> {
        let losses = self.settle().await?;
        self.carried.extend(losses);
        // A snapshot that fails is a device that is lost: the next call finds it.
        let kept = self.keep().await;
        self.defer(kept)?;
        Ok(core::mem::take(&mut self.carried))
    }

    async fn parameters(&mut self) -> Result<Vec<f32>, EngineError> {
        patiently!(self, self.engine.parameters())
    }

    async fn evaluate(&mut self, batch: &Batch) -> Result<f32, EngineError> {
        patiently!(self, self.engine.evaluate(batch))
    }

    async fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        patiently!(self, self.engine.next_logits(tokens))
    }
}
