#!/usr/bin/env bash
# Type-checks the code for CUDA of our own crates on a machine without CUDA: the trainer's, the native engine's, and what
# flash-attn adds (mistral.rs's part has none).
#
# A stand-in for nvcc makes empty kernels, and one for git an empty CUTLASS: enough for `cargo check`, which links nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

home="$(mktemp -d)"
trap 'rm -rf "$home"' EXIT
mkdir -p "$home/bin" "$home/include" "$home/lib64"
cat > "$home/bin/nvcc" <<'NVCC'
#!/usr/bin/env bash
case "$*" in
  *--version*) echo "Cuda compilation tools, release 13.0, V13.0.88"; exit ;;
  *--list-gpu-code*) printf 'sm_80\nsm_90\n'; exit ;;
esac
out= dir=. lib= sources=()
while [ $# -gt 0 ]; do
  case "$1" in
    -o | --output-file) out="$2"; shift ;;
    --output-directory) dir="$2"; shift ;;
    -lib | --lib) lib=1 ;;
    *.cu) sources+=("$1") ;;
  esac
  shift
done
if [ -n "$lib" ]; then rm -f "$out" && ar crs "$out"
elif [ -n "$out" ]; then : > "$out"
else for source in "${sources[@]}"; do : > "$dir/$(basename "$source" .cu).ptx"; done
fi
NVCC
cat > "$home/bin/git" <<'GIT'
#!/usr/bin/env bash
[ "$1" != clone ] || mkdir -p "${@: -1}"
GIT
chmod +x "$home/bin/nvcc" "$home/bin/git"
export PATH="$home/bin:$PATH" NVCC="$home/bin/nvcc" CUDA_HOME="$home" CUDAFORGE_HOME="$home/forge"
export CUDA_COMPUTE_CAP=90 CUDARC_CUDA_VERSION=13000
# A folder of its own: a later build with a real nvcc must not take the empty kernels for its own.
for features in cuda flash-attn; do
  cargo check --release --no-default-features --features "$features" --target-dir "${CARGO_TARGET_DIR:-target}/check-cuda"
done
