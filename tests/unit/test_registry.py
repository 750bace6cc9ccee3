# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.engine.chain import ChainSpec
from appliance.engine.modules import (
    ClassifierSpec,
    DenseSpec,
    LayerNormSpec,
    NormalizeSpec,
    SpladeSpec,
)
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
    assert spec.chain == ChainSpec(tmp_path, ("mean",))
    assert (spec.max_seq_length, spec.lower_case) == (None, False)


@pytest.mark.parametrize("modules", [OLD_MODULES, NEW_MODULES], ids=["old", "new"])
def test_both_spellings_of_modules_are_known(modules: Any, tmp_path: Path) -> None:
    files = {"modules.json": modules, "1_Pooling/config.json": {"pooling_mode": "cls"}}
    assert read(tmp_path, files).chain.pooling == ("cls",)


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
    assert read(tmp_path, files).chain.pooling == pooling


def test_settings_override_the_files_pooling(tmp_path: Path) -> None:
    settings = ModelSettings(model="m", pooling="last_token")
    spec = read(tmp_path, {"modules.json": OLD_MODULES, **MEAN}, settings)
    assert spec.chain.pooling == ("last_token",)


def test_the_transformer_may_have_a_folder_of_its_own(tmp_path: Path) -> None:
    modules = [{**OLD_MODULES[0], "path": "0_Transformer"}, OLD_MODULES[1]]
    limits = {"0_Transformer/sentence_bert_config.json": {"max_seq_length": 77}}
    spec = read(tmp_path, {"modules.json": modules, **MEAN, **limits})
    assert spec.chain.transformer == tmp_path / "0_Transformer"
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
    assert read(tmp_path, files).chain.pools_prompt == pooled


def test_text_is_lowered_where_the_files_say_so(tmp_path: Path) -> None:
    assert read(tmp_path, {"sentence_bert_config.json": {"do_lower_case": True}}).lower_case


def test_a_dense_layer_is_read_with_its_defaults(tmp_path: Path) -> None:
    config = {"in_features": 4, "out_features": 2}
    files = {"modules.json": [*OLD_MODULES, DENSE], **MEAN, "2_Dense/config.json": config}
    tanh = "torch.nn.modules.activation.Tanh"
    dense = DenseSpec(tmp_path / "2_Dense", 4, 2, bias=True, activation=tanh, residual=False)
    assert read(tmp_path, files).chain.heads == (dense,)


def test_a_dense_layer_is_read_as_it_is_written(tmp_path: Path) -> None:
    identity = "torch.nn.modules.linear.Identity"
    config = {
        "in_features": 4,
        "out_features": 2,
        "bias": False,
        "activation_function": identity,
        "use_residual": True,
        "module_input_name": "sentence_embedding",
        "module_output_name": "sentence_embedding",
    }
    files = {"modules.json": [*OLD_MODULES, DENSE], **MEAN, "2_Dense/config.json": config}
    dense = DenseSpec(tmp_path / "2_Dense", 4, 2, bias=False, activation=identity, residual=True)
    assert read(tmp_path, files).chain.heads == (dense,)


def test_modules_stand_before_and_behind_the_pooling_in_their_order(tmp_path: Path) -> None:
    tokens = {"module_input_name": "token_embeddings"}
    layer_norm = {"path": "5_LayerNorm", "type": "sentence_transformers.models.LayerNorm"}
    dropout = {"path": "6_Dropout", "type": "sentence_transformers.models.Dropout"}
    files = {
        "modules.json": [
            OLD_MODULES[0],
            {**DENSE, "path": "0_Dense"},
            {**NORMALIZE, "path": "0_Normalize"},
            OLD_MODULES[1],
            NORMALIZE,
            dropout,
            layer_norm,
            DENSE,
            NORMALIZE,
        ],
        **MEAN,
        "0_Dense/config.json": {"in_features": 4, "out_features": 3, **tokens},
        "0_Normalize/config.json": tokens,
        "2_Dense/config.json": {"in_features": 3, "out_features": 2},
        "5_LayerNorm/config.json": {"dimension": 3},
    }
    chain = read(tmp_path, files).chain
    assert [type(head) for head in chain.token_heads] == [DenseSpec, NormalizeSpec]
    kinds = [NormalizeSpec, LayerNormSpec, DenseSpec, NormalizeSpec]
    assert [type(head) for head in chain.heads] == kinds
    assert chain.heads[1] == LayerNormSpec(tmp_path / "5_LayerNorm", 3)


NEW_SPLADE = [
    NEW_MODULES[0],
    {"path": "1_Splade", "type": "sentence_transformers.sparse_encoder.modules.SpladePooling"},
]
OLD_SPLADE = [
    {"path": "", "type": "sentence_transformers.sparse_encoder.models.MLMTransformer"},
    {"path": "1_Splade", "type": "sentence_transformers.sparse_encoder.models.SpladePooling"},
]


