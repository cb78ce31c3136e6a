"""Statistics of real images, with which generated ones are compared: computed, cached, published.

References are real images reduced by the operator that makes the training levels: block means of
[-1, 1] floats, then rounding to uint8. Those computed here hold features of up to `CAP` images
beside the moments. A published one (ADM, EDM, pytorch-fid, clean-fid) holds moments alone.

Features of the embedded data's training images come with the package, for its default extractor and
resolutions: nobody has to compute them again, and everybody compares with the same numbers.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from hierdiff.files.arrays import Rows, names_in, read_npz, write_npz
from hierdiff.files.atomic import write
from hierdiff.files.reading import Damaged
from hierdiff.images import to_float, to_uint8
from hierdiff.levels import down, framewise
from hierdiff.metrics import weights
from hierdiff.metrics.extractors import Extractor
from hierdiff.metrics.frechet import Statistics
from hierdiff.processes import ALONE, Processes
from hierdiff.resolution import Name, Resolution, sides_of, text_of

log = logging.getLogger(__name__)

OPERATOR = "block-mean"
CAP = 10_000  # images whose features stay; 51 MB at 1280 dimensions
KEPT = {"features": CAP, "spatial": 0}  # outputs of an extractor that references have; else CAP
SHIPPED = Path(__file__).with_name("shipped")
IMAGES, BLOCK = "arr_0", 64  # of ADM's files; of which so many are read at a time
BATCH = 16  # float32 kernels round by batch size, so it belongs to the protocol


@dataclass(frozen=True)
class Reference:
    """Statistics of real images at one resolution; `hash` stands for data, split and operator.

    statistics: of the features, of clips those of their frames; others: of further outputs of the
    extractor, and of the features of those beside it, by name. file: a published one that holds
    images beside its moments (`arr_0`), whose features `with_features` makes.
    """

    resolution: Resolution
    statistics: Statistics
    hash: str
    extractor: str
    others: Mapping[str, Statistics] = field(default_factory=dict)
    file: Path | None = None

    @cached_property
    def spectrum(self) -> Tensor:
        """Eigenvalues of the features' covariance, computed once."""
        return self.statistics.spectrum()

    def of(self, output: str) -> Statistics | None:
        """Statistics of an output of the extractor; None where it has none."""
        return self.statistics if output == "features" else self.others.get(output)


def pooled(
    images: UInt8[Tensor, "b c *sides"], resolution: Resolution
) -> UInt8[Tensor, "b c *new"]:
    """Images reduced by block means, as the training levels are, and rounded once."""
    if tuple(images.shape[2:]) == sides_of(resolution):
        return images
    return to_uint8(down(to_float(images), resolution))


def levels_of(
    images: UInt8[Tensor, "b c *sides"], resolutions: Sequence[Resolution]
) -> dict[Name, UInt8[Tensor, "b c *_sides"]]:
    """Real images as a perfect method would give them: {resolution: images}."""
    return {one: pooled(images, one) for one in resolutions}


def frames_of(resolution: Resolution) -> int:
    """Images that an extractor sees of one example: the frames of a clip, else 1."""
    sides = sides_of(resolution)
    return sides[0] if len(sides) == 3 else 1


