#!/usr/bin/env bash
# Runs one fuzz target, or each in turn, for so many seconds: fuzz/run.sh TARGET|all SECONDS
set -euo pipefail
cd "$(dirname "$0")"
target=${1:?a target or all} seconds=${2:?seconds}
# The same dependencies as the program.
cp ../Cargo.lock Cargo.lock
# A compiled template is kept as long as the process.
export ASAN_OPTIONS=detect_leaks=0
targets=("$target")
[ "$target" != all ] || mapfile -t targets < <(cargo +nightly fuzz list)
for it in "${targets[@]}"; do
  # What is found grows a folder that git ignores; corpus/ stays small.
  mkdir -p "artifacts/corpus/$it"
  cargo +nightly fuzz run "$it" "artifacts/corpus/$it" "corpus/$it" -- \
    -max_total_time="$seconds" -max_len=65536 -timeout=20 -rss_limit_mb=4096 -malloc_limit_mb=1024 -detect_leaks=0
done
