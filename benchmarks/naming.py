"""A run folder is named after the options that change the run."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from itertools import chain

from omegaconf import OmegaConf

# Overrides left out of the folder name: they do not change the run.
LEFT_OUT = ("method", "data", "budget", "analysis", "folder", "name", "label", "dry_run")
LONGEST = 180  # bytes; file systems allow 255


def folder_name(name: str, overrides: Sequence[str]) -> str:
    """A run's name with the options that were set by hand: `mdm-critters-smoke+trainer.steps-20`.

    Letters and digits of all scripts stay, and it needs no quotes in a shell or in our commands. If
    other signs are left out, or it would be longer than 180 bytes, it ends
    in a hash of all options, so that other options have another name.
    """
    name, *given = (unicodedata.normalize("NFC", text) for text in (name, *overrides))
    words = sorted(word.lstrip("+~") for word in given)
    words = [
        one for one in words if not one.startswith((*(f"{k}=" for k in LEFT_OUT), "analysis."))
    ]
    pairs = [one.partition("=")[::2] for one in words]
    options = ("-".join(map(unquoted, filter(None, pair))) for pair in pairs)
    full_name = "+".join(["/".join(map(unquoted, name.split("/"))), *options])
    changed = any(unquoted(part) != part for part in (*name.split("/"), *chain(*pairs)))
    if not changed and len(full_name.encode()) <= LONGEST:
        return full_name
    digest = hashlib.sha256("\0".join([name, *words]).encode()).hexdigest()[:8]
    return f"{shortened(full_name, LONGEST).rstrip('+-.')}+{digest}"


def unquoted(part: str) -> str:
    """In Unicode form NFC, and with dashes for what a shell needs quotes for."""
    part = unicodedata.normalize("NFC", part)
    plain = "".join(one if _is_plain(one) else "\0" for one in part)
    return re.sub("\0+", "-", plain).strip("-") if "\0" in plain else part


def shortened(name: str, longest: int) -> str:
    """The beginning of a name, of at most so many bytes in UTF-8."""
    return name.encode()[:longest].decode(errors="ignore")


def _is_plain(sign: str) -> bool:
    """Letters, the marks on them, digits, and what names of files are joined by."""
    return sign in "._-" or unicodedata.category(sign)[0] in "LMN"


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
