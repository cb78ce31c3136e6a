"""Commands: words `key=value` over the files of `configs/`, and a sentence for what is wrong.

Hydra composes; how a word sets an option is stated here, for every command, sweep and `compose`:

- `a.b=value` sets an option whether the files name it or not, where a constructor checks it: in the
  groups `PARTS`, and in every part with a `name` inside the others. Elsewhere an option must be
  there; `+` and `++` in front of a word change nothing.
- A mapping sets the options that it names and leaves the others; one with a `name` is another part
  and replaces the one that was there.
- Signs that hydra takes in quotes alone, such as letters of other scripts and round brackets, need
  none.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from hierdiff import resolvers as resolvers  # registers
from hierdiff.config import folder_of_configs, reported
from hierdiff.heap import keep_freed_memory
from hierdiff.options import literal, suggest

PARTS = ("data", "denoiser", "sampler", "method", "trainer")  # groups that constructors check
Key = tuple[str, ...]  # `a.b` in its parts
HELP = {"--help", "-h"}
DRY_RUN = "--dry-run"
MORE = """Options are written key=value, lists as [a,b]. `python -m hierdiff.list` shows all parts,
`python -m hierdiff.list denoisers` those of one kind, with their options. Below are the groups of
this command, and its config as the options given here make it."""
RESOLVER = "ValueError raised while resolving interpolation: "  # before what a resolver says
PIECE = re.compile(
    r"'[^']*'|\"[^\"]*\"|[^][{}:,'\"=\s][^][{}:,'\"=]*"
)  # of a value: a text, in quotes or bare
BARE = re.compile(r"[\w\s/\\+.$%*@?|-]+", re.ASCII)  # what hydra reads without quotes

_hydras_own = ConfigLoaderImpl._apply_overrides_to_config
# A singleton that nobody changes: hydra copies all of it a hundred times for one `--help`.
ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]


def command(config_name: str, about: str) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """Decorator: the function of a config composed from `hierdiff/configs/` as a command.

    about: what `--help` says before hydra does. Messages go to stderr, errors as one line with exit
    code 1 (see `reported`).
    """

    def decorate(main: Callable[[Any], None]) -> Callable[[], None]:
        compose = hydra.main(
            version_base="1.3", config_path=folder_of_configs(), config_name=config_name
        )
        composed = compose(reported(main))

        @reported
        @functools.wraps(main)
        def run() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # it raises what it would print otherwise
            sys.argv[1:] = in_order(sys.argv[1:])
            if HELP & set(sys.argv[1:]):
                print(f"{about.strip()}\n\n{MORE}", end="\n\n")
            keep_freed_memory()
            with_sentences(composed)()

        return run

    return decorate


def with_sentences(compose: Callable[..., Any]) -> Callable[..., Any]:
    """`compose` with hydra's errors as a ValueError of one sentence."""

    @functools.wraps(compose)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return compose(*args, **kwargs)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            text = sentence(error)
            if isinstance(error, ValueError) and text == str(error):
                raise
            raise ValueError(text) from error

    return call


def sentence(error: Exception) -> str:
    """An error of hydra in one sentence, without its jargon."""
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be read: write key=value, lists as [a,b], mappings as "
            f"{{a: b}}, and what has other signs in quotes"
        )
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        known = ", ".join(error.options)
        return f"unknown {group} {name!r}{suggest(name, error.options) or ','} known: {known}"
    text = " ".join(str(error).split())
    if absent := absent_group(error):
        return (
            f"{absent}=... chooses a part that this config does not have: the files of "
            f"hierdiff/configs/method say which groups belong to a method"
        )
    if text.startswith("Config group override must be"):
        return "a group is chosen by one name, as in data=critters: null and numbers are none"
    return text


def absent_group(error: Exception) -> str | None:
    """The group that was chosen from and that the config does not have, if that is the error."""
    found = re.match("Could not override '(.*?)'. No match in the defaults list", str(error))
    return found[1] if found else None


