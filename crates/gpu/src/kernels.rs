//! The kernels by name, and how their pipelines are made.

macro_rules! kernels {
    ($($name:ident = $file:literal),* $(,)?) => {
        /// One shader file each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Kernel { $($name),* }

        impl Kernel {
            pub const ALL: &[Self] = &[$(Self::$name),*];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $file),* }
            }

            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => include_str!(concat!("shaders/", $file, ".wgsl"))),* }
            }
        }
    };
}

kernels! {
    GemmNt = "gemm_nt",
    GemmNn = "gemm_nn",
    GemmTn = "gemm_tn",
    RmsNorm = "rmsnorm",
    RmsNormDx = "rmsnorm_dx",
    RmsNormDw = "rmsnorm_dw",
    Rope = "rope",
    Attention = "attention",
    AttentionDq = "attention_dq",
    AttentionDkv = "attention_dkv",
    SwiGlu = "swiglu",
    SwiGluBackward = "swiglu_backward",
    Embed = "embed",
    EmbedBackward = "embed_backward",
    CrossEntropy = "cross_entropy",
    NormPartial = "norm_partial",
    Finish = "finish",
    AdamW = "adamw",
}

impl Kernel {
    /// The kernel's WGSL. Arrays in registers need a constant size, so the head size is written into the text.
    pub fn source(self, head: usize) -> String {
        let text = self.text().replace("const HEAD: u32 = 16u;", &format!("const HEAD: u32 = {head}u;"));
        format!("{}\n{text}", include_str!("shaders/common.wgsl"))
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use super::*;

    #[test]
    fn every_shader_parses_and_validates_and_states_its_contract() {
        for kernel in Kernel::ALL {
            let source = kernel.source(48);
            let module = naga::front::wgsl::parse_str(&source)
                .unwrap_or_else(|error| panic!("{}: {}", kernel.name(), error.emit_to_string(&source)));
            let mut validator =
                naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::empty());
            validator.validate(&module).unwrap_or_else(|error| panic!("{}: {error:?}", kernel.name()));
            for part in ["// Arguments:", "// Grid:", "// CPU twin:", "Tolerance", "Exact"] {
                let either = part == "Tolerance" && kernel.text().contains("Exact")
                    || part == "Exact" && kernel.text().contains("Tolerance");
                assert!(either || kernel.text().contains(part), "{} lacks {part}", kernel.name());
            }
        }
    }
}
