#!/bin/sh
# Makes the model in data/mix-tiny: examples of four tasks, and supervised training on them. Usage: scripts/mix-model.sh OUT
set -eu
out=${1:-runs/mix-tiny-base}
cd "$(dirname "$0")/.."
examples=runs/mix-tiny-examples
rm -rf "$examples"
dump_rl() { ${DUMP_RL:-cargo run --release --quiet --} "$@"; }
make() { dump_rl data make "$1" --levels "$2" --train "$3" --test 0 --seed 7 --out "$examples/$4" --format conversations; }
make addition 2-3 6000 addition
make countdown 2 1600 countdown-2
make countdown 3 6000 countdown-3
make letter_count 4-6 5000 letter_count
make letter_sort 3-5 6000 letter_sort
dump_rl sft configs/mix-tiny-sft.toml --out "$out"