@pytest.mark.parametrize("modules", [OLD_SPLADE, NEW_SPLADE], ids=["old", "new"])
@pytest.mark.parametrize(
    ("config", "splade"),
    [
        ({}, SpladeSpec("max", twice=False)),
        ({"pooling_strategy": "sum", "embedding_dimension": None}, SpladeSpec("sum", twice=False)),
        (
            {"activation_function": "log1p_relu", "word_embedding_dimension": 9},
            SpladeSpec("max", twice=True),
        ),
    ],
)
def test_splade_is_read(
    modules: Any, config: dict[str, Any], splade: SpladeSpec, tmp_path: Path
) -> None:
    files = {"modules.json": modules, "1_Splade/config.json": config}
    assert read(tmp_path, files).chain.pooling == splade


def test_a_setting_asks_for_splade(tmp_path: Path) -> None:
    assert read(tmp_path, {}, ModelSettings(model="m", pooling="splade")).chain == ChainSpec(
        tmp_path, SpladeSpec()
    )


CLASSIFIER = {"config.json": {"architectures": ["BertForSequenceClassification"]}}
SCORES = {
    "transformer_task": "sequence-classification",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    "module_output_name": "scores",
}


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"modules.json": NEW_MODULES[:1], "sentence_bert_config.json": SCORES},
        {"modules.json": NEW_MODULES[:1]},
    ],
    ids=["transformers'", "sentence-transformers'", "without a config of its own"],
)
def test_a_classifier_is_known_by_its_architecture(files: Any, tmp_path: Path) -> None:
    assert read(tmp_path, {**CLASSIFIER, **files}).chain == ChainSpec(tmp_path, ClassifierSpec())


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": {"architectures": ["BertForTokenClassification"]}},
        {"config.json": {"architectures": ["BertModel"]}},
        {"config.json": {"architectures": None}},
        {"config.json": {}},
        {"config.json": "broken"},
        {**CLASSIFIER, "modules.json": NEW_MODULES, **MEAN},
    ],
    ids=["of tokens", "no head", "none", "unsaid", "broken", "with a pooling"],
)
def test_all_others_embed(files: Any, tmp_path: Path) -> None:
    assert read(tmp_path, files).chain.pooling == ("mean",)


def test_a_pooling_that_is_set_makes_an_embedding_model_of_a_classifier(tmp_path: Path) -> None:
    files = {**CLASSIFIER, "modules.json": NEW_MODULES[:1], "sentence_bert_config.json": SCORES}
    chain = read(tmp_path, files, ModelSettings(model="m", pooling="cls")).chain
    assert chain.pooling == ("cls",)


def test_a_classifier_whose_scores_come_from_elsewhere_is_refused(tmp_path: Path) -> None:
    files = {**CLASSIFIER, "modules.json": NEW_MODULES[:1]}
    for change, told in (
        ({"transformer_task": "text-generation"}, "a classifier's head goes with 'sequence-class"),
        ({"module_output_name": "causal_logits"}, "does not take scores from the logits"),
    ):
        with pytest.raises(ModelUnavailable, match=told):
            read(tmp_path, {**files, "sentence_bert_config.json": {**SCORES, **change}})


STATIC = {"path": "0_Static", "type": "sentence_transformers.models.StaticEmbedding"}


def test_static_embeddings_take_the_mean(tmp_path: Path) -> None:
    chain = read(tmp_path, {"modules.json": [STATIC, NORMALIZE]}).chain
    assert chain == ChainSpec(
        tmp_path / "0_Static", ("mean",), is_static=True, heads=(NormalizeSpec(),)
    )


def test_a_chain_without_a_pooling_needs_the_setting(tmp_path: Path) -> None:
    files = {"modules.json": OLD_MODULES[:1]}
    with pytest.raises(ModelUnavailable, match="no pooling; the setting pooling can name one"):
        read(tmp_path, files)
    assert read(tmp_path, files, ModelSettings(model="m", pooling="cls")).chain.pooling == ("cls",)


TEXT = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


def test_what_is_saved_today_is_read(tmp_path: Path) -> None:
    files = {
        "modules.json": NEW_MODULES,
        "1_Pooling/config.json": {"pooling_mode": "mean", "embedding_dimension": 4},
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": TEXT,
            "module_output_name": "token_embeddings",
            "processor_kwargs": {"model_max_length": 99, "padding_side": "left"},
            "config_kwargs": {"hidden_act": "relu"},
        },
    }
    spec = read(tmp_path, files)
    assert (spec.max_seq_length, spec.config_overrides) == (99, {"hidden_act": "relu"})


