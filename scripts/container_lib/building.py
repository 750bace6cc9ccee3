# SPDX-License-Identifier: Apache-2.0
"""Stages of a Dockerfile, carried out in folders by chroot. Takes root, and mounts of its own."""

from __future__ import annotations

import copy
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from container_lib.context import copy_in
from container_lib.dockerfile import Image, Instruction, Stage, expand, split_flags

__all__ = ["Builder", "Built", "bare_system", "command_in", "size"]

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What Debian's image "slim" is without, beside the lists and archives of apt.
_NOT_SLIM = ("doc", "groff", "info", "linda", "lintian", "locale", "man")


@dataclass(frozen=True)
class Built:
    """A stage that is done.

    Attributes:
        root: Its files.
        image: Its configuration.
    """

    root: Path
    image: Image


@dataclass
class Builder:
    """Carries stages out.

    Args:
        context: The build context.
        work: Folder for the stages' files.
        given: Build arguments.
        mounts: Folders or files of this machine that ``RUN`` sees, by their paths there.
        environment: Further variables for ``RUN``, which the image does not keep.
    """

    context: Path
    work: Path
    given: Mapping[str, str]
    mounts: Mapping[str, Path]
    environment: Mapping[str, str]
    _done: dict[str, Built] = field(default_factory=dict)

    def build(self, stage: Stage) -> Built:
        """Carry one stage out, after those that it needs."""
        if stage.base in self._done:
            base = self._done[stage.base]
            image = copy.deepcopy(base.image)
            source = base.root
        else:
            image, source = Image(environment={"PATH": _PATH}), bare_system(self.work, stage.base)
        root = self.work / f"stage-{stage.name}"
        if root.exists():
            shutil.rmtree(root)
        subprocess.run(["cp", "--archive", source, root], check=True)
        for step in stage.steps:
            self._carry_out(step, root, image)
        self._done[stage.name] = Built(root, image)
        return self._done[stage.name]

    def _carry_out(self, step: Instruction, root: Path, image: Image) -> None:
        began = time.monotonic()
        if step.name == "RUN":
            self._run(step, root, image)
        elif step.name == "COPY":
            self._copy(step, root, image)
        else:
            image.take(step, self.given)
            if step.name == "WORKDIR":
                (root / image.folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
        seconds = time.monotonic() - began
        print(f"{seconds:7.1f} s  line {step.line:3}  {step.name} {step.value[:70]}", flush=True)

    def _run(self, step: Instruction, root: Path, image: Image) -> None:
        _, text = split_flags(step.value)
        variables = {"HOME": "/root", **image.variables, **self.environment}
        mounts = {"/etc/resolv.conf": Path("/etc/resolv.conf"), **self.mounts}
        command = ["env", "-i", *(f"{name}={value}" for name, value in variables.items())]
        command += ["sh", "-c", f"cd {image.folder} && {text}"]
        done = subprocess.run(
            command_in(root, command, mounts), check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"line {step.line}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")

    def _copy(self, step: Instruction, root: Path, image: Image) -> None:
        flags, text = split_flags(step.value)
        *sources, last = expand(text, image.variables).split()
        target = root / str(Path(image.folder, last)).lstrip("/")
        if "from" in flags:
            [source] = sources
            target.parent.mkdir(parents=True, exist_ok=True)
            origin = self._done[flags["from"]].root / source.lstrip("/")
            subprocess.run(["cp", "--archive", "--no-target-directory", origin, target], check=True)
            return
        for source in sources:
            copy_in(self.context, source, target, into=last.endswith("/"))


def bare_system(work: Path, image: str) -> Path:
    """Debian's base system, as its image ``slim`` has it, from the Debian mirror.

    Args:
        work: Folder to make it in, and to keep it in for the next time.
        image: Name of the image, ``debian:SUITE-slim``.

    Raises:
        ValueError: It is another image.
    """
    suite = image.removeprefix("debian:").removesuffix("-slim")
    if image != f"debian:{suite}-slim":
        raise ValueError(f"only debian:SUITE-slim can be had without an engine, not {image}")
    root = work / f"base-{suite}"
    if not root.exists():
        making = work / f"making-{suite}"
        command = ["debootstrap", "--variant=minbase", suite, str(making)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        _slim(making)
        making.rename(root)
    return root


def _slim(root: Path) -> None:
    for name in _NOT_SLIM:
        shutil.rmtree(root / "usr/share" / name, ignore_errors=True)
    for folder in ("var/cache/apt", "var/lib/apt/lists", "var/log"):
        shutil.rmtree(root / folder)
        (root / folder).mkdir()
    excluded = "".join(f"path-exclude /usr/share/{name}/*\n" for name in _NOT_SLIM)
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(excluded, encoding="utf-8")
    # As the image has it: no archive is kept once it is unpacked.
    clean = 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin"; };\n'
    (root / "etc/apt/apt.conf.d/clean").write_text(clean, encoding="utf-8")


def command_in(
    root: Path,
    command: Sequence[str],
    mounts: Mapping[str, Path],
    *,
    read_only: bool = False,
    volumes: Mapping[str, Path] | None = None,
) -> list[str]:
    """A command that runs another one in a folder as its root, with mounts that nobody else sees.

    Args:
        root: The folder.
        command: What to run there.
        mounts: Files and folders that it sees, which it cannot write, by their paths there.
        read_only: It cannot write to the root either, and has a ``/tmp`` in memory.
        volumes: Folders that it can write, by their paths there.
    """
    at = shlex.quote(str(root))
    lines = [f"mount --bind {at} {at}", f"mount -t proc proc {at}/proc"]
    lines += [f"mount --rbind /dev {at}/dev"]
    if read_only:
        lines.append(f"mount -t tmpfs tmpfs {at}/tmp")  # noqa: S108  # the container's own
    for path, source in mounts.items():
        lines += _placed(root, path, source)
        lines.append(f"mount --bind {shlex.quote(str(source))} {at}{path}")
        lines.append(f"mount -o remount,bind,ro {at}{path}")
    for path, source in (volumes or {}).items():
        lines.append(f"mount --bind {shlex.quote(str(source))} {at}{path}")
    if read_only:
        lines.append(f"mount -o remount,bind,ro {at}")
    lines.append(f"exec chroot {at} {shlex.join(command)}")
    isolated = ["unshare", "--mount", "--propagation", "private", "sh", "-e", "-c"]
    return [*isolated, "\n".join(lines)]


def _placed(root: Path, path: str, source: Path) -> Iterable[str]:
    at = shlex.quote(f"{root}{path}")
    if source.is_dir():
        yield f"mkdir -p {at}"
    else:
        yield f"mkdir -p {shlex.quote(os.path.dirname(f'{root}{path}'))}"  # noqa: PTH120
        yield f"touch {at}"


def size(root: Path, *below: str) -> int:
    """Bytes that a folder takes on disk."""
    folder = str(root.joinpath(*below))
    command = ["du", "--summarize", "--block-size=1", "--one-file-system", folder]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(told.split()[0])
