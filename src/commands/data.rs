//! `dump-rl data`: makes Knights and Knaves rows, and shows what a file of rows contains. [`mod@make`] makes rows of
//! any procedural task.

pub mod make;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use engine::decoder::DecoderConfig;
use serde::Serialize;
use serde_json::json;

use crate::error::InputError;
use crate::model::tokenizer::ChatTokenizer;
use crate::task::graders::Graders;
use crate::task::kk::{self, Variant};
use crate::task::mixture::Mapping;
use crate::task::mixture::field::prompt_chars;
use crate::task::rows::{Place, RowsByName};
use crate::task::{Message, Row, rows};

/// The format of a file of rows that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RowFormat {
    /// One JSON object per line.
    Jsonl,
    /// Parquet in verl's schema.
    Parquet,
    /// Conversations for `sft`, as JSON Lines: the prompt, and a right answer in its tags. Only of tasks whose rows have a solution.
    Conversations,
}

impl RowFormat {
    fn ending(self) -> &'static str {
        match self {
            Self::Jsonl | Self::Conversations => "jsonl",
            Self::Parquet => "parquet",
        }
    }
}

/// The rows that are made, and the files that they are written to.
#[derive(Clone, Debug, clap::Args)]
pub struct SplitFiles {
    /// Training rows of each size or level.
    #[arg(long, default_value_t = 900)]
    pub train: usize,
    /// Test rows of each size or level.
    #[arg(long, default_value_t = 100)]
    pub test: usize,
    /// Seed of the rows.
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// Folder for train.jsonl and test.jsonl, or with parquet train.parquet and test.parquet.
    #[arg(long)]
    pub out: PathBuf,
    #[arg(long, value_enum, default_value = "jsonl")]
    pub format: RowFormat,
}

impl SplitFiles {
    /// How many rows are asked for, of so many sizes or levels.
    fn wanted(&self, levels: usize) -> usize {
        levels.saturating_mul(self.train.saturating_add(self.test))
    }

    /// Writes training and test rows, and says how many. A split without rows is not written. The rows are made after it is known
    /// that no file is in the way and that some are `wanted`. `command` is named in errors.
    fn write(
        &self,
        command: &str,
        wanted: usize,
        made: impl FnOnce() -> Result<(Vec<Row>, Vec<Row>), InputError>,
    ) -> Result<usize, InputError> {
        let Self { out, format, .. } = self;
        let files = ["train", "test"].map(|name| out.join(name).with_extension(format.ending()));
        if let Some(path) = files.iter().find(|path| path.exists()) {
            return Err(InputError::new(path.display(), "exists already; remove it or choose another --out"));
        }
        if wanted == 0 {
            return Err(InputError::new(command, "--train and --test are both 0; ask for at least one row"));
        }
        let (train, test) = made()?;
        let unsolved = |row: &Row| row.extra_info.get("solution").is_none();
        if *format == RowFormat::Conversations && train.iter().chain(&test).any(unsolved) {
            return Err(InputError::new(command, "its rows have no solution to show; take another --format"));
        }
        let written = train.len() + test.len();
        fs::create_dir_all(out).map_err(|e| InputError::new(out.display(), format!("cannot be created: {e}")))?;
        for (path, rows) in files.iter().zip([train, test]).filter(|(_, rows)| !rows.is_empty()) {
            write_rows(path, &rows, *format)
                .map_err(|e| InputError::new(path.display(), format!("cannot be written: {e}")))?;
        }
        Ok(written)
    }
}

/// Writes rows of every size, in order. The same arguments give the same bytes. With `variant` the rows are that variant of each
/// puzzle. Returns how many puzzles have none and are left out.
///
/// # Errors
/// Sizes or counts that are not possible, a file that exists already, and a path that cannot be written.
pub fn kk(people: RangeInclusive<usize>, variant: Option<Variant>, files: &SplitFiles) -> Result<usize, InputError> {
    let wanted = files.wanted(people.clone().count());
    let made = || {
        let splits = kk::splits_of(variant, people, files.train, files.test, files.seed);
        splits.map_err(|e| InputError::new("data kk", e))
    };
    Ok(wanted - files.write("data kk", wanted, made)?)
}

fn write_rows(path: &Path, rows: &[Row], format: RowFormat) -> io::Result<()> {
    let mut file = BufWriter::new(File::create_new(path)?);
    match format {
        RowFormat::Parquet => rows::parquet_writer::write(&mut file, rows).map_err(io::Error::other)?,
        RowFormat::Jsonl => write_lines(&mut file, rows.iter())?,
        RowFormat::Conversations => write_lines(&mut file, rows.iter().filter_map(conversation))?,
    }
    file.flush()
}

