# SPDX-License-Identifier: Apache-2.0
"""The flags of ``appliance embed``, beside those of the settings."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # it brings numpy, which no other command waits for
    from appliance.engine.types import InputType

__all__ = ["EmbedArguments", "InputFormat", "OnError", "add_embed_flags", "take_embed_arguments"]

InputFormat = Literal["text", "jsonl", "csv", "parquet"]
OnError = Literal["fail", "null"]

INPUT_FORMATS: dict[str, InputFormat] = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
OUTPUT_SUFFIXES = (".parquet", ".jsonl", ".npy")


@dataclass(frozen=True, slots=True)
class EmbedArguments:
    """What was asked for. ``None``: as the model is set, or as the file's name says."""

    file: Path
    """The input. ``-``: standard input."""

    out: Path
    file_given: str = ""
    """The input as it was typed, for it may be a URI, of which a path makes another."""

    out_given: str = ""
    model: str | None = None
    format: InputFormat | None = None
    column: str = "text"
    embedding_column: str = "embedding"
    dimensions: int | None = None
    normalize: bool | None = None
    truncate: bool = True
    prompt: str | None = None
    prompt_name: str | None = None
    input_type: InputType | None = None
    on_error: OnError = "fail"
    overwrite: bool = False
    restart: bool = False
    ray: str | None = None
    """Address of the Ray cluster that does the work; empty: the one that is found, or one of this
    machine. Unset: no Ray."""

    ray_actors: tuple[int, int] | None = None
    """Least and most copies of the model on the cluster."""

    @property
    def from_stdin(self) -> bool:
        """Whether the input is what is piped in."""
        return str(self.file) == "-"

    @property
    def input_format(self) -> InputFormat | None:
        """The format that was named, or else that of the file's name; ``None`` if it says none."""
        return self.format or ("text" if self.from_stdin else INPUT_FORMATS.get(self.file.suffix))

    @property
    def keeps_columns(self) -> bool:
        """Whether the output has room for more than vectors."""
        return self.out.suffix != ".npy"


def add_embed_flags(parser: argparse.ArgumentParser) -> None:
    """Give the command its flags. Their names are the fields of :class:`EmbedArguments`."""
    group = parser.add_argument_group("embedding a file")
    add = group.add_argument
    add(
        "file",
        metavar="FILE",
        help="file with the texts; -: standard input; with --ray also a folder of Parquet files,"
        " a pattern or a URI",
    )
    add(
        "--out",
        type=_output,
        required=True,
        metavar="OUT",
        help="file to write; its name ends in .parquet, .jsonl or .npy and so says its format;"
        " with --ray a folder of Parquet files",
    )
    add("--model", help="name of a model in the settings, or anything that `models` takes")
    add(
        "--format",
        choices=("text", "jsonl", "csv", "parquet"),
        help="format of the input, where its name does not say it; text: one text a line",
    )
    add("--column", default="text", help="column or field with the text (default: text)")
    add("--embedding-column", default="embedding", help="name of the new column")
    add("--dimensions", type=_positive, metavar="N", help="leading values of a vector to keep")
    add("--normalize", action=argparse.BooleanOptionalAction, help="scale vectors to unit length")
    add(
        "--truncate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="cut texts that are longer than the model reads (default), or take them for errors",
    )
    prompt = group.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", help="words to put before each text")
    prompt.add_argument("--prompt-name", metavar="NAME", help="one of the model's prompts")
    prompt.add_argument(
        "--input-type",
        choices=("query", "document", "classification", "clustering"),
        help="kind of text; picks the prompt",
    )
    add(
        "--on-error",
        choices=("fail", "null"),
        default="fail",
        help="what a row without a text that can be embedded does: stop the work (default), or"
        " get no vector",
    )
    add("--overwrite", action="store_true", help="replace OUT if it exists")
    add("--restart", action="store_true", help="drop what an earlier run of OUT has finished")
    add(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="share the work out on a Ray cluster: the one at ADDRESS; without, that of"
        " RAY_ADDRESS, the one that runs on this machine, or one that is started for the while"
        " (local: always that)",
    )
    add(
        "--ray-actors",
        type=_pool,
        metavar="N|MIN:MAX",
        help="copies of the model on the cluster (default: one for each GPU, or else for every 4"
        " CPUs)",
    )


def take_embed_arguments(parsed: argparse.Namespace) -> EmbedArguments:
    """Take the command's own flags out of what was parsed, so that only settings are left."""
    given = vars(parsed)
    for name in ("file", "out"):
        given[f"{name}_given"] = given[name]
        given[name] = Path(given[name])
    return EmbedArguments(**{field.name: given.pop(field.name) for field in fields(EmbedArguments)})


def _output(given: str) -> str:
    if Path(given).suffix not in OUTPUT_SUFFIXES:
        raise argparse.ArgumentTypeError(
            f"{given!r} names no format; it must end in {', '.join(OUTPUT_SUFFIXES)}"
        )
    return given


def _pool(given: str) -> tuple[int, int]:
    least, _, most = given.partition(":")
    try:
        pool = _positive(least), _positive(most or least)
    except argparse.ArgumentTypeError:
        pool = 1, 0
    if pool[0] > pool[1] or given.endswith(":"):
        raise argparse.ArgumentTypeError(
            f"{given!r} is neither a whole number above 0 nor two of them, such as 2:8"
        )
    return pool


def _positive(given: str) -> int:
    number = int(given) if given.isascii() and given.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{given!r} is not a whole number above 0")
    return number
