# SPDX-License-Identifier: Apache-2.0
"""Code that comes with a model runs where the settings allow it, and nowhere else."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerFast

from appliance.errors import ModelUnavailable
from tests.parity.own_code.configuration_own import OwnConfig
from tests.parity.own_code.modeling_own import OwnModel
from tests.parity.reference import TEXTS, assert_same, load, ours, warmed
from tests.parity.vocabularies import wordpiece

REFUSED = "comes with Python code of its own.*setting trust_remote_code"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with its own code, as transformers saves one."""
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    monkeypatch.setattr(sys, "path", [*sys.path])  # the cache of modules is added to it
    torch.manual_seed(0)
    tokenizer = wordpiece()
    model = OwnModel(OwnConfig(vocab_size=tokenizer.get_vocab_size()))
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    auto_map = {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModel": "modeling_own.OwnModel",
    }
    config = json.loads((folder / "config.json").read_text()) | {"auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(config))
    for file in (Path(__file__).parent / "own_code").glob("*.py"):
        (folder / file.name).write_text(file.read_text())
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", model_max_length=128
    ).save_pretrained(folder)
    return folder


def test_a_models_own_code_gives_the_vectors_of_sentence_transformers(folder: Path) -> None:
    backend = warmed(folder, trust_remote_code=True)
    assert type(backend.transformer.module).__module__.startswith("transformers_modules")
    reference = SentenceTransformer(
        str(folder), device="cpu", local_files_only=True, trust_remote_code=True
    )
    expected = reference.encode(list(TEXTS), show_progress_bar=False)
    assert_same(ours(backend), expected)


def test_a_models_own_code_does_not_run_unasked(folder: Path) -> None:
    for file in folder.glob("*.py"):
        file.write_text('raise SystemExit("it ran")')
    with pytest.raises(ModelUnavailable, match=REFUSED):
        load(folder)


def test_a_tokenizers_own_code_does_not_run_unasked(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config |= {
        "auto_map": {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]},
        "tokenizer_class": "OwnTokenizer",
    }
    path.write_text(json.dumps(config))
    with pytest.raises(ModelUnavailable, match=f"tokenizer.*{REFUSED}"):
        load(folder)
