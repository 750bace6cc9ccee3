# SPDX-License-Identifier: Apache-2.0
"""Scores are those of sentence-transformers' cross-encoder."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.models.bert.modeling_bert import BertPooler

from appliance.engine import classifier
from appliance.engine.backend import Parking, Room
from appliance.engine.classifier import last_tokens
from appliance.engine.inputs import Inputs
from appliance.engine.jobs import Batch
from appliance.engine.loading import prepare_model
from appliance.engine.model import TorchBackend
from appliance.engine.service import Engine
from appliance.engine.types import EmbedOptions, FloatMatrix, TruncationDirection
from appliance.errors import ModelUnavailable, WrongModelKind
from appliance.settings import ModelSettings, Settings
from tests.parity.families import FAMILIES, LONGEST
from tests.parity.parked import WIDE
from tests.parity.reference import TEXTS, assert_same, load, ours, prove, warmed
from tests.parity.tiny import build_classifier
from tests.parity.vocabularies import CORPUS

Build = Callable[..., Path]

READS = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "distilbert", "modernbert"), "cls"),
    **dict.fromkeys(("deberta-v2", "mpnet", "electra", "albert", "camembert"), "cls"),
    **dict.fromkeys(("gte", "nomic-bert", "jina-embeddings-v3"), "cls"),
    **dict.fromkeys(("qwen2", "qwen3", "llama", "mistral", "gemma2", "gemma3"), "last_token"),
    "gpt-neox": "last_token",
    "eurobert": "each_token",
}
"""What each family's head reads."""

PAIRS = (
    ("Who jumps?", CORPUS[0]),
    ("a", "b"),
    ("Who jumps?", ""),
    ("ships " * 9, "dog " * 60),
    (" ".join(CORPUS[:2]), "Ω 中文"),
    (CORPUS[3], CORPUS[4]),
    ("fox", "The fox"),
)
LONG_PAIRS = (
    ("Who jumps?", " ".join(CORPUS * 3)),
    (" ".join(CORPUS * 3), "the dog"),
    (" ".join(CORPUS * 3), " ".join(CORPUS * 2)),
    ("dog " * 140, "fox, " * 141),
)


@pytest.fixture(scope="module")
def built_classifier(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Makes a tiny classifier's folder, once for each family and whatever else is asked for."""
    folders: dict[str, Path] = {}

    def make(family: str, labels: Sequence[str] = ("LABEL_0",), **options: Any) -> Path:
        key = f"{family} {labels} {options}"
        if key not in folders:
            folder = tmp_path_factory.mktemp(family)
            folders[key] = build_classifier(folder, FAMILIES[family], labels, **options)
        return folders[key]

    return make


def scored(
    backend: TorchBackend,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    direction: TruncationDirection = "right",
) -> FloatMatrix:
    """Logits of all pairs in one batch, cut where they are too long."""
    return backend.forward(batch_of(backend, pairs, direction))


def batch_of(
    backend: TorchBackend,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    direction: TruncationDirection = "right",
) -> Batch:
    rows = backend.tokenizer.encode_pairs(pairs, backend.max_input_tokens, direction)
    ids, starts = [row.ids for row in rows], [row.second_start for row in rows]
    return Batch.pack(ids, output="scores", second_starts=starts)


@cache
def theirs(
    model: Path, pairs: tuple[tuple[str, str], ...] = PAIRS, side: str = "right"
) -> FloatMatrix:
    """What sentence-transformers makes of them, all in one batch, each logit as it is."""
    reference = CrossEncoder(str(model), device="cpu", local_files_only=True)
    reference.tokenizer.truncation_side = side
    logits: FloatMatrix = reference.predict(
        list(pairs), batch_size=len(pairs), activation_fn=nn.Identity(), show_progress_bar=False
    )
    return logits.reshape(len(pairs), -1)


@pytest.mark.parametrize("family", READS)
def test_scores_are_those_of_the_cross_encoder(family: str, built_classifier: Build) -> None:
    folder = built_classifier(family)
    backend = warmed(folder)
    assert backend.transformer.packed == FAMILIES[family].packed
    assert head_of(backend).reading == READS[family]
    expected = theirs(folder)
    assert np.ptp(expected) > 0.01
    assert_same(scored(backend), expected)


@pytest.mark.parametrize("family", READS)
def test_the_padded_way_gives_the_same_scores(family: str, built_classifier: Build) -> None:
    folder = built_classifier(family)
    backend = load(folder)
    prove(backend, packed=False, prepacked=False)
    assert_same(scored(backend), theirs(folder))


def head_of(backend: TorchBackend) -> Any:
    return backend._chain._pooling


@pytest.mark.parametrize("family", READS)
def test_bfloat16_comes_close(family: str, built_classifier: Build) -> None:
    folder = built_classifier(family)
    backend = warmed(folder, "bfloat16")
    found, expected = scored(backend), theirs(folder)
    assert np.corrcoef(found[:, 0], expected[:, 0])[0, 1] > 0.99
    # The head's own rounding would leave seven bits behind the point.
    assert (found != torch.from_numpy(found).bfloat16().float().numpy()).any()
    exact = backend.forward_in_float32(batch_of(backend))
    assert isinstance(exact, np.ndarray)
    np.testing.assert_allclose(exact, expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "modernbert", "qwen2"])
