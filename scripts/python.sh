#!/usr/bin/env bash
# Prints the path of a Python that has what the tests read our tables with: `deltalake` (the Delta readers of other makers
# build on it), `moto_server`, an S3 to write them to, and
# `fastavro`, which writes what we read. The environment is made once under ${PELTON_CACHE:-~/.cache/pelton}.
set -euo pipefail

pins=(deltalake==1.6.6 pyarrow==26.0.1 "moto[s3,server]==5.2.5" prometheus_client==0.26.0 fastavro==1.13.1)
cache=${PELTON_CACHE:-$HOME/.cache/pelton}
# Another set of pins is another environment, so that an update never meets half of the old one.
home=$cache/venv-$(printf '%s\n' "${pins[@]}" | sha256sum | cut -c1-12)
mkdir -p "$cache"
exec 9>"$home.lock"; flock 9
if [ ! -e "$home/complete" ]; then
  command -v python3 >/dev/null || { echo "python.sh: python3 is missing; scripts/system.sh installs it" >&2; exit 1; }
  echo "python.sh: making $home" >&2
  rm -rf "$home"
  python3 -m venv "$home" >&2
  "$home/bin/pip" install --quiet --disable-pip-version-check "${pins[@]}" >&2 \
    || { echo "python.sh: pip could not install ${pins[*]}" >&2; exit 1; }
  touch "$home/complete"
fi
echo "$home/bin/python"
