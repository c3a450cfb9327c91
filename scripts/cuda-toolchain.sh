#!/usr/bin/env bash
# Assembles what `--features cuda` is built with, from NVIDIA's wheels on PyPI: no GPU, driver or CUDA installation is needed
# to build, only to run. The tree is made once under ${PELTON_CACHE:-~/.cache/pelton}.
#
#   ./scripts/cuda-toolchain.sh                                         prints the variables, for `eval`
#   ./scripts/cuda-toolchain.sh cargo build --release --features cuda   runs a command with them
#
# CUDA_COMPUTE_CAP (default 90, an H100) is the GPU to build for. The libcuda.so of the tree is empty: the linker needs its
# names, the GPU's driver brings the real one, and it is never to be shipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# One release of CUDA: newer ones are unknown to cudarc 0.19 and too new for drivers of the 580 series.
pins=(
  nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85 nvidia-cuda-nvrtc==13.0.88 nvidia-cublas==13.0.2.14 nvidia-curand==10.4.0.35
)
cache=${PELTON_CACHE:-$HOME/.cache/pelton}
cudarc=$(sed -n '/^name = "cudarc"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
home=$cache/cuda-$(printf '%s\n' "${pins[@]}" "$cudarc" | sha256sum | cut -c1-12)

fail() { echo "cuda-toolchain.sh: $*" >&2; exit 1; }

# Empty functions for every name of the driver that cudarc may call.
stub() {
  local source names
  cargo fetch --quiet --locked
  source=$(find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -path "*/cudarc-$cudarc/src/driver/sys/mod.rs" | head -n 1)
  [ -n "$source" ] || fail "cudarc $cudarc is not in the registry's folder"
  names=$(grep -oE '\bfn cu[A-Z][A-Za-z0-9_]*\(' "$source" | sed 's/^fn //; s/($//' | sort -u)
  [ "$(wc -l <<<"$names")" -gt 300 ] || fail "cudarc $cudarc names fewer functions of the driver than it should: $source"
  mkdir -p "$1/lib/stubs"
  sed 's/.*/void &(void) {}/' <<<"$names" | gcc -shared -fPIC -Wl,-soname,libcuda.so.1 -x c -o "$1/lib/stubs/libcuda.so" -
}

assemble() {
  local work=$home.work name
  rm -rf "$work" "$home"
  mkdir -p "$work/wheels"
  echo "cuda-toolchain.sh: making $home (some 700 MB are downloaded)" >&2
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --platform manylinux_2_27_x86_64 --platform manylinux2014_x86_64 --dest "$work/wheels" "${pins[@]}" >&2 \
    || fail "pip could not download ${pins[*]}"
  for name in "$work"/wheels/*.whl; do python3 -m zipfile -e "$name" "$work/tree"; rm "$name"; done
  mv "$work/tree/nvidia/cu13" "$home"
  rm -rf "$work"
  chmod +x "$home"/bin/* "$home"/nvvm/bin/*
  ln -s lib "$home/lib64"
  # Wheels carry libraries by their versions; the linker asks for the plain names.
  for name in cudart cublas cublasLt curand nvrtc; do
    [ -e "$home/lib/lib$name.so" ] || ln -s "$(basename "$(ls "$home/lib/lib$name.so."* | head -n 1)")" "$home/lib/lib$name.so"
  done
  stub "$home"
  touch "$home/complete"
}

command -v python3 >/dev/null && command -v gcc >/dev/null || fail "python3 and gcc are needed; scripts/system.sh installs them"
mkdir -p "$cache"
exec 9>"$home.lock"; flock 9
[ -e "$home/complete" ] || assemble
exec 9>&-

variables=(
  "CUDA_HOME=$home" "CUDA_PATH=$home" "CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}" "PATH=$home/bin:$PATH"
  "LIBRARY_PATH=$home/lib/stubs:$home/lib${LIBRARY_PATH:+:$LIBRARY_PATH}"
)
if [ $# -gt 0 ]; then exec env "${variables[@]}" "$@"; fi
printf 'export %q\n' "${variables[@]}"
