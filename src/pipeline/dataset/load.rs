//! The rows of every `[[data]]` table, by distribution. Nothing is tokenised here.

use std::collections::HashMap;
use std::path::PathBuf;

use super::files;
use crate::config::data::{self, DataEntry};
use crate::config::run::RunConfig;
use crate::error::{InputError, KeyError};
use crate::model::hub::Download;
use crate::reward::Scorers;
use crate::task::mixture::field::prompt_chars;
use crate::task::mixture::quantiles::Quantiles;
use crate::task::mixture::{condition, holdout};
use crate::task::procedural::{self, Split, Stream};
use crate::task::rows::Place;
use crate::task::{Row, kk, rows};

/// As many rows of a stream are made beforehand, to measure their prompts.
pub(super) const SAMPLE: usize = 128;

/// One distribution.
pub struct Distribution {
    pub name: String,
    pub rows: Rows,
    /// Which `[[data]]` table it comes from.
    pub entry: usize,
    /// Rows that a table's `limit` left out.
    pub over_limit: usize,
}

/// A row, and where it stands. A row that was generated has no place.
#[derive(Clone)]
pub struct KeptRow {
    pub row: Row,
    pub place: Option<Place>,
}

/// The rows of a distribution. Never empty.
pub enum Rows {
    Kept(Vec<KeptRow>),
    /// Made when they are drawn. Where distributions are compared by their rows, it counts as `size` rows.
    Fresh {
        stream: Stream,
        size: usize,
    },
}

impl Rows {
    pub fn size(&self) -> usize {
        match self {
            Self::Kept(rows) => rows.len(),
            Self::Fresh { size, .. } => *size,
        }
    }

    /// Characters of the longest prompt; of rows that are made on the fly, among the first ones.
    pub fn longest_prompt(self) -> usize {
        let longest = match self {
            Self::Kept(rows) => rows.iter().map(|kept| prompt_chars(&kept.row)).max(),
            Self::Fresh { mut stream, .. } => (0..SAMPLE as u64).map(|index| prompt_chars(&stream.row(index))).max(),
        };
        longest.unwrap_or(0)
    }
}

/// A distribution whose data set is on the hub and not on this machine.
pub struct Planned {
    pub name: String,
    /// Its `limit`; 0 if it has none.
    pub rows: usize,
    /// Which `[[data]]` table it comes from.
    pub entry: usize,
    /// How many distributions stand before it.
    pub at: usize,
}

/// The rows of a run.
#[derive(Default)]
pub struct Loaded {
    pub train: Vec<Distribution>,
    /// At most `eval.prompts` rows of each.
    pub test: Vec<Distribution>,
    /// Only where downloads are not allowed.
    pub planned: Vec<Planned>,
    /// Rows that do not fit the `where` of their table.
    pub unfit: usize,
}

impl Loaded {
    /// # Errors
    /// A file that cannot be read or holds a wrong row; a distribution of two tables; sizes that cannot be generated.
    pub fn new(config: &RunConfig, scorers: &Scorers, download: Download) -> Result<Self, InputError> {
        let mut loaded = Self::default();
        for index in 0..config.data.len() {
            let key = data::key(&config.data, index);
            let entry = Entry { config: &config.data[index], scorers, index, key };
            match entry.config.task.is_empty() {
                false => loaded.generate(&entry)?,
                true => loaded.read(&entry, download)?,
            }
        }
        for distribution in &mut loaded.test {
            if let Rows::Kept(rows) = &mut distribution.rows {
                rows.truncate(config.eval.prompts);
            }
        }
        for split in [&loaded.train, &loaded.test] {
            let planned = loaded.planned.iter().map(|it| (it.name.as_str(), it.entry));
            distinct(split.iter().map(|it| (it.name.as_str(), it.entry)).chain(planned))?;
        }
        Ok(loaded)
    }

