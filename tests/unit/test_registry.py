# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.engine.registry import ModelSpec, read_model_spec
from appliance.errors import ModelUnavailable
from appliance.settings import ModelSettings

OLD_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
NEW_MODULES = [
    {"path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.sentence_transformer.modules.Pooling"},
]
DENSE = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
NORMALIZE = {"path": "3_Normalize", "type": "sentence_transformers.models.Normalize"}
MEAN = {"1_Pooling/config.json": {"pooling_mode": "mean"}}


def read(folder: Path, files: dict[str, Any], settings: ModelSettings | None = None) -> ModelSpec:
    """Write files of JSON, or of text as it is, and read the model's chain from them."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_model_spec(folder, settings or ModelSettings(model="m"))


def test_a_plain_transformer_is_pooled_by_mean(tmp_path: Path) -> None:
    spec = read(tmp_path, {})
    assert (spec.transformer, spec.pooling, spec.dense) == (tmp_path, ("mean",), ())
    assert (spec.normalizes, spec.max_seq_length, spec.lower_case) == (False, None, False)


@pytest.mark.parametrize("modules", [OLD_MODULES, NEW_MODULES], ids=["old", "new"])
def test_both_spellings_of_modules_are_known(modules: Any, tmp_path: Path) -> None:
    files = {"modules.json": modules, "1_Pooling/config.json": {"pooling_mode": "cls"}}
    assert read(tmp_path, files).pooling == ("cls",)


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True}, ("cls",)),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, ("mean",)),
        ({"pooling_mode_max_tokens": True}, ("max",)),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, ("mean_sqrt_len",)),
        ({"pooling_mode_weightedmean_tokens": True}, ("weighted_mean",)),
        ({"pooling_mode_lasttoken": True}, ("last_token",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode": "cls"}, ("cls",)),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, ("mean_sqrt_len",)),
        ({"pooling_mode": "weightedmean"}, ("weighted_mean",)),
        ({"pooling_mode": "lasttoken"}, ("last_token",)),
        ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
        ({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}, ("cls",)),
    ],
)
def test_both_spellings_of_the_pooling_are_known(
    config: dict[str, Any], pooling: tuple[str, ...], tmp_path: Path
) -> None:
    files = {"modules.json": OLD_MODULES, "1_Pooling/config.json": config}
    assert read(tmp_path, files).pooling == pooling


def test_settings_override_the_files_pooling(tmp_path: Path) -> None:
    settings = ModelSettings(model="m", pooling="last_token")
    assert read(tmp_path, {"modules.json": OLD_MODULES, **MEAN}, settings).pooling == (
        "last_token",
    )


def test_the_chain_may_end_in_unit_length(tmp_path: Path) -> None:
    assert read(tmp_path, {"modules.json": [*OLD_MODULES, NORMALIZE], **MEAN}).normalizes


def test_the_transformer_may_have_a_folder_of_its_own(tmp_path: Path) -> None:
    modules = [{**OLD_MODULES[0], "path": "0_Transformer"}, OLD_MODULES[1]]
    limits = {"0_Transformer/sentence_bert_config.json": {"max_seq_length": 77}}
    spec = read(tmp_path, {"modules.json": modules, **MEAN, **limits})
    assert spec.transformer == tmp_path / "0_Transformer"
    assert spec.max_seq_length == 77


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "xlm-roberta"])
def test_the_longest_input_is_read_from_old_names_of_its_file_too(
    family: str, tmp_path: Path
) -> None:
    file = f"sentence_{family}_config.json"
    assert read(tmp_path, {file: {"max_seq_length": 128}}).max_seq_length == 128


def test_prompts_are_read(tmp_path: Path) -> None:
    config = {"prompts": {"query": "find: ", "document": ""}, "default_prompt_name": "query"}
    spec = read(tmp_path, {"config_sentence_transformers.json": config})
    assert (spec.prompts, spec.default_prompt_name) == (config["prompts"], "query")


@pytest.mark.parametrize(("config", "pooled"), [({}, True), ({"include_prompt": False}, False)])
def test_whether_the_prompt_is_pooled_is_read(
    config: dict[str, Any], pooled: bool, tmp_path: Path
) -> None:
    files = {"modules.json": NEW_MODULES, "1_Pooling/config.json": {"pooling_mode": "mean"}}
    files["1_Pooling/config.json"] |= config
    assert read(tmp_path, files).pools_prompt == pooled


def test_text_is_lowered_where_the_files_say_so(tmp_path: Path) -> None:
    assert read(tmp_path, {"sentence_bert_config.json": {"do_lower_case": True}}).lower_case


def test_a_dense_layer_is_read_with_its_defaults(tmp_path: Path) -> None:
    config = {"in_features": 4, "out_features": 2}
    files = {"modules.json": [*OLD_MODULES, DENSE], **MEAN, "2_Dense/config.json": config}
    (dense,) = read(tmp_path, files).dense
    assert (dense.folder, dense.in_features, dense.out_features) == (tmp_path / "2_Dense", 4, 2)
    assert dense.bias
    assert dense.activation == "torch.nn.modules.activation.Tanh"


def test_a_dense_layer_is_read_as_it_is_written(tmp_path: Path) -> None:
    identity = "torch.nn.modules.linear.Identity"
    config = {"in_features": 4, "out_features": 2, "bias": False, "activation_function": identity}
    files = {"modules.json": [*OLD_MODULES, DENSE], **MEAN, "2_Dense/config.json": config}
    (dense,) = read(tmp_path, files).dense
    assert (dense.bias, dense.activation) == (False, identity)


@pytest.mark.parametrize(
    "extra", [{"use_residual": True}, {"module_input_name": "token_embeddings"}]
)
def test_a_dense_layer_of_another_kind_is_refused(extra: dict[str, Any], tmp_path: Path) -> None:
    config = {"in_features": 4, "out_features": 2, **extra}
    files = {"modules.json": [*OLD_MODULES, DENSE], **MEAN, "2_Dense/config.json": config}
    with pytest.raises(ModelUnavailable, match="Dense"):
        read(tmp_path, files)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {"modules.json": [*OLD_MODULES, {"path": "", "type": "a.b.LayerNorm"}], **MEAN},
            "module 'LayerNorm'; known are Transformer, Pooling, Dense and Normalize",
        ),
        ({"modules.json": "["}, "modules.json cannot be read"),
        ({"modules.json": {"0": "Transformer"}}, "modules.json"),
        ({"modules.json": OLD_MODULES}, "config.json cannot be read"),
        ({"modules.json": OLD_MODULES, "1_Pooling/config.json": "{"}, "config.json"),
        (
            {"modules.json": OLD_MODULES, "1_Pooling/config.json": {"pooling_mode": "median"}},
            "unknown pooling mode 'median'; known are cls, max, mean",
        ),
        (
            {"modules.json": [*OLD_MODULES, DENSE], **MEAN, "2_Dense/config.json": {}},
            "in_features",
        ),
        ({"sentence_bert_config.json": "nonsense"}, "sentence_bert_config.json cannot be read"),
    ],
)
def test_a_broken_file_is_told_by_name(files: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=told):
        read(tmp_path, files)


def test_a_dense_layer_behind_the_normalisation_is_refused(tmp_path: Path) -> None:
    config = {"in_features": 4, "out_features": 2}
    modules = [*OLD_MODULES, NORMALIZE, DENSE]
    with pytest.raises(ModelUnavailable, match="Normalize"):
        read(tmp_path, {"modules.json": modules, **MEAN, "2_Dense/config.json": config})


def test_a_pooling_without_a_mode_is_the_mean(tmp_path: Path) -> None:
    files = {
        "modules.json": OLD_MODULES,
        "1_Pooling/config.json": {"pooling_mode_cls_token": False},
    }
    assert read(tmp_path, files).pooling == ("mean",)
