//! Tables: a CSV file's bytes become columns of numbers and words ([`Table`]), their statistics become [`Preprocessing`],
//! and that turns rows into [`crate::nets::Examples`].

mod parse;
mod preprocessing;
mod statistics;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use thiserror::Error;

pub use preprocessing::{Encoding, Preprocessing, TargetEncoding, Values};
pub use statistics::{Moments, Observed, Statistics};

/// Categories of a column that get a place of their own: the most frequent.
pub const CATEGORIES_MAX: usize = 32;
/// Classes that a target can have.
pub const CLASSES_MAX: usize = 1000;
pub const COLUMNS_MAX: usize = 4096;
/// Larger numbers than this have squares whose sums are not finite.
pub const NUMBER_MAX: f64 = 1e100;
/// Features of all rows: 2 GiB.
pub const VALUES_MAX: usize = 1 << 29;

/// Columns of equal length, with names.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// What errors call it.
    pub file: String,
    pub columns: Vec<Column>,
    /// The line of each row.
    pub lines: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: String,
    pub cells: Cells,
}

/// A column's cells; `None` where one is missing.
#[derive(Clone, Debug, PartialEq)]
pub enum Cells {
    Numbers(Vec<Option<f64>>),
    /// Indices of the words that occur, which are in byte order.
    Words {
        words: Vec<String>,
        cells: Vec<Option<u32>>,
    },
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Numbers,
    Words,
}

/// What a table predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Classify,
    Regress,
}

/// Where columns' names come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Header {
    /// The first line names every column.
    #[default]
    All,
    /// The first line names the first columns; the others are called by number, from 1.
    Some,
    /// There is none; all columns are called by number, from 1.
    None,
}

/// How to read a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Format {
    pub header: Header,
    pub delimiter: u8,
    /// What columns hold, by name. Others are numbers where nine tenths of their cells are: then another cell is an error.
    pub kinds: BTreeMap<String, Kind>,
}

impl Default for Format {
    fn default() -> Self {
        Self { header: Header::All, delimiter: b',', kinds: BTreeMap::new() }
    }
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TableError {
    #[error("{file}: it has no rows of data")]
    Empty { file: String },
    #[error("{file}, line {line}: {error}")]
    Csv { file: String, line: u64, error: String },
    #[error("{file}, line {line}: it has {got} fields where {expected} are expected")]
    Ragged { file: String, line: u64, got: usize, expected: usize },
    #[error("{file}: it has {columns} columns, and at most {COLUMNS_MAX} are read")]
    Columns { file: String, columns: usize },
    #[error("{file}: two columns are called {column:?}")]
    Twice { file: String, column: String },
    #[error("{file}, line {line}, column {column:?}: {value:?} is not a number, and the column's other cells are")]
    NotNumber { file: String, line: u64, column: String, value: String },
    #[error(
        "{file}, line {line}, column {column:?}: {value:?} is not a finite number, or larger than {NUMBER_MAX:e} (leave the cell empty if it is missing)"
    )]
    NotFinite { file: String, line: u64, column: String, value: String },
    #[error("{file}: there is no column {column:?}; there are {known}")]
    NoColumn { file: String, column: String, known: String },
    #[error("{file}, line {line}: the target {column:?} is missing")]
    NoTarget { file: String, line: u64, column: String },
    #[error("{file}, line {line}, column {column:?}: no example of the class {value:?} was trained on")]
    UnknownClass { file: String, line: u64, column: String, value: String },
    #[error("{file}: the target {column:?} is {value:?} in every row: there is nothing to learn")]
    OneValue { file: String, column: String, value: String },
    #[error(
        "{file}: the target {column:?} has {classes} classes, and at most {CLASSES_MAX} are supported; is it a number?"
    )]
    Classes { file: String, column: String, classes: usize },
    #[error("{file}: the target {column:?} has words, of which a number cannot be predicted")]
    WordTarget { file: String, column: String },
    #[error("{file}: beside the target there is no column to learn from")]
    NoFeatures { file: String },
    #[error(
        "{file}: {rows} rows of {features} features do not fit into memory; `--ignore` leaves columns of many words out"
    )]
    TooMuch { file: String, rows: usize, features: usize },
    #[error("statistics of other columns: {ours:?} and {theirs:?}")]
    OtherColumns { ours: String, theirs: String },
}

impl Table {
    pub fn rows(&self) -> usize {
        self.lines.len()
    }

    pub fn column(&self, name: &str) -> Result<&Column, TableError> {
        self.columns.iter().find(|column| column.name == name).ok_or_else(|| {
            let names: Vec<String> = self.columns.iter().take(20).map(|column| format!("{:?}", column.name)).collect();
            let more = if self.columns.len() > 20 { ", …" } else { "" };
            let known = names.join(", ") + more;
            TableError::NoColumn { file: self.file.clone(), column: name.to_owned(), known }
        })
    }

    /// Words are to be told apart, and so are two numbers; more numbers are to be predicted.
    pub fn likely_task(&self, target: &str) -> Result<Task, TableError> {
        Ok(match &self.column(target)?.cells {
            Cells::Words { .. } => Task::Classify,
            Cells::Numbers(cells) => {
                let mut distinct: Vec<f64> = Vec::new();
                for cell in cells.iter().flatten() {
                    if !distinct.iter().any(|seen| seen.total_cmp(cell).is_eq()) {
                        distinct.push(*cell);
                    }
                    if distinct.len() > 2 {
                        return Ok(Task::Regress);
                    }
                }
                Task::Classify
            }
        })
    }
}

impl Column {
    /// The column with its numbers as words.
    #[must_use]
    pub fn as_words(&self) -> Self {
        let Cells::Numbers(numbers) = &self.cells else { return self.clone() };
        let texts: Vec<Option<String>> = numbers.iter().map(|cell| cell.map(|number| number.to_string())).collect();
        Self { name: self.name.clone(), cells: Cells::of_words(texts.iter().map(Option::as_deref)) }
    }
}

impl Cells {
    pub fn of_words<'a>(texts: impl Iterator<Item = Option<&'a str>> + Clone) -> Self {
        let mut places: BTreeMap<&str, u32> = texts.clone().flatten().map(|text| (text, 0)).collect();
        places.values_mut().zip(0..).for_each(|(place, index)| *place = index);
        let cells = texts.map(|text| text.and_then(|text| places.get(text).copied())).collect();
        Self::Words { words: places.into_keys().map(str::to_owned).collect(), cells }
    }
}
