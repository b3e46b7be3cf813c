#!/usr/bin/env bash
# Builds the program for GPUs, one binary for each compute capability: build-cuda.sh [--flash-attn] CAP...   (80, 86, 89, 90, ...)
#
# Takes nvcc from PATH, $CUDA_HOME or /usr/local/cuda; where there is none, what `just cuda-toolchain` made. The kernels
# hold code for one capability only, so each gets a binary of its own, in dist/. Cargo's files are in target/cuda.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "error: $*" >&2; exit 2; }
features=cuda suffix=
if [ "${1:-}" = --flash-attn ]; then
  features=flash-attn suffix=-flash
  shift
fi
[ $# -gt 0 ] || fail "name the compute capabilities to build for, as in: just build-cuda 80 90"
for cap in "$@"; do
  [[ "$cap" =~ ^[0-9]{2,3}$ ]] || fail "$cap is no compute capability; write 80 for 8.0 (nvidia-smi --query-gpu=compute_cap --format=csv)"
done

toolchain="${CUDA_TOOLCHAIN:-$HOME/.cache/dump-rl-cuda}"
for home in "${CUDA_HOME:-}" /usr/local/cuda; do
  command -v nvcc >/dev/null || [ ! -x "$home/bin/nvcc" ] || export PATH="$home/bin:$PATH"
done
if ! command -v nvcc >/dev/null && [ -f "$toolchain/complete" ]; then
  . "$toolchain/env.sh"
fi
command -v nvcc >/dev/null || fail "there is no nvcc on PATH, in CUDA_HOME or in /usr/local/cuda; \`just cuda-toolchain\` fetches one"
# Where the linker is to look for its libraries.
export CUDA_HOME="${CUDA_HOME:-$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")}"

out="${CARGO_TARGET_DIR:-target}/cuda"
mkdir -p dist
for cap in "$@"; do
  binary="dist/dump-rl-cuda-sm$cap$suffix"
  echo "== $binary, with $(nvcc --version | grep -o 'release [0-9.]*') from $(command -v nvcc)"
  start=$SECONDS
  CUDA_COMPUTE_CAP="$cap" cargo build --release --bin dump-rl --features "$features" --target-dir "$out" \
    --config 'profile.release.strip="symbols"'
  cp "$out/release/dump-rl" "$binary"
  echo "== $binary: $(($(stat -c %s "$binary") / 1000000)) MB after $((SECONDS - start)) s on $(nproc) cores"
done
