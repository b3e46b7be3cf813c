#!/usr/bin/env bash
# What must be seen on a GPU before anyone trains there, in the order of importance: tests/gpu/README.md.
#
#   tests/gpu/run.sh [DUMP_RL]
#
# Environment: DUMP_RL  the program (default: target/release/dump-rl)
#              OUT      folder for results.json, a .json and a .log for each part (default: gpu-results)
#              MODELS   folder for random models, some 20 GB, removed at the end (default: in /dev/shm where it has room)
#              ENGINES  which to measure (default: mistralrs native)
#              BUDGET   seconds in all (default: 470)
#              DEVICE=cpu SMALL=1   the same parts on a CPU with a tiny model: a test of this script
# No patterns: [32] in a setting is a list.
set -uo pipefail -o noglob

root=$(cd "$(dirname "$0")/../.." && pwd)
DUMP_RL=${1:-${DUMP_RL:-$root/target/release/dump-rl}}
OUT=${OUT:-gpu-results}
DEVICE=${DEVICE:-cuda}
SMALL=${SMALL:-0}
BUDGET=${BUDGET:-470}

[[ -x $DUMP_RL ]] || { echo "$DUMP_RL is not a program; give it as the first argument or in DUMP_RL" >&2; exit 2; }
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd) || exit 2

free_gb() { df --output=avail -BG "$1" 2>/dev/null | tail -1 | tr -dc 0-9; }
if [[ -z ${MODELS:-} ]]; then
    parent=${TMPDIR:-/tmp}
    [[ $SMALL != 1 && $(free_gb /dev/shm) -ge 24 ]] && parent=/dev/shm
    MODELS=$(mktemp -d "$parent/dump-rl-gpu.XXXXXX")
    trap 'rm -rf "$MODELS"' EXIT
fi

# Shapes. "base" is the model for most parts, "large" the one that a user would train.
if [[ $SMALL == 1 ]]; then
    base=kk-tiny middle=kk-tiny large=kk-tiny
    sequences=(4 8 16) rollout="bench.prompt_tokens=[32] bench.new_tokens=[32]"
    lengths="[64,128]" step="batch_size=2 group_size=2 engine.max_new_tokens=8" cache=64 dtypes=(f32)
else
    base=qwen2.5-0.5b middle=qwen2.5-1.5b large=qwen2.5-7b
    sequences=(32 128 512) rollout="bench.prompt_tokens=[512] bench.new_tokens=[1024]"
    lengths="[2048,8192,16384]" step="batch_size=8 group_size=8 engine.max_new_tokens=512" cache=8000
    dtypes=(bf16 f32)
fi
format=${dtypes[0]}

config=$OUT/bench.toml
printf 'model = "%s/%s"\n[engine]\ndevice = "%s"\ndtype = "%s"\ncache_mb = %s\nmax_sequences = 512\n[trainer]\nrecompute = "auto"\n' \
    "$MODELS" "$base" "$DEVICE" "$format" "$cache" >"$config"

read -ra engines <<<"${ENGINES:-mistralrs native}"
names=() states=() seconds=()

# --set for each word.
sets() { local word; for word in "$@"; do printf -- '--set\n%s\n' "$word"; done; }

write_results() {
    local i file
    {
        echo '{'
        echo "\"device\": \"$DEVICE\", \"card\": \"$card\", \"small\": $([[ $SMALL == 1 ]] && echo true || echo false),"
        echo '"parts": ['
        for i in "${!names[@]}"; do
            file=$OUT/${names[i]}.json
            ((i)) && echo ','
            printf '{"part": "%s", "state": "%s", "seconds": %s, "results": ' "${names[i]}" "${states[i]}" "${seconds[i]}"
            if [[ -s $file ]]; then cat "$file"; else echo '[]'; fi
            echo '}'
        done
        echo ']}'
    } >"$OUT/results.json"
}

# part NAME LIMIT COMMAND...: runs the command for at most LIMIT seconds, and goes on whatever comes of it.
part() {
    local name=$1 limit=$2 left=$((BUDGET - SECONDS)) begin=$SECONDS state=passed rc=0
    shift 2
    rm -f "$OUT/$name.json"
    ((limit > left)) && limit=$left
    if ((limit < 5)); then
        state='skipped: no time left'
    else
        timeout --kill-after=5 "$limit" "$@" >"$OUT/$name.log" 2>&1 || rc=$?
        case $rc in
            0) ;;
            124 | 137) state="timed out after $limit s" ;;
            *) state="failed: exit status $rc" ;;
        esac
    fi
    names+=("$name") states+=("$state") seconds+=($((SECONDS - begin)))
    echo "== $name: $state, $((SECONDS - begin)) s (at $SECONDS s)"
    [[ -s $OUT/$name.log ]] && tail -n 12 "$OUT/$name.log"
    write_results
    return "$rc"
}

