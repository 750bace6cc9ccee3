# SPDX-License-Identifier: Apache-2.0
"""Models of a ClearML server, by ClearML's own SDK.

The SDK runs in a process of its own, which ends with the download: it prints, sets up logging for
the whole process, and waits for hours where a server does not answer. That process, this module's
:func:`main`, says on its standard output what came of it, as one JSON object.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from appliance.errors import ModelUnavailable

__all__ = ["fetch"]

ANSWER_SECONDS = 30
"""Longest that the server may take to say where a model's files are."""

_RETRIES = 2
_DOWNLOAD_TRIES = "sdk.http.download.max_retries"
_NO_SUCH_OBJECT = 400
_ARCHIVES = (".zip", ".tgz", ".tar.gz")
_MARKS = ("modules.json", "config.json")
_CREDENTIALS = (
    "set CLEARML_API_HOST, CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY, or have them in"
    " ~/clearml.conf"
)


def fetch(identifier: str) -> Path:
    """Have a ClearML model's files in ClearML's cache, downloading those that are not there.

    Args:
        identifier: The model's id.

    Returns:
        The folder with the model's files.

    Raises:
        ModelUnavailable: With the reason and what to do.
    """
    if importlib.util.find_spec("clearml") is None:
        raise ModelUnavailable(
            "ClearML's SDK is not installed; run: pip install 'embeddings-appliance[clearml]'"
        )
    command = [sys.executable, "-P", "-m", __name__, identifier]
    # Its input is closed when this process ends, however it ends; that ends the download.
    with subprocess.Popen(  # noqa: S603  # this interpreter, and an id that was checked
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read()
    try:
        answer: dict[str, str] = json.loads(said)
    except ValueError:
        raise ModelUnavailable(f"ClearML's SDK ended with {process.returncode}") from None
    if "fault" in answer:
        raise ModelUnavailable(answer["fault"])
    return _model_folder(Path(answer["path"]))


def _model_folder(path: Path) -> Path:
    """Where in what was downloaded the model is: at the top, or in the one folder there."""
    if path.is_file():
        what = "an archive that cannot be read" if path.name.endswith(_ARCHIVES) else "one file"
        raise ModelUnavailable(
            f"ClearML has {what} for it, {path.name}; what is needed is the model's folder, as"
            " OutputModel.update_weights_package(weights_path=...) uploads it"
        )
    inside = [each for each in path.iterdir() if each.name != "__MACOSX"]
    candidates = [path, *(inside if len(inside) == 1 and inside[0].is_dir() else [])]
    for folder in candidates:
        if any((folder / name).is_file() for name in _MARKS):
            return folder
    found = ", ".join(sorted(each.name for each in inside)[:5]) or "nothing"
    raise ModelUnavailable(
        f"what ClearML has for it is no model's folder: it has no config.json, but {found}"
    )


class _NotToBeHad(Exception):
    """The model's files, for the reason that is told."""


class _TooLate(BaseException):
    """Not an ``Exception``, so that the SDK does not take it for a fault to try again after."""


class _LastFault(logging.Handler):
    """Keeps what the SDK logs in place of raising it."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record in place of the one before it."""
        self.text = record.getMessage().strip()


def main(identifier: str) -> dict[str, str]:
    """Download a model by the SDK, in a process that does nothing else.

    Returns:
        ``path``, or ``fault`` in words for the operator.
    """
    secrets = {os.environ.get("CLEARML_API_ACCESS_KEY"), os.environ.get("CLEARML_API_SECRET_KEY")}
    try:
        return {"path": _download(identifier)}
    except _NotToBeHad as fault:
        told = str(fault)
    except Exception as error:  # the SDK's faults have no common class
        told = f"ClearML's SDK failed: {type(error).__name__}: {error}"
    for secret in filter(None, secrets):
        told = told.replace(secret, "***")
    return {"fault": told}


def _download(identifier: str) -> str:
    from clearml import StorageManager
    from clearml.backend_api.session.defs import ENV_OFFLINE_MODE
    from clearml.config import config_obj

    if ENV_OFFLINE_MODE.get():
        raise _NotToBeHad("CLEARML_OFFLINE_MODE is set, so that no ClearML server can be asked")
    if config_obj.get(_DOWNLOAD_TRIES, None) is None:  # the SDK's own 15 take a quarter of an hour
        config_obj.set_overrides({_DOWNLOAD_TRIES: _RETRIES})
    last = _LastFault(logging.WARNING)
    logging.getLogger("clearml").addHandler(last)
    with _answer_in_time(last):
        uri = _ask_for_uri(identifier)
    path = StorageManager.get_local_copy(uri)
    if path and Path(path).is_file() and path.endswith(_ARCHIVES):
        # It could not be unpacked, and would be taken from the cache for ever.
        path = StorageManager.get_local_copy(uri, force_download=True)
    if not path:
        place = urlsplit(uri)
        where = f"{place.scheme}://{place.netloc.rpartition('@')[2]}{place.path}"
        reason = last.text.partition("err:")[2].strip() or last.text or "there is no such file"
        raise _NotToBeHad(f"its files cannot be had from {where}: {reason}")
    return str(path)


def _ask_for_uri(identifier: str) -> str:
    """Ask the server where a model's files are."""
    from clearml.backend_api.session.client import APIClient, StrictSession
    from clearml.backend_api.session.client.client import APIError
    from clearml.backend_api.session.defs import MissingConfigError
    from clearml.backend_api.session.session import LoginError
    from requests.exceptions import RequestException

    host = StrictSession.get_api_server_host()
    tries = dict.fromkeys(("total", "connect", "read", "redirect", "status"), _RETRIES)
    try:
        session = StrictSession(http_retries_config={**tries, "backoff_factor": 0.5})
        found = APIClient(session=session).models.get_by_id(model=identifier)
    except MissingConfigError:
        raise _NotToBeHad(f"there are no credentials for ClearML; {_CREDENTIALS}") from None
    except LoginError as error:
        # The SDK tells connections that fail from keys that are wrong by its words alone.
        if isinstance(error.__context__, RequestException):
            raise _NotToBeHad(_unreachable(host, error.__context__)) from error
        raise _NotToBeHad(f"{error}; {_CREDENTIALS}") from error
    except RequestException as error:
        raise _NotToBeHad(_unreachable(host, error)) from error
    except APIError as error:
        if error.code == _NO_SUCH_OBJECT:
            raise _NotToBeHad(
                f"ClearML at {host} has no model of that id, or none that these credentials may see"
            ) from error
        raise _NotToBeHad(f"ClearML at {host} answered {error.code}: {error.message}") from error
    if not found.uri:
        raise _NotToBeHad("ClearML knows the model, but was given no files for it")
    return str(found.uri)


def _unreachable(host: str, error: Exception) -> str:
    return f"ClearML at {host} could not be reached: {type(error).__name__}"


@contextmanager
def _answer_in_time(last: _LastFault) -> Iterator[None]:
    def give_up(*_: Any) -> NoReturn:
        raise _TooLate

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(ANSWER_SECONDS)
    try:
        yield
    except _TooLate:
        reason = f": {last.text}" if last.text else ""
        raise _NotToBeHad(
            f"the ClearML server gave no answer within {ANSWER_SECONDS} seconds{reason}"
        ) from None
    finally:
        signal.alarm(0)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answers = os.dup(1)
    os.dup2(2, 1)  # what the SDK prints is none of the answer
    with os.fdopen(answers, "w") as told:
        json.dump(main(sys.argv[1]), told)
    # Threads of the SDK are waited for otherwise.
    os._exit(0)
