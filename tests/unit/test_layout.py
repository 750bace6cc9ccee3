# SPDX-License-Identifier: Apache-2.0
"""The shape of the house: who may import whom, and how large a file may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 300

# From the top down. A name stands for the module and for all that is in it; the longest fitting
# name counts. A module imports only what is in a lower row, or lies under its own name.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("appliance.__main__", "compat.conformance"),
    ("appliance.cli",),
    ("appliance.config_command",),
    ("appliance.models_command", "appliance.token_command"),
    ("appliance.tables",),
    ("appliance.bulk.ray_command",),
    ("appliance.bulk.command", "appliance.bulk.ray_pool"),
    ("appliance.bulk.ray_cluster", "appliance.bulk.ray_worker"),
    ("appliance.bulk.ray_output",),
    ("appliance.bulk.ray_input",),
    (
        "appliance.bulk.job",
        "appliance.bulk.output",
        "appliance.bulk.reader",
        "appliance.bulk.sameness",
    ),
    ("appliance.bulk.lines", "appliance.bulk.parts"),
    ("appliance.bulk.embedder", "appliance.bulk.folder", "appliance.bulk.progress"),
    (
        "appliance.bulk.ahead",
        "appliance.bulk.arguments",
        "appliance.bulk.chunks",
        "appliance.bulk.columns",
        "appliance.bulk.ray_places",
        "appliance.bulk.signals",
    ),
    ("appliance.bulk.faults",),
    ("appliance.server",),
    ("appliance.app",),
    ("appliance.routes",),
    ("appliance.idle",),
    (
        "appliance.api",
        "compat.cohere",
        "compat.ollama",
        "compat.openai",
        "compat.openai_batches",
        "compat.openai_files",
        "compat.rerank",
        "compat.tei",
    ),
    ("appliance.api.queries",),
    ("appliance.openapi.document",),
    ("appliance.openapi.making",),
    ("appliance.openapi.schemas",),
    ("appliance.assets", "appliance.openapi.words"),
    ("compat.ollama_asking", "compat.openai_rows"),
    ("compat.ollama_models", "compat.openai_asking", "compat.openai_batch_types"),
    ("compat.openai_file_types",),
    (
        "compat.cohere_errors",
        "compat.cohere_types",
        "compat.handling",
        "compat.ollama_errors",
        "compat.ollama_types",
        "compat.openai_errors",
        "compat.openai_types",
        "compat.rendering",
        "compat.rerank_types",
    ),
    ("compat.durations", "compat.refusing"),
    ("appliance.openapi.headers", "appliance.openapi.operations"),
    ("appliance.auth", "appliance.bodies", "appliance.context", "appliance.forms"),
    ("appliance.batches.service",),
    ("appliance.batches.worker",),
    ("appliance.batches.running",),
    ("appliance.batches.validating",),
    ("appliance.batches.tools",),
    ("appliance.batches.contents", "appliance.batches.rows", "appliance.batches.store"),
    ("appliance.batches.part", "appliance.batches.requests"),
    ("appliance.batches.migrations", "appliance.batches.records", "appliance.batches.schema"),
    ("appliance.access.door",),
    ("appliance.access.store",),
    ("appliance.access.quota_rows",),
    ("appliance.reconfiguration", "appliance.series.recorder"),
    ("appliance.exporting", "appliance.series.store"),
    ("appliance.series.history", "appliance.series.probes"),
    ("appliance.series.rings",),
    (
        "appliance.series.definitions",
        "appliance.series.histogram",
        "appliance.series.migrations",
        "appliance.series.schema",
    ),
    (
        "appliance.access.attempts",
        "appliance.access.keyring",
        "appliance.access.migrations",
        "appliance.access.shared_bucket",
    ),
    ("appliance.access.sharing",),
    ("appliance.access.quotas", "appliance.access.schema", "appliance.access.usage"),
    ("appliance.access.grants",),
    ("appliance.telemetry.middleware",),
    ("appliance.telemetry.instance",),
    ("appliance.telemetry.providers",),
    (
        "appliance.telemetry.gpu_observations",
        "appliance.telemetry.observations",
        "appliance.telemetry.tracing",
    ),
    ("appliance.telemetry.observing",),
    ("appliance.telemetry.instruments",),
    ("appliance.telemetry.tei_metrics",),
    ("appliance.telemetry.exporting", "appliance.telemetry.notes"),
    ("appliance.engine.service",),
    ("appliance.engine.requests",),
    ("appliance.engine.answering",),
    ("appliance.engine.admission", "appliance.engine.catalogue"),
    ("appliance.engine.asking", "appliance.engine.lifecycle"),
    ("appliance.engine.fleet", "appliance.engine.served"),
    ("appliance.engine.scoring",),
    (
        "appliance.engine.calibration",
        "appliance.engine.inputs",
        "appliance.engine.survey",
    ),
    ("appliance.engine.device", "appliance.engine.moving"),
    ("appliance.engine.worker",),
    ("appliance.engine.lane", "appliance.engine.residency", "appliance.engine.watching"),
    ("appliance.engine.copies", "appliance.engine.execution"),
    ("appliance.engine.prompts", "appliance.engine.vectors", "appliance.engine.vocabulary"),
    ("appliance.engine.loading",),
    ("appliance.engine.fidelity",),
    ("appliance.engine.model",),
    ("appliance.engine.heads",),
    ("appliance.engine.lexical",),
    ("appliance.engine.classifier",),
    ("appliance.engine.parking", "appliance.engine.transformer"),
    ("appliance.engine.blocks", "appliance.engine.swapping"),
    ("appliance.engine.slots",),
    ("appliance.engine.measuring",),
    (
        "appliance.engine.architectures",
        "appliance.engine.attention",
        "appliance.engine.own_files",
        "appliance.engine.placement",
        "appliance.engine.pooling",
        "appliance.engine.prepack",
        "appliance.engine.quantization",
        "appliance.engine.scratch",
        "appliance.engine.sources",
        "appliance.engine.splade",
        "appliance.engine.staging",
        "appliance.engine.static",
        "appliance.engine.tokenizer",
    ),
    (
        "appliance.engine.clearml_models",
        "appliance.engine.hub",
        "appliance.engine.pairs",
        "appliance.engine.registry",
        "appliance.engine.remote_code",
        "appliance.engine.splitting",
        "appliance.engine.weights",
    ),
    ("appliance.engine.chain",),
    ("appliance.engine.modules",),
    (
        "appliance.engine.backend",
        "appliance.engine.background",
        "appliance.engine.batcher",
        "appliance.engine.budget",
        "appliance.engine.cores",
        "appliance.engine.capacity",
        "appliance.engine.swap_folder",
    ),
    ("appliance.engine.jobs",),
    ("appliance.engine.types",),
    ("appliance.persistence",),
    ("appliance.configuration",),
    ("appliance.tei_start",),
    ("appliance.database_file", "appliance.tei_variables"),
    ("appliance.settings_sources",),
    ("appliance.faults", "appliance.logs", "appliance.settings_reference"),
    ("appliance.settings",),
    ("appliance.database",),
    ("appliance.telemetry.gpus", "appliance.telemetry.records"),
    (
        "appliance.bounded_http",
        "appliance.durable",
        "appliance.errors",
        "appliance.listening",
        "appliance.migrations",
        "appliance.model_settings",
        "appliance.ray_placement",
    ),
    ("appliance.model_sources", "appliance.setting_values"),
    ("appliance.published",),
    (
        "appliance",
        "appliance.access",
        "appliance.batches",
        "appliance.bulk",
        "appliance.engine",
        "appliance.openapi",
        "appliance.series",
        "appliance.telemetry",
        "compat",
    ),
)
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}
EMPTY = LAYERS[-1]
"""Packages that hold nothing themselves; they are no place for what lies in them."""


class Import(NamedTuple):
    importer: str
    imported: str


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = sorted([*ROOT.glob("appliance/**/*.py"), *ROOT.glob("compat/**/*.py")])
MODULES = {_module_name(path): path for path in SOURCES}


def _absolute(importer: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    is_package = MODULES[importer].name == "__init__.py"
    parts = importer.split(".")
    base = parts[: len(parts) - node.level + is_package]
    return ".".join([*base, *([node.module] if node.module else [])])


def _imports(importer: str) -> Iterator[Import]:
    """Every import of a module, those inside functions too."""
    tree = ast.parse(MODULES[importer].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(importer, node)
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield Import(importer, submodule if submodule in MODULES else base)


ALL_IMPORTS = [found for name in MODULES for found in _imports(name)]
OWN_IMPORTS = sorted({found for found in ALL_IMPORTS if found.imported in MODULES})


def _place(module: str) -> str | None:
    """The longest name of the table that fits."""
    if module in RANKS:
        return module
    outer = module.rpartition(".")[0]
    return None if not outer or outer in EMPTY else _place(outer)


def _imported_roots(module: str) -> set[str]:
    return {found.imported.partition(".")[0] for found in ALL_IMPORTS if found.importer == module}


def test_every_module_has_a_place() -> None:
    assert not [module for module in MODULES if _place(module) is None]


def test_the_table_names_no_module_that_is_gone() -> None:
    assert not [name for name in RANKS if name not in MODULES]


def test_imports_go_down() -> None:
    def goes_down(found: Import) -> bool:
        above, below = _place(found.importer), _place(found.imported)
        return above == below or RANKS[above or ""] < RANKS[below or ""]

    assert not [f"{f.importer} -> {f.imported}" for f in OWN_IMPORTS if not goes_down(f)]


def test_no_dialect_imports_another() -> None:
    """What several of them need lies below them."""
    row = LAYERS[RANKS["compat.openai"]]
    dialects = {name for name in row if name.startswith("compat.")}
    assert not [f for f in OWN_IMPORTS if f.importer in dialects and f.imported in dialects]


def test_the_conformance_clients_share_nothing_with_the_server_but_the_vocabulary() -> None:
    clients = [f for f in OWN_IMPORTS if f.importer.startswith("compat.conformance")]
    outside = {f.imported for f in clients if not f.imported.startswith("compat.conformance")}
    assert outside <= {"appliance.engine.vocabulary"}


def test_the_engine_knows_neither_http_nor_telemetry() -> None:
    forbidden = {"litestar", "uvicorn", "starlette", "opentelemetry", "compat"}
    engine = [module for module in MODULES if module.startswith("appliance.engine")]
    assert not [module for module in engine if _imported_roots(module) & forbidden]


@pytest.mark.parametrize(
    "module", ["appliance.engine.batcher", "appliance.engine.residency", "appliance.engine.vectors"]
)
def test_pure_modules_need_no_torch_and_no_threads(module: str) -> None:
    assert not _imported_roots(f"appliance.engine.{module}") & {
        "torch",
        "transformers",
        "threading",
        "asyncio",
    }


def test_what_runs_before_the_port_answers_imports_no_torch() -> None:
    check = (
        "import sys, appliance.cli, appliance.server;"
        "heavy = {'torch', 'transformers', 'tokenizers', 'pyarrow', 'rich', 'sqlalchemy',"
        "'alembic', 'grpc', 'prometheus_client', 'pynvml', 'opentelemetry.sdk'};"
        "print(*sorted(heavy & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []


def test_every_file_stays_small() -> None:
    sources = [*SOURCES, *ROOT.glob("ops/**/*.py")]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources}
    assert not {str(path): count for path, count in lines.items() if count > MAX_LINES}


def test_every_file_names_its_licence() -> None:
    others = (file for name in ("ops", "scripts", "tests") for file in ROOT.glob(f"{name}/**/*.py"))
    sources = [*SOURCES, *others]
    line = "# SPDX-License-Identifier: Apache-2.0"
    own = [path for path in sources if "node_modules" not in path.parts]
    unnamed = [p for p in own if line not in p.read_text(encoding="utf-8").splitlines()[:2]]
    assert not unnamed
