#!/usr/bin/env bash
# LiteLLM before an upstream, the peer of the sidecar's bench: PELTON_BENCH_PEER="benches/peers/litellm.sh {port} {upstream}".
# LITELLM=PATH names one that is installed already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

port=$1 upstream=$2
litellm=${LITELLM:-$(dirname "$(./scripts/python.sh proxy)")/litellm}
config=$(mktemp --suffix .yaml)
cat > "$config" <<YAML
model_list:
  - model_name: m
    litellm_params: {model: openai/m, api_base: "$upstream/v1", api_key: sk-any}
YAML
# Without a key of its own it starts for local use only, which this is.
export LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY=true
exec "$litellm" --config "$config" --port "$port" --host 127.0.0.1