def test_several_labels_have_a_logit_each(family: str, built_classifier: Build) -> None:
    labels = ("no", "may be", "yes")
    folder = built_classifier(family, labels)
    backend = warmed(folder)
    assert_same(scored(backend), theirs(folder))
    card = backend.card
    assert (card.kind, card.labels, card.dimension) == ("classifier", labels, 3)
    assert card.gives == {"scores"}
    assert card.pooling is None


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "qwen2"])
def test_pairs_that_are_too_long_are_cut_as_theirs(
    family: str, side: TruncationDirection, built_classifier: Build
) -> None:
    folder = built_classifier(family)
    backend = warmed(folder)
    assert backend.max_input_tokens == LONGEST
    assert (batch_of(backend, LONG_PAIRS).lengths == LONGEST).all()
    assert_same(scored(backend, LONG_PAIRS, side), theirs(folder, LONG_PAIRS, side))


def test_what_a_model_reads_of_a_pair_tells_its_halves_apart(built_classifier: Build) -> None:
    backend = warmed(built_classifier("bert"))
    batch = batch_of(backend)
    alike = Batch(batch.input_ids, batch.cu_seqlens, output="scores")
    assert np.abs(backend.forward(batch) - backend.forward(alike)).max() > 1e-3


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "deberta-v2", "qwen2"])
def test_single_texts_are_classified_as_by_transformers(
    family: str, built_classifier: Build
) -> None:
    folder = built_classifier(family, ("no", "yes"))
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    backend = warmed(folder)
    texts = backend.tokenizer.encode(list(TEXTS))
    texts = [backend.tokenizer.cut(ids, LONGEST, "right") for ids in texts]
    with torch.no_grad():
        rows = [model(input_ids=torch.from_numpy(ids).unsqueeze(0)).logits for ids in texts]
    assert_same(ours(backend), torch.cat(rows).numpy())


@pytest.mark.parametrize(
    ("family", "pooling", "reading"),
    [
        ("modernbert", "cls", "cls"),
        ("modernbert", "mean", "mean"),
        ("eurobert", "bos", "cls"),
        ("eurobert", "mean", "mean"),
        ("eurobert", "late", "each_token"),
    ],
)
def test_what_a_head_reads_may_be_a_setting_of_its_config(
    family: str, pooling: str, reading: str, built_classifier: Build
) -> None:
    folder = built_classifier(family, classifier_pooling=pooling)
    backend = warmed(folder)
    assert head_of(backend).reading == reading
    assert_same(scored(backend), theirs(folder))


