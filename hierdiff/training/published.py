"""A method out of files: what `hierdiff.convert` wrote, or the weights of runs.

    python -m benchmarks.run method=published checkpoint=FILE

measures it without training; `method.share=1` trains it further. Several files are a cascade: the
base first, then the upsamplers, `checkpoint=[BASE,UPSAMPLER]`. A run keeps the config of the files,
so that its own weights are rebuilt without them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hierdiff.files.weights import weights_of
from hierdiff.methods import Method, methods
from hierdiff.options import Count, Natural, NonNegative
from hierdiff.registry import Node
from hierdiff.training.format import header
from hierdiff.training.load import config_in
from hierdiff.trust import check_trust

log = logging.getLogger(__name__)
NAME = "published"
FILES = {NAME: "checkpoint"}  # methods that are made of files, and the option that names these
JOINT = ("shift", "fractions", "growth", "keep_moments")  # of several levels, nothing for one


@methods.register(NAME)
def published(
    *,
    checkpoint: str | Sequence[str],
    config: Mapping[str, Any] | None = None,
    share: NonNegative = 0.0,
    sampling: Mapping[str, Any] | None = None,
    source: str | None = None,
    channels: Count = 3,
    classes: Natural = 0,
    text_width: Natural = 0,
) -> Method:
    """The method in a file, or the cascade of those in several, with their weights.

    checkpoint: what `hierdiff.convert` wrote, or the weights.safetensors of a run; of a cascade the
    base first. config: method and facts of the files, None to read them. share: of the budget's
    steps, for each of its stages; 0 leaves the weights as they are. sampling: options of the
    sampler that replace those of every stage; what is null stays. source: where the files come
    from, as is said where one is absent. channels, classes, text_width: of the data.

    Raises:
        FileNotFoundError: where a file is absent.
        ValueError: where files do not fit each other or the data.
    """
    paths = _paths(checkpoint)
    if config is None:
        _check_present(paths, source)
        config = config_of(paths)
    node, facts = config["method"], config["facts"]
    _check_facts(facts, channels, classes, text_width, paths[-1])
    chosen = {name: value for name, value in (sampling or {}).items() if value is not None}
    method = methods.build(_sampled(node, chosen), offered=facts)
    for place, stage in enumerate(method.stages):
        path = paths[min(place, len(paths) - 1)]
        trained = len(paths) > 1 or stage.ready
        stage.share, stage.weights = share, str(path) if trained else None
        stage.tied = False
        stage.origin = f"weights of {path.name}, trained elsewhere"
    return method


def completed(node: Node) -> dict[str, Any]:
    """The node of a method; one that is made of files (`FILES`) with their config.

    Raises:
        ValueError: as `config_of`.
        FileNotFoundError: where there is no such file.
    """
    option = FILES.get(str(node.get("name")))
    if option is None or node.get("config") is not None or not node.get(option):
        return dict(node)
    paths = _paths(node[option])
    _check_present(paths, node.get("source"))
    files = [str(path) for path in paths]
    named = files[0] if isinstance(node[option], str) else files
    return {**node, option: named, "config": config_of(paths)}


def _check_present(paths: Sequence[Path], source: str | None) -> None:
    absent = [str(path) for path in paths if not path.exists()]
    if absent and source is not None:
        raise FileNotFoundError(f"there is no checkpoint {' and no '.join(absent)}: {source}")


def _paths(checkpoint: str | Sequence[str]) -> list[Path]:
    names = [checkpoint] if isinstance(checkpoint, str) else list(checkpoint)
    if not names:
        raise ValueError(f"checkpoint={names}: name a file, or the base and its upsamplers")
    return [Path(weights_of(name)) for name in names]


def config_of(paths: Sequence[Path]) -> dict[str, Any]:
    """Method and facts of a file, or of the cascade of several.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where a file holds no method, or they do not follow each other.
        PermissionError: where a file names code to import.
    """
    configs = [_config(path) for path in paths]
    node = dict(configs[-1]["method"])
    facts = {  # a method that states one itself was not built with that of its data
        name: max(int({**one["facts"], **one["method"]}.get(name, 0)) for one in configs)
        for name in ("channels", "classes", "text_width", "text_length")
    }
    if len(paths) > 1:
        nodes = [one["method"] for one in configs]
        _check_chain(nodes, paths)
        node["resolutions"] = [one["resolutions"][0] for one in reversed(nodes)]
        node["stages"] = [_last_stage(one, path) for one, path in zip(nodes, paths, strict=True)]
    return {"method": node, "facts": facts}


def _config(path: Path) -> dict[str, Any]:
    _, facts = header(path)
    config = config_in(facts, path)
    check_trust(config, source=path)
    node = config["method"]
    return dict(node["config"]) if node.get("name") == NAME else config


def _check_chain(nodes: Sequence[Node], paths: Sequence[Path]) -> None:
    for place, (node, path) in enumerate(zip(nodes, paths, strict=True)):
        sides = list(node.get("resolutions") or [])
        if not place and len(sides) != 1:
            raise ValueError(
                f"{path} makes images at {sides}: the first network of a cascade has one resolution"
            )
        if place and len(sides) != 2:
            raise ValueError(f"{path} is no upsampler: name the base first, then its upsamplers")
        if place and sides[1] != nodes[place - 1]["resolutions"][0]:
            raise ValueError(
                f"{path} takes images of {sides[1]} px, {paths[place - 1]} makes images of "
                f"{nodes[place - 1]['resolutions'][0]} px: choose networks that follow each other"
            )


def _last_stage(node: Node, path: Path) -> dict[str, Any]:
    stages = node.get("stages")
    left = ("name", "resolutions", "stages", "share", "split", "denoisers", *JOINT)
    common = {name: value for name, value in node.items() if name not in left}
    return {**common, **(dict(stages[-1]) if stages else {})}


def _sampled(node: Node, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The node with options of the sampler replaced, in its stages too."""
    if not chosen:
        return dict(node)
    whole = {**node, "sampling": {**(node.get("sampling") or {}), **chosen}}
    if node.get("stages"):
        whole["stages"] = [
            {**stage, "sampling": {**stage["sampling"], **chosen}}
            if stage.get("sampling")
            else stage
            for stage in node["stages"]
        ]
    return whole


def _check_facts(
    facts: Mapping[str, int], channels: int, classes: int, text_width: int, path: Path
) -> None:
    if facts["channels"] != channels:
        raise ValueError(
            f"{path} was trained on {facts['channels']} channels, the data have {channels}: take "
            f"data of its kind"
        )
    if facts["classes"] and facts["classes"] != classes:
        raise ValueError(
            f"{path} knows {facts['classes']} classes, the data {classes}: take data of its "
            f"classes, in their order"
        )
    if text_width and facts["text_width"] != text_width:
        raise ValueError(
            f"{path} reads text of width {facts['text_width'] or 'none'}, the data give "
            f"{text_width}: choose the text encoder that it was trained with"
        )
    if facts["text_width"] and not text_width:
        log.warning("%s was trained on captions, and the data have none: none are used", path)