fn write_lines(file: &mut impl io::Write, lines: impl Iterator<Item = impl Serialize>) -> io::Result<()> {
    for line in lines {
        serde_json::to_writer(&mut *file, &line)?;
        file.write_all(b"\n")?;
    }
    Ok(())
}

/// The row's prompt, answered. `None` if the row has no solution.
fn conversation(row: &Row) -> Option<serde_json::Value> {
    let solution = row.extra_info.get("solution")?.as_str()?;
    let answer = Message::new("assistant", format!("<think></think><answer>{solution}</answer>"));
    let messages: Vec<&Message> = row.prompt.iter().chain([&answer]).collect();
    Some(json!({ "messages": messages }))
}

/// A model's tokenizer, and how many tokens its context has.
pub struct PromptCounter {
    tokenizer: ChatTokenizer,
    context: usize,
}

impl PromptCounter {
    /// # Errors
    /// A folder without a model's configuration, tokenizer or chat template.
    pub fn load(model: &Path) -> anyhow::Result<Self> {
        let decoder = DecoderConfig::load(model)?;
        let tokenizer = ChatTokenizer::load(model, &decoder)?;
        Ok(Self { tokenizer, context: decoder.max_position_embeddings })
    }

    fn tokens(&self, row: &Row) -> Result<usize, String> {
        self.tokenizer.encode_prompt(&row.prompt).map(|prompt| prompt.ids.len()).map_err(|error| error.to_string())
    }

    /// Minimum, mean and maximum of the prompts' tokens, and how many prompts leave no room for a completion.
    fn describe(&self, rows: &[Inspected]) -> String {
        let lengths = || rows.iter().map(|it| it.tokens);
        let (min, max) = (lengths().min().unwrap_or(0), lengths().max().unwrap_or(0));
        let mean = lengths().sum::<usize>() as f64 / rows.len().max(1) as f64;
        let context = self.context;
        let mut too_long = rows.iter().filter(|it| it.tokens >= context);
        let first = too_long.next().map(|it| format!(", the first at {}", it.place));
        let count = usize::from(first.is_some()) + too_long.count();
        let first = first.unwrap_or_default();
        format!(
            "prompt tokens: min {min}, mean {mean:.1}, max {max}; {count} too long for the context of {context}{first}"
        )
    }
}

/// A row of a file that is inspected.
struct Inspected {
    row: Row,
    place: Place,
    /// Of the prompt. 0 without a model.
    tokens: usize,
}

/// What a file of rows contains: the number of rows and the mean prompt length (in characters) of every source, with a
/// model also in tokens, and the first row of every source.
///
/// # Errors
/// As [`rows::load`]; a prompt that the model's chat template refuses.
pub fn inspect(path: &Path, counter: Option<&PromptCounter>) -> Result<String, InputError> {
    let (graders, mut by_source) = (Graders::default(), RowsByName::default());
    let mut count = 0;
    rows::for_each(path, &Mapping::default(), |row, place| {
        graders.for_row(&row)?;
        let tokens = counter.map_or(Ok(0), |counter| counter.tokens(&row))?;
        count += 1;
        by_source.push(&row.data_source.clone(), Inspected { row, place: place.clone(), tokens });
        Ok(())
    })?;
    let mut text = format!("{}: {count} rows\n", path.display());
    let mut examples = String::new();
    for (source, rows) in by_source.into_vec() {
        let mean = rows.iter().map(|it| prompt_chars(&it.row)).sum::<usize>() as f64 / rows.len() as f64;
        let _ = writeln!(text, "  {source}: {} rows, prompts of {mean:.0} characters on average", rows.len());
        if let Some(counter) = counter {
            let _ = writeln!(text, "    {}", counter.describe(&rows));
        }
        examples.extend(rows.first().map(|it| example(&it.row)));
    }
    Ok(text + &examples)
}

