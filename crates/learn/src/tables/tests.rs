#![allow(clippy::unwrap_used, clippy::format_collect)]
use proptest::prelude::*;

use super::*;
use crate::nets::{Loss, Targets};

const PEOPLE: &str = "\
age,city,height,sick
30,Rome,1.5,no
50,Oslo,?,yes
40,Rome,2.5,no
,\"Paris, France\",2,yes
";

fn parse(text: &str) -> Result<Table, TableError> {
    Table::parse("people.csv", text.as_bytes(), &Format::default())
}

fn preprocessing(table: &Table, target: &str, ignored: &[&str]) -> Result<Preprocessing, TableError> {
    let rows: Vec<usize> = (0..table.rows()).collect();
    let ignored: Vec<String> = ignored.iter().map(|name| (*name).to_owned()).collect();
    let task = table.likely_task(target)?;
    Statistics::of(table, &rows, target, task, &ignored)?.preprocessing(&table.file)
}

#[test]
fn columns_get_types_lines_and_missing_cells() {
    let table = parse(PEOPLE).unwrap();
    assert_eq!(table.lines, [2, 3, 4, 5]);
    assert_eq!(table.column("age").unwrap().cells, Cells::Numbers(vec![Some(30.0), Some(50.0), Some(40.0), None]));
    let words = ["Oslo", "Paris, France", "Rome"].map(str::to_owned).to_vec();
    let cells = vec![Some(2), Some(0), Some(2), Some(1)];
    assert_eq!(table.column("city").unwrap().cells, Cells::Words { words, cells });
}

#[test]
fn rows_become_standard_features_with_marks_and_one_hot_words() {
    let table = parse(PEOPLE).unwrap();
    let preprocessing = preprocessing(&table, "sick", &[]).unwrap();
    // age and its mark, three cities and others, height and its mark
    assert_eq!(preprocessing.width(), 2 + 4 + 2);
    let examples = preprocessing.examples(&table, &[1, 3]).unwrap();
    let high = 1.5f32.sqrt();
    let expected = [high, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0];
    for (index, (got, expected)) in examples.features.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() < 1e-6, "{index}: {got} is not {expected}");
    }
    assert_eq!(examples.targets, Targets::Values(vec![1.0, 1.0]));
    assert_eq!((preprocessing.target.outputs(), preprocessing.target.loss()), (1, Loss::Binary));
}

#[test]
fn an_unknown_category_has_a_place_and_a_new_missing_cell_takes_it() {
    let table = parse(PEOPLE).unwrap();
    let preprocessing = preprocessing(&table, "sick", &["age", "height"]).unwrap();
    let new = "city,age\nBern,1\nOslo,2\n,3\n";
    let new = Table::parse("new.csv", new.as_bytes(), &preprocessing.format(Header::All, b',')).unwrap();
    let features = preprocessing.features(&new, &[0, 1, 2]).unwrap();
    assert_eq!(features, [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
}

#[test]
fn only_the_most_frequent_categories_have_places() {
    let rows: String = (0..100).map(|i| format!("w{:02},{}\n", if i < 60 { i % 30 } else { i }, i % 2)).collect();
    let table = parse(&format!("word,y\n{rows}")).unwrap();
    let preprocessing = preprocessing(&table, "y", &[]).unwrap();
    let Values::OneHot { words } = &preprocessing.columns[0].values else { panic!("words are one-hot") };
    assert_eq!(words.len(), CATEGORIES_MAX);
    assert!((0..30).all(|i| words.contains(&format!("w{i:02}"))) && words.is_sorted());
}

#[test]
fn targets_are_told_apart_or_predicted_by_what_they_are() {
    let table = parse("a,two,many,words\n1,0,1.5,x\n2,1,2.5,y\n3,0,6.5,z\n").unwrap();
    let target = |name| preprocessing(&table, name, &[]).unwrap().target;
    assert_eq!(target("two"), TargetEncoding::Classes { name: "two".into(), words: vec!["0".into(), "1".into()] });
    assert!(matches!(target("many"), TargetEncoding::Standard { mean, .. } if (mean - 3.5).abs() < 1e-12));
    let words = target("words");
    assert_eq!((words.outputs(), words.loss()), (3, Loss::CrossEntropy));
    assert_eq!(words.encode(&table, &[2, 0]).unwrap(), Targets::Classes(vec![2, 0]));
}

#[test]
fn mistakes_are_told_with_file_line_and_column() {
    let numbers: String = (0..20).map(|i| format!("{i},1\n")).collect();
    let some = |text: &str, format: Format| Table::parse("people.csv", text.as_bytes(), &format).unwrap_err();
    let few = Format { header: Header::Some, ..Format::default() };
    let forced = |kind| Format { kinds: [("a".to_owned(), kind)].into(), ..Format::default() };
    for (error, words) in [
        (parse("").unwrap_err(), "no rows"),
        (parse("a,b\n").unwrap_err(), "no rows"),
        (parse("a,b\n1,2\n1,2,3\n").unwrap_err(), "line 3: it has 3 fields where 2"),
        (parse("a\n1,2\n").unwrap_err(), "line 2: it has 2 fields where 1"),
        (some("a,b,c\n1,2\n", few), "line 2: it has 2 fields where 3"),
        (parse("a,a\n1,2\n").unwrap_err(), "two columns are called \"a\""),
        (parse(&format!("a,b\n{numbers}4O,1\n")).unwrap_err(), "line 22, column \"a\": \"4O\" is not a number"),
        (parse(&format!("a,b\n{numbers}NaN,1\n")).unwrap_err(), "line 22, column \"a\": \"NaN\" is not a finite"),
        (parse("a,b\n-inf,1\n").unwrap_err(), "line 2, column \"a\": \"-inf\" is not a finite"),
        (parse("a,b\n1e999,1\n").unwrap_err(), "1e999"),
        (parse("a,b\n1e200,1\n").unwrap_err(), "line 2, column \"a\": \"1e200\" is not a finite number, or larger"),
        (some("a,b\nx,1\n", forced(Kind::Numbers)), "line 2, column \"a\": \"x\" is not a number"),
        (Table::parse("people.csv", b"a,b\n1,2\n\xff,3\n", &Format::default()).unwrap_err(), "line 3: it is not UTF-8"),
    ] {
        let text = error.to_string();
        assert!(text.contains(words) && text.contains("people.csv"), "{text}");
    }
    // What is asked to be words is words, even numbers that are not finite.
    assert!(Table::parse("t", b"a,b\nnan,1\n", &forced(Kind::Words)).is_ok());
}

#[test]
fn targets_that_cannot_be_learnt_are_refused() {
    let refused = |text: &str, target: &str| {
        let table = parse(text).unwrap();
        let rows: Vec<usize> = (0..table.rows()).collect();
        let all = preprocessing(&table, target, &[]).and_then(|preprocessing| preprocessing.examples(&table, &rows));
        all.unwrap_err().to_string()
    };
    for (error, words) in [
        (refused(PEOPLE, "weight"), "no column \"weight\"; there are \"age\", \"city\""),
        (refused("a,y\n1,x\n2,x\n", "y"), "\"x\" in every row"),
        (refused("a,y\n1,7\n2,7\n", "y"), "\"7\" in every row"),
        (refused("a,y\n1,x\n2,z\n3,\n", "y"), "line 4: the target \"y\" is missing"),
        (refused("y\n1\n2\n", "y"), "no column to learn from"),
    ] {
        assert!(error.contains(words) && error.contains("people.csv"), "{error}");
    }
    let table = parse("a,y\n1,x\n2,z\n3,w\n").unwrap();
    let error = Statistics::of(&table, &[0, 1], "y", Task::Regress, &[]).unwrap_err();
    assert!(error.to_string().contains("has words"));
    let known = Statistics::of(&table, &[0, 1], "y", Task::Classify, &[]).unwrap().preprocessing("t").unwrap();
    assert!(known.examples(&table, &[2]).unwrap_err().to_string().contains("line 4, column \"y\""));
}

#[test]
fn columns_without_names_are_called_by_number() {
    let some = Format { header: Header::Some, ..Format::default() };
    let table = Table::parse("t", b"id\n1,2,x\n3,4,y\n", &some).unwrap();
    let names = |table: &Table| table.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&table), ["id", "2", "3"]);
    let none = Format { header: Header::None, delimiter: b';', ..Format::default() };
    let table = Table::parse("t", b"1;2\n3;4", &none).unwrap();
    assert_eq!((names(&table), table.rows()), (vec!["1".to_owned(), "2".to_owned()], 2));
}

