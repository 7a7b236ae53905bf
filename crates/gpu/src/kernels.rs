//! The kernels by name, what each asks of a model and a device, and how their text is made.

use shoal_learn::EngineError;

use crate::template::expand;

macro_rules! kernels {
    ($($name:ident = $file:literal),* $(,)?) => {
        /// A kernel in one of its forms; forms may share a file.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Kernel { $($name),* }

        impl Kernel {
            #[cfg(test)]
            pub const ALL: &[Self] = &[$(Self::$name),*];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }

            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => include_str!(concat!("shaders/", $file, ".wgsl"))),* }
            }
        }
    };
}

kernels! {
    GemmNt = "gemm_nt",
    GemmNtVec4 = "gemm_nt_vec4",
    GemmNtQuad = "gemm_nt_vec4",
    GemmNtTiled = "gemm_nt_tiled",
    GemmNn = "gemm_nn",
    GemmNnVec4 = "gemm_nn_vec4",
    GemmNnQuad = "gemm_nn_vec4",
    GemmNnTiled = "gemm_nn_tiled",
    GemmTn = "gemm_tn",
    GemmTnVec4 = "gemm_tn_vec4",
    GemmTnQuad = "gemm_tn_vec4",
    GemmTnTiled = "gemm_tn_tiled",
    RmsNorm = "rmsnorm",
    RmsNormRow = "rmsnorm_row",
    RmsNormDx = "rmsnorm_dx",
    RmsNormDxRow = "rmsnorm_dx_row",
    RmsNormDw = "rmsnorm_dw",
    Rope = "rope",
    Attention = "attention",
    AttentionVec4 = "attention_vec4",
    AttentionQuad = "attention_vec4",
    AttentionTiled = "attention_tiled",
    AttentionDq = "attention_dq",
    AttentionDqVec4 = "attention_dq_vec4",
    AttentionDqQuad = "attention_dq_vec4",
    AttentionDqTiled = "attention_dq_tiled",
    AttentionDkv = "attention_dkv",
    AttentionDkvVec4 = "attention_dkv_vec4",
    AttentionDkvQuad = "attention_dkv_vec4",
    AttentionDkvTiled = "attention_dkv_tiled",
    SwiGlu = "swiglu",
    SwiGluBackward = "swiglu_backward",
    Embed = "embed",
    EmbedBackward = "embed_backward",
    CrossEntropy = "cross_entropy",
    CrossEntropyRow = "cross_entropy_row",
    NormPartial = "norm_partial",
    Finish = "finish",
    AdamW = "adamw",
    AdamWVec4 = "adamw_vec4",
    Sgd = "sgd",
    SgdVec4 = "sgd",
    MuonMomentum = "muon_momentum",
    MuonLoad = "muon_load",
    BatchNt = "gemm_nt",
    BatchNtVec4 = "gemm_nt_vec4",
    BatchNtQuad = "gemm_nt_vec4",
    BatchNtTiled = "gemm_nt_tiled",
    BatchNn = "gemm_nn",
    BatchNnVec4 = "gemm_nn_vec4",
    BatchNnQuad = "gemm_nn_vec4",
    BatchNnTiled = "gemm_nn_tiled",
    MuonApply = "muon_apply",
    BiasAct = "bias_act",
    ActBackward = "act_backward",
    ColumnSum = "column_sum",
    Spread = "spread",
    SpreadBackward = "spread_backward",
    MaxPool = "max_pool",
    MaxPoolBackward = "max_pool_backward",
    AvgPool = "avg_pool",
    AvgPoolBackward = "avg_pool_backward",
    GroupNorm = "group_norm",
    GroupNormDx = "group_norm_dx",
    GroupNormDw = "group_norm_dw",
    Transpose = "transpose",
    ValueLoss = "value_loss",
    GemmTnSplit = "gemm_tn_split",
    SliceSum = "slice_sum",
}

