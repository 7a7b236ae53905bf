//! Tiles: the files in which a log publishes its tree and its entries (C2SP `tlog-tiles`).
//!
//! A tile of level L holds up to 256 hashes of perfect subtrees of 256^L entries; a bundle holds up to 256 entries.
//! Whoever reads them computes every proof without asking the log for one.

use thiserror::Error;

use super::merkle::{Subtrees, TreeHash, node_hash};

/// Hashes in a full tile, and entries in a full bundle.
pub const TILE_WIDTH: u64 = 256;
const TILE_HEIGHT: u32 = 8;
const HASH_BYTES: usize = 32;
const LEVEL_MAX: u8 = 63;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TileKind {
    /// Hashes of this level.
    Hashes(u8),
    /// The entries themselves, laid out as the hashes of level 0.
    Entries,
}

/// One of the files of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tile {
    pub kind: TileKind,
    pub index: u64,
    /// From 1 to 256; below 256 the tile is partial.
    pub width: u16,
}

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TileError {
    #[error("the log is too small to have that part")]
    Outside,
    #[error("a tile of {width} hashes has {bytes} bytes")]
    Hashes { width: u16, bytes: usize },
    #[error("a bundle of {width} entries is cut short or has more")]
    Entries { width: u16 },
    #[error("an entry of {bytes} bytes is longer than the 65535 that a bundle can say")]
    EntryTooLong { bytes: usize },
}

impl Tile {
    /// The tile as it is in the log of `size` entries: full, partial, or not there.
    pub fn within(kind: TileKind, index: u64, size: u64) -> Option<Self> {
        let level = match kind {
            TileKind::Hashes(level) => u32::from(level),
            TileKind::Entries => 0,
        };
        let hashes = size.checked_shr(TILE_HEIGHT * level).unwrap_or(0);
        let width = hashes.checked_sub(index.checked_mul(TILE_WIDTH)?)?.min(TILE_WIDTH) as u16;
        (width > 0).then_some(Self { kind, index, width })
    }

    /// Every tile of the log of `size` entries: the bundles, then the hashes from level 0 up.
    pub fn all(size: u64) -> impl Iterator<Item = Self> {
        let kinds = core::iter::once(TileKind::Entries).chain((0..).map(TileKind::Hashes));
        let tiles = move |kind| (0..).map_while(move |index| Self::within(kind, index, size));
        kinds.take_while(move |kind| Self::within(*kind, 0, size).is_some()).flat_map(tiles)
    }

    /// First hash or entry, counted in its level.
    pub fn start(&self) -> u64 {
        self.index * TILE_WIDTH
    }

    /// Path below the log's prefix: `tile/<level>/<index>[.p/<width>]`, the index in groups of three digits, all but
    /// the last led by `x`.
    pub fn path(&self) -> String {
        let kind = match self.kind {
            TileKind::Hashes(level) => level.to_string(),
            TileKind::Entries => "entries".to_owned(),
        };
        let mut index = format!("{:03}", self.index % 1000);
        let mut rest = self.index / 1000;
        while rest > 0 {
            index = format!("x{:03}/{index}", rest % 1000);
            rest /= 1000;
        }
        let partial = if u64::from(self.width) < TILE_WIDTH { format!(".p/{}", self.width) } else { String::new() };
        format!("tile/{kind}/{index}{partial}")
    }

    /// Reads a path as [`Self::path`] writes it, and in no other form.
    pub fn parse(path: &str) -> Option<Self> {
        let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let kind = match kind {
            "entries" => TileKind::Entries,
            level => TileKind::Hashes(level.parse().ok().filter(|level| *level <= LEVEL_MAX)?),
        };
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => (index, width.parse().ok().filter(|width| (1..TILE_WIDTH as u16).contains(width))?),
            None => (rest, TILE_WIDTH as u16),
        };
        let mut number: u64 = 0;
        for group in index.split('/') {
            let digits: u64 = group.strip_prefix('x').unwrap_or(group).parse().ok()?;
            number = number.checked_mul(1000)?.checked_add(digits)?;
        }
        let tile = Self { kind, index: number, width };
        (tile.path() == path && tile.index.checked_mul(TILE_WIDTH).is_some()).then_some(tile)
    }
}

/// Hashes of a tile, from its bytes.
pub fn decode_hashes(bytes: &[u8], width: u16) -> Result<Vec<TreeHash>, TileError> {
    let (hashes, rest) = bytes.as_chunks::<HASH_BYTES>();
    if !rest.is_empty() || hashes.len() != usize::from(width) {
        return Err(TileError::Hashes { width, bytes: bytes.len() });
    }
    Ok(hashes.iter().copied().map(TreeHash).collect())
}

/// A bundle of entries, each led by its length in two bytes, the high one first.
pub fn encode_bundle<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, TileError> {
    let mut bytes = Vec::new();
    for entry in entries {
        let length = u16::try_from(entry.len()).map_err(|_| TileError::EntryTooLong { bytes: entry.len() })?;
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(entry);
    }
    Ok(bytes)
}

