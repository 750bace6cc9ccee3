# SPDX-License-Identifier: Apache-2.0
"""``appliance embed --ray``, on a Ray of this machine, with a model that loads at once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from appliance.bulk import ray_command, ray_places
from appliance.bulk.command import embed_file
from appliance.bulk.faults import CommandFault
from appliance.bulk.ray_cluster import check_secrets, connect
from appliance.bulk.ray_command import embed_with_ray
from appliance.bulk.ray_input import InputFile, Shard, Span, cut_shards, find_files, shard_size
from appliance.bulk.ray_places import Place, find_place
from appliance.bulk.ray_pool import Pool, plan_pool
from appliance.bulk.ray_worker import EmbedShards, Outcome, Work
from appliance.cli import main
from appliance.settings import Settings
from tests.bulk.helpers import command, environment, parse
from tests.parity.families import FAMILIES
from tests.parity.tiny import build

pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context")

_RAY = """
import sys
from tests.ray_clusters import start_cluster

cluster, _ = start_cluster("gold")
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


class Cluster(NamedTuple):
    address: str
    process: psutil.Process


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """In a process of its own, so that what Ray leaves to the system at its end is not ours."""
    own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    with subprocess.Popen(
        [sys.executable, "-c", _RAY],
        env={**environment(), **own},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address
            yield Cluster(address, psutil.Process(process.pid))
        finally:
            process.stdin.close()
            process.wait(60)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("tiny"), FAMILIES["bert"])