def in_order(words: Sequence[str]) -> list[str]:
    """Flags before options, as hydra's parser wants them, and no `+` before a group of ours.

    Raises:
        ValueError: for an unknown flag or analysis (hydra passes over a choice that is missing from
            an optional group), or where `~` or `[]` removes what every run has.
    """
    parser = get_args_parser()
    known, rest = parser.parse_known_args(words)
    options = [*known.overrides, *rest]
    for word in options:
        if word.startswith("-"):
            flag, names = word.partition("=")[0], [*parser._option_string_actions, DRY_RUN]
            if flag == DRY_RUN:
                raise ValueError(f"{flag} is a flag of benchmarks.run alone, leave it out")
            raise ValueError(
                f"unknown flag {flag}{suggest(flag, names) or ','} options are written key=value"
            )
    flags = [word for word in words if word not in options]
    options = [word[word.startswith("+") and is_group(word) :] for word in options]
    options = [quoted(word) for word in options]
    for word in options:
        key, _, value = word.lstrip("~").partition("=")
        if key in PARTS and (word.startswith("~") or value == "[]"):
            raise ValueError(f"{word}: every run has one of these, choose it by {key}=NAME")
        if key == "analysis" and not known.config_dir and value != "null":
            names = sorted(path.stem for path in Path(folder_of_configs(), key).glob("*.yaml"))
            if value.isidentifier() and value not in names:
                near = suggest(value, names) or ","
                raise ValueError(f"unknown {key} {value!r}{near} known: {', '.join(names)}")
    if known.multirun:  # chosen for each job, as some methods alone have the group
        options = [_swept(word) for word in options]
    return [*flags, *options]


def quoted(word: str) -> str:
    """A word that hydra cannot read, with quotes around its texts if it reads it so.

    >>> quoted("labels=[red fox,狐狸]")
    "labels=[red fox,'狐狸']"
    """
    key, sign, value = word.partition("=")
    texts = PIECE.sub(lambda one: one[0] if _reads(one[0]) else f"'{one[0].strip()}'", value)
    other = f"{key}{sign}{texts}"
    return other if other != word and not _parses(word) and _parses(other) else word


def _reads(text: str) -> bool:
    return text[0] in "'\"" or BARE.fullmatch(text) is not None


def _parses(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def _swept(word: str) -> str:
    group, _, name = word.partition("=")
    return f"{group}=choice({name})" if "@" in group and name.isidentifier() else word


def is_group(word: str) -> bool:
    """Does `+GROUP=NAME` choose from a folder of `hierdiff/configs/`?"""
    group = word.lstrip("+").partition("=")[0].partition("@")[0]
    return (Path(folder_of_configs()) / group).is_dir()


def plain_config(cfg: Any) -> dict[str, Any]:
    """An OmegaConf config as plain dicts, lists and numbers, every reference resolved.

    Raises:
        ValueError: for a mandatory option that is missing, or a reference to nothing.
    """
    try:
        node = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key
        raise ValueError(f"{key} is missing: give {key}=VALUE") from error
    except OmegaConfBaseException as error:
        why = str(error).splitlines()[0]
        if why.startswith(RESOLVER):
            raise ValueError(why.removeprefix(RESOLVER)) from error
        raise ValueError(f"{error.full_key}: {why}: write ${{KEY}} for another option") from error
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}


# -- how a word sets an option ---------------------------------------------------------------------


def applied(overrides: Sequence[Override], cfg: Any) -> None:
    """Sets in a composed config what the words say.

    Raises:
        ValueError: for a group or an option that does not exist.
    """
    for one in overrides:
        path = parts_of(str(one.key_or_group))
        if one.package is not None:
            raise ValueError(unknown_group(str(one.key_or_group)))
        if one.is_delete():
            check_removal(cfg, path)
        elif path[0] == "hydra":
            check_known(cfg, path)
        else:
            put(cfg, path, one.value())
            continue
        _hydras_own([one], cfg)


ConfigLoaderImpl._apply_overrides_to_config = staticmethod(applied)  # type: ignore[method-assign]


def put(cfg: Any, path: Key, value: Any) -> None:
    """Sets the option at a path; a mapping without a `name` sets the options that it names.

    Raises:
        ValueError: where the option does not exist, or a mapping would become a single value.
    """
    check_known(cfg, path)
    old = at(cfg, path)
    if isinstance(old, DictConfig) and not is_open(cfg, path) and not isinstance(value, dict):
        example = ".".join([*path, next(iter(names_in(old)), "OPTION")])
        raise ValueError(
            f"{'.'.join(path)}={literal(value)}: it is a mapping of options, set one of them, "
            f"{example}=..."
        )
    if isinstance(old, DictConfig) and isinstance(value, dict) and "name" not in value:
        for key, one in value.items():
            put(cfg, (*path, str(key)), one)
        return
    above = cfg
    with open_dict(cfg):
        for name in path[:-1]:
            below = above._get_node(key_in(above, name))
            if not isinstance(below, (DictConfig, ListConfig)):
                above[key_in(above, name)] = {}
            above = above[key_in(above, name)]
        above[key_in(above, path[-1])] = value


