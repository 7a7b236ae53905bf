//! Which form of each heavy kernel a plan uses: a plain one fits every size, faster ones ask something of the model's
//! sizes or of the device.

use shoal_learn::EngineError;

use crate::{kernels::Kernel, shape::Shape};

/// What is computed, whatever the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Nt,
    Nn,
    Tn,
    Attention,
    AttentionDq,
    AttentionDkv,
    Norm,
    NormDx,
    CrossEntropy,
}

const OPS: usize = 9;

impl Op {
    pub const ALL: [Self; OPS] = [
        Self::Nt,
        Self::Nn,
        Self::Tn,
        Self::Attention,
        Self::AttentionDq,
        Self::AttentionDkv,
        Self::Norm,
        Self::NormDx,
        Self::CrossEntropy,
    ];

    /// From the plainest form to the ones that ask most.
    pub const fn kernels(self) -> &'static [Kernel] {
        match self {
            Self::Nt => &[Kernel::GemmNt, Kernel::GemmNtVec4, Kernel::GemmNtTiled, Kernel::GemmNtQuad],
            Self::Nn => &[Kernel::GemmNn, Kernel::GemmNnVec4, Kernel::GemmNnTiled, Kernel::GemmNnQuad],
            Self::Tn => &[Kernel::GemmTn, Kernel::GemmTnVec4, Kernel::GemmTnTiled, Kernel::GemmTnQuad],
            Self::Attention => {
                &[Kernel::Attention, Kernel::AttentionVec4, Kernel::AttentionQuad, Kernel::AttentionTiled]
            }
            Self::AttentionDq => {
                &[Kernel::AttentionDq, Kernel::AttentionDqVec4, Kernel::AttentionDqQuad, Kernel::AttentionDqTiled]
            }
            Self::AttentionDkv => {
                &[Kernel::AttentionDkv, Kernel::AttentionDkvVec4, Kernel::AttentionDkvQuad, Kernel::AttentionDkvTiled]
            }
            Self::Norm => &[Kernel::RmsNorm, Kernel::RmsNormRow],
            Self::NormDx => &[Kernel::RmsNormDx, Kernel::RmsNormDxRow],
            Self::CrossEntropy => &[Kernel::CrossEntropy, Kernel::CrossEntropyRow],
        }
    }

    /// The forms that are worth trying for a model's sizes on a device, the likeliest first and the one that does the
    /// least that is rare last.
    pub fn candidates(self, shape: Shape, device: Traits) -> Vec<Kernel> {
        let fitting = || self.kernels().iter().rev().copied().filter(|kernel| self.fits(*kernel, shape, device));
        let vectors: Vec<Kernel> = fitting().filter(|kernel| kernel.is_vector()).collect();
        let mut found = if vectors.is_empty() { fitting().collect() } else { vectors };
        if device.software {
            // Their order is known there, and measuring it takes longer than a step.
            found.truncate(1);
        }
        found
    }

    /// The likeliest form on a device where all sizes and places come in fours.
    pub fn aligned_form(self, device: Traits) -> Kernel {
        let likeliest = |kernel: &Kernel| {
            let quads = device.software && device.quads;
            kernel.is_vector() && kernel.is_tiled() != device.software && kernel.needs_quads() == quads
        };
        self.kernels().iter().copied().find(likeliest).unwrap_or(self.kernels()[0])
    }

    fn fits(self, kernel: Kernel, shape: Shape, device: Traits) -> bool {
        let aligned = match self {
            // Products hand each other rows of one stride, so they are vectors all or none.
            Self::Nt | Self::Nn | Self::Tn => shape.is_vector(),
            Self::Norm | Self::NormDx => shape.hidden.is_multiple_of(4),
            Self::CrossEntropy => true,
            Self::Attention | Self::AttentionDq | Self::AttentionDkv if kernel.is_tiled() => {
                shape.head.is_multiple_of(8) && kernel.attention_bytes(shape.head) <= device.workgroup_bytes
            }
            Self::AttentionDkv => shape.head.is_multiple_of(8) && shape.context.is_multiple_of(4),
            Self::Attention | Self::AttentionDq => {
                shape.head.is_multiple_of(8) && (!kernel.needs_quads() || shape.context.is_multiple_of(4))
            }
        };
        // Where the processor plays the graphics card, barriers and workgroup memory only cost.
        let sensible = if device.software { !kernel.is_tiled() } else { !kernel.is_row() };
        (!kernel.is_vector() || aligned) && (device.quads || !kernel.needs_quads()) && sensible
    }
}

