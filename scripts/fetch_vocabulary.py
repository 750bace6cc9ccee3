# SPDX-License-Identifier: Apache-2.0
"""Put OpenAI's cl100k_base vocabulary into a folder, from the package index.

Clients such as LangChain send token ids of this vocabulary. The server would download the file
from OpenAI at first need; taking it from a package that carries it lets an installation do with
the package index alone. A failure here is no fault: the server falls back to the download.

    python scripts/fetch_vocabulary.py FOLDER
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from appliance.engine.vocabulary import CL100K_FILE

PIP_FLAGS = ("--quiet", "--no-deps", "--disable-pip-version-check")
CARRIER = "llama-index-core"  # its version: constraints.txt
CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
MEMBER = f"llama_index/core/_static/tiktoken_cache/{CL100K_FILE}"
SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"


def fetch(folder: Path) -> None:
    """Write the file, unless it is there."""
    target = folder / CL100K_FILE
    if target.is_file():
        return
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--dest", temporary]
        command += ["--constraint", str(CONSTRAINTS), *PIP_FLAGS, CARRIER]
        subprocess.run(command, check=True)
        wheel = next(Path(temporary).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(MEMBER)
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise ValueError(f"{MEMBER} is not the vocabulary that was expected")
    folder.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def main() -> int:
    """Run the script."""
    try:
        fetch(Path(sys.argv[1]))
    except (OSError, ValueError, KeyError, StopIteration, subprocess.CalledProcessError) as error:
        print(f"cl100k_base could not be fetched ({error}); the server will try", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
