#!/usr/bin/env bash
# Runs every fuzz target for a while and prints what each did: runs, edges covered, crashes. Fails where one crashed.
#
#   ./scripts/fuzz.sh [SECONDS [TARGET …]]     60 seconds and all targets unless said otherwise
#
# libFuzzer, guided by coverage, on the stable toolchain: the compiler's own coverage pass is a plain code-generation option.
# No address sanitizer, which needs a nightly: the decoders have no unsafe code of ours; overflow checks and debug
# assertions are on. What is found is in fuzz/artifacts/TARGET/. FUZZ_JOBS targets (default: one a core) run at a time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../fuzz"

seconds=${1:-60}; shift || true
[[ $seconds =~ ^[0-9]+$ ]] || { echo "fuzz.sh: $seconds is not a number of seconds" >&2; exit 2; }
all=(json otlp avro registry stream redact event)
targets=("$@"); [ $# -gt 0 ] || targets=("${all[@]}")
jobs=${FUZZ_JOBS:-$(nproc)}
host=$(rustc -vV | sed -n 's/^host: //p')
target_dir=${CARGO_TARGET_DIR:-$PWD/target}/fuzz

# --target keeps the options away from build scripts and macros.
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
flags+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing"
RUSTFLAGS=$flags cargo build --quiet --locked --release --bins --target "$host" --target-dir "$target_dir"

run() {
  local name=$1 log=artifacts/$1/log
  mkdir -p "corpus/$name" "artifacts/$name"
  "$target_dir/$host/release/$name" "corpus/$name" "seeds/$name" -max_total_time="$seconds" -dict=dictionary.txt \
    -artifact_prefix="artifacts/$name/" -max_len=16384 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1
}

failed=0
declare -A pids=()
finish() {
  local name=$1 status=0
  wait "${pids[$name]}" || status=$?
  unset "pids[$name]"
  local log=artifacts/$name/log
  # The log shows inputs, which are any bytes; a figure that cannot be read must not end the script.
  local runs; runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" || true)
  local edges; edges=$(grep -ao 'cov: [0-9]*' "$log" | tail -1 | cut -d' ' -f2 || true)
  printf '%-10s %12s runs in %s s, %6s edges, %s\n' "$name" "${runs:-?}" "$seconds" "${edges:-?}" \
    "$([ "$status" = 0 ] && echo 'no crash' || echo "CRASHED, see fuzz/$log")"
  [ "$status" = 0 ] || failed=1
}
waiting=()
for name in "${targets[@]}"; do
  if [ "${#waiting[@]}" -ge "$jobs" ]; then finish "${waiting[0]}"; waiting=("${waiting[@]:1}"); fi
  mkdir -p "artifacts/$name"
  run "$name" & pids[$name]=$!
  waiting+=("$name")
done
for name in "${waiting[@]}"; do finish "$name"; done
exit "$failed"