@pytest.mark.parametrize(
    ("modules", "config", "told"),
    [
        (NEW_MODULES, {"transformer_task": "fill-mask"}, "'fill-mask'; Pooling goes with 'feature"),
        (NEW_MODULES, {"transformer_task": "retrieval"}, "transformer_task 'retrieval'"),
        (
            NEW_SPLADE,
            {"transformer_task": "feature-extraction"},
            "SpladePooling goes with 'fill-mask'",
        ),
        (NEW_MODULES, {"modality_config": {}}, "last_hidden_state of forward for text"),
        (
            NEW_MODULES,
            {"modality_config": {"text": {"method": "get_text_features"}}},
            "last_hidden_state of forward for text",
        ),
        (
            NEW_MODULES,
            {"modality_config": TEXT, "module_output_name": "sentence_embedding"},
            "does not take token_embeddings",
        ),
    ],
)
def test_an_output_that_does_not_go_with_the_pooling_is_refused(
    modules: Any, config: dict[str, Any], told: str, tmp_path: Path
) -> None:
    files = {
        "modules.json": modules,
        **MEAN,
        "1_Splade/config.json": {},
        "sentence_bert_config.json": config,
    }
    with pytest.raises(ModelUnavailable, match=f"sentence_bert_config.json .*{told}"):
        read(tmp_path, files)


@pytest.mark.parametrize(
    ("place", "kind", "config"),
    [
        (2, "Dense", {"module_input_name": "token_embeddings"}),
        (2, "Dense", {"module_output_name": "extra"}),
        (2, "Normalize", {"module_input_name": "token_embeddings"}),
        (1, "Dense", {}),
        (1, "Dense", {"module_input_name": "token_embeddings", "module_output_name": "extra"}),
        (1, "LayerNorm", {"dimension": 4}),
        (1, "Normalize", {}),
    ],
)
def test_a_module_that_reads_or_writes_something_else_is_refused(
    place: int, kind: str, config: dict[str, Any], tmp_path: Path
) -> None:
    module = {"path": "9_Head", "type": f"sentence_transformers.models.{kind}"}
    sizes = {"in_features": 4, "out_features": 2} if kind == "Dense" else {}
    files = {
        "modules.json": [*OLD_MODULES[:place], module, *OLD_MODULES[place:]],
        **MEAN,
        "9_Head/config.json": {**sizes, **config},
    }
    with pytest.raises(ModelUnavailable, match=r"9_Head turns .* can only turn"):
        read(tmp_path, files)


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"adapter_config\.json .*merge_and_unload"):
        read(tmp_path, {"adapter_config.json": {}})


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {"modules.json": [*OLD_MODULES, {"type": "sentence_transformers.models.LSTM"}]},
            r"sentence_transformers\.models\.LSTM'; known are .* Transformer, .* and Dropout",
        ),
        (
            {"modules.json": [{"type": "custom_st.Transformer"}]},
            r"module 'custom_st\.Transformer'; known are sentence-transformers' own",
        ),
        ({"modules.json": []}, "modules.json is empty"),
        ({"modules.json": OLD_MODULES[1:], **MEAN}, "has Pooling at place 0"),
        ({"modules.json": [*OLD_MODULES, OLD_MODULES[0]]}, "has Transformer at place 2"),
        ({"modules.json": [*OLD_MODULES, OLD_MODULES[1]]}, "more than one pooling"),
        ({"modules.json": [STATIC, OLD_MODULES[1]]}, "more than one pooling"),
        (
            {
                "modules.json": [OLD_SPLADE[0], DENSE, OLD_SPLADE[1]],
                "2_Dense/config.json": {
                    "in_features": 4,
                    "out_features": 4,
                    "module_input_name": "token_embeddings",
                },
                "1_Splade/config.json": {},
            },
            "before SpladePooling, which takes logits",
        ),
        (
            {"modules.json": OLD_SPLADE, "1_Splade/config.json": {"pooling_strategy": "mean"}},
            "1_Splade/config.json cannot be read",
        ),
        ({"modules.json": "["}, "modules.json cannot be read"),
        ({"modules.json": {"0": "Transformer"}}, "modules.json"),
        ({"modules.json": OLD_MODULES}, "1_Pooling/config.json cannot be read"),
        ({"modules.json": OLD_MODULES, "1_Pooling/config.json": "{"}, "config.json"),
        (
            {"modules.json": OLD_MODULES, "1_Pooling/config.json": {"pooling_mode": "median"}},
            "1_Pooling/config.json has an unknown pooling mode 'median'; known are cls, max, mean",
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


def test_a_pooling_without_a_mode_is_the_mean(tmp_path: Path) -> None:
    files = {
        "modules.json": OLD_MODULES,
        "1_Pooling/config.json": {"pooling_mode_cls_token": False},
    }
    assert read(tmp_path, files).chain.pooling == ("mean",)
