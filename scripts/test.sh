#!/usr/bin/env bash
# Lint, type-check and test in an environment of its own. Arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment "[test]"
cd "$ROOT"
if command -v npm > /dev/null; then
    npm install --silent --no-audit --no-fund --prefix compat/conformance/node
fi
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy"
"$VENV/bin/python" -m pytest "$@"