    fn generate(&mut self, entry: &Entry) -> Result<(), InputError> {
        let DataEntry { train, test, seed, fresh, .. } = *entry.config;
        let (task, levels) = entry.config.task().map_err(|error| entry.wrong(error))?;
        if !fresh {
            let splits = match entry.config.variant().map_err(|error| entry.wrong(error))? {
                None => procedural::rows(task, levels, train, test, seed),
                variant => kk::splits_of(variant, levels, train, test, seed).map_err(|e| e.to_string()),
            };
            let (train, test) = splits.map_err(|problem| InputError::new(&entry.key, problem))?;
            self.train.extend(entry.distributions(generated(train)));
            self.test.extend(entry.distributions(generated(test)));
            return Ok(());
        }
        for level in levels {
            let (name, mut held_out) = (task.source_name(level), Stream::new(task, level, seed, Split::Test));
            let stream = Stream::new(task, level, seed, Split::Train);
            self.train.push(entry.distribution(name.clone(), Rows::Fresh { stream, size: train }));
            let test = if test == 0 { 0 } else { held_out.distinct(test as u64) };
            if test > 0 {
                let rows = (0..test).map(|index| KeptRow { row: held_out.row(index), place: None }).collect();
                self.test.push(entry.distribution(name, Rows::Kept(rows)));
            }
        }
        Ok(())
    }

    fn read(&mut self, entry: &Entry, download: Download) -> Result<(), InputError> {
        let DataEntry { train_files, test_files, test_share, seed, limit, .. } = entry.config;
        let find = |files: &[String], key: &str| files::find(files, &format!("{}.{key}", entry.key), download);
        let (Some(train), Some(test)) = (find(train_files, "train_files")?, find(test_files, "test_files")?) else {
            return self.plan(entry);
        };
        let mut train = entry.read(&train, &mut self.unfit)?;
        let mut test = entry.read(&test, &mut self.unfit)?;
        if *test_share > 0.0 {
            test = hold_out(&mut train, *test_share, *seed);
        }
        let (train, test) = entry.cut(train, test)?;
        for (name, mut rows) in train {
            let all = rows.len();
            if *limit > 0 {
                rows = holdout::at_most(rows, *limit, *seed);
            }
            let over_limit = all - rows.len();
            self.train.push(Distribution { over_limit, ..entry.distribution(name, Rows::Kept(rows)) });
        }
        self.test.extend(entry.distributions(test));
        Ok(())
    }

    fn plan(&mut self, entry: &Entry) -> Result<(), InputError> {
        let template = entry.config.distribution().map_err(|error| entry.wrong(error))?;
        let name = template.as_ref().and_then(|it| it.constant()).filter(|_| entry.config.quantiles == 0);
        let Some(name) = name else {
            let problem = "a data set is not in the Hugging Face cache, so its distributions are not known; download it first, \
                           or name a single one: distribution = \"NAME\"";
            return Err(InputError::new(format!("{}.train_files", entry.key), problem));
        };
        let at = self.train.len() + self.planned.len();
        self.planned.push(Planned { name: name.to_owned(), rows: entry.config.limit, entry: entry.index, at });
        Ok(())
    }
}

/// A `[[data]]` table while it is read.
struct Entry<'a> {
    config: &'a DataEntry,
    scorers: &'a Scorers,
    index: usize,
    /// What the table is called in error messages.
    key: String,
}

/// Rows by distribution, in the order of first appearance.
type Groups = Vec<(String, Vec<KeptRow>)>;