def feature_batches(
    extractor: Extractor,
    images: UInt8[Tensor, "b c *sides"],
    wanted: Collection[str] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Outputs of `Extractor.extract` in batches of `BATCH`, see `batches_seen`."""
    for chunk, names in batches_seen(extractor, images, wanted):
        yield extractor.extract(chunk, names)


def batches_seen(
    extractor: Extractor,
    images: UInt8[Tensor, "b c *sides"],
    wanted: Collection[str] | None = None,
) -> Iterator[tuple[UInt8[Tensor, "n c *_sides"], list[str]]]:
    """Batches of at most `BATCH` images (of clips their frames, then the clips themselves), with
    the names of the outputs that are made of them."""
    for inputs in (images,) if images.ndim == 4 else (framewise(images), images):
        names = extractor.made_of(inputs.shape[2:], wanted)
        for chunk in inputs.split(BATCH) if names else ():
            yield chunk, names


def rows_of(extractor: Extractor, output: str, resolution: Resolution) -> int:
    """Rows that an output has of one example: one, or those of its frames; 0 where it has none."""
    maker, sides = extractor.companions.get(output, extractor), sides_of(resolution)
    if maker.clip:
        return int(maker.sees(sides))
    return frames_of(resolution)


def references(
    images: Sequence[UInt8[Tensor, "_ c *sides"]],
    extractor: Extractor,
    resolutions: Sequence[Resolution],
    *,
    data: str,
    split: str,
    folder: Path | None = None,
    processes: Processes = ALONE,
) -> dict[Resolution, Reference]:
    """Reference statistics at each resolution, from the cache `folder` where they are there.

    images: batches of real images, read only where neither the cache nor the package has the
    statistics. data: SHA-256 of the images' source. processes: share the batches, in a collective
    call; all of them get the statistics. A damaged file of the cache is computed again, with a
    warning.

    Raises:
        ValueError: where there are fewer than two images.
    """
    outputs = [*(o for o in KEPT if o in extractor.outputs), *extractor.companions]
    names = {
        (side, output): _identity(data, split, side, extractor, output)
        for side in resolutions
        for output in outputs
        if rows_of(extractor, output, side)
    }
    cache = processes.agree(
        lambda: {key: cached for key, name in names.items() if (cached := _cached(folder, name))}
    )
    missing = {
        (side, output): Statistics(
            extractor.widths[output], KEPT.get(output, CAP), rows_of(extractor, output, side)
        )
        for side, output in names
        if (side, output) not in cache
    }

    def extract(place: int) -> dict[tuple[Resolution, str], list[Tensor]]:
        return _missing_outputs(images[place], extractor, list(missing))

    for _, found in processes.deal(range(len(images) if missing else 0), extract):
        for key, chunks in found.items():
            for chunk in chunks:
                missing[key].add(chunk)
    missing = processes.agree(lambda: missing)
    for key, statistics in missing.items():
        if statistics.n < 2:
            raise ValueError(
                f"split {split!r} gave {statistics.n} reference images: a distance needs at least 2"
            )
        if folder is not None and processes.first:
            statistics.save(_path(folder, names[key]), names[key])
    complete = cache | missing
    for (side, output), statistics in complete.items():
        statistics.group = rows_of(extractor, output, side)
    return {
        side: Reference(
            side,
            complete[side, "features"],
            _hash(data, split, side),
            extractor.identity,
            {
                output: complete[side, output]
                for output in outputs
                if output != "features" and (side, output) in complete
            },
        )
        for side in resolutions
    }


def _missing_outputs(
    images: UInt8[Tensor, "b c *sides"],
    extractor: Extractor,
    keys: Sequence[tuple[Resolution, str]],
) -> dict[tuple[Resolution, str], list[Tensor]]:
    """Outputs of one batch by resolution and name, in chunks of `BATCH` on the CPU."""
    found: dict[tuple[Resolution, str], list[Tensor]] = {key: [] for key in keys}
    for side in dict.fromkeys(side for side, _ in keys):
        wanted = {output for at, output in keys if at == side}
        for parts in feature_batches(extractor, pooled(images, side), wanted):
            for output in wanted & parts.keys():
                found[side, output].append(parts[output].cpu())
    return found


def read_moments(path: str | Path, extractor: Extractor, resolution: Resolution) -> Reference:
    """Published moments: an `.npz` of ADM (mu, sigma, mu_s, sigma_s), of EDM, pytorch-fid or
    clean-fid (mu, sigma), or of `write_moments`.

    Its hash is the file's. `n` counts images, those of clips being their frames, of which a clip
    has `frames`. Without `n` the moments count as exact, with a warning.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: where it is none of these, does not fit the extractor's width, names another
            extractor or resolution, or has an `n` that is no number of frames of whole clips.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"reference {path} is no file: give an .npz with mu and sigma")
    try:
        names = ("mu", "sigma", "mu_s", "sigma_s", "n", "frames", "extractor", "resolution")
        arrays = read_npz(path, names)
    except Damaged as error:
        raise ValueError(f"{path} is no .npz of moments ({error}): give mu and sigma") from error
    for name, own in (("extractor", extractor.identity), ("resolution", text_of(resolution))):
        if name in arrays and str(arrays[name]) != own:
            raise ValueError(f"{path} is for {name} {str(arrays[name])!r}, not {own!r}")
    n, frames = float(arrays.get("n", math.inf)), frames_of(resolution)
    if math.isfinite(n) and (int(arrays.get("frames", 1)), n % frames) != (frames, 0):
        raise ValueError(
            f"{path} is of n={n:g} images with frames={int(arrays.get('frames', 1))}, for clips of "
            f"{frames} frames: write `n`, the number of all frames, and `frames`, those of a clip"
        )
    if math.isinf(n):
        log.warning("%s does not say of how many images it is: its moments count as exact", path)
    statistics = _stated(path, arrays, ("mu", "sigma"), extractor.width, n)
    others = {}
    if "mu_s" in arrays and "spatial" in extractor.outputs:
        others["spatial"] = _stated(
            path, arrays, ("mu_s", "sigma_s"), extractor.outputs["spatial"], n
        )
    name = f"{path.name}@{weights.sha256(path)[:12]}"
    file = path if _holds_images(path, resolution) else None
    return Reference(resolution, statistics, name, extractor.identity, others, file)