/// The entries of a bundle.
pub fn decode_bundle(bytes: &[u8], width: u16) -> Result<Vec<&[u8]>, TileError> {
    let wrong = TileError::Entries { width };
    let mut entries = Vec::with_capacity(usize::from(width));
    let mut rest = bytes;
    for _ in 0..width {
        let (length, tail) = rest.split_first_chunk::<2>().ok_or(wrong)?;
        let (entry, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(wrong)?;
        entries.push(entry);
        rest = tail;
    }
    if rest.is_empty() { Ok(entries) } else { Err(wrong) }
}

/// The tree of a log of `size` entries, read through its tiles.
pub struct TileReader<F> {
    size: u64,
    /// Gives the hashes of a tile.
    read: F,
}

impl<F, E> TileReader<F>
where
    F: FnMut(Tile) -> Result<Vec<TreeHash>, E>,
    E: From<TileError>,
{
    pub fn new(size: u64, read: F) -> Self {
        Self { size, read }
    }
}

impl<F, E> Subtrees for TileReader<F>
where
    F: FnMut(Tile) -> Result<Vec<TreeHash>, E>,
    E: From<TileError>,
{
    type Error = E;

    /// The subtree's leaves are in one tile: they are hashed together here.
    fn subtree(&mut self, height: u32, index: u64) -> Result<TreeHash, E> {
        let (level, above) = ((height / TILE_HEIGHT) as u8, height % TILE_HEIGHT);
        let first = index.checked_shl(above).ok_or(TileError::Outside)?;
        let tile = Tile::within(TileKind::Hashes(level), first / TILE_WIDTH, self.size).ok_or(TileError::Outside)?;
        let hashes = (self.read)(tile)?;
        let start = (first % TILE_WIDTH) as usize;
        let mut level: Vec<TreeHash> = hashes.get(start..start + (1 << above)).ok_or(TileError::Outside)?.to_vec();
        while level.len() > 1 {
            level = level.as_chunks::<2>().0.iter().map(|[left, right]| node_hash(*left, *right)).collect();
        }
        Ok(level[0])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::log::{Tree, consistency_proof, inclusion_proof, leaf_hash, root_hash};

    /// The hash tiles of a log, each from the one below as the specification defines them.
    fn tiles(leaves: &[TreeHash]) -> BTreeMap<Tile, Vec<TreeHash>> {
        let size = leaves.len() as u64;
        let mut files = BTreeMap::new();
        let (mut level, mut hashes) = (0, leaves.to_vec());
        while !hashes.is_empty() {
            for (index, hashes) in (0..).zip(hashes.chunks(256)) {
                files.insert(Tile::within(TileKind::Hashes(level), index, size).unwrap(), hashes.to_vec());
            }
            let root = |full: &[TreeHash]| {
                let mut tree = Tree::default();
                for hash in full {
                    tree.push(*hash);
                }
                tree.root_at(256).unwrap()
            };
            hashes = hashes.chunks_exact(256).map(root).collect();
            level += 1;
        }
        files
    }

    fn log(size: u64) -> (Tree, Vec<TreeHash>) {
        let leaves: Vec<TreeHash> = (0..size).map(|number| leaf_hash(&number.to_be_bytes())).collect();
        let mut tree = Tree::default();
        for leaf in &leaves {
            tree.push(*leaf);
        }
        (tree, leaves)
    }

    fn reader(
        files: &BTreeMap<Tile, Vec<TreeHash>>,
        size: u64,
    ) -> TileReader<impl FnMut(Tile) -> Result<Vec<TreeHash>, TileError>> {
        TileReader::new(size, |tile| files.get(&tile).cloned().ok_or(TileError::Outside))
    }

    #[test]
    fn paths_are_those_of_the_specification() {
        let path = |kind, index, width| Tile { kind, index, width }.path();
        assert_eq!(path(TileKind::Hashes(0), 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(path(TileKind::Hashes(2), 0, 1), "tile/2/000.p/1");
        assert_eq!(path(TileKind::Entries, 273, 112), "tile/entries/273.p/112");
        for (kind, index, width) in
            [(TileKind::Hashes(63), 1000, 255), (TileKind::Entries, 0, 1), (TileKind::Hashes(0), u64::MAX / 256, 256)]
        {
            let tile = Tile { kind, index, width };
            assert_eq!(Tile::parse(&tile.path()), Some(tile));
        }
    }

    #[test]
    fn a_path_has_one_form() {
        for path in [
            "",
            "tile",
            "tile/",
            "tile/0",
            "tile/0/",
            "0/000",
            "tile/0/0",
            "tile/0/00",
            "tile/0/0000",
            "tile/64/000",
            "tile/00/000",
            "tile/-1/000",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p/",
            "tile/0/x000/001",
            "tile/0/001/001",
            "tile/0/x001",
            "tile/0/x001/x001",
            "tile/0/+01",
            "tile/data/000",
            "tile/0/x999/x999/x999/x999/x999/x999/999",
            "tile/0/x099/x999/x999/x999/x999/999",
            "/tile/0/000",
            "tile/0/000/",
            "tile/entries/000.p/1/",
        ] {
            assert_eq!(Tile::parse(path), None, "{path}");
        }
    }

    #[test]
    fn a_log_of_seventy_thousand_entries_has_the_tiles_of_the_specification() {
        let all: Vec<Tile> = Tile::all(70_000).collect();
        let of = |kind| all.iter().filter(move |tile| tile.kind == kind).map(|tile| tile.width);
        for (kind, full, partial) in [
            (TileKind::Entries, 273, 112),
            (TileKind::Hashes(0), 273, 112),
            (TileKind::Hashes(1), 1, 17),
            (TileKind::Hashes(2), 0, 1),
        ] {
            assert_eq!(of(kind).filter(|width| *width == 256).count(), full, "{kind:?}");
            assert_eq!(of(kind).filter(|width| *width < 256).collect::<Vec<_>>(), [partial], "{kind:?}");
        }
        assert_eq!(all.len(), 2 * 274 + 2 + 1);
        assert_eq!(Tile::all(256).map(|tile| tile.width).collect::<Vec<_>>(), [256, 256, 1]);
        assert_eq!(Tile::all(0).count(), 0);
    }

    #[test]
    fn proofs_from_the_tiles_of_seventy_thousand_entries_are_those_from_the_tree() {
        let size = 70_000;
        let (tree, leaves) = log(size);
        let files = tiles(&leaves);
        assert!(Tile::all(size).filter(|tile| tile.kind != TileKind::Entries).eq(files.keys().copied()));
        let mut tiles = reader(&files, size);
        assert_eq!(root_hash(&mut tiles, size).ok(), tree.root_at(size));
        for index in [0, 255, 256, 65_535, 65_536, 69_887, 69_999] {
            assert_eq!(inclusion_proof(&mut tiles, index, size).ok(), tree.inclusion(index, size));
        }
        for old in [1, 255, 256, 257, 4096, 65_535, 65_536, 65_537, 69_999] {
            assert_eq!(consistency_proof(&mut tiles, old, size).ok(), tree.consistency(old, size));
        }
    }

    #[test]
    fn an_entry_beyond_the_size_has_no_tile() {
        let (_, leaves) = log(300);
        let files = tiles(&leaves);
        assert_eq!(reader(&files, 300).subtree(0, 300), Err(TileError::Outside));
        assert_eq!(reader(&files, 300).subtree(8, 1), Err(TileError::Outside));
        assert_eq!(reader(&files, 300).subtree(63, u64::MAX), Err(TileError::Outside));
    }

    #[test]
    fn bundles_and_tiles_read_back_and_other_lengths_are_refused() {
        let entries: [&[u8]; 3] = [b"one", b"", &[7; 300]];
        let bundle = encode_bundle(entries).unwrap();
        assert_eq!(&bundle[..5], b"\x00\x03one");
        assert_eq!(decode_bundle(&bundle, 3).unwrap(), entries);
        assert_eq!(decode_bundle(&bundle, 2), Err(TileError::Entries { width: 2 }));
        assert_eq!(decode_bundle(&bundle, 4), Err(TileError::Entries { width: 4 }));
        for cut in 0..bundle.len() {
            assert!(decode_bundle(&bundle[..cut], 3).is_err(), "{cut}");
        }
        let long = vec![0; 65_536];
        assert_eq!(encode_bundle([&long[..]]), Err(TileError::EntryTooLong { bytes: 65_536 }));
        assert_eq!(decode_hashes(&[1; 64], 2).unwrap(), [TreeHash([1; 32]); 2]);
        assert_eq!(decode_hashes(&[1; 64], 1), Err(TileError::Hashes { width: 1, bytes: 64 }));
        assert!(decode_hashes(&[1; 63], 2).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn tiles_give_the_proofs_of_the_tree(size in 1_u64..1500, index in any::<u64>(), old in any::<u64>()) {
            let (index, old) = (index % size, old % size);
            let (tree, leaves) = log(size);
            let files = tiles(&leaves);
            let mut tiles = reader(&files, size);
            prop_assert_eq!(inclusion_proof(&mut tiles, index, size).ok(), tree.inclusion(index, size));
            prop_assert_eq!(consistency_proof(&mut tiles, old, size).ok(), tree.consistency(old, size));
        }

        #[test]
        fn any_path_that_is_read_is_written_so(path in "tile/[0-9x/.p]{0,24}") {
            if let Some(tile) = Tile::parse(&path) {
                prop_assert_eq!(tile.path(), path);
            }
        }

        #[test]
        fn any_bundle_that_is_read_is_written_so(bytes in prop::collection::vec(0_u8..4, 0..40), width in 0_u16..6) {
            if let Ok(entries) = decode_bundle(&bytes, width) {
                prop_assert_eq!(encode_bundle(entries).unwrap(), bytes);
            }
        }
    }
}
