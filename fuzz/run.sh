#!/bin/sh
# Fuzzes the readers of weights: run.sh [npz|safetensors|pytorch|all] [seconds]
set -eu
cd "$(dirname "$0")"
targets=${1:-all}
seconds=${2:-600}
[ "$targets" = all ] && targets="npz safetensors pytorch"
fixtures=../crates/vit-model/tests/fixtures
for target in $targets; do
    seeds=corpus/$target-seeds
    mkdir -p "$seeds" "corpus/$target"
    case $target in
        npz) find "$fixtures" -name '*.npz' -size -200k ;;
        safetensors) find "$fixtures" -name '*.safetensors' -size -200k ;;
        pytorch) find "$fixtures" '(' -name '*.pth' -o -name '*.bin' ')' -size -200k ;;
    esac | while read -r file; do
        cp "$file" "$seeds/$(echo "$file" | tr '/.' '__')"
    done
    cargo +nightly fuzz run --sanitizer none "$target" "corpus/$target" "$seeds" -- \
        -max_total_time="$seconds" -max_len=200000 -rss_limit_mb=4096 -timeout=30
done