/// Queries, or keys, that a workgroup of tiled attention works on.
const ATTENTION_BLOCK: u32 = 32;

impl Kernel {
    /// Whether neighbouring threads pass values around, which a device must offer.
    pub fn needs_quads(self) -> bool {
        self.name().ends_with("Quad")
    }

    /// Whether it sees its buffers as vectors of four values.
    pub fn is_vector(self) -> bool {
        let by_name = ["Vec4", "Quad", "Tiled"].iter().any(|form| self.name().ends_with(form));
        by_name || matches!(self, Self::RmsNormRow | Self::RmsNormDxRow)
    }

    /// Whether it shares tiles in workgroup memory.
    pub fn is_tiled(self) -> bool {
        self.name().ends_with("Tiled")
    }

    /// Whether each row is one thread's work, where it is a workgroup's otherwise.
    pub fn is_row(self) -> bool {
        self.name().ends_with("Row")
    }

    /// Whether it multiplies stacks of matrices in the arena.
    pub fn is_batch(self) -> bool {
        self.name().starts_with("Batch")
    }

    /// The form of a product with weights that multiplies stacks of matrices in the arena instead.
    pub fn of_stacks(self) -> Self {
        match self {
            Self::GemmNtVec4 => Self::BatchNtVec4,
            Self::GemmNtQuad => Self::BatchNtQuad,
            Self::GemmNtTiled => Self::BatchNtTiled,
            Self::GemmNn => Self::BatchNn,
            Self::GemmNnVec4 => Self::BatchNnVec4,
            Self::GemmNnQuad => Self::BatchNnQuad,
            Self::GemmNnTiled => Self::BatchNnTiled,
            _ => Self::BatchNt,
        }
    }

    /// Whether one side of the product are weights, or with `is_batch` a second stack.
    fn has_right_side(self) -> bool {
        ["GemmNt", "GemmNn", "Batch"].iter().any(|product| self.name().starts_with(product))
    }

