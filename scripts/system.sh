#!/usr/bin/env bash
# Installs the Debian packages that the build and the tests need, where they are missing: a C and C++ compiler, make and
# cmake (librdkafka, zstd, aws-lc), Java and Maven (Apache Kafka for the tests), Python and Node (readers and
# clients of other makers).
set -euo pipefail

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need cc gcc
need c++ g++
need make make
need cmake cmake
need perl perl
need java default-jre-headless
need mvn maven
need python3 python3
need node nodejs
need openssl openssl
need npm npm
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "system.sh: install these yourself, this is no Debian: ${missing[*]}" >&2
  exit 1
fi
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
echo "system.sh: installing ${missing[*]}" >&2
$sudo apt-get update -qq >&2
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
