//! A run's manifest: everything that its participants agreed to before the first round.

use serde::{Deserialize, Serialize};

pub use crate::optimizer::{AdamW, Muon, MuonScale, Optimizer, OptimizerError, Sgd};
use crate::{Digest, Envelope, PeerId, RunId, WireError, codec, limits, sign::Domain};

/// Version of the protocol that this crate speaks. It rises when records change, so that peers that could not follow each
/// other learn it before they start.
pub const VERSION: u16 = 2;

/// What a run trains, on what, how, and who anchors it. Its digest is the run's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the protocol that the run speaks.
    pub version: u16,
    pub name: String,
    pub description: String,
    /// Who publishes the run, in words of their own.
    pub host: String,
    pub model: ModelSpec,
    pub tokenizer: Tokenizer,
    /// Address of the first model: its parameters as little-endian f32 in layout order.
    pub genesis: Digest,
    pub data: DataSpec,
    pub recipe: Recipe,
    pub timing: Timing,
    pub privacy: Privacy,
    pub credit: CreditRule,
    pub charter: Charter,
    /// Peers that archive the run and may take part in a recovery; the first roster.
    pub anchors: Vec<PeerId>,
    /// First link of the chain of randomness.
    pub seed: Digest,
}

/// A Llama-style decoder, in the words of Hugging Face's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    pub vocab_size: u32,
    pub hidden_size: u32,
    pub intermediate_size: u32,
    pub num_hidden_layers: u32,
    pub num_attention_heads: u32,
    pub num_key_value_heads: u32,
    pub max_position_embeddings: u32,
    pub rms_norm_eps: f32,
    pub rope_theta: f32,
    pub rope_scaling: RopeScaling,
    pub tie_word_embeddings: bool,
}

/// How rotary frequencies are stretched beyond the context that a model was first trained on, in the words of Hugging
/// Face's `rope_parameters`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeScaling {
    /// As they are.
    #[default]
    Default,
    /// Every frequency divided by the factor (Chen et al. 2023, arXiv:2306.15595).
    Linear { factor: f32 },
    /// As Llama 3.1: waves longer than `original_max_position_embeddings / low_freq_factor` are divided by the factor,
    /// those shorter than `original_max_position_embeddings / high_freq_factor` stay, and between them it is blended.
    Llama3 { factor: f32, low_freq_factor: f32, high_freq_factor: f32, original_max_position_embeddings: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenizer {
    /// Each byte is a token; the vocabulary has 256.
    Bytes,
}

/// Public data: content-addressed chunks that concatenate to one byte text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSpec {
    pub sources: Vec<DataSource>,
    /// The last bytes of the text, never trained on, measure the common model.
    pub held_out_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSource {
    pub name: String,
    /// SPDX licence expression.
    pub licence: String,
    pub attribution: String,
    pub chunks: Vec<Chunk>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    pub digest: Digest,
    pub bytes: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Sequences in a batch.
    pub batch: u32,
    /// Tokens in a sequence.
    pub context: u32,
    /// H, the most local steps in a round.
    pub local_steps: u32,
    pub inner: Optimizer,
    /// Rounds over which the learning rate rises from zero.
    pub warmup_rounds: u32,
    /// The last round at the peak before the learning rate falls.
    pub decay_from: u32,
    /// Rounds over which it falls; 0 means that it stays, for a run without a planned end.
    pub decay_rounds: u32,
    pub outer: Outer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outer {
    pub codec: Codec,
    /// Outer learning rate in 1/1024, an integer because peers must agree on every bit of its effect.
    pub alpha_1024: u16,
    /// Decay of the error feedback in 1/1024.
    pub feedback_1024: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codec {
    /// Every value, entropy-coded: about 4.1 bits each.
    Dense4,
    /// 64 of each 4,096 values, about 10 bits each.
    Topk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// A round's training ends after this, whatever the peers' speed.
    pub train_ms_max: u32,
    /// Time to exchange updates before the leader proposes what most have.
    pub exchange_ms_max: u32,
    /// First timeout of each step of agreement; it grows with each view.
    pub view_ms: u32,
    /// With too little weight present for this long, anchors recover.
    pub recovery_ms: u32,
    /// Rounds for which an ordinary certificate from the same parent beats a recovery.
    pub recovery_window_rounds: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Privacy {
    /// Data and updates are public, and inspected.
    Public,
}

/// What counts as credit. Everybody recomputes it from the certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CreditRule {
    /// One for each token trained in an accepted update, up to the number assigned, and for each update judged a small
    /// share of what an update is worth. Nothing decays.
    #[default]
    TrainedTokens,
}

/// When an amendment is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charter {
    /// Of the credit that votes, the part that must approve.
    pub approve_per_mille: u16,
    /// Of the credit of everybody who earned some while the vote was open, or voted, the part that must vote.
    pub turnout_per_mille: u16,
    /// Rounds from the one that carries an amendment to the last that may carry a ballot on it.
    pub open_rounds_min: u32,
    /// The same, at most; and from there to the round in which it takes effect.
    pub open_rounds_max: u32,
}

impl Default for Charter {
    /// Two thirds of the votes, cast by a third of those concerned, who have at least twenty rounds for it.
    fn default() -> Self {
        Self { approve_per_mille: 667, turnout_per_mille: 334, open_rounds_min: 20, open_rounds_max: 2_000 }
    }
}

impl Manifest {
    pub fn run(&self) -> RunId {
        RunId(Digest::in_domain("shoal 2026 v1 run id", &codec::encode(self)).0)
    }

    /// Opens a manifest that its publisher signed, of this version of the protocol.
    pub fn open(envelope: &Envelope) -> Result<Self, WireError> {
        let manifest = envelope.open::<Self>("manifest", Domain::Manifest, limits::MANIFEST_BYTES_MAX)?.into_inner();
        let found = manifest.version;
        if found == VERSION { Ok(manifest) } else { Err(WireError::OtherVersion { found, ours: VERSION }) }
    }

    /// Every chunk of the text, in order.
    pub fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.data.sources.iter().flat_map(|source| &source.chunks)
    }
}
