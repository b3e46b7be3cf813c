#!/usr/bin/env bash
# A CUDA 13 compiler, its libraries and a stand-in for the driver, for machines that have none: cuda-toolchain.sh DIR
#
# Everything comes from NVIDIA's packages on PyPI (0.65 GB to download, 1.2 GB unpacked). DIR/env.sh is what a shell has
# to read afterwards. A second call does nothing; pip keeps what it downloaded in its own cache.
set -euo pipefail
dir="${1:?usage: cuda-toolchain.sh DIR}"

packages=(
  nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85
  nvidia-cuda-runtime==13.0.96 nvidia-cublas==13.0.2.14 nvidia-curand==10.4.0.35 nvidia-cuda-nvrtc==13.0.88
)

fail() { echo "error: $*" >&2; exit 2; }
[ "$(uname -s)" = Linux ] || fail "NVIDIA has these packages for Linux only; this is $(uname -s)"
command -v g++ >/dev/null || fail "gcc and g++ are needed: nvcc compiles host code with them (Debian: apt install g++)"
command -v python3 >/dev/null || fail "python3 is needed, to fetch the packages with pip"
python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip (Debian: apt install python3-pip)"

mkdir -p "$dir"
dir="$(cd "$dir" && pwd)"
cuda="$dir/nvidia/cu13"
stamp="$dir/complete"
if [ "$(cat "$stamp" 2>/dev/null)" = "${packages[*]}" ]; then
  echo "$dir is complete"
  exit 0
fi

[ -z "$(ls -A "$dir")" ] || [ -d "$dir/nvidia" ] || fail "$dir holds something else; name a new folder"
rm -rf "$stamp" "$dir/nvidia"
# Into a folder of its own: no virtual environment, and nothing that Python would import.
python3 -m pip install --quiet --no-deps --only-binary=:all: --upgrade --target "$dir" "${packages[@]}"

# The linker looks for names without a version, in lib or lib64.
ln -sfn lib "$cuda/lib64"
for library in "$cuda"/lib/*.so.*; do
  ln -sfn "$(basename "$library")" "${library%%.so.*}.so"
done

# The driver's library comes with the driver, which needs a card. To link, one that has every function the headers name
# and does nothing is enough. All answer CUDA_ERROR_STUB_LIBRARY (34), as those of NVIDIA's own stub do.
mkdir -p "$cuda/lib/stubs"
grep -ohE '\bcu[A-Z][A-Za-z0-9_]*' "$cuda"/include/cuda*.h | sort -u |
  sed 's/.*/int &(void) { return 34; }/' > "$cuda/lib/stubs/cuda.c"
gcc -w -shared -fPIC -fno-builtin -Wl,-soname,libcuda.so.1 -o "$cuda/lib/stubs/libcuda.so" "$cuda/lib/stubs/cuda.c"
ln -sfn libcuda.so "$cuda/lib/stubs/libcuda.so.1"

cat > "$dir/env.sh" <<ENV
export CUDA_HOME="$cuda" CUDA_PATH="$cuda" CUDA_ROOT="$cuda" CUDA_TOOLKIT_ROOT_DIR="$cuda"
export PATH="$cuda/bin:\$PATH"
export LIBRARY_PATH="$cuda/lib:$cuda/lib/stubs\${LIBRARY_PATH:+:\$LIBRARY_PATH}"
ENV

# Proof that it compiles, for every architecture that is asked of it later.
probe="$(mktemp -d)"
trap 'rm -rf "$probe"' EXIT
echo '__global__ void twice(float *x) { x[threadIdx.x] *= 2; }  int main() { twice<<<1, 32>>>(nullptr); }' > "$probe/probe.cu"
(. "$dir/env.sh" && nvcc -o "$probe/probe" "$probe/probe.cu") || fail "nvcc cannot compile a small kernel"

echo "${packages[*]}" > "$stamp"
echo "$dir: $("$cuda/bin/nvcc" --version | grep release), $(du -sh "$dir" | cut -f1)"
