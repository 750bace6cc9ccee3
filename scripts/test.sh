#!/usr/bin/env bash
# Lint, type-check and test in an environment of its own. Arguments go to pytest; with --slow the tests
# that take long run, too.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# Some tests need programs that are no Python packages: the token store's a PostgreSQL server, the
# dashboard's a browser, those of the alerts promtool. Where these cannot be had, they are skipped.
install_programs() {
    local missing=() package
    compgen -G "/usr/lib/postgresql/*/bin/initdb" > /dev/null || missing+=(postgresql)
    command -v chromium-headless-shell > /dev/null || missing+=(chromium-headless-shell)
    command -v promtool > /dev/null || missing+=(prometheus)
    if [ "${#missing[@]}" -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
        apt-get update -qq > /dev/null 2>&1 || true
        for package in "${missing[@]}"; do
            DEBIAN_FRONTEND=noninteractive \
                apt-get install -y -qq --no-install-recommends "$package" > /dev/null 2>&1 \
                || echo "not to be had: $package; tests that need it may be skipped" >&2
        done
    fi
    if command -v npm > /dev/null; then
        npm install --silent --no-audit --no-fund --prefix compat/conformance/node
        npm install --silent --no-audit --no-fund --prefix tests/ops/schema
    fi
}

cd "$ROOT"
install_programs &
programs=$!
make_environment "[test]"
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy" &
types=$!
wait "$programs"
# Twice as many as there are cores: many tests wait for a server to start or a batch to end. In the
# order of their names, as files of many short tests are the last ones then, and no core waits for
# a long one at the end.
"$VENV/bin/python" -m pytest --numprocesses "$((2 * $(nproc)))" --maxprocesses 4 --dist loadfile \
    --no-loadscope-reorder --durations 25 "$@"
wait "$types"
