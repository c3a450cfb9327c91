#!/usr/bin/env bash
# Long fault runs against a real Apache Kafka, each audited at its end; docs/FAULTS.md holds the figures of one.
#
#   ./scripts/soak.sh MODE|all [--times N] [--out DIR]
#
#   MODE       kills failpoints members zombies transactions recreate broker-restarts brokers-down leaders wheel
#   --times N  faults in the run, where its default is not wanted; minutes of `wheel`, 120 by default
#   --out DIR  soak.md and soak.jsonl go there, default target/soak
#
# It starts a broker of its own (three for `brokers-down` and `leaders`) and ends it again. The daemon is built with
# optimisation; PELTON_SOAK_PROFILE=dev takes the debug build. Status 1 where a message was lost or is there twice.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
usage() { sed -n '4,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

all=(kills failpoints members zombies transactions recreate broker-restarts brokers-down leaders)
mode=${1:-}; shift || usage
times=() out=target/soak
while [ $# -gt 0 ]; do
  case $1 in
    --times) times=(--times "${2:?--times needs a number}"); shift 2 ;;
    --out) out=${2:?--out needs a folder}; shift 2 ;;
    *) usage ;;
  esac
done
case " ${all[*]} all wheel " in *" $mode "*) ;; *) usage ;; esac
if [ "$mode" = all ]; then modes=("${all[@]}"); else modes=("$mode"); fi

profile=${PELTON_SOAK_PROFILE:-release}
./scripts/system.sh
cargo test --profile "$profile" --test soak --no-run
mkdir -p "$out"
out=$(cd "$out" && pwd)

data='' port='' brokers=1
down() {
  [ -z "$data" ] || ./scripts/kafka.sh kill --port "$port" --dir "$data" --brokers "$brokers" || true
  [ -z "$data" ] || rm -rf "$data"
  data=''
}
trap down EXIT

{
  echo "$(date -u +%F), $(nproc) cores ($(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)), $profile build, $(git describe --always --dirty)"
  echo
  echo "| mode | faults | messages | rows | dead letters | lost | duplicated | given up | audit | seconds |"
  echo "|---|---|---|---|---|---|---|---|---|---|"
} | tee "$out/soak.md"
status=0
for one in "${modes[@]}"; do
  case $one in brokers-down|leaders) brokers=3 ;; *) brokers=1 ;; esac
  data=$(mktemp -d)
  port=$(./scripts/free-port.sh $((2 * brokers)))
  ./scripts/kafka.sh start --port "$port" --dir "$data" --brokers "$brokers" 2>/dev/null
  servers=127.0.0.1:$port
  if [ "$brokers" = 3 ]; then servers+=,127.0.0.1:$((port + 2)),127.0.0.1:$((port + 4)); fi
  PELTON_TEST_KAFKA=$servers PELTON_SOAK_PORT=$port PELTON_SOAK_DIR=$data PELTON_SOAK_BROKERS=$brokers \
    cargo test -q --profile "$profile" --test soak -- "$one" "${times[@]}" --json "$out/soak.jsonl" 2>"$out/$one.log" \
    | grep '^|' | tee -a "$out/soak.md" || { status=1; tail -20 "$out/$one.log" >&2; }
  down
done
exit $status
