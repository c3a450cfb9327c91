#!/usr/bin/env bash
# Prints a TCP port of the loopback that nothing listens on, with the next ones free too: `free-port.sh [COUNT]`, default 2
# (Kafka's controller takes the second).
set -euo pipefail
for _ in $(seq 50); do
  port=$((20000 + RANDOM % 20000))
  free=yes
  for p in $(seq "$port" $((port + ${1:-2} - 1))); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null; then free=no; fi
  done
  if [ "$free" = yes ]; then echo "$port"; exit 0; fi
done
echo "free-port.sh: found no free port between 20000 and 40000" >&2
exit 1