# bench KIND NAME LIMIT MODEL SETTING...
bench() {
    local kind=$1 name=$2 limit=$3 model=$4
    shift 4
    mapfile -t set < <(sets "model=$MODELS/$model" "$@")
    part "$name" "$limit" "$DUMP_RL" bench "$kind" "$config" "${set[@]}" --json "$OUT/$name.json"
}

# init MODEL LIMIT: once.
init() {
    [[ -e $MODELS/$1 ]] || part "init-$1" "$2" "$DUMP_RL" init-model --arch "$1" --out "$MODELS/$1"
}

card=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)
{ uname -a; nproc; nvidia-smi; "$DUMP_RL" --version; } >"$OUT/machine.txt" 2>&1

# 1. Many diverging completions at a time against our own forward, with each engine in each number format.
init "$base" 60
for dtype in "${dtypes[@]}"; do
    for engine in "${engines[@]}"; do
        bench check "check-$engine-$dtype" 60 "$base" "engine.kind=$engine" "engine.dtype=$dtype" \
            bench.prompts=[16] bench.group_sizes=[4] bench.prompt_tokens=[128] bench.new_tokens=[64]
    done
done

# 2. A whole step of the paper's run, cut to fit; on a GPU it checks the engine once more before it trains.
init "$large" 90
for engine in "${engines[@]}"; do
    mapfile -t set < <(sets "model=$MODELS/$large" "engine.kind=$engine" "engine.device=$DEVICE" "engine.dtype=$format" \
        "engine.cache_mb=$cache" max_steps=2 data.train=20 data.test=1 trainer.micro_batch_tokens=4096 \
        trainer.ppo_mini_batch_size=0 $step)
    part "pipeline-large-$engine" 80 "$DUMP_RL" bench pipeline "$root/configs/kk-qwen2.5-7b.toml" "${set[@]}" \
        --json "$OUT/pipeline-large-$engine.json"
done

# 3. The trainer at long sequences.
train_shape="bench.prompts=[1] bench.group_sizes=[4] bench.prompt_tokens=[512] bench.repeats=1"
bench train train-large 90 "$large" $train_shape "bench.train_tokens=$lengths"

# 4. The engines.
rollout() { # NAME LIMIT MODEL SEQUENCES
    local engine
    for engine in "${engines[@]}"; do
        bench rollout "$1-$engine" "$2" "$3" "bench.engines=[\"$engine\"]" "bench.prompts=[$(($4 / 4))]" \
            bench.group_sizes=[4] $rollout bench.repeats=1
    done
}
for count in "${sequences[@]}"; do
    rollout "rollout-$count" $((20 + count / 8)) "$base" "$count"
done

# 5. A new policy into the engine, in each way.
sync_shape="bench.prompts=[8] bench.group_sizes=[4] bench.prompt_tokens=[64] bench.new_tokens=[32]"
for engine in "${engines[@]}"; do
    modes=(side_by_side alternate)
    [[ $engine == mistralrs ]] && modes+=(reload)
    for mode in "${modes[@]}"; do
        bench sync "sync-$engine-$mode" 40 "$base" $sync_shape "engine.kind=$engine" "engine.sync=$mode"
    done
    bench sync "sync-large-$engine" 60 "$large" $sync_shape bench.repeats=1 "engine.kind=$engine"
done

# 6. What is left.
rollout rollout-large 60 "$large" "${sequences[0]}"
bench train train-base 40 "$base" $train_shape "bench.train_tokens=$lengths"
init "$middle" 40
bench train train-middle 40 "$middle" $train_shape "bench.train_tokens=$lengths"

value() { grep -o "\"$2\": [0-9.e+-]*" "$OUT/$1.json" 2>/dev/null | sed 's/.*: //' | paste -sd' ' -; }
echo
printf '%-24s %-28s %8s   %-28s %s\n' part state seconds 'tokens/s' MFU
failed=0
for i in "${!names[@]}"; do
    [[ ${states[i]} == passed ]] || failed=1
    printf '%-24s %-28s %8s   %-28s %s\n' "${names[i]}" "${states[i]}" "${seconds[i]}" \
        "$(value "${names[i]}" tokens_per_s | sed 's/\.[0-9]*//g')" "$(value "${names[i]}" mfu)"
done
echo "$SECONDS s in all; numbers in $OUT/results.json"
exit "$failed"