def test_a_decoders_head_passes_over_padding_at_the_end(built_classifier: Build) -> None:
    """As where one token stands for padding and for the end of a text."""
    padding = FAMILIES["qwen2"].vocabulary.make().token_to_id("<eos>")
    folder = built_classifier("qwen2", plain=True, pad_token_id=padding)
    backend = warmed(folder)
    texts = backend.tokenizer.encode(list(TEXTS))
    assert all(ids[-1] == padding for ids in texts)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        rows = [model(input_ids=torch.from_numpy(ids).unsqueeze(0)).logits for ids in texts]
    assert_same(ours(backend), torch.cat(rows).numpy())


def test_the_last_token_is_the_last_that_is_not_the_paddings() -> None:
    batch = Batch.pack([np.array(ids) for ids in ([5, 6], [7, 0, 8, 0, 0], [0, 0], [9])])
    assert last_tokens(batch, 0).tolist() == [1, 4, 7, 9]
    assert last_tokens(batch, None).tolist() == [1, 6, 8, 9]


def test_a_decoder_without_a_padding_token_takes_many_pairs(built_classifier: Build) -> None:
    folder = built_classifier("qwen2", plain=True)
    expected = scored(warmed(folder))
    changed = json.loads((folder / "config.json").read_text()) | {"pad_token_id": None}
    copy = shutil.copytree(folder, folder.parent / "no padding")
    (copy / "config.json").write_text(json.dumps(changed))
    backend = warmed(copy)
    assert head_of(backend)._padding_id is None
    assert_same(scored(backend), expected)