def _holds_images(path: Path, resolution: Resolution) -> bool:
    """Whether there are colour images of that resolution beside the moments, as ADM's files have
    them (uint8, n h w c, under arr_0)."""
    if IMAGES not in names_in(path):
        return False
    rows = Rows(path, IMAGES)
    return rows.dtype == np.uint8 and rows.shape[1:] == (*sides_of(resolution), 3)


def with_features(
    reference: Reference,
    extractor: Extractor,
    folder: Path | None = None,
    processes: Processes = ALONE,
) -> Reference:
    """A published reference with the features of the images in its file, in their order, kept in
    `folder`; one without images as it is.

    ADM's evaluator takes precision and recall from these images, and distances from the moments.
    A collective call of the processes, which share the images.
    """
    if reference.file is None:
        return reference
    path = reference.file
    name = f"{weights.sha256(path)} : {IMAGES} : {extractor.key}"
    kept = processes.agree(lambda: _cached(folder, name))
    if kept is None:
        rows = Rows(path, IMAGES)

        def extract(first: int) -> list[Tensor]:
            images = rearrange(
                rows.read(first, min(first + BLOCK, len(rows))), "n h w c -> n c h w"
            )
            batches = feature_batches(extractor, torch.from_numpy(images.copy()), {"features"})
            return [parts["features"].cpu() for parts in batches]

        found = Statistics(extractor.width, CAP)
        for _, chunks in processes.deal(range(0, len(rows), BLOCK), extract):
            for chunk in chunks:
                found.add(chunk)
        if folder is not None and processes.first:
            found.save(_path(folder, name), name)
        kept = processes.agree(lambda: found)
    return replace(reference, statistics=reference.statistics.with_features(kept))


def write_moments(path: Path, reference: Reference, about: Mapping[str, str]) -> None:
    """Moments of a reference as pytorch-fid and EDM read them (mu, sigma), with the extractor.

    `n` counts images, those of clips being their frames; `frames` says how many a clip has. about:
    further texts to store. Without pickle, as a whole or not at all.
    """
    moments = reference.statistics.moments
    labels = {
        **about,
        "extractor": reference.extractor,
        "resolution": text_of(reference.resolution),
        "operator": OPERATOR,
        "hash": reference.hash,
    }
    arrays = {"mu": moments.mean.numpy(), "sigma": moments.covariance.numpy()}
    arrays |= {"n": np.asarray(moments.n), "frames": np.asarray(frames_of(reference.resolution))}
    write_npz(path, arrays | {name: np.asarray(text) for name, text in labels.items()})


