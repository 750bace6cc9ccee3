# SPDX-License-Identifier: Apache-2.0
"""Put models into a folder, for an image that has them inside.

    python scripts/bake_models.py FOLDER MODELS

``MODELS`` is what the setting ``models`` takes: ``NAME,NAME`` or JSON. Each model goes to the
folder of its hub name below ``FOLDER``; ``appliance.json`` there is a configuration file that has
them served under their hub names. The files are fetched and checked as the server does it;
``HF_TOKEN`` and ``HF_ENDPOINT`` count.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from appliance.engine.sources import locate_model
from appliance.errors import ModelUnavailable
from appliance.model_settings import ModelSettings, decode_items
from appliance.model_sources import CLEARML_PREFIX, EMBEDDED_PREFIX


def read_models(text: str) -> list[Mapping[str, Any]]:
    """Read a list of models as objects of the per-model settings.

    Raises:
        ValueError: It is none. pydantic's ``ValidationError`` is one, too.
    """
    found = decode_items(text)
    items: list[Any] = found if isinstance(found, list) else [found]
    models = [{"model": item} if isinstance(item, str) else item for item in items]
    return [{"name": ModelSettings.model_validate(model).name, **model} for model in models]


def bake(folder: Path, models: Iterable[Mapping[str, Any]]) -> None:
    """Download models, and write the configuration file.

    Args:
        folder: Where to; it is made, even for no model.
        models: Objects of the per-model settings. Embedded ones are part of the installation.

    Raises:
        ModelUnavailable: One cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    served = []
    for model in models:
        try:
            served.append({**model, "model": _bake_one(folder, model)})
        except ModelUnavailable as error:
            raise ModelUnavailable(f"{model['model']}: {error}") from error
    configuration = {"models": served} if served else {}
    text = json.dumps(configuration, indent=2)
    (folder / "appliance.json").write_text(text, encoding="utf-8")


def _bake_one(folder: Path, model: Mapping[str, Any]) -> str:
    """Where the model is from now on."""
    settings = ModelSettings.model_validate(model)
    if settings.model.startswith(EMBEDDED_PREFIX):
        return settings.model
    if settings.model.startswith(CLEARML_PREFIX):
        raise ModelUnavailable("a build has no keys for ClearML; name it where the server starts")
    with tempfile.TemporaryDirectory() as cache:
        found = locate_model(
            settings.model,
            revision=settings.revision,
            token=os.environ.get("HF_TOKEN"),
            cache=Path(cache),
            pickles=settings.pickle_weights,
        )
        # The hub's cache has links to files of its own, which go away with it.
        return str(shutil.copytree(found, folder / settings.model, symlinks=False))


def main() -> int:
    """Run the script."""
    try:
        bake(Path(sys.argv[1]), read_models(sys.argv[2]))
    except (ModelUnavailable, ValidationError, ValueError) as error:
        print(f"bake_models: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
