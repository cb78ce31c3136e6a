"""The folder: written from the weights of a run, read only where its files fit each other."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from hierdiff.config import check_depth
from hierdiff.files.atomic import write, write_pieces
from hierdiff.files.digest import sha256_of_file
from hierdiff.files.reading import check_regular, from_json, read_text
from hierdiff.methods import Method
from hierdiff.pretrained.card import model_card
from hierdiff.pretrained.hub import downloaded, is_hub_id, uploaded
from hierdiff.results.plain import plain
from hierdiff.results.record import FILE as RECORD
from hierdiff.results.record import Record
from hierdiff.training import load_method
from hierdiff.training.format import header, hierdiff_version, unpacked
from hierdiff.training.load import config_in

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FILES = (CONFIG, WEIGHTS, CARD)
OF_A_RUN = "weights.safetensors"
SCHEMA = 1
PIECE = 1 << 24  # bytes that are copied at once


def save_pretrained(
    weights: str | Path,
    folder: str | Path,
    *,
    record: str | Path | None = None,
    licence: str | None = None,
    data_licence: str | None = None,
) -> Path:
    """Writes a folder for others, and gives its path; files of the same names are replaced.

    weights: a run folder, its weights.safetensors, or what `hierdiff.convert` wrote. record: of the
    same run, None for the one beside the weights where there is one. licence, data_licence: of the
    weights and of the data that they were trained on, as the card says; None where nothing is
    stated, and a published network keeps the licence of its release.

    Raises:
        FileNotFoundError: where there are no weights.
        ValueError: where the weights are damaged or a checkpoint of training, and where the record
            is of another run or was changed by hand.
    """
    source, folder = Path(weights), Path(folder)
    source = source / OF_A_RUN if source.is_dir() else source
    tensors, facts = unpacked(source)
    config = config_in(facts, source)
    if facts.get("kind") != "weights":
        raise ValueError(f"{source} is a checkpoint of training: give the {OF_A_RUN} beside it")
    row = _record_of(source, record, config)
    card = model_card(
        plain(config, "config", free=True),
        row,
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        licence=licence,
        data_licence=data_licence,
    )
    about = {
        "library": "hierdiff",
        "schema": SCHEMA,
        "version": hierdiff_version(),
        "sha256": sha256_of_file(source),
        "config": plain(config, "config", free=True),
    }
    write_pieces(folder / WEIGHTS, _pieces(source), source.stat().st_size)
    write(folder / CONFIG, f"{json.dumps(about, indent=2, allow_nan=False)}\n".encode())
    write(folder / CARD, card.encode())
    return folder


def from_pretrained(
    name: str | Path,
    *,
    trust: Collection[str] = (),
    download: bool = False,
    revision: str | None = None,
) -> tuple[Method, dict[str, Any]]:
    """The method in a folder, on the CPU, in eval, and its config.

    name: a folder, or `owner/name` of Hugging Face's hub. download: fetch it from there; without it
    nothing is. revision: a branch, tag or commit of the hub, None for its newest. trust: as in
    `hierdiff.training.load_method`.

    Raises:
        FileNotFoundError: where there is no such folder, or a file of it is absent.
        ValueError: where its files do not fit each other, and for an id of the hub without
            `download`.
        PermissionError: before anything untrusted is imported.
        ImportError: where a download needs huggingface_hub, which is not installed.
    """
    folder = Path(name)
    if not folder.is_dir():
        if not is_hub_id(str(name)):
            raise FileNotFoundError(
                f"{name} is no folder: give one that save_pretrained wrote, or an id OWNER/NAME of "
                f"the hub with download=True"
            )
        if not download:
            raise ValueError(
                f"{name} is no folder here, and nothing is downloaded unasked: give download=True "
                f"to fetch it from the hub"
            )
        folder = fetched(str(name), revision)
    check_folder(folder)
    return load_method(folder / WEIGHTS, trust)


def fetched(name: str, revision: str | None = None) -> Path:
    """The folder of an id of the hub, downloaded; errors as in `downloaded`."""
    return downloaded(name, revision, FILES)


def push_to_hub(folder: str | Path, name: str, *, private: bool = True) -> str:
    """Uploads a folder that `save_pretrained` wrote, checked before; gives its address.

    name: OWNER/NAME, made where there is none. private: whether a new one is seen by its owner
    alone. The log-in is that of huggingface_hub.

    Raises:
        ValueError: where the name has another form, or files of the folder do not fit each other.
        FileNotFoundError: where a file of the folder is absent.
        ImportError: where huggingface_hub is not installed.
    """
    if not is_hub_id(name):
        raise ValueError(f"{name!r} is no id of the hub: write OWNER/NAME")
    check_folder(Path(folder))
    return uploaded(Path(folder), name, FILES, private)


def check_folder(folder: Path) -> None:
    """Checks a folder without building anything: `config.json` is that of these weights.

    Raises:
        FileNotFoundError: where a file is absent.
        ValueError: where they do not fit each other.
    """
    about = _read_config(folder / CONFIG)
    source = folder / WEIGHTS
    if not source.is_file():
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}: it is not whole, fetch it again")
    if about["sha256"] != sha256_of_file(source):
        raise ValueError(
            f"{source} does not have the sha256 that {CONFIG} states: it is damaged or of another "
            f"release, fetch the folder again"
        )
    _, facts = header(source)
    if plain(config_in(facts, source), "config", free=True) != about["config"]:
        raise ValueError(
            f"{folder / CONFIG} is not the config that its weights were saved with: it was changed "
            f"by hand, and the method is built from the weights' own; fetch it again"
        )


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}: give a folder that save_pretrained wrote (the files of other "
            f"projects are read by python -m hierdiff.convert)"
        )
    check_regular(path)
    try:
        about = from_json(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): fetch the folder again") from error
    check_depth(about, path)
    if not isinstance(about, dict) or about.get("library") != "hierdiff":
        raise ValueError(
            f"{path} was not written by hierdiff: files of other projects are read by "
            f"python -m hierdiff.convert"
        )
    if about.get("schema") != SCHEMA:
        raise ValueError(
            f"{path} has schema {about.get('schema')}, this hierdiff reads {SCHEMA}: use the "
            f"version that wrote it"
        )
    if not isinstance(about.get("config"), dict) or not isinstance(about.get("sha256"), str):
        raise ValueError(f"{path} lacks its config or sha256: fetch the folder again")
    return about


def _record_of(weights: Path, path: str | Path | None, config: Mapping[str, Any]) -> Record | None:
    """The record of a run, checked to be that of its weights; None where there is none.

    Raises:
        ValueError: where it is of another run, or was changed by hand.
    """
    place = weights.parent / RECORD if path is None else Path(path)
    if path is None and not place.is_file():
        return None
    record = Record.read(place)
    if record.edited:
        raise ValueError(f"{place} was changed by hand: a card is made from what was measured")
    pairs = {
        "data": (_data_of(record), config.get("data_sha256")),
        "seed": (record.config.get("seed"), config.get("seed")),
        "method": (record.method, config["method"].get("name")),
    }
    for what, (measured, own) in pairs.items():
        if measured != own:
            raise ValueError(
                f"{place} is of another run than {weights}: its {what} is {measured}, that of the "
                f"weights {own}"
            )
    return record


def _data_of(record: Record) -> Any:
    inputs = record.provenance.get("inputs")
    return inputs.get("data") if isinstance(inputs, Mapping) else None
