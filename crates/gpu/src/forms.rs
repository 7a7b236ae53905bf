//! Which form of each heavy kernel a plan uses: a plain one fits every size, faster ones ask something of the model's
//! sizes or of the device.

use shoal_learn::EngineError;

use crate::{kernels::Kernel, plan::Shape};

/// What is computed, whatever the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Nt,
    Nn,
    Tn,
    Attention,
    AttentionDq,
    AttentionDkv,
}

impl Op {
    pub const ALL: [Self; 6] = [Self::Nt, Self::Nn, Self::Tn, Self::Attention, Self::AttentionDq, Self::AttentionDkv];

    /// From the plainest form to the ones that ask most.
    pub const fn kernels(self) -> &'static [Kernel] {
        match self {
            Self::Nt => &[Kernel::GemmNt, Kernel::GemmNtVec4, Kernel::GemmNtTiled, Kernel::GemmNtQuad],
            Self::Nn => &[Kernel::GemmNn, Kernel::GemmNnVec4, Kernel::GemmNnTiled, Kernel::GemmNnQuad],
            Self::Tn => &[Kernel::GemmTn, Kernel::GemmTnVec4, Kernel::GemmTnTiled, Kernel::GemmTnQuad],
            Self::Attention => &[Kernel::Attention, Kernel::AttentionVec4, Kernel::AttentionQuad],
            Self::AttentionDq => &[Kernel::AttentionDq, Kernel::AttentionDqVec4, Kernel::AttentionDqQuad],
            Self::AttentionDkv => &[Kernel::AttentionDkv, Kernel::AttentionDkvVec4, Kernel::AttentionDkvQuad],
        }
    }

    const fn is_product(self) -> bool {
        matches!(self, Self::Nt | Self::Nn | Self::Tn)
    }

    /// The forms that fit a model's sizes on a device with or without quads.
    pub fn candidates(self, shape: Shape, quads: bool) -> Vec<Kernel> {
        let fits = |kernel: &Kernel| {
            let aligned = if self.is_product() {
                // Products hand each other rows of one stride, so they are vectors all or none.
                shape.is_vector()
            } else {
                shape.head.is_multiple_of(8)
                    && (!kernel.needs_quads() && self != Self::AttentionDkv || shape.context.is_multiple_of(4))
            };
            !kernel.is_vector() || aligned && (quads || !kernel.needs_quads())
        };
        self.kernels().iter().copied().filter(fits).collect()
    }
}

/// A kernel for each operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forms([Kernel; 6]);

impl Forms {
    /// The plainest vector form that fits: correct everywhere, fastest hardly anywhere.
    pub fn plain(shape: Shape) -> Self {
        Self(Op::ALL.map(|op| {
            let candidates = op.candidates(shape, false);
            candidates.get(1).or(candidates.first()).copied().unwrap_or(op.kernels()[0])
        }))
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
    pub fn from_text(text: &str, shape: Shape, quads: bool) -> Result<Self, EngineError> {
        let mut forms = Self::plain(shape);
        let mut words = text.split_whitespace();
        for op in Op::ALL {
            let word = words.next().unwrap_or_default();
            let found = op.candidates(shape, quads).into_iter().find(|kernel| kernel.name() == word);
            let kernel = found.ok_or_else(|| EngineError::Unsupported(format!("the remembered form {word:?}")))?;
            forms.set(op, kernel);
        }
        Ok(forms)
    }
}
