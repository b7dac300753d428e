#!/usr/bin/env bash
# Compares the .proto files with those of the last tag and fails on a change that breaks callers:
#   proto/breaking.sh [REPOSITORY]
# Without a tag there is nothing to break. BUF names the buf command; `make proto` sets it up.
set -euo pipefail

here=$(realpath "$(dirname "$0")/..")
buf=${BUF:-$here/.venv-proto/bin/buf}
cd "${1:-$here}"

if ! tag=$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null); then
  echo "buf breaking: no tag to compare with"
  exit 0
fi

before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
git archive "$tag" buf.yaml proto | tar -x -C "$before"
"$buf" breaking --against "$before"
echo "buf breaking: compatible with $tag"
