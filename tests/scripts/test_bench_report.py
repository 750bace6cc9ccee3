# SPDX-License-Identifier: Apache-2.0
"""Tables, ratios and the picture, from figures made up here."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import pytest
from bench_lib.plan import BUSY, CLIENTS, DTYPES, IDLE, LONG, MAIN, SHORT
from bench_lib.plot import write_plot
from bench_lib.report import as_json, as_markdown
from bench_lib.results import Beside, Facts, Lone, Rate, Results, bare, floor, median_ratio
from matplotlib.image import imread

OWN = [f"appliance, {dtype}" for dtype in DTYPES]
INT8 = "onnxruntime int8, all sorted"


def rate(*speeds: float) -> Rate:
    return Rate(list(speeds), [0.01] * len(speeds), [0.02] * len(speeds))


@pytest.fixture
def results() -> Results:
    found = Results()
    found.facts = {
        OWN[0]: Facts("float32", 2**30, 5.0, 0.99999),
        OWN[1]: Facts("bfloat16", 2**29, 5.5, 0.9998),
        "infinity": Facts("float32", 2**31, 12.0, 0.99999),
        INT8: Facts("int8", 2**28, 0.5, 0.83),
    }
    floors = {floor("float32"): rate(10, 20), floor("bfloat16"): rate(20, 40)}
    systems = {OWN[0]: rate(8, 18), OWN[1]: rate(16, 32), "infinity": rate(2, 6), INT8: rate(9, 9)}
    for scenario in (MAIN, SHORT, LONG):
        found.rates[scenario] = {**floors, **systems}
    for speed, crowd in enumerate(CLIENTS.values(), start=1):
        found.rates[crowd] = {OWN[0]: rate(speed, speed), "infinity": rate(speed, speed)}
    found.rates[IDLE] = {name: rate(10, 10) for name in OWN}
    found.rates[BUSY] = {name: rate(5, 6) for name in OWN}
    found.lone = {bare(dtype): Lone([[3.0, 5.0], [4.0]]) for dtype in DTYPES}
    found.lone |= {name: Lone([[6.0, 6.0], [7.0]]) for name in (*OWN, "infinity")}
    found.beside = {
        OWN[0]: Beside([100.0, 200.0], [50.0, 150.0], 1000.0),
        "infinity": Beside([9000.0], [], 500.0),
    }
    return found


def tables(markdown: str) -> list[list[list[str]]]:
    """Cells, by row, by table."""
    lines = markdown.splitlines()
    blocks = [list(block) for is_row, block in groupby(lines, lambda x: x[:1] == "|") if is_row]
    return [[[cell.strip() for cell in row.split("|")[1:-1]] for row in block] for block in blocks]


def column(table: list[list[str]], name: str) -> dict[str, str]:
    place = table[0].index(name)
    return {row[0]: row[place] for row in table[2:]}


def test_ratios_are_taken_within_a_round() -> None:
    # The second round was ten times as fast for both sides.
    assert median_ratio([2, 20, 9], [1, 10, 9]) == 2


def test_every_row_of_a_table_has_the_cells_of_its_head(results: Results) -> None:
    found = tables(as_markdown(results, [], "a machine"))
    assert len(found) == 5
    for table in found:
        assert {len(row) for row in table} == {len(table[0])}


def test_a_system_is_measured_against_the_floor_in_its_own_format(results: Results) -> None:
    main = tables(as_markdown(results, [], ""))[0]
    shares = column(main, "share of floor")
    assert shares[OWN[0]] == "0.85"
    assert shares[OWN[1]] == "0.80"
    assert shares[floor("bfloat16")] == "1.00"
    assert shares[INT8] == "-"
    assert column(main, "x infinity")[OWN[0]] == "3.50"
    assert column(main, "x infinity")[floor("float32")] == "-"


def test_memory_start_and_cosine_are_told(results: Results) -> None:
    main = tables(as_markdown(results, [], ""))[0]
    assert column(main, "peak RSS, MiB")[OWN[0]] == "1024"
    assert column(main, "start, s")["infinity"] == "12.0"
    assert column(main, "lowest cosine")[INT8] == "0.83000"


def test_a_lone_text_is_held_against_the_bare_pass_of_its_round(results: Results) -> None:
    lone = tables(as_markdown(results, [], ""))[1]
    assert column(lone, "over the bare pass, ms")[OWN[0]] == "2.50"


def test_lengths_clients_and_pressure_are_told_as_ratios(results: Results) -> None:
    _, _, lengths, clients, pressure = tables(as_markdown(results, [], ""))
    assert column(lengths, SHORT)[OWN[0]] == "13 (0.85)"
    assert column(clients, CLIENTS[128])[OWN[0]] == "3 (1.50)"
    cells = column(pressure, OWN[0])
    assert [cells[row] for row in cells if "one core taken" in row] == ["0.55"]
    assert [cells[row] for row in cells if "p50" in row] == ["150 (1.5)"]
    assert [column(pressure, "infinity")[row] for row in cells if "p50" in row] == ["9000"]


def test_what_was_not_measured_has_no_table(results: Results) -> None:
    only = Results(facts=results.facts, lone=results.lone)
    only.rates[MAIN] = results.rates[MAIN]
    assert len(tables(as_markdown(only, [], ""))) == 2


def test_faults_and_a_busy_machine_cannot_be_overlooked(results: Results) -> None:
    results.faults["infinity"] = "WRONG VECTORS"
    results.rates[SHORT][OWN[0]].foreign_share = [0.4]
    markdown = as_markdown(results, [], "")
    assert "infinity **WRONG VECTORS**" in markdown
    assert "**The machine was not idle" in markdown


def test_json_has_every_round(results: Results) -> None:
    document = json.loads(json.dumps(as_json(results, ["so"], "a machine")))
    assert document["rates"][MAIN][OWN[0]]["tokens_per_second"] == [8, 18]
    assert document["beside"]["infinity"]["milliseconds"] == [9000.0]


def test_the_picture_is_a_png_on_white_and_always_the_same(
    results: Results, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("one.png", "two.png")]
    for path in paths:
        write_plot(results, path)
    pixels = imread(paths[0])
    assert pixels.shape[0] > 500
    assert pixels.shape[1] > 1000
    assert pixels[0, 0].min() == 1
    assert pixels.min() < 0.5
    assert paths[0].read_bytes() == paths[1].read_bytes()
