//! What a part of a model takes on a device, known before any is opened.

use shoal_learn::{EngineError, Layout, Shard};
use shoal_wire::manifest::ModelSpec;

use crate::{
    banks::Banks,
    forms::{Forms, Traits},
    machine::LOSS_SLOTS,
    pipelines::ARGUMENTS_STRIDE,
    plan::{Plan, Task, Thrift},
    shape::Shape,
    tables::tables,
};

/// What a device can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// All buffers together.
    pub bytes: u64,
    /// Each binding; WebGPU promises 128 MiB.
    pub binding_bytes: u64,
}

/// What steps of a shard take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    pub parameters: u64,
    /// Of all buffers.
    pub bytes: u64,
    /// Parts that the batch is trained in, to save memory.
    pub micro_batches: u32,
    /// Whether activations are computed twice, to save memory.
    pub recomputes: bool,
    pub dispatches: u64,
    /// Floating-point operations of a step: two for each multiplication in a matrix product, forward, backward for inputs and
    /// for weights, and once more forward where activations are computed twice.
    pub operations: u64,
}

impl Footprint {
    /// Of steps of `batch` sequences of `context` tokens, trained in the fastest way that fits the room.
    pub fn of(
        model: &ModelSpec,
        shard: &Shard,
        (batch, context): (usize, usize),
        room: Room,
    ) -> Result<Self, EngineError> {
        let layout = Layout::of_shard(model, shard).map_err(|error| EngineError::Unsupported(error.to_string()))?;
        let whole = Shape::of(model, batch, context)?;
        let values_max = (room.binding_bytes / 4).min(u64::from(u32::MAX)) as usize;
        let banks = Banks::new(&layout, values_max)?;
        let mut least = None;
        for thrift in Thrift::ways(whole.batch, whole.context) {
            let shape = Shape::of(model, batch / thrift.micro_batches as usize, context)?;
            let first = 2 * shape.rows as usize * thrift.micro_batches as usize;
            let (words, tables) = tables(&layout, &banks, if shape.is_vector() { 4 } else { 1 }, first);
            let forms = Forms::likeliest(shape, Traits::default());
            let (layout, banks, tables) = (&layout, &banks, &tables[..]);
            let plan = match Plan::new(Task { layout, shard, banks, shape, forms, thrift, values_max, tables }) {
                Ok(plan) if plan.arena_values.max(plan.stats_values) <= values_max => plan,
                Ok(_) | Err(EngineError::OutOfMemory(_)) => continue,
                Err(error) => return Err(error),
            };
            let values = 4 * layout.len() + plan.arena_values + plan.stats_values + first + words.len() + LOSS_SLOTS;
            let windows = plan.dispatches.len() + thrift.micro_batches as usize;
            let bytes = values as u64 * 4 + (windows * ARGUMENTS_STRIDE) as u64;
            if bytes <= room.bytes {
                let micro_batches = thrift.micro_batches;
                let each = plan.forward.len() + plan.backward.len();
                return Ok(Self {
                    parameters: layout.len() as u64,
                    bytes,
                    micro_batches,
                    recomputes: thrift.recompute,
                    dispatches: each as u64 * u64::from(micro_batches),
                    operations: operations(layout, shard, whole, thrift),
                });
            }
            least = Some(least.map_or(bytes, |least: u64| least.min(bytes)));
        }
        let text = match least {
            Some(bytes) => format!("at least {bytes} bytes are needed, and the device has {}", room.bytes),
            None => format!("not even one sequence fits into bindings of {} bytes", room.binding_bytes),
        };
        Err(EngineError::OutOfMemory(text))
    }
}

fn operations(layout: &Layout, shard: &Shard, shape: Shape, thrift: Thrift) -> u64 {
    let rows = u64::from(shape.rows);
    // A table that only embeds is looked up, not multiplied.
    let embeds_only = |name: &str| name.contains("embed_tokens") && layout.find("lm_head.weight").is_some();
    let matrices = layout.tensors.iter().filter(|tensor| tensor.shape.len() == 2 && !embeds_only(&tensor.name));
    let mut weights: u64 = matrices.map(|tensor| tensor.len() as u64).sum();
    if shard.embeds() && !shard.predicts() {
        weights -= u64::from(shape.vocab) * u64::from(shape.hidden);
    }
    // Queries times keys and probabilities times values, half of each masked.
    let layers = shard.layers().len() as u64;
    let attention = layers * rows * u64::from(shape.context) * u64::from(shape.hidden) * 2;
    let forward = 2 * rows * weights + attention;
    forward * if thrift.recompute { 4 } else { 3 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use shoal_learn::presets::Preset;

    use super::*;

    const AMPLE: Room = Room { bytes: u64::MAX, binding_bytes: u64::MAX };

    fn gpt2() -> ModelSpec {
        ModelSpec {
            vocab_size: 50_257,
            hidden_size: 768,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_key_value_heads: 12,
            max_position_embeddings: 1024,
            tie_word_embeddings: true,
            ..Preset::Base.model()
        }
    }

    #[test]
    fn a_large_vocabulary_fits_the_bindings_that_webgpu_promises() {
        let model = gpt2();
        let room = Room { binding_bytes: 128 << 20, ..AMPLE };
        let footprint = Footprint::of(&model, &Shard::whole(&model), (1, 1024), room).unwrap();
        assert!(footprint.parameters > 120_000_000 && footprint.recomputes, "{footprint:?}");
        let ample = Footprint::of(&model, &Shard::whole(&model), (1, 1024), AMPLE).unwrap();
        assert!(ample.bytes > footprint.bytes && !ample.recomputes, "{ample:?}");
        assert_eq!(ample.operations / 3, footprint.operations / 4);
    }

    #[test]
    fn less_memory_means_smaller_parts_and_too_little_is_said() {
        let model = Preset::Base.model();
        let whole = Shard::whole(&model);
        let ample = Footprint::of(&model, &whole, (8, 256), AMPLE).unwrap();
        assert_eq!((ample.micro_batches, ample.recomputes), (1, false));
        let less = Room { bytes: ample.bytes - 1, ..AMPLE };
        let thrifty = Footprint::of(&model, &whole, (8, 256), less).unwrap();
        assert!(thrifty.bytes < ample.bytes && (thrifty.micro_batches > 1 || thrifty.recomputes));
        let error = Footprint::of(&model, &whole, (8, 256), Room { bytes: 1 << 20, ..AMPLE }).unwrap_err().to_string();
        assert!(error.contains("at least") && error.contains("1048576"), "{error}");
    }

    #[test]
    fn shards_share_the_work_of_the_whole() {
        let model = Preset::Base.model();
        let of = |shard: &Shard| Footprint::of(&model, shard, (8, 256), AMPLE).unwrap();
        let whole = of(&Shard::whole(&model));
        let parts: Vec<Footprint> = Shard::split(&model, 4).unwrap().iter().map(of).collect();
        assert_eq!(parts.iter().map(|part| part.parameters).sum::<u64>(), whole.parameters);
        assert_eq!(parts.iter().map(|part| part.operations).sum::<u64>(), whole.operations);
        assert!(parts.iter().all(|part| part.bytes < whole.bytes / 2));
    }
}
