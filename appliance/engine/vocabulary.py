# SPDX-License-Identifier: Apache-2.0
"""OpenAI's own token vocabulary, for clients that send ids instead of text.

LangChain's ``OpenAIEmbeddings`` tokenises with ``cl100k_base`` whatever the model is. Such ids
mean nothing to another model; decoded to text again, they mean just what the caller wrote.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import tiktoken

from appliance.errors import InvalidRequest

__all__ = ["CL100K_FILE", "TokenVocabulary", "vocabulary_folders"]

CL100K_URL = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
# tiktoken names a cached file by the SHA-1 of the address it came from.
CL100K_FILE = hashlib.sha1(CL100K_URL.encode(), usedforsecurity=False).hexdigest()
_CARRIERS = {
    "llama_index": "core/_static/tiktoken_cache",
    "litellm": "litellm_core_utils/tokenizers",
}


class TokenVocabulary:
    """``cl100k_base``, read at first need.

    Args:
        folder: Where the vocabulary file is, or goes if it has to be downloaded. Unset: the
            first place that has it, else tiktoken's own cache.
        download_seconds: Longest wait for a download.
    """

    def __init__(self, folder: Path | None = None, download_seconds: float = 20.0) -> None:
        self._folder = folder
        self._download_seconds = download_seconds
        self._encoding: tiktoken.Encoding | None = None
        self._reason = ""
        self._lock = threading.Lock()
        self._reader: threading.Thread | None = None
        self._deadline = 0.0

    def decode(self, ids: Sequence[int], param: str) -> str:
        """Turn ids into the text they stand for. Blocks while the vocabulary is being read.

        Args:
            ids: Token ids of ``cl100k_base``.
            param: Path of the ids in the request, for the error.

        Raises:
            InvalidRequest: An id is not in the vocabulary, or the vocabulary is not at hand.
        """
        encoding = self._encoding or self._read(param)
        try:
            return encoding.decode(ids)
        except (KeyError, OverflowError):
            raise InvalidRequest(
                f"{param} holds a token id that cl100k_base does not have: its ids end at"
                f" {encoding.max_token_value}, with gaps. Send text, or set token_encoding to"
                " 'native' for ids of the model's own vocabulary.",
                param=param,
            ) from None

    def _read(self, param: str) -> tiktoken.Encoding:
        # In a thread of its own: tiktoken downloads without a time limit.
        with self._lock:
            if self._encoding is None and self._reader is None:
                self._reader = threading.Thread(target=self._load, daemon=True)
                self._deadline = time.monotonic() + self._download_seconds
                self._reader.start()
            reader = self._reader
        if reader is not None:
            # One wait for all: who comes while a download hangs is not held up once more.
            reader.join(max(self._deadline - time.monotonic(), 0))
        if self._encoding is not None:
            return self._encoding
        raise InvalidRequest(
            f"{param} is a list of token ids, which needs the vocabulary file of cl100k_base, and"
            f" that could not be had ({self._reason or 'its download takes too long'}). Send text"
            " instead; or set APPLIANCE_TOKEN_VOCABULARY_DIR to a folder with the file"
            f" {CL100K_FILE}; or set token_ids to 'native' for this model.",
            param=param,
        )

    def _load(self) -> None:
        folder = self._folder or next(vocabulary_folders(), None)
        if folder is not None:
            os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
        try:
            self._encoding = tiktoken.get_encoding("cl100k_base")
        except Exception as error:  # whatever the network and the disk can come up with
            self._reason = f"{type(error).__name__} while reading it"
        finally:
            with self._lock:
                self._reader = None


def vocabulary_folders() -> Iterator[Path]:
    """Folders at hand that hold the vocabulary file, the one to prefer first."""
    places = [
        Path(os.environ[name])
        for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")
        if os.environ.get(name)
    ]
    places.append(Path(sys.prefix, "share", "appliance", "tiktoken"))
    for package, folder in _CARRIERS.items():
        spec = importlib.util.find_spec(package)
        locations = spec.submodule_search_locations if spec else None
        places += [Path(location, folder) for location in locations or ()]
    return (place for place in places if (place / CL100K_FILE).is_file())
