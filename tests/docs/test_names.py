# SPDX-License-Identifier: Apache-2.0
"""What the docs name is there: settings, variables, flags, routes, files, links."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import msgspec
import pytest

from appliance.cli import main
from appliance.settings import ModelSettings, Settings
from compat.conformance.__main__ import main as run_conformance
from compat.openai_types import EmbeddingRequest
from tests.docs.documents import ROOT, Document, documents, present, spans

DOCUMENTS = present()
SPANS = spans()
SOURCES = ("appliance", "compat", "ops", "scripts", "Dockerfile")
KINDS = {"", ".example", ".js", ".json", ".py", ".sh", ".tpl", ".yaml"}

COMMANDS = (
    "serve",
    "embed",
    *(f"models {action}" for action in ("list", "load", "offload", "unload")),
    *(f"token {action}" for action in ("create", "list", "revoke")),
    *(f"config {action}" for action in ("show", "validate", "export", "clone", "import", "schema")),
)

FLAGS_OF_OTHERS = {
    "--build-arg": "docker build",
    "--check": "ruff format",
    "--file": "docker compose",
    "--gpus": "docker run",
    "--index-url": "pip install",
    "--prefix": "npm install",
    "--resources": "ray start",
    "--secret": "docker build",
    "--stop-timeout": "docker run",
}
WORDS_OF_OTHERS = {
    "create_collection": "Chroma",
    "parentbased_traceidratio": "OpenTelemetry",
    "serve_registered_multiplexed_model_id": "Ray",
    "trace_based": "OpenTelemetry",
}
SERIES = re.compile(r"(appliance|gen_ai|http|hw|process|service|system|te|telemetry|url)_\w+")
"""Names of metrics and of their labels, which ``tests/telemetry`` compares with what is served."""


@cache
def source() -> str:
    """All that is ours, but for docs and tests."""
    files = [file for name in SOURCES for file in [ROOT / name, *(ROOT / name).rglob("*")]]
    own = [f for f in files if f.is_file() and f.suffix in KINDS and "node_modules" not in f.parts]
    return "\n".join(file.read_text(encoding="utf-8") for file in own)


def help_of(command: str) -> str:
    """What a command of ``appliance`` says of its flags."""
    with redirect_stdout(io.StringIO()) as told, suppress(SystemExit):
        main([*command.split(), "--help"])
    return told.getvalue()


@cache
def flags() -> set[str]:
    """All flags of the commands and scripts."""
    helps = [help_of(command) for command in COMMANDS]
    with redirect_stdout(io.StringIO()) as told, suppress(SystemExit):
        run_conformance(["--help"])
    capacity = subprocess.run(  # whose flags are made of names
        [sys.executable, str(ROOT / "scripts/capacity.py"), "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    ours = [*(ROOT / "scripts").rglob("*.py"), ROOT / "tests" / "conftest.py"]
    scripts = "\n".join(file.read_text() for file in ours)
    quoted = "\n".join(re.findall(r'"(--[\w-]+)"', scripts))
    text = "\n".join([*helps, told.getvalue(), capacity.stdout, quoted])
    return {*re.findall(r"(?<![\w-])--[a-z][\w-]*", text), *FLAGS_OF_OTHERS}


def test_variables() -> None:
    text = source()
    for document in DOCUMENTS:
        for name in set(re.findall(r"\bAPPLIANCE_[A-Z0-9_]*[A-Z0-9]", document.words)):
            field, *path = name.removeprefix("APPLIANCE_").lower().split("__")
            known = field in Settings.model_fields or re.search(rf"\b{name}\b", text)
            assert known, f"{document.name}: {name}"
            if field == "models" and path:
                assert path[1] in ModelSettings.model_fields, f"{document.name}: {name}"


def test_flags() -> None:
    for name, span in SPANS:
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", span):
            assert flag in flags(), f"{name}: {span}"


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_of_a_command(command: str) -> None:
    told = help_of(command)
    for name, span in SPANS:
        if f"{span} ".startswith(f"appliance {command} "):
            for flag in re.findall(r"--[a-z][\w-]*", span):
                assert re.search(rf"{flag}(?![\w-])", told), f"{name}: {span}"


def test_commands() -> None:
    for name, span in SPANS:
        command = re.match(r"appliance ([a-z ]+?)(?= [^a-z]|$)", span)
        if command:
            group = command[1].split()[0]
            known = [each for each in COMMANDS if f"{command[1]} ".startswith(f"{each} ")]
            assert known or group == command[1], f"{name}: {span}"
            assert any(each.split()[0] == group for each in COMMANDS), f"{name}: {span}"


def settings_with_values() -> list[str]:
    """Such as ``--auth none``."""
    served = help_of("serve")
    pairs = [span for _, span in SPANS if re.fullmatch(r"--[\w-]+ [^-]\S*", span)]
    return [span for span in pairs if re.search(rf"(?m)^ +{span.split()[0]}(?![\w-])", served)]


def test_values_of_flags() -> None:
    found = settings_with_values()
    assert "--auth none" in found
    needed = ["--last-action-report-interval-seconds", "30"]  # for --last-action-file
    for span in found:
        with redirect_stdout(io.StringIO()):
            assert main(["config", "validate", *needed, *shlex.split(span)]) == 0, span


def test_fields_with_values() -> None:
    """Such as ``"dtype": "auto_fast"``, of a model's settings or of a request."""
    found = [(name, span) for name, span in SPANS if re.match(r'"\w+": ', span)]
    assert found
    for name, span in found:
        fields = json.loads(f"{{{span}}}")
        if fields.keys() <= ModelSettings.model_fields.keys():
            ModelSettings.model_validate({"model": "owner/name", **fields})
        else:
            request = {"model": "owner/name", "input": "", **fields}
            assert fields.keys() <= {*EmbeddingRequest.__struct_fields__}, f"{name}: {span}"
            msgspec.convert(request, EmbeddingRequest)