fn example(row: &Row) -> String {
    let mut text = format!("\nthe first row of {}:\n", row.data_source);
    for message in &row.prompt {
        let _ = writeln!(text, "  {}: {}", message.role, message.content);
    }
    text + &format!("  ground truth: {}\n", row.reward_model.ground_truth)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(train: usize, test: usize, seed: u64, out: &Path) -> SplitFiles {
        SplitFiles { train, test, seed, out: out.to_owned(), format: RowFormat::Jsonl }
    }

    #[test]
    fn the_same_seed_writes_the_same_bytes_and_they_load_again() {
        let folder = temp_dir::TempDir::new().unwrap();
        let made = |name: &str, seed| {
            let out = folder.path().join(name).join("deep");
            kk(3..=4, None, &files(6, 2, seed, &out)).unwrap();
            (fs::read(out.join("train.jsonl")).unwrap(), fs::read(out.join("test.jsonl")).unwrap())
        };
        let first = made("a", 1);
        assert_eq!(first, made("b", 1));
        assert_ne!(first, made("c", 2));
        let loaded = rows::load(&folder.path().join("a/deep/train.jsonl")).unwrap();
        assert_eq!(loaded, kk::splits(3..=4, 6, 2, 1).unwrap().0);
    }

    #[test]
    fn both_formats_hold_the_same_rows() {
        let folder = temp_dir::TempDir::new().unwrap();
        for format in [RowFormat::Jsonl, RowFormat::Parquet] {
            kk(3..=4, None, &SplitFiles { format, ..files(6, 2, 1, folder.path()) }).unwrap();
        }
        let loaded = |name: &str| rows::load(&folder.path().join(name)).unwrap();
        assert_eq!(loaded("train.parquet"), loaded("train.jsonl"));
        assert_eq!(loaded("test.parquet"), loaded("test.jsonl"));
    }

    #[test]
    fn the_rows_of_a_variant_belong_to_those_without() {
        let folder = temp_dir::TempDir::new().unwrap();
        let made = |name: &str, variant| {
            let out = folder.path().join(name);
            assert_eq!(kk(4..=4, variant, &files(6, 2, 1, &out)).unwrap(), 0);
            rows::load(&out.join("test.jsonl")).unwrap()
        };
        let (originals, variants) = (made("a", None), made("b", Some(Variant::RoleWords)));
        for (original, variant) in originals.iter().zip(&variants) {
            assert_eq!(variant.data_source, "kk_logic_4_role_words");
            assert_eq!(variant.extra_info["index"], original.extra_info["index"]);
            assert_eq!(variant.extra_info["variant"], "role_words");
        }
    }

    #[test]
    fn existing_files_are_kept() {
        let folder = temp_dir::TempDir::new().unwrap();
        fs::write(folder.path().join("test.jsonl"), "mine").unwrap();
        let error = kk(3..=3, None, &files(1, 1, 0, folder.path())).unwrap_err();
        assert!(error.place.ends_with("test.jsonl") && error.problem.contains("already"), "{error}");
        assert_eq!(fs::read_to_string(folder.path().join("test.jsonl")).unwrap(), "mine");
        assert!(!folder.path().join("train.jsonl").exists());
    }

    #[test]
    fn impossible_requests_are_refused() {
        let folder = temp_dir::TempDir::new().unwrap();
        let problem = |people, train| kk(people, None, &files(train, 0, 0, folder.path())).unwrap_err().problem;
        assert!(problem(3..=3, 0).contains("both 0"));
        assert!(problem(2..=3, 1).contains("3-20"));
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(kk(3..=3, None, &files(1, 0, 0, &file)).unwrap_err().place, file.display().to_string());
    }

    #[test]
    #[cfg_attr(debug_assertions, ignore = "takes 15 s without optimisation")]
    fn more_puzzles_than_exist_are_refused() {
        // With three people each can say 73 things, so there are at most 73³ puzzles.
        let error = kk(3..=3, None, &files(73 * 73 * 73, 0, 0, Path::new("unused"))).unwrap_err();
        assert!(error.problem.contains("distinct puzzles with 3 people"), "{error}");
    }

    #[test]
    fn inspect_counts_rows_and_characters_by_source() {
        let folder = temp_dir::TempDir::new().unwrap();
        let path = folder.path().join("rows.jsonl");
        let line = |source: &str, prompt: &str| {
            format!(r#"{{"prompt": "{prompt}", "answer": "(1) Zoey is a knight", "data_source": "{source}"}}"#)
        };
        fs::write(&path, [line("kk_a", "éé"), line("kk_b", "?"), line("kk_a", "four")].join("\n")).unwrap();
        let text = inspect(&path, None).unwrap();
        for part in [
            "rows.jsonl: 3 rows",
            "kk_a: 2 rows, prompts of 3 characters",
            "kk_b: 1 rows",
            "user: éé",
            "the first row of kk_b",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
    }
}
