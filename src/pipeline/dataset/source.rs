//! One distribution of a split: rows that are kept, or rows that are made when they are drawn.

use std::sync::{Arc, Mutex, PoisonError};

use super::item::{Item, ItemMaker};
use super::load::{Distribution, Rows, SAMPLE};
use crate::error::InputError;
use crate::task::procedural::Stream;

/// See the module. Never empty.
pub struct Source {
    pub name: String,
    /// Rows that were left out because their prompts are longer than `max_prompt_tokens`.
    pub too_long: usize,
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
    /// Tokenises the rows and gives each its grader.
    ///
    /// # Errors
    /// As [`ItemMaker::item`], or if all prompts are longer than `max_prompt_tokens`.
    pub fn new(distribution: Distribution, maker: ItemMaker) -> Result<Self, InputError> {
        let Distribution { name, rows, .. } = distribution;
        match rows {
            Rows::Kept(rows) => {
                let all = rows.len();
                let made = rows.into_iter().enumerate().map(|(i, row)| maker.item(row, || format!("{name} row {i}")));
                let items: Vec<_> =
                    made.filter_map(|it| it.transpose().map(|it| it.map(Arc::new))).collect::<Result<_, _>>()?;
                if items.is_empty() {
                    let problem =
                        format!("all {all} prompts are longer than data.max_prompt_tokens = {}", maker.longest);
                    return Err(InputError::new(name, problem));
                }
                Ok(Self { name, too_long: all - items.len(), items: Items::Kept(items) })
            }
            Rows::Fresh { stream, size } => {
                let mut fresh = Fresh { stream: Mutex::new(stream), maker, size, sample: Vec::new() };
                fresh.sample = (0..SAMPLE).map(|row| fresh.make(&name, row)).collect::<Result<_, _>>()?;
                Ok(Self { name, too_long: 0, items: Items::Fresh(Box::new(fresh)) })
            }
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
        let item = self.maker.item(made, place)?.ok_or_else(|| {
            let problem = format!("its prompt is longer than data.max_prompt_tokens = {}", self.maker.longest);
            InputError::new(place(), problem)
        })?;
        Ok(Arc::new(item))
    }
}
