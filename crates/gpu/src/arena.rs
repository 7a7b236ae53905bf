//! Places for tensors in one buffer, reused as soon as they are free: liveness is known when the plan is made.

/// Offsets are in f32 and aligned to this many of them.
const ALIGN: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Arena {
    /// Free ranges, by start, never adjacent.
    free: Vec<(usize, usize)>,
    end: usize,
}

/// A tensor's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub at: usize,
    size: usize,
}

impl Place {
    pub fn offset(self) -> u32 {
        self.at as u32
    }
}

impl Arena {
    /// Takes the smallest free range that fits, else grows.
    pub fn take(&mut self, count: usize) -> Place {
        let size = count.next_multiple_of(ALIGN);
        let fitting = self.free.iter().enumerate().filter(|(_, (start, end))| end - start >= size);
        if let Some((index, _)) = fitting.min_by_key(|(_, (start, end))| end - start) {
            let (start, end) = self.free[index];
            if end - start == size {
                self.free.remove(index);
            } else {
                self.free[index].0 = start + size;
            }
            return Place { at: start, size };
        }
        let place = Place { at: self.end, size };
        self.end += size;
        place
    }

    pub fn give(&mut self, place: Place) {
        let index = self.free.partition_point(|(start, _)| *start < place.at);
        self.free.insert(index, (place.at, place.at + place.size));
        if index + 1 < self.free.len() && self.free[index].1 == self.free[index + 1].0 {
            self.free[index].1 = self.free.remove(index + 1).1;
        }
        if index > 0 && self.free[index - 1].1 == self.free[index].0 {
            self.free[index - 1].1 = self.free.remove(index).1;
        }
    }

    /// Values that can be taken without growing, together.
    pub fn largest_free(&self) -> usize {
        self.free.iter().map(|(start, end)| end - start).max().unwrap_or(0)
    }

    /// Values that the whole plan needs.
    pub fn len(&self) -> usize {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_places_are_joined_and_reused() {
        let mut arena = Arena::default();
        let places: Vec<Place> = (0..3).map(|_| arena.take(5)).collect();
        assert_eq!(places.iter().map(|place| place.at).collect::<Vec<_>>(), [0, 8, 16]);
        arena.give(places[0]);
        arena.give(places[2]);
        arena.give(places[1]);
        assert_eq!(arena.largest_free(), 24);
        assert_eq!(arena.take(24).at, 0);
        assert_eq!(arena.take(1).at, 24);
        assert_eq!(arena.len(), 28);
    }
}
