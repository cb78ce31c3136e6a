"""A run folder is named after the options that change the run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import chain

from omegaconf import OmegaConf

# Overrides left out of the folder name: they do not change the run.
LEFT_OUT = ("method", "data", "budget", "analysis", "folder", "name", "label", "dry_run")
SIGNS = re.compile(r"[^A-Za-z0-9._-]+")  # they need quotes in a shell, a URL or hydra's grammar
LONGEST = 180  # bytes; file systems allow 255


def folder_name(name: str, overrides: Sequence[str]) -> str:
    """A run's name with the options that were set by hand: `mdm-critters-smoke+trainer.steps-20`.

    It needs no quotes anywhere. If signs are left out, or it would be longer than 180 bytes, it
    ends in a hash of all options, so that other options have another name.
    """
    words = sorted(override.lstrip("+~") for override in overrides)
    words = [
        one for one in words if not one.startswith((*(f"{k}=" for k in LEFT_OUT), "analysis."))
    ]
    pairs = [one.partition("=")[::2] for one in words]
    options = ("-".join(map(_unquoted, filter(None, pair))) for pair in pairs)
    full_name = "+".join(["/".join(map(_unquoted, name.split("/"))), *options])
    changed = any(SIGNS.search(part) for part in (*name.split("/"), *chain(*pairs)))
    if not changed and len(full_name) <= LONGEST:
        return full_name
    digest = hashlib.sha256("\0".join([name, *words]).encode()).hexdigest()[:8]
    return f"{full_name[:LONGEST].rstrip('+-.')}+{digest}"


def _unquoted(part: str) -> str:
    return SIGNS.sub("-", part).strip("-") if SIGNS.search(part) else part


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