#[test]
fn preprocessing_survives_json() {
    let preprocessing = preprocessing(&parse(PEOPLE).unwrap(), "sick", &[]).unwrap();
    let text = serde_json::to_string(&preprocessing).unwrap();
    assert_eq!(serde_json::from_str::<Preprocessing>(&text).unwrap(), preprocessing);
}

#[test]
fn numbers_that_hardly_vary_around_a_large_mean_keep_their_spread() {
    let text: String = (0..100).map(|i| format!("{},{}\n", 1_700_000_000 + i % 2, i % 2)).collect();
    let table = parse(&format!("time,y\n{text}")).unwrap();
    let preprocessing = preprocessing(&table, "y", &[]).unwrap();
    let features = preprocessing.features(&table, &[0, 1]).unwrap();
    assert!((features[0] + 1.0).abs() < 1e-3 && (features[1] - 1.0).abs() < 1e-3, "{features:?}");
}

proptest! {
    #[test]
    fn statistics_of_parts_merge_into_those_of_the_whole(
        cells in prop::collection::vec((prop::option::of(-1e6f64..1e6), prop::option::of(0u8..4), any::<bool>()), 2..40),
        cut in 0usize..40,
    ) {
        let line = |(number, word, y): &(Option<f64>, Option<u8>, bool)| {
            let number = number.map_or(String::new(), |number| number.to_string());
            format!("{number},{},{y}\n", word.map_or("?".to_owned(), |word| format!("w{word}")))
        };
        let text: String = cells.iter().map(line).collect();
        let kinds = [("a".to_owned(), Kind::Numbers), ("b".to_owned(), Kind::Words)].into();
        let format = Format { kinds, ..Format::default() };
        let table = Table::parse("t", format!("a,b,y\n{text}").as_bytes(), &format).unwrap();
        let rows: Vec<usize> = (0..table.rows()).collect();
        let of = |rows: &[usize]| Statistics::of(&table, rows, "y", Task::Classify, &[]).unwrap();
        let (left, right) = rows.split_at(cut.min(rows.len()));
        let mut merged = of(left);
        merged.merge(&of(right)).unwrap();
        let whole = of(&rows);
        let Observed::Numbers(a) = merged.columns[0].observed else { panic!("numbers") };
        let Observed::Numbers(b) = whole.columns[0].observed else { panic!("numbers") };
        prop_assert_eq!(a.count, b.count);
        prop_assert!((a.mean - b.mean).abs() <= 1e-6 && (a.squares - b.squares).abs() <= 1e-9 * b.squares + 1e-6);
        merged.columns[0] = whole.columns[0].clone();
        prop_assert_eq!(merged, whole);
    }

    #[test]
    fn no_bytes_make_parsing_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for header in [Header::All, Header::Some, Header::None] {
            let _ = Table::parse("t", &bytes, &Format { header, ..Format::default() });
        }
    }
}
