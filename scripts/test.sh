#!/usr/bin/env bash
# Sets up what the tests need (a real Apache Kafka, a Python environment), then passes them. Nothing is skipped: what is
# missing and cannot be installed is an error.
#
#   ./scripts/test.sh [ARGUMENTS OF cargo test …]     such as: ./scripts/test.sh ingest::
#
# PELTON_TEST_KAFKA=HOST:PORT uses a broker that runs already. PELTON_CACHE (default ~/.cache/pelton) holds what is
# downloaded.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v cargo >/dev/null || { echo "test.sh: cargo is missing; install stable Rust from https://rustup.rs" >&2; exit 1; }
./scripts/system.sh
PELTON_TEST_PYTHON=$(./scripts/python.sh)
export PELTON_TEST_PYTHON

if [ -z "${PELTON_TEST_KAFKA:-}" ]; then
  data=$(mktemp -d)
  port=$(./scripts/free-port.sh)
  stop() { ./scripts/kafka.sh stop --port "$port" --dir "$data" || true; rm -rf "$data"; }
  trap stop EXIT
  ./scripts/kafka.sh start --port "$port" --dir "$data"
  export PELTON_TEST_KAFKA=127.0.0.1:$port
fi

cargo test "$@"
