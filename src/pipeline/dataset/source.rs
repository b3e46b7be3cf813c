//! One distribution of a split: rows that are kept, or rows that are made when they are drawn.

use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::item::{Item, ItemMaker};
use super::load::{Distribution, KeptRow, Rows, SAMPLE};
use super::long_rows::LongRows;
use crate::config::data::Overlong;
use crate::error::InputError;
use crate::files::hex;
use crate::task::procedural::Stream;

/// See the module. Never empty.
pub struct Source {
    pub name: String,
    /// Rows that were left out because their prompts are too long.
    pub too_long: LongRows,
    items: Items,
}

enum Items {
    Kept(Vec<Arc<Item>>),
    Fresh(Box<Fresh>),
}

/// Rows that are made when they are drawn.
struct Fresh {
    stream: Mutex<Stream>,
    maker: ItemMaker,
    /// What the distribution counts as where distributions are compared by their rows.
    size: usize,
    /// The first rows.
    sample: Vec<Arc<Item>>,
}

impl Source {
    /// Tokenises the rows and gives each its grader. `overlong` says what happens to prompts that are too long.
    ///
    /// # Errors
    /// As [`ItemMaker::item`]; a prompt that is too long, or all of them where they are left out.
    pub fn new(distribution: Distribution, maker: ItemMaker, overlong: Overlong) -> Result<Self, InputError> {
        let Distribution { name, rows, .. } = distribution;
        match rows {
            Rows::Kept(rows) => Self::kept(name, rows, &maker, overlong),
            Rows::Fresh { stream, size } => {
                let mut fresh = Fresh { stream: Mutex::new(stream), maker, size, sample: Vec::new() };
                fresh.sample = (0..SAMPLE).map(|row| fresh.make(&name, row)).collect::<Result<_, _>>()?;
                Ok(Self { name, too_long: LongRows::default(), items: Items::Fresh(Box::new(fresh)) })
            }
        }
    }

    fn kept(name: String, rows: Vec<KeptRow>, maker: &ItemMaker, overlong: Overlong) -> Result<Self, InputError> {
        let (mut items, mut too_long) = (Vec::with_capacity(rows.len()), LongRows::default());
        for (index, KeptRow { row, place }) in rows.into_iter().enumerate() {
            let place = || place.as_ref().map_or_else(|| format!("{name} row {index}"), ToString::to_string);
            match maker.item(row, place)? {
                Ok(item) => items.push(Arc::new(item)),
                Err(long) if overlong == Overlong::Drop => too_long.push(place(), long.tokens),
                Err(long) => {
                    let advice = "data.overlong = \"drop\" leaves such rows out";
                    return Err(InputError::new(place(), format!("{long}; {advice}")));
                }
            }
        }
        match items.is_empty() {
            true => {
                let ItemMaker { longest, context, .. } = maker;
                let limits = format!("data.max_prompt_tokens = {longest}, the model's context is {context}");
                Err(InputError::new(name, format!("every prompt is too long: {too_long}; {limits}")))
            }
            false => Ok(Self { name, too_long, items: Items::Kept(items) }),
        }
    }

    /// Row `row`. Of rows that are made on the fly there is no last one.
    ///
    /// # Errors
    /// A made row that does not fit the model.
    pub fn item(&self, row: usize) -> Result<Arc<Item>, InputError> {
        match &self.items {
            Items::Kept(items) => Ok(items[row].clone()),
            Items::Fresh(fresh) => {
                fresh.sample.get(row).map_or_else(|| fresh.make(&self.name, row), |it| Ok(it.clone()))
            }
        }
    }

    /// How many rows there are, or how many the distribution counts as.
    pub fn size(&self) -> usize {
        match &self.items {
            Items::Kept(items) => items.len(),
            Items::Fresh(fresh) => fresh.size,
        }
    }

    /// SHA-256 of what is sampled and graded: the known rows in order, each with its prompt's tokens.
    ///
    /// # Errors
    /// None in practice: a row was read from what it is written as.
    pub fn hash(&self) -> serde_json::Result<String> {
        let mut hash = Sha256::new();
        for item in self.known() {
            serde_json::to_writer(&mut hash, &(&item.row, &*item.prompt, &item.prefill))?;
        }
        Ok(hex(hash.finalize()))
    }

    pub fn is_fresh(&self) -> bool {
        matches!(self.items, Items::Fresh(_))
    }

    /// All rows, or the first ones of those that are made on the fly.
    pub fn known(&self) -> &[Arc<Item>] {
        match &self.items {
            Items::Kept(items) => items,
            Items::Fresh(fresh) => &fresh.sample,
        }
    }
}

impl Fresh {
    /// Row `row` of the distribution `name`.
    fn make(&self, name: &str, row: usize) -> Result<Arc<Item>, InputError> {
        let made = self.stream.lock().unwrap_or_else(PoisonError::into_inner).row(row as u64);
        let place = || format!("{name} row {row}");
        let item = self.maker.item(made, place)?;
        let item = item.map_err(|long| InputError::new(place(), format!("{long}; make easier rows with data.levels")));
        Ok(Arc::new(item?))
    }
}
