//! How much of what was promised to a round came into it.

use serde::{Deserialize, Serialize};

/// A part of a weight. Peers agree on it, since the outer step follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    pub taken: u32,
    pub promised: u32,
}

impl Share {
    pub const WHOLE: Self = Self { taken: 1, promised: 1 };
    pub const NOTHING: Self = Self { taken: 0, promised: 1 };
}