def test_names_of_settings_and_fields() -> None:
    words = {*re.findall(r"\w+", source()), *WORDS_OF_OTHERS}
    for name, span in SPANS:
        for word in re.findall(r"(?<![\w./:-])[a-z]+(?:_[a-z0-9]+)+(?![\w/]|\.py)", span):
            assert word in words or SERIES.fullmatch(word), f"{name}: {word} in {span}"


def test_files() -> None:
    made = [line for line in (ROOT / ".gitignore").read_text().splitlines() if "/" in line[:1]]
    for document in DOCUMENTS:
        for path in named_files(document):
            is_made = any(fnmatch(f"/{path}", line.rstrip("/")) for line in made)
            assert is_made or [*ROOT.glob(path)], f"{document.name}: {path}"


def named_files(document: Document) -> Iterator[str]:
    """Files of the repository that a document names."""
    folder = Path(document.name).parent
    top = "appliance|compat|ops|scripts|tests"
    yield from re.findall(rf"(?<![\w/.-])(?:{top})/[\w./*-]*[\w*]", document.words)
    for span in document.code:
        if folder != Path() and re.fullmatch(r"[\w.-]+(/[\w.-]+)*(\.yaml|\.json|\.md)", span):
            yield span if span.startswith("ops/") else f"{folder}/{span}"


def test_links() -> None:
    for document in documents().values():
        for link in document.links:
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = ROOT / Path(document.name).parent / path if path else ROOT / document.name
            assert target.exists(), f"{document.name}: {link}"
            if anchor:
                linked = target.resolve().relative_to(ROOT).as_posix()
                assert anchor in documents()[linked].anchors, f"{document.name}: {link}"


def test_the_readme_lists_its_chapters() -> None:
    readme = documents()["README.md"]
    chapters = [text for level, text in readme.headings if level == 2]
    listed = [link for link in readme.links if link.startswith("#")]
    for chapter in chapters:
        anchor = "#" + re.sub(r"[^\w\- ]", "", chapter.lower()).replace(" ", "-")
        assert anchor in listed, chapter
