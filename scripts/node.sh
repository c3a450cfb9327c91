#!/usr/bin/env bash
# Prints a folder whose node_modules hold the official `openai` client for Node; it is made once under
# ${PELTON_CACHE:-~/.cache/pelton}.
set -euo pipefail

pins=(openai@7.57.0)
cache=${PELTON_CACHE:-$HOME/.cache/pelton}
# Another set of pins is another folder, so that an update never meets half of the old one.
home=$cache/node-$(printf '%s\n' "${pins[@]}" | sha256sum | cut -c1-12)
mkdir -p "$cache"
exec 9>"$home.lock"; flock 9
if [ ! -e "$home/complete" ]; then
  command -v npm >/dev/null || { echo "node.sh: npm is missing; scripts/system.sh installs it" >&2; exit 1; }
  echo "node.sh: making $home" >&2
  rm -rf "$home"; mkdir -p "$home"
  (cd "$home" && npm install --silent --no-audit --no-fund --ignore-scripts "${pins[@]}" >&2) \
    || { echo "node.sh: npm could not install ${pins[*]}" >&2; exit 1; }
  touch "$home/complete"
fi
echo "$home"