def ship(reference: Reference, *, data: str, split: str, extractor: Extractor) -> Path:
    """Writes all features of a reference as a file of the package; returns its path.

    Raises:
        ValueError: where only a part of the features is in memory.
    """
    statistics = reference.statistics
    if len(statistics.kept) != statistics.n:
        raise ValueError(f"{len(statistics.kept)} of {statistics.n} features: a part is no file")
    name = _identity(data, split, reference.resolution, extractor, "features")
    features = statistics.kept.numpy()
    content = io.BytesIO()
    np.savez_compressed(
        content,
        identity=np.asarray(name),
        sha256=np.asarray(hashlib.sha256(features.tobytes()).hexdigest()),
        features=features,
    )
    path = _path(SHIPPED, name)
    write(path, content.getvalue())
    return path


def _shipped(identity: str) -> Statistics | None:
    """The statistics in the package, added up in the same batches as the images were.

    None where there are none, or (with a warning) where the file is damaged.
    """
    path = _path(SHIPPED, identity)
    if not path.exists():
        return None
    reason: object = "its content does not match its sha256"
    try:
        arrays = read_npz(path)
        features = arrays["features"]
        sums = str(arrays["identity"]), str(arrays["sha256"])
        intact = sums == (identity, hashlib.sha256(features.tobytes()).hexdigest())
    except (KeyError, ValueError) as error:
        intact, reason = False, error
    if not intact:
        log.warning("%s is damaged and is not used (%s): install hierdiff again", path, reason)
        return None
    statistics = Statistics(features.shape[1], CAP)
    for chunk in torch.from_numpy(features).split(BATCH):
        statistics.add(chunk)
    return statistics


def _stated(
    path: Path, arrays: Mapping[str, np.ndarray], names: tuple[str, str], width: int, n: float
) -> Statistics:
    if not set(names) <= set(arrays):
        raise ValueError(f"{path} lacks {' or '.join(names)}: give an .npz that holds both")
    mean, covariance = (torch.from_numpy(np.asarray(arrays[k], np.float64)) for k in names)
    if mean.shape != (width,) or covariance.shape != (width, width):
        raise ValueError(
            f"{path} holds {tuple(mean.shape)} and {tuple(covariance.shape)} under "
            f"{' and '.join(names)}, the extractor gives {width} features: use the one it is for"
        )
    scale = covariance.abs().max()
    finite = bool(torch.isfinite(mean).all() and torch.isfinite(covariance).all())
    if not finite or (covariance - covariance.T).abs().max() > 1e-5 * scale:
        raise ValueError(f"{path}: {names[1]} is no covariance, or not finite: fetch it again")
    return Statistics.stated(mean, covariance, n)


def _identity(
    data: str, split: str, resolution: Resolution, extractor: Extractor, output: str
) -> str:
    if output in extractor.companions:  # whose statistics are the same as if it stood alone
        extractor, output = extractor.companions[output], "features"
    kept = f"{output} kept {KEPT[output]}"
    return f"{data} : {split} : {text_of(resolution)} : {OPERATOR} : {extractor.key} : {kept}"


def _hash(data: str, split: str, resolution: Resolution) -> str:
    about = f"{data} : {split} : {text_of(resolution)} : {OPERATOR}"
    return hashlib.sha256(about.encode()).hexdigest()[:12]


def _path(folder: Path, identity: str) -> Path:
    return folder / f"reference-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npz"


def _cached(folder: Path | None, identity: str) -> Statistics | None:
    if folder is not None:
        try:
            return Statistics.load(_path(folder, identity), identity)
        except FileNotFoundError:
            pass
        except ValueError as error:
            log.warning("reference statistics are computed again: %s", error)
    return _shipped(identity)