/// What decides which forms are worth trying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traits {
    /// Four neighbouring threads can pass values around.
    pub quads: bool,
    /// The processor plays the graphics card.
    pub software: bool,
    /// Memory that the threads of a workgroup can share.
    pub workgroup_bytes: u32,
}

/// A kernel for each operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forms([Kernel; OPS]);

impl Forms {
    /// The likeliest forms, before anything is measured.
    pub fn likeliest(shape: Shape, device: Traits) -> Self {
        Self(Op::ALL.map(|op| op.candidates(shape, device).first().copied().unwrap_or(op.kernels()[0])))
    }

    pub fn of(self, op: Op) -> Kernel {
        self.0[op as usize]
    }

    pub fn set(&mut self, op: Op, kernel: Kernel) {
        self.0[op as usize] = kernel;
    }

    /// As text, to be remembered for this adapter.
    pub fn to_text(self) -> String {
        self.0.map(Kernel::name).join(" ")
    }

    /// From [`Self::to_text`]; an error where a form is unknown or does not fit.
    pub fn from_text(text: &str, shape: Shape, device: Traits) -> Result<Self, EngineError> {
        let mut forms = Self::likeliest(shape, device);
        let mut words = text.split_whitespace();
        for op in Op::ALL {
            let word = words.next().unwrap_or_default();
            let found = op.candidates(shape, device).into_iter().find(|kernel| kernel.name() == word);
            let kernel = found.ok_or_else(|| EngineError::Unsupported(format!("the remembered form {word:?}")))?;
            forms.set(op, kernel);
        }
        Ok(forms)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use shoal_wire::manifest::{ModelSpec, RopeScaling};

    use super::*;

    fn shape(hidden: u32, heads: u32, inner: u32, context: usize) -> Shape {
        let model = ModelSpec {
            vocab_size: 61,
            hidden_size: hidden,
            intermediate_size: inner,
            num_hidden_layers: 1,
            num_attention_heads: heads,
            num_key_value_heads: heads,
            max_position_embeddings: 64,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Default,
            tie_word_embeddings: false,
        };
        Shape::of(&model, 2, context).unwrap()
    }

    const CARD: Traits = Traits { quads: true, software: false, workgroup_bytes: 32_768 };
    const SOFTWARE: Traits = Traits { software: true, ..CARD };

    #[test]
    fn sizes_that_are_no_multiples_of_four_take_the_plain_forms() {
        for device in [CARD, SOFTWARE] {
            let forms = Forms::likeliest(shape(6, 1, 5, 7), device);
            assert_eq!(
                [Op::Nt, Op::Nn, Op::Tn].map(|op| forms.of(op)),
                [Kernel::GemmNt, Kernel::GemmNn, Kernel::GemmTn]
            );
            assert_eq!(forms.of(Op::Attention), Kernel::Attention);
            assert_eq!(forms.of(Op::Norm), Kernel::RmsNorm);
        }
    }

    #[test]
    fn workgroup_memory_is_for_cards_and_rows_are_for_processors() {
        let all = |device| Op::ALL.map(|op| op.candidates(shape(32, 2, 88, 64), device)).concat();
        assert!(all(CARD).iter().any(|kernel| kernel.is_tiled()) && !all(CARD).iter().any(|kernel| kernel.is_row()));
        assert!(!all(SOFTWARE).iter().any(|kernel| kernel.is_tiled()) && all(SOFTWARE).contains(&Kernel::RmsNormRow));
        assert!(!all(Traits { quads: false, ..CARD }).iter().any(|kernel| kernel.needs_quads()));
        let tiled = |kernel: &Kernel| kernel.attention_bytes(16) > 0;
        assert_eq!(all(CARD).iter().filter(|kernel| tiled(kernel)).count(), 3);
        assert!(!all(Traits { workgroup_bytes: 1024, ..CARD }).iter().any(tiled));
    }

    #[test]
    fn remembered_forms_come_back_and_what_does_not_fit_is_refused() {
        let shape = shape(32, 2, 88, 64);
        let mut forms = Forms::likeliest(shape, CARD);
        forms.set(Op::Nn, Kernel::GemmNnVec4);
        assert_eq!(Forms::from_text(&forms.to_text(), shape, CARD).unwrap(), forms);
        assert!(Forms::from_text("", shape, CARD).is_err());
        let without = Traits { quads: false, ..CARD };
        assert!(Forms::from_text(&Forms::likeliest(shape, CARD).to_text(), shape, without).is_err());
    }
}