def test_what_a_head_of_small_weights_reads_is_found_too(
    built_classifier: Build, tmp_path: Path
) -> None:
    folder = shutil.copytree(built_classifier("qwen2"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] *= 1e-4
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert head_of(load(folder)).reading == "last_token"


@pytest.mark.parametrize("family", ["bert", "qwen2"])
def test_a_folder_as_transformers_writes_it_scores_too(
    family: str, built_classifier: Build
) -> None:
    plain = built_classifier(family, plain=True)
    assert not (plain / "modules.json").exists()
    backend = warmed(plain)
    assert backend.card.kind == "reranker"
    assert_same(scored(backend), theirs(plain))


def test_a_setting_makes_an_embedding_model_of_it(built_classifier: Build) -> None:
    backend = warmed(built_classifier("bert"), pooling="mean")
    assert backend.card.kind == "embedding"
    assert ours(backend).shape == (len(TEXTS), 32)


@pytest.mark.parametrize("lost", ["classifier.weight", "bert.pooler.dense.weight"])
def test_a_head_whose_weights_are_not_there_is_refused(
    lost: str, built_classifier: Build, tmp_path: Path
) -> None:
    folder = shutil.copytree(built_classifier("bert"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights[lost]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelUnavailable, match=f"its weights lack {lost}"):
        load(folder)


def test_a_model_of_two_halves_is_refused(built_classifier: Build) -> None:
    with pytest.raises(ModelUnavailable, match="T5ForSequenceClassification cannot be taken apart"):
        load(built_classifier("t5", decoder_start_token_id=0, plain=True))


def test_a_head_that_reads_something_else_is_refused(
    built_classifier: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def largest(self: Any, hidden: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.dense(hidden.amax(dim=1))
        return pooled

    monkeypatch.setattr(BertPooler, "forward", largest)
    with pytest.raises(ModelUnavailable, match="what its head reads is neither"):
        load(built_classifier("bert"))


def test_parts_that_give_other_logits_are_refused(
    built_classifier: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = classifier._Given.forward

    def twice(self: Any, *_: object, inputs_embeds: torch.Tensor, **__: object) -> Any:
        return given(self, inputs_embeds=inputs_embeds * 2)

    monkeypatch.setattr(classifier._Given, "forward", twice)
    with pytest.raises(ModelUnavailable, match="together they give other logits"):
        load(built_classifier("bert"))


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "qwen2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_are_the_same_after_a_way_to_the_disk_and_back(
    family: str, dtype: Any, built_classifier: Build, tmp_path: Path
) -> None:
    backend = warmed(built_classifier(family), dtype)
    expected = scored(backend)
    for _ in range(2):
        backend.park(Parking("disk", tmp_path))
        with pytest.raises(RuntimeError, match="put away"):
            scored(backend)
        backend.restore()
        np.testing.assert_array_equal(scored(backend), expected)
    if dtype == "float32":  # all but a buffer or two lies in the model's own file
        written = sum(file.stat().st_size for file in tmp_path.iterdir())
        assert written < 0.03 * backend.sizes["cpu"]
        held = load_file(built_classifier(family) / "model.safetensors").values()
        expected_size = sum(each.nbytes for each in held)
        assert backend.sizes["cpu"] == pytest.approx(expected_size, rel=0.03)


def test_layers_for_which_there_is_no_memory_are_streamed(built_classifier: Build) -> None:
    for family in ("bert", "qwen2"):
        folder = built_classifier(family)
        backend = warmed(folder, max_memory={"cpu": "30KB"}, device_map="auto")
        assert backend.transformer.is_streamed
        assert_same(scored(backend), theirs(folder))
        backend.close()


@pytest.mark.parametrize(("quantization", "least"), [("int8", 0.99), ("nf4", 0.5)])
def test_all_but_the_head_is_quantised(quantization: str, least: float, tmp_path: Path) -> None:
    folder = build_classifier(tmp_path, WIDE)
    backend = warmed(folder, "bfloat16", quantization=quantization)
    assert backend.fidelity is None
    found, expected = scored(backend), theirs(folder)
    assert np.corrcoef(found[:, 0], expected[:, 0])[0, 1] > least
    held = load_file(folder / "model.safetensors")
    own = {key.rpartition(".bert.")[2]: each for key, each in head_of(backend).named_parameters()}
    for name in ("pooler.dense.weight", "_rest.classifier.weight"):
        expected_head = held[f"bert.{name}" if "pooler" in name else name.removeprefix("_rest.")]
        assert torch.equal(own[name], expected_head.bfloat16().float())


def test_its_size_is_known_before_it_is_loaded(built_classifier: Build) -> None:
    folder = built_classifier("bert")
    settings = ModelSettings(model=str(folder), name="tiny", dtype="float32", device_map="cpu")
    prepared = prepare_model(Settings(), settings, {"cpu": Room(2**40)})
    (expected,) = prepared.sizes
    assert expected["cpu"] == pytest.approx(prepared.load(0).sizes["cpu"], rel=0.02)


def test_a_tokenizer_that_gives_pairs_kinds_unknown_is_refused_at_load(
    built_classifier: Build, tmp_path: Path
) -> None:
    folder = shutil.copytree(built_classifier("bert"), tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"]["pair"][0]["SpecialToken"]["type_id"] = 2
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelUnavailable, match="cannot be used for pairs"):
        load(folder)


@pytest.mark.parametrize(("family", "labels"), [("bert", ("LABEL_0",)), ("qwen2", ("no", "yes"))])
async def test_an_engine_scores_as_the_cross_encoder(
    family: str, labels: tuple[str, ...], built_classifier: Build
) -> None:
    folder = built_classifier(family, labels)
    model = ModelSettings(model=str(folder), name="tiny", dtype="float32", device_map="cpu")
    engine = Engine(Settings(models=(model,)))
    try:
        await engine.start()
        served = engine.models[0]
        answers = await asyncio.gather(
            *(engine.score(served, Inputs([pair]), EmbedOptions(truncate=True)) for pair in PAIRS),
            engine.score(served, Inputs(PAIRS), EmbedOptions(truncate=True)),
        )
        with pytest.raises(WrongModelKind, match="gives no embeddings: it is a"):
            await engine.embed(served, Inputs(["a"]), EmbedOptions())
        card = await engine.card(served)
    finally:
        await engine.stop()
    activation = nn.Sigmoid() if len(labels) == 1 else nn.Softmax(dim=1)
    expected = activation(torch.from_numpy(theirs(folder))).numpy()
    assert_same(answers[-1].rows, expected)
    assert_same(np.concatenate([answer.rows for answer in answers[:-1]]), expected)
    assert answers[-1].labels == card.labels == labels
    assert answers[-1].tokens == sum(answer.tokens for answer in answers[:-1])
