"""Hugging Face's hub, by its own client: an extra, and asked for each time."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form OWNER/NAME."""
    return _ID.fullmatch(name) is not None


def downloaded(name: str, revision: str | None, files: Sequence[str]) -> Path:
    """The folder of the client's cache with these files of a repository of the hub.

    Raises:
        ImportError: where huggingface_hub is not installed.
        OSError: where it cannot be reached, or has no such repository.
    """
    return Path(_client().snapshot_download(name, revision=revision, allow_patterns=list(files)))


def uploaded(folder: Path, name: str, files: Sequence[str], private: bool) -> str:
    """The address of these files of a folder in a repository of the hub; errors as in
    `downloaded`."""
    api = _client().HfApi()
    api.create_repo(name, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=list(files)))


def _client() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ImportError(
            "the hub needs huggingface_hub, which is not installed: pip install 'hierdiff[hub]'"
        ) from error
