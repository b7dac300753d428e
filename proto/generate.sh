#!/usr/bin/env bash
# Generates the Python stubs of every .proto file in this folder: proto/generate.sh [OUT_DIR]
# They are written beside the .proto files unless another folder is given. PROTO_PYTHON names the interpreter that
# holds the pinned grpcio-tools; `make proto` sets it up.
set -euo pipefail

out=$(realpath "${1:-$(dirname "$0")}")
cd "$(dirname "$0")"
python=${PROTO_PYTHON:-../.venv-proto/bin/python}
mapfile -t sources < <(find headwaiter_proto -name '*.proto' | LC_ALL=C sort)

"$python" -m grpc_tools.protoc -I. \
  --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" "${sources[@]}"

# protoc writes an empty _pb2_grpc.py for a file without a service.
for source in "${sources[@]}"; do
  grep -q '^service ' "$source" || rm -f "$out/${source%.proto}_pb2_grpc.py"
done
