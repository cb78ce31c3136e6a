"""Every option of a run, set to what it hardly can be: prepared, or refused in one sentence."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from benchmarks.settings import settings_of
from hierdiff.command import plain_config
from hierdiff.prepared import prepare
from tests.test_configs import CONFIGS

ODD = [None, "x", 1.5, -1, 0, [], {}, True, math.nan, [None], ["x"]]
USUAL = (
    "label=x",
    "budget_name=smoke",
    "recipe_name=null",
    "name=x",
    "folder=x",
    "budget=smoke",
    "data.resolution=16",
)


def options(method: str, cache: Path) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        words = [*USUAL, f"method={method}", f"data.cache={cache}"]
        return plain_config(compose("benchmark", overrides=words))


def places(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Of every value in nested mappings, and of these themselves."""
    if path:
        yield path
    if isinstance(node, dict):
        for key, value in node.items():
            yield from places(value, (*path, key))


def changed(node: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    whole = part = copy.deepcopy(node)
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return whole


@pytest.mark.trial
@pytest.mark.parametrize("method", ["mdm", "cascaded", "latent", "simple_diffusion", "rin"])
def test_an_odd_value_is_refused_in_one_sentence_if_at_all(method, tmp_path):
    usual = options(method, tmp_path)
    wrong, refused, n = [], 0, 0
    for path in places(usual):
        if path[-1] == "cache":  # any path is one
            continue
        for value in ODD:
            n += 1
            try:
                one = changed(usual, path, value)
                settings_of(one)
                prepare(one, shapes_alone=True)
            except (ValueError, OSError) as error:
                refused += 1
                if "\n" in str(error) or len(str(error)) > 400:
                    wrong.append(f"{'.'.join(path)}={value!r}: {error}")
            except Exception as error:
                wrong.append(f"{'.'.join(path)}={value!r}: {type(error).__name__} {error}")
    assert not wrong, "\n".join(wrong)
    assert refused > 0.7 * n > 500
