//! The completions of a run: some samples to read, and the rewards and lengths of early and late completions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::lines::json_lines;
use crate::error::InputError;

/// At most this many steps of a run are read, evenly spread: the completions of a long run take gigabytes.
pub const MOST_FILES: usize = 60;

/// The numbers of characters that are kept at the start and at the end of a longer completion.
const HEAD: usize = 2400;
const TAIL: usize = 1600;

/// What follows the number in the name of a step's file. The first is read where there are several.
const ENDINGS: [&str; 3] = ["jsonl", "jsonl.zst", "jsonl.gz"];

/// A completion in rollouts/step_N.jsonl.
#[derive(Debug, Clone, Deserialize)]
pub struct SampleCompletion {
    pub step: u64,
    pub data_source: String,
    pub row: usize,
    pub completion: String,
    // A number that is not finite is null.
    pub reward: Option<f64>,
    pub format_score: Option<f64>,
    pub answer_score: Option<f64>,
    pub advantage: Option<f64>,
    pub tokens: u64,
    #[serde(default)]
    pub finish: String,
    #[serde(default)]
    pub policy_step: u64,
    #[serde(default)]
    pub adapter: String,
}

impl SampleCompletion {
    /// Whether the grader took the answer for right.
    pub fn is_right(&self) -> bool {
        self.answer_score.unwrap_or(0.0) > 0.0
    }
}

/// See the module.
#[derive(Default)]
pub struct SampledRollouts {
    /// In the order of steps and distributions.
    pub samples: Vec<SampleCompletion>,
    /// The first fifth of the steps.
    pub early: CompletionSizes,
    /// The last fifth.
    pub late: CompletionSizes,
    /// The number of steps that were read, and the number of all steps.
    pub files: (usize, usize),
}

/// Rewards and lengths of completions.
#[derive(Default, Clone)]
pub struct CompletionSizes {
    pub rewards: Vec<f64>,
    pub lengths: Vec<f64>,
    /// First and last step.
    pub steps: Option<(u64, u64)>,
}

impl CompletionSizes {
    fn add(&mut self, sample: &SampleCompletion) {
        self.rewards.extend(sample.reward);
        self.lengths.push(sample.tokens as f64);
        let (first, last) = self.steps.unwrap_or((sample.step, sample.step));
        self.steps = Some((first.min(sample.step), last.max(sample.step)));
    }
}

impl SampledRollouts {
    /// Reads `folder`, which may be missing. Keeps at most `most` samples: from each part of the run and for each of
    /// the `sources` distributions one right and one wrong completion, if they exist.
    ///
    /// # Errors
    /// A file that cannot be read, or a line that is not a completion.
    pub fn read(folder: &Path, most: usize, sources: usize) -> Result<Self, InputError> {
        let all = step_files(folder);
        let chosen = spread(&all, MOST_FILES);
        let parts = most.div_ceil(2 * sources.max(1)).clamp(1, chosen.len().max(1));
        let fifth = chosen.len().div_ceil(5);
        let mut kept: BTreeMap<(usize, String, bool), (u64, SampleCompletion)> = BTreeMap::new();
        let mut rollouts = Self { files: (chosen.len(), all.len()), ..Self::default() };
        for (index, (_, path)) in chosen.iter().enumerate() {
            json_lines(path, |sample: SampleCompletion| {
                if index < fifth {
                    rollouts.early.add(&sample);
                } else if index + fifth >= chosen.len() {
                    rollouts.late.add(&sample);
                }
                keep(&mut kept, index * parts / chosen.len(), sample);
                Ok(())
            })?;
        }
        let mut samples: Vec<SampleCompletion> = kept.into_values().map(|(_, sample)| sample).collect();
        samples.sort_by_key(|sample| sample.step);
        rollouts.samples = spread(&samples, most).into_iter().cloned().collect();
        Ok(rollouts)
    }
}

/// Keeps the sample with the smallest hash: each has the same chance, and every report takes the same one.
fn keep(
    kept: &mut BTreeMap<(usize, String, bool), (u64, SampleCompletion)>,
    part: usize,
    mut sample: SampleCompletion,
) {
    let hash = hash(&sample);
    let key = (part, sample.data_source.clone(), sample.is_right());
    if kept.get(&key).is_none_or(|(smallest, _)| hash < *smallest) {
        sample.completion = shorten(&sample.completion);
        kept.insert(key, (hash, sample));
    }
}

/// FNV-1a over step, row and text.
fn hash(sample: &SampleCompletion) -> u64 {
    let numbers = [sample.step, sample.row as u64].map(u64::to_le_bytes);
    let bytes = numbers.as_flattened().iter().chain(sample.completion.as_bytes().iter().take(512));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Start and end of a long text; the answer is at the end.
fn shorten(text: &str) -> String {
    let length = text.chars().count();
    if length <= HEAD + TAIL {
        return text.to_string();
    }
    let head: String = text.chars().take(HEAD).collect();
    let tail: String = text.chars().skip(length - TAIL).collect();
    format!("{head}\n[… {} characters left out …]\n{tail}", length - HEAD - TAIL)
}

/// The files `step_N.jsonl`, plain or compressed, sorted by N.
fn step_files(folder: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<(u64, usize, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (step, ending) = name.strip_prefix("step_")?.split_once('.')?;
            Some((step.parse().ok()?, ENDINGS.iter().position(|it| *it == ending)?, entry.path()))
        })
        .collect();
    files.sort();
    files.dedup_by_key(|(step, ..)| *step);
    files.into_iter().map(|(step, _, path)| (step, path)).collect()
}

/// At most `most` of `items`, evenly spread, including the first and the last.
fn spread<T>(items: &[T], most: usize) -> Vec<&T> {
    if items.len() <= most {
        return items.iter().collect();
    }
    (0..most).map(|i| &items[i * (items.len() - 1) / (most - 1).max(1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_its_start_and_its_end() {
        let text = format!("a{}é", "x".repeat(5000));
        let short = shorten(&text);
        assert!(short.starts_with("ax") && short.ends_with("xé") && short.contains("[… 1002 characters left out …]"));
        assert_eq!(shorten("é"), "é");
    }

    #[test]
    fn each_step_has_one_file() {
        let folder = temp_dir::TempDir::new().unwrap();
        let names = ["step_10.jsonl.zst", "step_9.jsonl", "step_9.jsonl.zst", "step_8.jsonl.gz"];
        let others = ["step_7.jsonl.zst.tmp", "failed_step_6.jsonl", "step_x.jsonl", "step_5.txt", "step_4"];
        names.iter().chain(&others).for_each(|name| fs::write(folder.child(name), "").unwrap());
        let expected = [(8, "step_8.jsonl.gz"), (9, "step_9.jsonl"), (10, "step_10.jsonl.zst")];
        assert_eq!(step_files(folder.path()), expected.map(|(step, name)| (step, folder.child(name))));
    }

    #[test]
    fn spread_items_include_both_ends() {
        let items: Vec<usize> = (0..101).collect();
        assert_eq!(spread(&items, 3), [&0, &50, &100]);
        assert_eq!(spread(&items[..2], 3), [&0, &1]);
        assert_eq!(spread(&items, 1), [&0]);
    }
}
