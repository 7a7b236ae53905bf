//! From CSV (RFC 4180) to columns, in two passes over the bytes: what columns hold, then their cells.

use std::collections::BTreeSet;

use csv::{ByteRecord, ReaderBuilder, StringRecord, Trim};

use super::{COLUMNS_MAX, Cells, Column, Format, Header, Kind, NUMBER_MAX, Table, TableError};

/// How files say that a cell is missing, beside leaving it empty.
const MISSING: [&str; 7] = ["?", "NA", "N/A", "n/a", "na", "null", "NULL"];

pub(super) fn is_missing(cell: &str) -> bool {
    cell.is_empty() || MISSING.contains(&cell)
}

/// What was seen of a column's cells.
#[derive(Clone, Default)]
struct Seen {
    numbers: usize,
    others: usize,
    /// The first cell that is no number, and the first number that is not finite.
    other: Option<(u64, String)>,
    wild: Option<(u64, String)>,
}

struct Source<'a> {
    file: &'a str,
    bytes: &'a [u8],
    format: &'a Format,
}

impl Table {
    /// Reads a CSV file whose bytes these are; `file` is what errors call it.
    pub fn parse(file: &str, bytes: &[u8], format: &Format) -> Result<Self, TableError> {
        let source = Source { file, bytes, format };
        let (names, seen) = source.survey()?;
        let mut kinds = Vec::new();
        for (name, seen) in names.iter().zip(&seen) {
            kinds.push(source.kind(name, seen)?);
        }
        source.fill(names, &kinds)
    }
}

impl Source<'_> {
    /// Goes through the rows of data; what `act` gets is the line and the cells.
    fn each_row(&self, mut act: impl FnMut(u64, &StringRecord) -> Result<(), TableError>) -> Result<(), TableError> {
        let mut reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .trim(Trim::All)
            .delimiter(self.format.delimiter)
            .from_reader(self.bytes);
        let mut record = StringRecord::new();
        loop {
            let line = reader.position().line();
            let more = reader.read_record(&mut record).map_err(|error| {
                let line = error.position().map_or(line, csv::Position::line);
                TableError::Csv { file: self.file.to_owned(), line, error: describe(&error) }
            })?;
            if !more {
                return Ok(());
            }
            act(record.position().map_or(line, csv::Position::line), &record)?;
        }
    }

    /// The columns' names, and what their cells look like.
    fn survey(&self) -> Result<(Vec<String>, Vec<Seen>), TableError> {
        let file = || self.file.to_owned();
        let mut header: Option<Vec<String>> = None;
        let mut names: Option<Vec<String>> = None;
        let mut seen = Vec::new();
        self.each_row(|line, record| {
            if header.is_none() && self.format.header != Header::None {
                header = Some(record.iter().map(str::to_owned).collect());
                return Ok(());
            }
            if names.is_none() {
                names = Some(self.names(header.take().unwrap_or_default(), line, record.len())?);
                header = Some(Vec::new());
                seen = vec![Seen::default(); record.len()];
            }
            if record.len() != seen.len() {
                return Err(TableError::Ragged { file: file(), line, got: record.len(), expected: seen.len() });
            }
            record.iter().zip(&mut seen).for_each(|(cell, seen)| seen.add(line, cell));
            Ok(())
        })?;
        names.map(|names| (names, seen)).ok_or_else(|| TableError::Empty { file: file() })
    }

    /// Names for `width` columns, from the header and by number.
    fn names(&self, mut names: Vec<String>, line: u64, width: usize) -> Result<Vec<String>, TableError> {
        let file = || self.file.to_owned();
        let fits = if self.format.header == Header::All { names.len() == width } else { names.len() <= width };
        if !fits {
            return Err(TableError::Ragged { file: file(), line, got: width, expected: names.len() });
        }
        if width > COLUMNS_MAX {
            return Err(TableError::Columns { file: file(), columns: width });
        }
        names.extend((names.len()..width).map(|index| (index + 1).to_string()));
        let mut known = BTreeSet::new();
        match names.iter().find(|name| !known.insert(*name)) {
            Some(column) => Err(TableError::Twice { file: file(), column: column.clone() }),
            None => Ok(names),
        }
    }

    fn kind(&self, name: &str, seen: &Seen) -> Result<Kind, TableError> {
        let (file, column) = (self.file.to_owned(), name.to_owned());
        let asked = self.format.kinds.get(name).copied();
        if asked == Some(Kind::Words) {
            return Ok(Kind::Words);
        }
        let numbers = seen.numbers > 0 && seen.numbers >= 9 * seen.others;
        match (asked.is_some() || numbers, &seen.other, &seen.wild) {
            (false, ..) if seen.others > 0 => Ok(Kind::Words),
            (_, Some((line, value)), _) => {
                Err(TableError::NotNumber { file, line: *line, column, value: value.clone() })
            }
            (_, _, Some((line, value))) => {
                Err(TableError::NotFinite { file, line: *line, column, value: value.clone() })
            }
            // A column without any cell is one of numbers that are all missing.
            _ => Ok(Kind::Numbers),
        }
    }

    fn fill(&self, names: Vec<String>, kinds: &[Kind]) -> Result<Table, TableError> {
        let mut numbers: Vec<Vec<Option<f64>>> = vec![Vec::new(); kinds.len()];
        // All cells of a column of words, one after the other.
        let mut texts: Vec<ByteRecord> = vec![ByteRecord::new(); kinds.len()];
        let mut lines = Vec::new();
        let mut skip = self.format.header != Header::None;
        self.each_row(|line, record| {
            if core::mem::take(&mut skip) {
                return Ok(());
            }
            lines.push(line);
            for (index, cell) in record.iter().enumerate() {
                match kinds[index] {
                    Kind::Numbers => numbers[index].push(if is_missing(cell) { None } else { cell.parse().ok() }),
                    Kind::Words => texts[index].push_field(cell.as_bytes()),
                }
            }
            Ok(())
        })?;
        let columns = names.into_iter().zip(numbers).zip(texts).zip(kinds).map(|(((name, numbers), texts), kind)| {
            let words = texts.iter().map(|text| core::str::from_utf8(text).ok().filter(|text| !is_missing(text)));
            let cells = if *kind == Kind::Numbers { Cells::Numbers(numbers) } else { Cells::of_words(words) };
            Column { name, cells }
        });
        Ok(Table { file: self.file.to_owned(), columns: columns.collect(), lines })
    }
}

impl Seen {
    fn add(&mut self, line: u64, cell: &str) {
        if is_missing(cell) {
            return;
        }
        if let Ok(number) = cell.parse::<f64>() {
            self.numbers += 1;
            if !number.is_finite() || number.abs() > NUMBER_MAX {
                self.wild.get_or_insert_with(|| (line, cell.to_owned()));
            }
        } else {
            self.others += 1;
            self.other.get_or_insert_with(|| (line, cell.to_owned()));
        }
    }
}

/// The library's error without the place, which ours tells.
fn describe(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Utf8 { .. } => "it is not UTF-8 text".to_owned(),
        _ => error.to_string(),
    }
}
