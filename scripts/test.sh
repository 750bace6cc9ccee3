#!/usr/bin/env bash
# Lint, type-check and test in an environment of its own. Arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_environment "[test]"
cd "$ROOT"
# The token store is tested on PostgreSQL too, where it is at hand or can be had.
if ! compgen -G "/usr/lib/postgresql/*/bin/initdb" > /dev/null && [ "$(id -u)" = 0 ] \
    && command -v apt-get > /dev/null; then
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql; } \
        > /dev/null 2>&1 || echo "no PostgreSQL; its tests are skipped" >&2
fi
if command -v npm > /dev/null; then
    npm install --silent --no-audit --no-fund --prefix compat/conformance/node
fi
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy"
"$VENV/bin/python" -m pytest "$@"