impl Entry<'_> {
    fn read(&self, files: &[PathBuf], unfit: &mut usize) -> Result<Groups, InputError> {
        let mapping = self.config.mapping().map_err(|error| self.wrong(error))?;
        let template = self.config.distribution().map_err(|error| self.wrong(error))?;
        let (mut groups, mut first_unfit) = (rows::RowsByName::default(), None);
        for path in files {
            rows::for_each(path, &mapping, |mut row, place| {
                if let Some(mismatch) = condition::mismatch(&self.config.r#where, &row)? {
                    first_unfit.get_or_insert(mismatch);
                    *unfit += 1;
                    return Ok(());
                }
                let name = match &template {
                    Some(template) => template.render(&row)?,
                    None => row.data_source.clone(),
                };
                if name.is_empty() {
                    return Err("the row has no data_source; name its distribution with distribution = \"NAME\"".into());
                }
                if row.data_source.is_empty() {
                    row.data_source.clone_from(&name);
                }
                self.scorers.for_row(&row, Some(&self.config.grader)).map(drop)?;
                groups.push(&name, KeptRow { row, place: Some(place.clone()) });
                Ok(())
            })?;
        }
        let groups = groups.into_vec();
        if groups.is_empty() && !files.is_empty() {
            let first = first_unfit.unwrap_or_default();
            let problem = format!("no row of the files fits these conditions; in the first row {first}");
            return Err(InputError::new(format!("{}.where", self.key), problem));
        }
        Ok(groups)
    }

    /// Cuts every distribution by the quantiles of its training rows.
    fn cut(&self, train: Groups, test: Groups) -> Result<(Groups, Groups), InputError> {
        let DataEntry { quantiles: parts, quantiles_of: field, .. } = self.config;
        if *parts == 0 {
            return Ok((train, test));
        }
        let wrong = |problem: String| InputError::new(format!("{}.quantiles_of", self.key), problem);
        let (mut cut_train, mut cut_test) = (Groups::new(), Groups::new());
        // Without training rows there is nothing to cut by.
        cut_test.extend(test.iter().filter(|(it, _)| !train.iter().any(|(name, _)| name == it)).cloned());
        for (name, rows) in train {
            let quantiles = Quantiles::new(field, *parts, rows.iter().map(|kept| &kept.row)).map_err(wrong)?;
            let held_out = test.iter().find(|(it, _)| *it == name).map(|(_, rows)| rows.clone()).unwrap_or_default();
            for (all, rows) in [(&mut cut_train, rows), (&mut cut_test, held_out)] {
                let mut parts: Groups = (1..=quantiles.parts()).map(|i| (format!("{name}_q{i}"), Vec::new())).collect();
                for kept in rows {
                    parts[quantiles.part(&kept.row).map_err(wrong)?].1.push(kept);
                }
                all.extend(parts.into_iter().filter(|(_, rows)| !rows.is_empty()));
            }
        }
        Ok((cut_train, cut_test))
    }

    fn distributions(&self, groups: Groups) -> Vec<Distribution> {
        groups.into_iter().map(|(name, rows)| self.distribution(name, Rows::Kept(rows))).collect()
    }

    fn distribution(&self, name: String, rows: Rows) -> Distribution {
        Distribution { name, rows, entry: self.index, over_limit: 0 }
    }

    fn wrong(&self, error: KeyError) -> InputError {
        InputError::at("configuration", error.under(&self.key))
    }
}

fn generated(rows: Vec<Row>) -> Groups {
    let kept = |row| KeptRow { row, place: None };
    let groups = rows::group_by_source(rows).into_iter();
    groups.map(|(name, rows)| (name, rows.into_iter().map(kept).collect())).collect()
}

/// Moves a share of every distribution's rows out of it.
fn hold_out(train: &mut Groups, share: f64, seed: u64) -> Groups {
    let mut test = Groups::new();
    for (name, rows) in train.iter_mut() {
        let (held_out, kept) =
            std::mem::take(rows).into_iter().partition(|kept: &KeptRow| holdout::is_held_out(&kept.row, share, seed));
        *rows = kept;
        test.push((name.clone(), held_out));
    }
    train.retain(|(_, rows)| !rows.is_empty());
    test.retain(|(_, rows)| !rows.is_empty());
    test
}

/// Two tables must not give the same distribution: their rows would be mixed up.
fn distinct<'a>(names: impl Iterator<Item = (&'a str, usize)>) -> Result<(), InputError> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (name, entry) in names {
        if let Some(first) = seen.insert(name, entry) {
            let problem = format!(
                "{name:?} is a distribution of data[{first}] and of data[{entry}], and must come from one table; change the \
                 levels of a task, or put the files into one table, or name theirs with distribution"
            );
            return Err(InputError::new("data", problem));
        }
    }
    Ok(())
}
