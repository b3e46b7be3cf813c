//! What each subcommand does, apart from reading its arguments.

#[cfg(feature = "train")]
pub mod bench;
pub mod data;
#[cfg(feature = "train")]
pub mod dry_run;
#[cfg(feature = "train")]
pub mod eval;
#[cfg(feature = "train")]
pub mod export;
pub mod grade;
#[cfg(feature = "train")]
pub mod import;
#[cfg(feature = "train")]
pub mod init_model;
pub mod replay;
#[cfg(feature = "train")]
pub mod sft;
#[cfg(feature = "train")]
pub mod train;
