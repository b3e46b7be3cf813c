//! What the fuzz targets share: an input cut into parts, and files that hold them.

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use dump_rl::panics;
use dump_rl::task::graders::answer::Mode;
use dump_rl::task::graders::{GraderChoice, Graders, named};
use dump_rl::task::{RewardModel, Row};

/// A folder of this process, in memory where the system has such a file system.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let folder = base.join(format!("dump-rl-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder for files");
    folder
});

/// Lets panics pass that the program takes for errors of a library. Others end the process, as the hook before does.
pub fn pass_quiet_panics() {
    let end = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !panics::is_quiet() {
            end(info);
        }
    }));
}

/// The folder, and in it these files.
pub fn folder<const N: usize>(files: [(&str, &[u8]); N]) -> &'static Path {
    for (name, content) in files {
        fs::write(FOLDER.join(name), content).expect("a file");
    }
    &FOLDER
}

/// The input cut at its first N - 1 zero bytes. Parts that it does not have are empty.
pub fn parts<const N: usize>(input: &[u8]) -> [&[u8]; N] {
    let mut rest = input.splitn(N, |byte| *byte == 0);
    [(); N].map(|()| rest.next().unwrap_or_default())
}

/// The same parts as text, whatever their bytes are.
pub fn texts<const N: usize>(input: &[u8]) -> [String; N] {
    parts::<N>(input).map(|part| String::from_utf8_lossy(part).into_owned())
}

/// Grades a completion by a ground truth, in both modes.
pub fn grade(grader: &str, truth: &str, completion: &str) {
    let Ok(grader) = named(grader) else { return };
    let row = Row {
        data_source: grader.name.into(),
        prompt: Vec::new(),
        ability: String::new(),
        reward_model: RewardModel::rule(truth),
        extra_info: serde_json::Value::Null,
    };
    for mode in [Mode::Lenient, Mode::Published] {
        let graders = Graders { choice: GraderChoice::Always(grader), mode, ..Graders::default() };
        if let Ok(grader) = graders.for_row(&row) {
            assert!(grader.grade(completion).score().is_finite());
        }
    }
}