def at(cfg: Any, path: Key) -> Any:
    """The node at a path, None where there is none."""
    for name in path:
        if not isinstance(cfg, (DictConfig, ListConfig)) or name not in names_in(cfg):
            return None
        cfg = cfg._get_node(key_in(cfg, name))
    return cfg


def names_in(node: Any) -> list[str]:
    """The keys of a mapping, the places of a list; none for other nodes."""
    if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing()):
        return [str(key) for key in node.keys()]  # noqa: SIM118  (values may refer to others)
    return [str(i) for i in range(len(node))] if isinstance(node, ListConfig) else []


def key_in(node: Any, name: str) -> Any:
    """Whole numbers are numbers in lists and in mappings by number."""
    number = isinstance(node, ListConfig) or is_by_number(node)
    return int(name) if number and name.lstrip("-").isdecimal() else name


def is_by_number(node: Any) -> bool:
    """Is it a mapping whose keys the user chooses: an empty one, or one with numbers for keys?"""
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return False
    return not any(isinstance(key, str) for key in node.keys())  # noqa: SIM118


def is_open(cfg: Any, path: Key) -> bool:
    """May the node at a path get options that the files do not name?"""
    inside = [at(cfg, path[: i + 1]) for i in range(1, len(path))]
    return path[0] in PARTS or any(
        "name" in names_in(node) or is_by_number(node) for node in inside
    )


def new_part(cfg: Any, key: str) -> str | None:
    """The first part of a key that a config does not have."""
    path = parts_of(key)
    absent = (name for i, name in enumerate(path) if name not in names_in(at(cfg, path[:i])))
    return next(absent, None)


def parts_of(key: str) -> Key:
    """`a.b[0]` in its parts."""
    return tuple(key.replace("[", ".").replace("]", "").split("."))


def check_known(cfg: Any, path: Key) -> None:
    """Checks that an option exists, or that its node takes others than the files name.

    Raises:
        ValueError: suggests the nearest option.
    """
    for depth, name in enumerate(path):
        node, place = at(cfg, path[:depth]), ".".join(path[:depth])
        if isinstance(node, ListConfig) and name not in names_in(node):
            raise ValueError(
                f"{place} has {len(node)} entries, of which {name!r} is none: "
                f"count from 0, or give the whole list"
            )
        known = names_in(node)
        if not depth and name not in known and name in groups():
            raise ValueError(f"there is no {name} to set options of: choose one, {name}=NAME")
        if name in known or (place and is_open(cfg, path[:depth])):
            continue
        if not depth:
            known = [key for key in dict.fromkeys([*known, *groups()]) if key != "hydra"]
        near = suggest(name, known) or elsewhere(cfg, name)
        what = f"{place} has no" if place else "there is no"
        raise ValueError(f"{what} option {name!r}{near or ','} options: {', '.join(known)}")


def elsewhere(cfg: Any, name: str) -> str:
    """Where else options of this name stand, at most three of them."""
    found = [".".join(path) for path in leaves(cfg) if path[-1] == name and path[0] != "hydra"]
    return f", did you mean {' or '.join(found[:3])}?" if found else ""


def leaves(node: Any, path: Key = ()) -> Iterator[Key]:
    """The paths of all nodes below a node."""
    for name in names_in(node):
        yield (*path, name)
        yield from leaves(node._get_node(key_in(node, name)), (*path, name))


def check_removal(cfg: Any, path: Key) -> None:
    """Checks that `~key` names an option that a run can do without.

    Raises:
        ValueError: where it names nothing, or what every run needs.
    """
    key = ".".join(path)
    if at(cfg, path) is None:
        near = suggest(path[-1], names_in(at(cfg, path[:-1])))
        raise ValueError(f"~{key}: there is no such option to leave out{near}")
    if len(path) < 2 or not is_open(cfg, path[:-1]):
        raise ValueError(f"~{key}: this option cannot be left out, set {key}=... to another value")


def groups() -> list[str]:
    """The groups of `hierdiff/configs/`, none before hydra has started."""
    if not GlobalHydra.instance().is_initialized():
        return []
    found = GlobalHydra.instance().config_loader().list_groups("")
    return [name for name in found if name != "hydra"]


def unknown_group(group: str) -> str:
    """The message for a group that does not exist, with the nearest that does."""
    known = groups()
    return f"there is no group {group!r}{suggest(group, known) or ','} groups: {', '.join(known)}"
