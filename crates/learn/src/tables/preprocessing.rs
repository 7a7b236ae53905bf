//! From a table's rows to features and targets, by statistics that are kept with the model.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    CATEGORIES_MAX, CLASSES_MAX, Cells, Column, Format, Header, Kind, Observed, Statistics, Table, TableError,
    VALUES_MAX,
};
use crate::nets::{Examples, Loss, Targets};

/// How each column becomes features, in order, and the target what is predicted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preprocessing {
    pub columns: Vec<Encoding>,
    pub target: TargetEncoding,
}

/// A column's features: its values', then, where cells were missing in training, one that is 1 where a cell is missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Encoding {
    pub name: String,
    pub values: Values,
    pub marks_missing: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// (x − mean) / deviation: one feature, 0 where the cell is missing.
    Standard { mean: f64, deviation: f64 },
    /// A feature for each word, 1 where the cell is that word, and one more for all other words. All are 0 where the cell
    /// is missing, if that is marked; if not, a missing cell is another word.
    OneHot { words: Vec<String> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetEncoding {
    /// A class for each word. Two classes are one output, whose sign says which.
    Classes { name: String, words: Vec<String> },
    /// (y − mean) / deviation.
    Standard { name: String, mean: f64, deviation: f64 },
}

impl Statistics {
    /// `file` is what errors call the table that these are of.
    pub fn preprocessing(&self, file: &str) -> Result<Preprocessing, TableError> {
        let encoding = |column: &super::statistics::ColumnStatistics| Encoding {
            name: column.name.clone(),
            values: match &column.observed {
                Observed::Numbers(moments) => Values::Standard { mean: moments.mean, deviation: moments.deviation() },
                Observed::Words(counts) => Values::OneHot { words: frequent(counts) },
            },
            marks_missing: column.missing > 0,
        };
        let (file, name) = (file.to_owned(), self.target.name.clone());
        let target = match &self.target.observed {
            Observed::Words(counts) if counts.len() > CLASSES_MAX => {
                return Err(TableError::Classes { file, column: name, classes: counts.len() });
            }
            Observed::Words(counts) if counts.len() < 2 => {
                let value = counts.keys().next().cloned().unwrap_or_default();
                return Err(TableError::OneValue { file, column: name, value });
            }
            Observed::Words(counts) => TargetEncoding::Classes { name, words: counts.keys().cloned().collect() },
            Observed::Numbers(moments) if moments.squares <= 0.0 => {
                return Err(TableError::OneValue { file, column: name, value: moments.mean.to_string() });
            }
            Observed::Numbers(moments) => {
                TargetEncoding::Standard { name, mean: moments.mean, deviation: moments.deviation() }
            }
        };
        Ok(Preprocessing { columns: self.columns.iter().map(encoding).collect(), target })
    }
}

/// The most frequent words, in byte order.
fn frequent(counts: &BTreeMap<String, u64>) -> Vec<String> {
    let mut words: Vec<&String> = counts.keys().collect();
    words.sort_by_key(|word| (core::cmp::Reverse(counts[*word]), *word));
    words.truncate(CATEGORIES_MAX);
    words.sort();
    words.into_iter().cloned().collect()
}

impl Preprocessing {
    /// Features of one row.
    pub fn width(&self) -> usize {
        self.columns.iter().map(Encoding::width).sum()
    }

    /// How to read a table that this is for, so that a cell that does not fit is an error.
    pub fn format(&self, header: Header, delimiter: u8) -> Format {
        let kind = |values: &Values| match values {
            Values::Standard { .. } => Kind::Numbers,
            Values::OneHot { .. } => Kind::Words,
        };
        let kinds = self.columns.iter().map(|column| (column.name.clone(), kind(&column.values))).collect();
        Format { header, delimiter, kinds }
    }

    /// Features [rows, width] of these rows.
    pub fn features(&self, table: &Table, rows: &[usize]) -> Result<Vec<f32>, TableError> {
        let width = self.width();
        let values = rows.len().saturating_mul(width);
        let too_much = || TableError::TooMuch { file: table.file.clone(), rows: rows.len(), features: width };
        let mut features = Vec::new();
        if values > VALUES_MAX || features.try_reserve_exact(values).is_err() {
            return Err(too_much());
        }
        features.resize(values, 0.0);
        let mut at = 0;
        for encoding in &self.columns {
            encoding.fill(table.column(&encoding.name)?, rows, features.get_mut(at..).unwrap_or_default(), width);
            at += encoding.width();
        }
        Ok(features)
    }

    /// Features and targets of these rows.
    pub fn examples(&self, table: &Table, rows: &[usize]) -> Result<Examples, TableError> {
        Ok(Examples { features: self.features(table, rows)?, targets: self.target.encode(table, rows)? })
    }
}

impl Encoding {
    fn width(&self) -> usize {
        let values = match &self.values {
            Values::Standard { .. } => 1,
            Values::OneHot { words } => words.len() + 1,
        };
        values + usize::from(self.marks_missing)
    }

    /// Writes to the start of every row of `features`, which are zeros.
    fn fill(&self, column: &Column, rows: &[usize], features: &mut [f32], width: usize) {
        // A column of another kind than in training has numbers as words, or no number at all.
        let words = matches!(self.values, Values::OneHot { .. });
        let converted = if words { Some(column.as_words()) } else { None };
        let cells = &converted.as_ref().unwrap_or(column).cells;
        let places = self.places(cells);
        for (row, features) in rows.iter().zip(features.chunks_mut(width)) {
            let found = match (&self.values, cells) {
                (Values::Standard { mean, deviation }, Cells::Numbers(cells)) => {
                    cells[*row].map(|number| (0, ((number - mean) / deviation) as f32))
                }
                (Values::OneHot { words }, Cells::Words { cells, .. }) => match cells[*row] {
                    Some(word) => Some((places[word as usize], 1.0)),
                    None if self.marks_missing => None,
                    None => Some((words.len(), 1.0)),
                },
                _ => None,
            };
            match found {
                Some((place, value)) => features[place] = value,
                None if self.marks_missing => features[self.width() - 1] = 1.0,
                None => {}
            }
        }
    }

    /// Where each of a column's words has its feature.
    fn places(&self, cells: &Cells) -> Vec<usize> {
        match (&self.values, cells) {
            (Values::OneHot { words: known }, Cells::Words { words, .. }) => {
                words.iter().map(|word| known.binary_search(word).unwrap_or(known.len())).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl TargetEncoding {
    pub fn name(&self) -> &str {
        match self {
            Self::Classes { name, .. } | Self::Standard { name, .. } => name,
        }
    }

    pub fn outputs(&self) -> u32 {
        match self {
            Self::Classes { words, .. } if words.len() > 2 => words.len() as u32,
            _ => 1,
        }
    }

    pub fn loss(&self) -> Loss {
        match self {
            Self::Classes { words, .. } if words.len() > 2 => Loss::CrossEntropy,
            Self::Classes { .. } => Loss::Binary,
            Self::Standard { .. } => Loss::MeanSquared,
        }
    }

    pub(super) fn encode(&self, table: &Table, rows: &[usize]) -> Result<Targets, TableError> {
        let column = table.column(self.name())?;
        let missing = |row: &usize| TableError::NoTarget {
            file: table.file.clone(),
            line: table.lines[*row],
            column: self.name().to_owned(),
        };
        match (self, &column.cells) {
            (Self::Standard { mean, deviation, .. }, Cells::Numbers(cells)) => {
                let value = |row: &usize| {
                    cells[*row].map(|number| ((number - mean) / deviation) as f32).ok_or_else(|| missing(row))
                };
                Ok(Targets::Values(rows.iter().map(value).collect::<Result<_, _>>()?))
            }
            (Self::Standard { name, .. }, Cells::Words { .. }) => {
                Err(TableError::WordTarget { file: table.file.clone(), column: name.clone() })
            }
            (Self::Classes { words: known, .. }, _) => {
                let column = column.as_words();
                let Cells::Words { words, cells } = &column.cells else { return Ok(Targets::Classes(Vec::new())) };
                let class = |row: &usize| {
                    let word = &words[cells[*row].ok_or_else(|| missing(row))? as usize];
                    known.binary_search(word).map(|class| class as u32).map_err(|_| TableError::UnknownClass {
                        file: table.file.clone(),
                        line: table.lines[*row],
                        column: self.name().to_owned(),
                        value: word.clone(),
                    })
                };
                let classes = rows.iter().map(class).collect::<Result<Vec<u32>, _>>()?;
                Ok(match self.loss() {
                    Loss::Binary => Targets::Values(classes.iter().map(|class| *class as f32).collect()),
                    _ => Targets::Classes(classes),
                })
            }
        }
    }
}
