//! What each subcommand does, apart from reading its arguments.

pub mod bench;
pub mod data;
pub mod dry_run;
pub mod eval;
pub mod export;
pub mod fit;
pub mod grade;
pub mod import;
pub mod init_model;
pub mod replay;
pub mod serve;
pub mod sft;
pub mod train;