    /// What it has in common with kernels of its kind, beside what all have.
    fn shared(self) -> &'static str {
        match self {
            _ if self.has_right_side() => include_str!("shaders/product.wgsl"),
            Self::AttentionTiled | Self::AttentionDqTiled | Self::AttentionDkvTiled => {
                include_str!("shaders/attention_block.wgsl")
            }
            Self::MaxPool | Self::AvgPool | Self::MaxPoolBackward | Self::AvgPoolBackward | Self::SpreadBackward => {
                include_str!("shaders/windows.wgsl")
            }
            Self::RmsNorm
            | Self::RmsNormDx
            | Self::GroupNorm
            | Self::GroupNormDx
            | Self::GroupNormDw
            | Self::ColumnSum
            | Self::MuonMomentum
            | Self::NormPartial
            | Self::Finish => include_str!("shaders/total.wgsl"),
            _ => "",
        }
    }

    /// Workgroups of attention over so many (sequence, head) of `context` tokens.
    pub fn attention_groups(self, heads: u32, context: u32) -> u32 {
        if self.is_tiled() { heads * context.div_ceil(ATTENTION_BLOCK) } else { (heads * context).div_ceil(64) }
    }

    /// Bytes of workgroup memory that attention takes for heads of `head` values.
    pub fn attention_bytes(self, head: u32) -> u32 {
        let block = ATTENTION_BLOCK * (head / 4 + 1) * 16;
        let weights = ATTENTION_BLOCK * (ATTENTION_BLOCK / 4 + 1) * 16;
        match self {
            Self::AttentionTiled => 2 * block + weights,
            Self::AttentionDqTiled => 3 * block + weights + ATTENTION_BLOCK * 4,
            Self::AttentionDkvTiled => 3 * block + weights,
            _ => 0,
        }
    }

    /// Values across and down that a workgroup of a matrix product makes.
    pub fn tile(self) -> [u32; 2] {
        let [wide, high] = self.workgroup();
        match self {
            Self::GemmNt | Self::GemmNn | Self::GemmTn | Self::BatchNt | Self::BatchNn => [32, 32],
            Self::GemmNtQuad | Self::BatchNtQuad => [8 * wide, 16 * high],
            _ => [8 * wide, 8 * high],
        }
    }

    /// Threads across and down in a workgroup of a matrix product.
    fn workgroup(self) -> [u32; 2] {
        // Fewer threads share the registers of a core where a thread takes many.
        if self.needs_quads() { [4, 4] } else { [8, 8] }
    }

    fn names(self, head: usize) -> Vec<(&'static str, u32)> {
        let head = head as u32;
        let [wide, high] = self.workgroup();
        let groups = if matches!(self, Self::GemmNtQuad | Self::BatchNtQuad) { 4 } else { 2 };
        vec![
            ("VEC4", u32::from(self.is_vector())),
            ("GROUP", if self.is_vector() { 4 } else { 1 }),
            ("BATCH", u32::from(self.is_batch())),
            ("QUAD", u32::from(self.needs_quads())),
            ("HEAD", head),
            ("HEAD4", head / 4),
            ("HEAD8", head / 8),
            ("PITCH", head / 4 + 1),
            ("BLOCK", ATTENTION_BLOCK * (head / 4 + 1)),
            ("SHARE", head.div_ceil(32)),
            ("GROUPS", groups),
            ("ROWS", groups * 4),
            ("WIDE", wide),
            ("HIGH", high),
        ]
    }

    /// The kernel's WGSL for heads of `head` values.
    pub fn source(self, head: usize) -> Result<String, EngineError> {
        let names = self.names(head);
        let constants =
            names.iter().map(|(name, number)| format!("const {name}: u32 = {number}u;")).collect::<Vec<_>>();
        let enable = if self.needs_quads() { QUADS } else { "" };
        let body = expand(&[include_str!("shaders/common.wgsl"), self.shared(), self.text()].join("\n"), &names)?;
        Ok(format!("{enable}{}\n{body}", constants.join("\n")))
    }
}

/// Four neighbours always take the same path in our kernels, which the compiler cannot see: their loops end at the
/// same multiple of four.
#[cfg(target_arch = "wasm32")]
const QUADS: &str = "enable subgroups;\ndiagnostic(off, subgroup_uniformity);\n";
/// Natively wgpu's front end needs no directive.
#[cfg(not(target_arch = "wasm32"))]
const QUADS: &str = "";

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use super::*;

    #[test]
    fn every_shader_parses_and_validates_and_states_its_contract() {
        for kernel in Kernel::ALL {
            let source = kernel.source(48).expect("directives that hold");
            let module = naga::front::wgsl::parse_str(&source)
                .unwrap_or_else(|error| panic!("{}: {}", kernel.name(), error.emit_to_string(&source)));
            let capabilities = if kernel.needs_quads() {
                naga::valid::Capabilities::SUBGROUP
            } else {
                naga::valid::Capabilities::empty()
            };
            let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
            validator
                .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
                .subgroup_operations(naga::valid::SubgroupOperationSet::all());
            validator.validate(&module).unwrap_or_else(|error| panic!("{}: {error:?}", kernel.name()));
            // A write to a part of a vector may write the whole, and neighbours would lose what they wrote.
            let writes_part = |line: &str| line.split_once(" =").is_some_and(|(place, _)| place.contains("]["));
            assert!(
                !kernel.is_vector() || !source.lines().any(writes_part),
                "{} writes a part of a vector",
                kernel.name()
            );
            for part in ["// Arguments:", "// Grid:", "// CPU twin:", "Tolerance", "Exact"] {
                let either = part == "Tolerance" && kernel.text().contains("Exact")
                    || part == "Exact" && kernel.text().contains("Tolerance");
                assert!(either || kernel.text().contains(part), "{} lacks {part}", kernel.name());
            }
        }
    }
}
