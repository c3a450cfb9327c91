#!/usr/bin/env bash
# Prints the path of a Python with what a job needs; the environment is made once under ${PELTON_CACHE:-~/.cache/pelton}.
#
#   ./scripts/python.sh          for the tests: `deltalake` (the Delta readers of other makers build on it), `moto_server`, an
#                                S3 to write tables to, `fastavro`, which writes what we read, `confluent-kafka`,
#                                `cloudevents` and `standardwebhooks`, by which others read what we tell, and `openai`, the
#                                client that most applications use, and `ray`, a cluster that cycles are launched on
#   ./scripts/python.sh train    for the benches of exploration and training: their peers, several gigabytes
#   ./scripts/python.sh proxy    for the bench of the sidecar: its peer
set -euo pipefail

case ${1:-tests} in
  tests) pins=(deltalake==1.6.6 pyarrow==26.0.1 "moto[s3,server]==5.2.5" prometheus_client==0.26.0 fastavro==1.13.1
               confluent-kafka==2.16.1 cloudevents==2.2.0 standardwebhooks==1.1.0 openai==3.54.0 ray==2.60.0) ;;
  train) pins=(torch==2.15.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0) ;;
  proxy) pins=("litellm[proxy]==1.106.2") ;;
  *) echo "python.sh: $1 is no set of packages; there are tests, train and proxy" >&2; exit 2 ;;
esac
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
