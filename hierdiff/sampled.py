"""Images of a trained method as files, and what each of them was made from (`hierdiff.sample`)."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch

from hierdiff.batch import Cond
from hierdiff.data import conditions
from hierdiff.files.atomic import PART, write
from hierdiff.files.digest import sha256_of_file
from hierdiff.files.lock import LOCK, worked_in
from hierdiff.files.reading import from_json
from hierdiff.files.samples import METADATA, Samples
from hierdiff.files.weights import weights_of
from hierdiff.given import Given, read
from hierdiff.guidance import Scale, is_off
from hierdiff.images import strip, to_uint8, write_sheet
from hierdiff.inputs import changed, sources
from hierdiff.methods import Generator, Method, Request
from hierdiff.methods.sampling import Steps
from hierdiff.noise import per_example, seed_of
from hierdiff.options import Between, Count, Length, check
from hierdiff.resolution import Name, resolution_of, text_of
from hierdiff.text import encoders
from hierdiff.training import load_method

log = logging.getLogger(__name__)
T = TypeVar("T")
DEFAULT = 16  # images
SHEET = 64  # images on the sheet at most
PICTURE, LIST = "sheet.png", "samples.json"
OWN = re.compile(  # what this command may write
    rf"\w[\w.-]*/([0-9]{{4,}}\.(png|tar)|{METADATA})|\w[\w.-]*\.np[yz]|{re.escape(PICTURE)}"
)
OPTIONS = {  # what each may be, and an example
    "n": (Annotated[int, Between(1, 10**8)] | None, 16),
    "steps": (Steps | None, 25),
    "guidance": (Scale | None, 2.0),
    "labels": (Annotated[Sequence[int | str], Length(1, more=True)] | None, [0, 1]),
    "captions": (Annotated[Sequence[str], Length(1, more=True)] | None, ["a red owl"]),
    "negative": (str | None, "low quality"),
    "resolution": (Count | Annotated[Sequence[Count], Length(2, more=True)] | None, [24, 40]),
    "seed": (int, 0),
    "checkpoint": (str | Path, None),
    "out": (str | Path, None),
    "device": (str | None, None),
    "trust": (Sequence[str], ["my_package"]),
    "batch_size": (Count, 64),
    "samples": (Literal["png", "npz", "webdataset", "float"], "png"),
    "given": (str | None, "start.npz"),
}


def check_options(cfg: Mapping[str, Any]) -> None:
    """Checks the kinds of all options before anything is loaded; errors as in
    `hierdiff.options.check`."""
    for name, (kind, example) in OPTIONS.items():
        if name in cfg:
            check(cfg[name], kind, name, example)


def requested(
    cfg: Mapping[str, Any], config: Mapping[str, Any], given: Given | None = None
) -> tuple[int, Cond]:
    """Number of images and their conditions; config: of the model. given: those of a file.

    Raises:
        ValueError: before compute, where the model cannot do what the options say.
    """
    check_options(cfg)
    labels, captions = cfg["labels"], cfg["captions"]
    if given is not None:
        if cfg["n"] not in (None, given.n):
            raise ValueError(f"n={cfg['n']} and {given.n} rows in {cfg['given']}: leave n out")
        if given.cond.names and (labels is not None or captions is not None):
            raise ValueError(
                f"conditions as labels or captions and in {cfg['given']}: give them once"
            )
        classes, most = len(config.get("class_names") or ()), given.cond.labels
        if most is not None and not (int(most.min()) >= -1 and int(most.max()) < classes):
            raise ValueError(
                f"{cfg['given']} has labels from {int(most.min())} to {int(most.max())}: the model "
                f"has {classes} classes, numbered from 0, and -1 is none"
            )
        if given.cond.names:
            return given.n, given.cond
        cfg = {**cfg, "n": given.n}
    lists = [one for one in (labels, captions) if one is not None]
    n = cfg["n"] if cfg["n"] is not None else max(map(len, lists), default=DEFAULT)
    if any(len(one) > n for one in lists):
        raise ValueError(
            f"n={n} with {max(map(len, lists))} labels or captions: leave n out, or ask for an "
            f"image for each"
        )
    names = config.get("class_names") or ()
    if labels is not None and not names:
        raise ValueError("labels were given to a model without classes: leave them out")
    node = config.get("text")
    if captions is not None and node is None:
        knows = f"classes {', '.join(names)}: use labels" if names else "no conditions: leave them"
        raise ValueError(f"captions need a model that was trained on text; this one knows {knows}")
    guided = cfg["guidance"] is not None and not is_off(cfg["guidance"])
    if guided and not names and node is None:
        raise ValueError(
            f"guidance={cfg['guidance']} needs a model with classes or text: leave it out"
        )
    cond = conditions(
        None if labels is None else repeated(labels, n),
        None if captions is None else repeated(captions, n),
        class_names=names,
        text=None if captions is None or node is None else encoders.build(node),
    )
    return n, cond


def as_read(config: dict[str, Any], method: Method) -> dict[str, Any]:
    """The config of a model without the classes and text of its data that no network reads: images
    under them would be as any other."""
    reads = method.reads
    if reads is None:
        return config
    classes = config.get("class_names") if reads.classes else ()
    return {
        **config,
        "class_names": classes,
        "text": config.get("text") if reads.text_width else None,
    }


def warn_of_changed_code(config: Mapping[str, Any]) -> None:
    """Warns where code beside hierdiff is not that which the model was trained with.

    config: of the model, whose `inputs` are the hashes of its training.
    """
    hashes = config.get("inputs")
    other = changed(hashes, sources(config)) if isinstance(hashes, Mapping) else None
    if other is not None:
        log.warning(
            "the %s has changed since the model was trained, whose samples may now be others: put "
            "the old code back, or train again",
            other,
        )


def negative_of(cfg: Mapping[str, Any], config: Mapping[str, Any], n: int) -> Cond | None:
    """The conditions of guidance's weak pass for n images, None without the option `negative`.

    Raises:
        ValueError: where the model was not trained on text.
    """
    if cfg["negative"] is None:
        return None
    node = config.get("text")
    if node is None:
        raise ValueError(
            f"negative={cfg['negative']!r} needs a model that was trained on text: leave it out"
        )
    negative = encoders.build(node).condition([cfg["negative"]])
    return negative.map(lambda part: part.expand(n, *part.shape[1:]))


def repeated(values: Sequence[T], n: int) -> list[T]:
    """The values in turn, n of them."""
    return [values[i % len(values)] for i in range(n)]


def origins(
    method: Method, n: int, cond: Cond, cfg: Mapping[str, Any], names: Sequence[str]
) -> list[dict[str, Any]]:
    """What each image is made from, as `samples.json` has it; names: of the classes."""
    checkpoint = weights_of(cfg["checkpoint"])
    digest = sha256_of_file(Path(checkpoint))
    common = {
        "seed": cfg["seed"],
        "guidance": sampling_option(method, cfg, "guidance"),
        "steps": sampling_option(method, cfg, "steps"),
        "negative": cfg["negative"],
        "checkpoint": checkpoint,
        "sha256": digest,
    }
    if cfg["given"] is not None:
        given = Path(cfg["given"])
        common |= {"given": str(given), "given_sha256": sha256_of_file(given)}
    numbers = [-1] * n if cond.labels is None else cond.labels.tolist()
    captions = [None] * n if cfg["captions"] is None else repeated(cfg["captions"], n)
    return [
        {
            "image": i,
            "class": names[number] if 0 <= number < len(names) else None,
            "class_index": number if number >= 0 else None,
            "caption": caption,
            **common,
        }
        for i, (number, caption) in enumerate(zip(numbers, captions, strict=True))
    ]


def sampling_option(method: Method, cfg: Mapping[str, Any], option: str) -> Any:
    """Guidance or steps as the options say, else by stage as the model was configured."""
    if cfg[option] is not None:
        return cfg[option]
    own = {
        stage.name: getattr(stage.sampling, option)
        for stage in method.stages
        if isinstance(stage, Generator) and stage.sampling is not None
    }
    return own if len(own) > 1 else next(iter(own.values()), None)


def class_counts(images: Sequence[Mapping[str, Any]]) -> str:
    """The classes that are drawn, in words, each with its number and how often; of images under
    captions alone how many of those there are."""
    counts = Counter((one["class"], one["class_index"]) for one in images)
    captions = {one["caption"] for one in images} - {None}
    if captions and set(counts) == {(None, None)}:
        return f"{len(images)} under {len(captions)} caption{'s' * (len(captions) > 1)}"
    return ", ".join(
        f"{count} of no class" if name is None else f"{count} of {name} (class {index})"
        for (name, index), count in counts.items()
    )


def own_files(out: Path) -> list[Path]:
    """The files that an earlier call wrote into a folder.

    Raises:
        ValueError: where the folder holds anything else.
    """
    listed = {LIST, LOCK}
    if (out / LIST).is_file():
        try:
            content = from_json((out / LIST).read_text(encoding="utf-8"))
            files = [name for image in content["images"] for name in image["files"]]
            levels = {name.partition("/")[0].removesuffix(".npz") for name in files}
            beside = [one for level in levels for one in (f"{level}/{METADATA}", f"{level}.npy")]
            listed |= {name for name in [*files, *beside, PICTURE] if OWN.fullmatch(name)}
        except (ValueError, KeyError, TypeError):
            listed.discard(LIST)
    there = {path.relative_to(out).as_posix(): path for path in files_below(out)}
    halves = {name for name, path in there.items() if PART.fullmatch(path.name)}  # of a kill
    others = sorted(set(there) - listed - halves)
    if others:
        raise ValueError(
            f"out={out} holds {len(others)} files that no earlier call of this command lists, such "
            f"as {others[0]}: give another out=..., or empty it"
        )
    return [path for name, path in there.items() if name != LOCK]


def files_below(folder: Path) -> Iterator[Path]:
    """All paths that are no folder, with links, which are not followed.

    Raises:
        ValueError: where `folder` is none.
    """
    if folder.is_dir():
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                yield from files_below(path)
            else:
                yield path
    elif folder.exists() or folder.is_symlink():
        raise ValueError(f"out={folder} is no folder: give another out=...")


def start(stored: Samples, images: Sequence[Mapping[str, Any]], names: Sequence[Name]) -> None:
    """Removes what an earlier call wrote, and lists what this one will write."""
    out = stored.folder
    listed_last = sorted(own_files(out), key=lambda path: path.name == LIST)
    for path in listed_last:  # until they are gone the list says whose they are
        path.unlink()
        if path.parent != out and not any(path.parent.iterdir()):
            path.parent.rmdir()
    listed = [
        {"files": [stored.files(text_of(name), i) for name in names], **image}
        for i, image in enumerate(images)
    ]
    content = json.dumps({"images": listed}, indent=1, ensure_ascii=False)
    write(out / LIST, f"{content}\n".encode())


def rows_of(cond: Cond, rows: range) -> Cond:
    """The conditions of some rows."""
    return cond.map(lambda values: values[rows.start : rows.stop])


def sample(
    method: Method,
    images: Sequence[Mapping[str, Any]],
    cond: Cond,
    out: Path,
    cfg: Mapping[str, Any],
    device: torch.device,
    negative: Cond | None = None,
    given: Given | None = None,
) -> Path:
    """Writes one sample for each of `images` (see `origins`) into `out`; the path of the sheet.

    cond, negative: of all images. cfg: the options of the command, of which `batch_size` images are
    made at once. given: holds the noise of all images, or none.

    Raises:
        FloatingPointError: where a sample is not finite.
    """
    method, n = method.to(device), len(images)
    stored = Samples(out, cfg["samples"], n, digits=4)
    sheet_images: dict[Name, list[torch.Tensor]] = {}
    for first in range(0, n, cfg["batch_size"]):
        rows = range(first, min(n, first + cfg["batch_size"]))
        part = rows_of(cond, rows)
        weak = None if negative is None else rows_of(negative, rows)
        noise = per_example([seed_of(cfg["seed"], "sample", i) for i in rows], device)
        if given is not None:
            noise = given.source(rows, noise)
        options = {"steps": cfg["steps"], "guidance": cfg["guidance"], "negative": weak}
        samples = method.sample(Request(len(rows), part, noise=noise, **options))
        levels = {name: to_uint8(batch).cpu() for name, batch in samples.items()}
        if not first:
            start(stored, images, list(levels))
        for name, pixels in levels.items():
            sheet_images.setdefault(name, []).append(pixels[: max(0, SHEET - first)])
        if cfg["samples"] == "float":
            arrays = {text_of(name): batch.float().cpu() for name, batch in samples.items()}
        else:
            arrays = {text_of(name): strip(u).movedim(1, -1) for name, u in levels.items()}
        stored.add(first, {name: array.numpy() for name, array in arrays.items()})
        log.info("%d of %d images", rows.stop, n)
    stored.close(images)
    path = out / PICTURE
    write_sheet(path, [torch.cat(pixels) for pixels in sheet_images.values()])
    return path


def make(options: Mapping[str, Any]) -> None:
    """What the command does with its options.

    Raises:
        ValueError: for options that do not fit, before compute.
    """
    check_options(options)
    out = Path(options["out"])
    own_files(out)  # refuses a folder of other files before the checkpoint is read
    method, config = load_method(options["checkpoint"], options["trust"])
    warn_of_changed_code(config)
    if options.get("resolution") is not None:
        method = method.resized(resolution_of(options["resolution"]))
    config = as_read(config, method)
    given = None if options["given"] is None else read(options["given"], method)
    n, cond = requested(options, config, given)
    negative = negative_of(options, config, n)
    names = config.get("class_names") or ()
    device = options["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={device}: {str(error).splitlines()[0]}") from error
    images = origins(method, n, cond, options, names)
    if names:
        log.info("drawn: %s", class_counts(images))
    with worked_in(out):
        path = sample(method, images, cond, out, options, place, negative, given)
    log.info("sheet %s, single images in %s by level, listed in %s", path, out, out / LIST)
