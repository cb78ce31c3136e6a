"""Options that only some methods of a sweep have: they are left out of the jobs of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import open_dict

from hierdiff.command import absent_group, new_part, parts_of, plain_config, sentence
from hierdiff.prepared import prepare
from hierdiff.registry import UnknownOption


def job_options(config: Any, overrides: Sequence[str]) -> dict[str, Any]:
    """The options of a job; config: of the sweep, overrides: of the job."""
    before = HydraConfig.instance().cfg
    cfg = _composed(GlobalHydra.instance().config_loader(), config, list(overrides))
    try:
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        return plain_config(cfg)
    finally:
        HydraConfig.instance().cfg = before


def own_overrides(config: Any, overrides: Sequence[str]) -> list[str]:
    """The overrides of a job without the options that its method does not have."""
    left = left_out(config, tuple(overrides))
    return [one for one in overrides if option_of(one) not in left]


def check_shared(config: Any, jobs: Sequence[Sequence[str]]) -> list[str]:
    """A line for each option that some jobs of a sweep leave out; jobs: overrides of each.

    Raises:
        ValueError: for an option that no job has.
    """
    left = [left_out(config, tuple(overrides)) for overrides in jobs]
    lines = []
    for key in dict.fromkeys(key for one in left for key in one):
        if all(key in one for one in left):
            raise ValueError(left[0][key])
        methods = [_method(job) for job, one in zip(jobs, left, strict=True) if key in one]
        lines.append(f"{key} is no option of {', '.join(dict.fromkeys(methods))}: left out there")
    return lines


def _method(overrides: Sequence[str]) -> str:
    chosen = [one.partition("=")[2] for one in overrides if option_of(one) == "method"]
    return chosen[-1] if chosen else "this method"


def option_of(override: str) -> str:
    """The option of an override: `a.b` of `+a.b=1`."""
    return override.lstrip("+").partition("=")[0]


def left_out(config: Any, overrides: tuple[str, ...]) -> dict[str, str]:
    """Options of a job's overrides that its parts do not have, and the error sentence of each."""
    place = (config.hydra.job.config_name, *overrides)
    if place not in _LEFT:
        left: dict[str, str] = {}
        rest = list(overrides)
        while (refusal := _refused(config, rest)) is not None:
            left[refusal[0]] = refusal[1]
            rest = [one for one in overrides if option_of(one) not in left]
        _LEFT[place] = left
    return _LEFT[place]


_LEFT: dict[tuple[str, ...], dict[str, str]] = {}  # a cache: it takes building the parts


def _refused(config: Any, overrides: Sequence[str]) -> tuple[str, str] | None:
    loader = GlobalHydra.instance().config_loader()
    choices = [one for one in overrides if "@" in one or loader.get_group_options(option_of(one))]
    try:
        files = _composed(loader, config, choices)
        new = {
            option_of(one): new_part(files, option_of(one))
            for one in overrides
            if one not in choices
        }
        if any(new.values()):
            prepare(job_options(config, overrides), shapes_alone=True)
    except HydraException as error:
        group = absent_group(error)
        return None if group is None else (group, sentence(error))
    except UnknownOption as error:
        where = parts_of(error.path) if error.path else ()
        keys = [
            key
            for key, part in new.items()
            if part == error.option and parts_of(key)[: len(where)] == where
        ]
        return (keys[0], str(error)) if keys else None
    except Exception:  # the job itself reports the error
        return None
    return None


_composed: Callable[..., Any] = ConfigLoaderImpl.load_sweep_config


def _of_its_own(self: Any, master_config: Any, sweep_overrides: list[str]) -> Any:
    return _composed(self, master_config, own_overrides(master_config, sweep_overrides))


ConfigLoaderImpl.load_sweep_config = _of_its_own  # type: ignore[method-assign]