def write_rows(path: Path, rows: range, missing: Sequence[int] = ()) -> Path:
    """A file of several row groups, some texts too long for the model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [None if n in missing else f"row {n} " + "word " * (n % 90) for n in rows]
    tags = [[str(n)] * (n % 3) for n in rows]
    table = pa.table({"id": pa.array(rows, pa.int32()), "text": texts, "tags": tags})
    pq.write_table(table, path, row_group_size=100)
    return path


def embed(*flags: object, settings: Settings | None = None) -> int:
    arguments = parse(*flags)
    run = embed_file if arguments.ray is None else embed_with_ray
    return run(settings or Settings(), arguments)


def embed_plainly(files: Sequence[Path], *flags: object) -> pa.Table:
    """The files one after the other by the command without Ray."""
    outs = [file.with_suffix(".plain.parquet") for file in files]
    for file, out in zip(files, outs, strict=True):
        assert embed(file, "--out", out, *flags) == 0
    tables = [pq.read_table(out) for out in outs]
    for out in outs:
        out.unlink()
    return pa.concat_tables(tables)


def read_parts(out: Path) -> pa.Table:
    parts = sorted(out.glob("part-*.parquet"))
    assert [part.name for part in parts] == [f"part-{n:06d}.parquet" for n in range(len(parts))]
    return pa.concat_tables([pq.read_table(part) for part in parts])


def assert_same(found: pa.Table, wanted: pa.Table) -> None:
    assert found.schema.equals(wanted.schema, check_metadata=True)
    assert found.drop(["embedding"]).equals(wanted.drop(["embedding"]))
    pairs = zip(found["embedding"].to_pylist(), wanted["embedding"].to_pylist(), strict=True)
    for vector, other in pairs:
        assert vector == (other and pytest.approx(other, abs=1e-6))


class ActorKiller(threading.Thread):
    """Kills an actor of a cluster once there is a first part."""

    def __init__(self, cluster: Cluster, out: Path) -> None:
        super().__init__(daemon=True)
        self._cluster = cluster
        self._parts = out.with_name(f"{out.name}.ray-partial") / "parts"
        self.killed: list[int] = []
        self.start()

    def run(self) -> None:
        while not list(self._parts.glob("part-*.parquet")):
            time.sleep(0.01)
        for process in self._cluster.process.children(recursive=True):
            with suppress(psutil.Error):  # it has just ended
                if "MapWorker" in " ".join(process.cmdline()):
                    process.kill()
                    self.killed.append(process.pid)
                    return


@pytest.mark.slow
def test_it_equals_the_plain_command_though_an_actor_dies(
    cluster: Cluster, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out.parquet"
    files = [
        write_rows(folder / "a.parquet", range(900), missing=(5, 600)),
        write_rows(folder / "b.parquet", range(900, 907)),
        write_rows(folder / "more" / "c.parquet", range(907, 1600), missing=(1000,)),
    ]
    pq.write_table(pa.table({"id": pa.nulls(0)}), folder / "without-rows.parquet")
    (folder / "_SUCCESS").touch()
    flags = ("--model", tiny, "--on-error", "null", "--dimensions", 16, "--prompt", "say: ")
    wanted = embed_plainly(files, *flags)
    killer = ActorKiller(cluster, out)
    assert embed(folder, "--ray", cluster.address, "--ray-actors", 2, "--out", out, *flags) == 0
    assert killer.killed
    assert_same(read_parts(out), wanted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.parquet"]
    told = capsys.readouterr()
    assert told.out == ""
    assert f"appliance: {out}: 1,600 rows, 16 values a vector, 7 files; " in told.err
    assert "rows without a vector: 3" in told.err
    assert "cut to the length that the model reads: 1," in told.err
    first = pq.ParquetFile(out / "part-000000.parquet").metadata.row_group(0)
    assert {first.column(n).compression for n in range(first.num_columns)} == {"ZSTD"}
    assert embed(folder, "--ray", cluster.address, "--out", out, *flags) == 2
    assert "is there already; --overwrite replaces it" in capsys.readouterr().err


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The actor's work is done in this process, shard by shard."""

    def embed_shards(todo: Sequence[Shard], work: Work, pool: Pool) -> Iterator[Outcome]:
        actor = EmbedShards(work)
        for shard in todo:
            table = actor(pa.table({"shard": [msgspec.msgpack.encode(shard)]}))
            yield msgspec.msgpack.decode(table["outcome"][0].as_py(), type=Outcome)

    pool = Pool(1, 1, None, {})
    monkeypatch.setattr(ray_command, "connect", lambda address: nullcontext())
    monkeypatch.setattr(ray_command, "plan_pool", lambda settings, arguments: pool)
    monkeypatch.setattr(ray_command, "embed_shards", embed_shards)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is in the folder has URIs, too: ``bucket://NAME``."""
    folder = tmp_path / "bucket"
    folder.mkdir()
    system = fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem())

    def find(given: str) -> Place:
        return Place(given, system, given.removeprefix("bucket://"))

    monkeypatch.setattr(ray_places, "_find_by_fsspec", find)
    find_place.cache_clear()
    return folder


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize("by_uri", [False, True])
def test_a_bad_row_stops_it_and_the_same_command_goes_on(
    by_uri: bool, bucket: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(bucket / "in" / "a.parquet", range(1000), missing=(999,))
    out = bucket / "out.parquet"
    work = out if by_uri else out.with_name("out.parquet.ray-partial")
    parts = work if by_uri else work / "parts"
    start = "bucket://" if by_uri else f"{bucket}/"
    flags = (f"{start}in/*.parquet", "--ray", "--model", tiny, "--out", f"{start}out.parquet")
    told_work = f"bucket://{work.name}" if by_uri else work
    assert embed(*flags) == 1
    told = capsys.readouterr().err
    assert f"row 1000 of {'in/a.parquet' if by_uri else file}: the text is null; with" in told
    assert f"768 rows are kept in {told_work}, and the same command goes on from there" in told
    assert not (out / "_SUCCESS").exists()
    kept = {part.name: part.stat().st_mtime_ns for part in parts.glob("part-*.parquet")}
    assert sorted(kept) == [f"part-{n:06d}.parquet" for n in range(3)]
    assert embed(*flags, "--dimensions", 8) == 2
    assert "dimensions: None then, 8 now" in capsys.readouterr().err
    (parts / "part-000001.parquet").unlink()
    del kept["part-000001.parquet"]
    assert embed(*flags, "--on-error", "null") == 0
    told = capsys.readouterr().err
    assert f"{start}out.parquet: 1,000 rows, 32 values a vector, 4 files; " in told
    assert (out / "_SUCCESS").exists() == by_uri
    assert not (out / "_manifest.json").exists()
    assert not parts.exists() or by_uri
    assert all((out / name).stat().st_mtime_ns == before for name, before in kept.items())
    assert_same(read_parts(out), embed_plainly([file], "--model", tiny, "--on-error", "null"))
    assert embed(*flags) == 2
    assert "is there already; --overwrite replaces it" in capsys.readouterr().err
    write_rows(file, range(2))
    assert embed(*flags, "--overwrite") == 0
    assert read_parts(out)["id"].to_pylist() == [0, 1]


@pytest.mark.usefixtures("without_ray")
def test_the_input_must_not_change_between_runs(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(tmp_path / "in.parquet", range(300), missing=(299,))
    flags = (file, "--ray", "--model", tiny, "--out", tmp_path / "out.parquet")
    assert embed(*flags) == 1
    write_rows(file, range(300))
    assert embed(*flags) == 2
    assert "are not those of the run" in capsys.readouterr().err
    assert embed(*flags, "--restart") == 0
    assert_same(read_parts(tmp_path / "out.parquet"), embed_plainly([file], "--model", tiny))


@pytest.mark.slow
def test_the_command_itself_on_a_cluster_by_its_address(cluster: Cluster, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "in.parquet", range(3))
    out = tmp_path / "out.parquet"
    flags = (file, "--ray", "--out", out, "--model", "./nosuch")
    done = subprocess.run(
        command(*flags),
        env={**environment(), "RAY_ADDRESS": cluster.address, "APPLIANCE_HF_TOKEN": "hf_secret"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "appliance: The model 'nosuch' cannot be served: there is no folder ./nosuch\n"
    )
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.slow
def test_pools(cluster: Cluster) -> None:
    def planned(*flags: object, **settings: Any) -> tuple[int, int, int | None, dict[str, Any]]:
        pool = plan_pool(Settings(**settings), parse("in", "--out", "a.parquet", "--ray", *flags))
        return pool.least, pool.most, pool.cores, pool.options

    with connect(cluster.address):
        assert planned() == (1, 1, 4, {"num_cpus": 4})
        assert planned("--ray-actors", "3") == (3, 3, 1, {"num_cpus": 1})
        assert planned("--ray-actors", "1:2") == (1, 2, 2, {"num_cpus": 2})
        gold = {"num_cpus": 4, "resources": {"gold": 0.001}}
        assert planned(queue="gold") == (1, 1, 4, gold)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-", "--out", "out.parquet"], "not standard input"),
        (["in.csv", "--out", "out.parquet"], "reads Parquet only"),
        (["in", "--out", "out.parquet", "--format", "jsonl"], "reads Parquet only"),
        (["in", "--out", "out.npy"], "writes Parquet only"),
        (["in", "--out", "in/out.parquet"], "is the input, in it or around it"),
        (["gone.parquet", "--out", "out.parquet"], "there is no file"),
        (["empty", "--out", "out.parquet"], "there is no Parquet file in"),
        (["in/b*.parquet", "--out", "out.parquet"], "there is no file"),
        (["nosuch://a/b", "--out", "out.parquet"], "cannot be read"),
        (["s3://key:secret@a/b", "--out", "out.parquet"], "by the environment instead"),
        (["in", "--out", "gone/out.parquet"], "there is no folder"),
        (["in", "--out", "out.parquet", "--column", "body"], "there are: id, text, tags"),
        (["in", "--out", "out.parquet", "--embedding-column", "id"], "choose another name"),
        (["mixed", "--out", "out.parquet"], "b.parquet has other columns than"),
        (["text.parquet", "--out", "out.parquet"], "is no Parquet file"),
        (["in", "--out", "foreign.parquet", "--overwrite"], "nothing that this command has"),
        (["in", "--out", "out.parquet", "--ray", "ray://host:1"], "the address for clients"),
    ],
)
def test_what_cannot_be_is_told_in_one_line_before_any_work(
    flags: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "in" / "a.parquet", range(3))
    write_rows(tmp_path / "mixed" / "a.parquet", range(3))
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "mixed" / "b.parquet")
    (tmp_path / "text.parquet").write_text("a\n")
    (tmp_path / "empty").mkdir()
    write_rows(tmp_path / "foreign.parquet" / "mine.parquet", range(3))
    before = sorted(tmp_path.rglob("*"))
    assert main(["embed", *flags, *([] if "--ray" in flags else ["--ray"])]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
    assert "secret" not in told.replace("the secret of the URI", "")
    assert sorted(tmp_path.rglob("*")) == before


def test_actors_without_ray_and_bad_numbers_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", "in.txt", "--out", "out.npy", "--ray-actors", "2"]) == 2
    assert "--ray-actors goes with --ray" in capsys.readouterr().err
    for actors in ("0", "3:2", "2:", "a"):
        with pytest.raises(SystemExit):
            parse("in", "--out", "out.parquet", "--ray-actors", actors)
        assert "2:8" in capsys.readouterr().err


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    file = write_rows(tmp_path / "in.parquet", range(3))
    assert embed(file, "--ray", "--out", tmp_path / "out.parquet") == 2
    assert "pip install 'embeddings-appliance[ray]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


def test_a_secret_in_the_command_line_is_refused() -> None:
    settings = Settings(hf_token="hf_abc", api_keys=("key1",))
    check_secrets(settings, ["appliance", "embed"])
    with pytest.raises(CommandFault, match="give hf_token by the environment") as stop:
        check_secrets(settings, ["appliance", "--hf-token=hf_abc"])
    assert "hf_abc" not in str(stop.value)
    with pytest.raises(CommandFault, match="give api_keys by the environment"):
        check_secrets(settings, ["appliance", "--api-keys", '["key1"]'])


def test_rows_are_shared_out_in_order(tmp_path: Path) -> None:
    files = [InputFile(name, rows, 0, 0) for name, rows in (("a", 5), ("b", 0), ("c", 4))]
    shards = list(cut_shards(files, 3))
    assert [shard.number for shard in shards] == [0, 1, 2]
    assert [shard.spans for shard in shards] == [
        (Span("a", 0, 3),),
        (Span("a", 3, 5), Span("c", 0, 1)),
        (Span("c", 1, 4),),
    ]
    assert [shard.spans for shard in cut_shards(files[1:2], 3)] == [()]
    assert shard_size(0, 1) == 256
    assert shard_size(100_000, 4) == 3328
    assert shard_size(10**9, 1) == 8192
    write_rows(tmp_path / "x=2" / "a.parquet", range(3))
    write_rows(tmp_path / "x=1" / "b.parquet", range(3))
    arguments = parse(f"{tmp_path}/x=?/*.parquet", "--out", "out.parquet", "--ray")
    assert [os.path.relpath(file.path, tmp_path) for file in find_files(arguments).files] == [
        "x=1/b.parquet",
        "x=2/a.parquet",
    ]
