#!/usr/bin/env bash
# Serve embeddings on http://127.0.0.1:8080. Arguments go to `appliance serve`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment ""
exec "$VENV/bin/appliance" serve "$@"
