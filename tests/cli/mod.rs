//! The program itself. Wrong input ends with status 2 and a message of one or two lines, which names the place and says what
//! would be right; no file is changed.

mod bench;
mod checkpoints;
mod curriculum;
mod data;
mod dry_run;
mod export;
#[cfg(target_os = "linux")]
mod gpu_script;
mod hub;
mod import;
mod init_model;
// It stands before the GNU C library.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod interrupted;
mod mixture;
mod model;
#[cfg(target_os = "linux")]
mod pipes;
mod remote;
mod resume;
mod secrets;
mod serve;
mod settings;
mod sft;
#[cfg(unix)]
mod stops;
mod text_files;
