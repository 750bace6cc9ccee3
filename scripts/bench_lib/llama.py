# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's own server, and the model in its format.

Both come out of the sdist of llama-cpp-python, which carries llama.cpp whole: no release of it is
on PyPI by itself. Building takes a C++ compiler and some minutes.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench_lib.venvs import made_once, peer_python, pins, run

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LLAMA", "Llama", "build_llama"]

LLAMA = "llama.cpp"
SDIST = "llama-cpp-python"
SDIST_VERSION = "0.3.36"
FORMATS = {"float32": "f32", "bfloat16": "bf16"}
"""llama.cpp's names of our number formats. Its float16 is slower than its bfloat16 here."""

CMAKE_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
)


@dataclass(frozen=True)
class Llama:
    """What a server needs."""

    folder: Path

    @property
    def server(self) -> Path:
        return self.folder / "llama-server"

    def model(self, dtype: str) -> Path:
        """The model in one number format."""
        return self.folder / f"model-{FORMATS[dtype]}.gguf"

    @property
    def versions(self) -> dict[str, str]:
        return {f"llama.cpp of {SDIST}": SDIST_VERSION}


def build_llama(state: Path, model_folder: Path) -> Llama:
    """Build the server and convert the model, unless an earlier run did."""
    python = peer_python(state, LLAMA)

    def make(folder: Path) -> None:
        source = _source(python, folder)
        _build(python, source, folder)
        _convert(python, source, model_folder, folder)
        shutil.rmtree(source.parent.parent)

    stamp = f"{pins(LLAMA)}{SDIST}=={SDIST_VERSION}\n{CMAKE_FLAGS}\n{model_folder}\n"
    return Llama(made_once(state / f"{LLAMA}-build", stamp, make))


def _source(python: Path, folder: Path) -> Path:
    """The folder of llama.cpp in the unpacked sdist."""
    what = ["--no-deps", "--no-binary", SDIST, f"{SDIST}=={SDIST_VERSION}"]
    run(str(python), "-m", "pip", "download", "--quiet", *what, "--dest", str(folder))
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    archive.unlink()
    (source,) = folder.glob("*/vendor/llama.cpp")
    return source


def _build(python: Path, source: Path, folder: Path) -> None:
    tools, build = python.parent, source.parent / "build"
    ninja = f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}"
    paths = ("-S", str(source), "-B", str(build))
    run(str(tools / "cmake"), "-G", "Ninja", ninja, *paths, *CMAKE_FLAGS)
    cores = str(len(os.sched_getaffinity(0)))
    target = ("--target", "llama-server", "--parallel", cores)
    run(str(tools / "cmake"), "--build", str(build), *target)
    shutil.copy2(build / "bin" / "llama-server", folder / "llama-server")


def _convert(python: Path, source: Path, model_folder: Path, folder: Path) -> None:
    converter = str(source / "convert_hf_to_gguf.py")
    for name in FORMATS.values():
        out = str(folder / f"model-{name}.gguf")
        run(str(python), converter, str(model_folder), "--outfile", out, "--outtype", name)
