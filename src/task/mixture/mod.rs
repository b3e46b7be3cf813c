//! From rows to the distributions of a mixture: which rows are used, which distribution each belongs to, and which rows
//! are held out.
//!
//! - [`field`]: a value of a row by its name · [`template`]: text with fields in it · [`condition`]: which rows are used.
//! - [`mapping`]: prompt and ground truth of rows with columns of their own.
//! - [`quantiles`]: cuts a distribution by a number · [`holdout`]: the rows that are held out.

pub mod condition;
pub mod field;
pub mod holdout;
pub mod mapping;
pub mod quantiles;
pub mod template;

pub use condition::Condition;
pub use mapping::Mapping;
pub use template::Template;
