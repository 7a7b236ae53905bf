//! What preprocessing needs to know of a table: small, and of two tables together what it is of each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Cells, Column, Table, TableError, Task};

/// Count, mean and sum of squared deviations from it, which two sets' merge into those of their union (Chan, Golub and
/// LeVeque 1983).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    pub count: u64,
    pub mean: f64,
    pub squares: f64,
}

impl Moments {
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        let count = self.count.saturating_add(other.count);
        if count == 0 {
            return self;
        }
        let apart = other.mean - self.mean;
        let share = other.count as f64 / count as f64;
        Self {
            count,
            mean: self.mean + apart * share,
            squares: self.squares + other.squares + apart * apart * self.count as f64 * share,
        }
    }

    fn of(values: impl Iterator<Item = f64>) -> Self {
        values.fold(Self::default(), |all, value| all.merge(Self { count: 1, mean: value, squares: 0.0 }))
    }

    /// Standard deviation of a population; 1 where nothing varies, so that it can divide.
    pub fn deviation(self) -> f64 {
        let variance = self.squares / self.count.max(1) as f64;
        let root = variance.sqrt();
        // What is left of rounding is no variance.
        if root.is_finite() && root > 1e-12 * self.mean.abs() { root } else { 1.0 }
    }
}

/// What was observed of a column's cells that are there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observed {
    Numbers(Moments),
    /// How often each word occurs.
    Words(BTreeMap<String, u64>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColumnStatistics {
    pub name: String,
    pub missing: u64,
    pub observed: Observed,
}

/// Statistics of the columns to learn from, and of the target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    pub columns: Vec<ColumnStatistics>,
    pub target: ColumnStatistics,
}

impl Statistics {
    /// Of these rows of a table; columns named in `ignored` are not learnt from.
    pub fn of(table: &Table, rows: &[usize], target: &str, task: Task, ignored: &[String]) -> Result<Self, TableError> {
        for name in ignored {
            table.column(name)?;
        }
        let column = table.column(target)?;
        let column = match (task, &column.cells) {
            (Task::Classify, _) => column.as_words(),
            (Task::Regress, Cells::Numbers(_)) => column.clone(),
            (Task::Regress, Cells::Words { .. }) => {
                return Err(TableError::WordTarget { file: table.file.clone(), column: target.to_owned() });
            }
        };
        let learnt = |column: &&Column| column.name != target && !ignored.contains(&column.name);
        let columns: Vec<_> =
            table.columns.iter().filter(learnt).map(|column| column_statistics(column, rows)).collect();
        if columns.is_empty() {
            return Err(TableError::NoFeatures { file: table.file.clone() });
        }
        Ok(Self { columns, target: column_statistics(&column, rows) })
    }

    /// Adds those of another table with the same columns.
    pub fn merge(&mut self, other: &Self) -> Result<(), TableError> {
        let names = |all: &Self| all.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>().join(", ");
        if self.columns.len() != other.columns.len() {
            return Err(TableError::OtherColumns { ours: names(self), theirs: names(other) });
        }
        let mut merged = self.clone();
        for (ours, theirs) in merged.columns.iter_mut().zip(&other.columns) {
            ours.merge(theirs)?;
        }
        merged.target.merge(&other.target)?;
        *self = merged;
        Ok(())
    }
}

impl ColumnStatistics {
    fn merge(&mut self, other: &Self) -> Result<(), TableError> {
        let differ = || TableError::OtherColumns { ours: self.name.clone(), theirs: other.name.clone() };
        if self.name != other.name {
            return Err(differ());
        }
        match (&mut self.observed, &other.observed) {
            (Observed::Numbers(ours), Observed::Numbers(theirs)) => *ours = ours.merge(*theirs),
            (Observed::Words(ours), Observed::Words(theirs)) => {
                for (word, count) in theirs {
                    let ours = ours.entry(word.clone()).or_insert(0);
                    *ours = ours.saturating_add(*count);
                }
            }
            _ => return Err(differ()),
        }
        self.missing = self.missing.saturating_add(other.missing);
        Ok(())
    }
}

fn column_statistics(column: &Column, rows: &[usize]) -> ColumnStatistics {
    let (observed, missing) = match &column.cells {
        Cells::Numbers(cells) => {
            let found = || rows.iter().filter_map(|row| cells[*row]);
            (Observed::Numbers(Moments::of(found())), rows.len() - found().count())
        }
        Cells::Words { words, cells } => {
            let mut counts: BTreeMap<String, u64> = BTreeMap::new();
            let mut missing = 0;
            for row in rows {
                match cells[*row] {
                    Some(word) => *counts.entry(words[word as usize].clone()).or_insert(0) += 1,
                    None => missing += 1,
                }
            }
            (Observed::Words(counts), missing)
        }
    };
    ColumnStatistics { name: column.name.clone(), missing: missing as u64, observed }
}
