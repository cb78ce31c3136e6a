"""Cost of an image against its side, and the exponents of it (`benchmarks.scaling`)."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from rich.console import Console
from rich.table import Table

from benchmarks.cost.cases import Case, cases_of
from benchmarks.cost.worker import costs
from benchmarks.device import device_for
from benchmarks.progress import track
from benchmarks.settings import TimingOptions, group_of
from benchmarks.tables.digits import is_spread, printed
from benchmarks.tables.formats.terminal import terminal_text
from hierdiff.command import in_order, plain_config, with_sentences
from hierdiff.config import folder_of_configs, one_line, print_whole
from hierdiff.data import datasets
from hierdiff.files.atomic import write, write_figure
from hierdiff.files.digest import read_json, write_json
from hierdiff.files.lock import worked_in
from hierdiff.files.reading import Damaged
from hierdiff.inputs import inputs
from hierdiff.methods import on_shapes
from hierdiff.options import check
from hierdiff.prepared import GROUPS, definite, method_node
from hierdiff.registry import build
from hierdiff.resolution import Resolutions, place_of
from hierdiff.results.cost import Cost
from hierdiff.results.hardware import hardware_of
from hierdiff.results.plain import content_hash
from hierdiff.results.provenance import machine, now
from hierdiff.training import Recipe
from hierdiff.training.fabric import process_count

log = logging.getLogger(__name__)

RESOLUTIONS = (32, 64, 128, 256)
FOLDER = Path("runs/scaling")
BATCH = 1  # images at once, unless cost.batches says otherwise
QUANTITIES = {  # key of a row: what it is, its unit, factor to it
    "seconds": ("time of an image", "s", 1.0),
    "memory_mib": ("memory", "MiB", 1.0),
    "flops": ("operations of an image", "GFLOPs", 1e-9),
}
Row = dict[str, Any]


@dataclass(frozen=True)
class ScalingSettings:
    """Options of the command. methods: names. resolutions: sides, rising. options: overrides of a
    run, the same for every method."""

    methods: tuple[str, ...]
    resolutions: tuple[int, ...]
    folder: Path
    options: tuple[str, ...]


def scaling_settings(words: Sequence[str]) -> ScalingSettings:
    """The settings of a command line.

    Raises:
        ValueError: for a word that is no option, or an unknown method.
    """
    names, sides, folder, rest = method_names(), list(RESOLUTIONS), FOLDER, []
    for word in words:
        key, equals, value = word.partition("=")
        if key == "method":
            names = value.split(",")
        elif key == "resolutions":
            sides = _sides(word)
        elif key == "folder":
            folder = Path(value)
        elif equals:
            rest.append(word)
        else:
            raise ValueError(f"{word!r} is no option: write key=value, as in resolutions=[32,64]")
    unknown, known = sorted(set(names) - set(method_names())), ", ".join(method_names())
    if unknown:
        raise ValueError(f"unknown method {', '.join(unknown)}: choose from {known}")
    return ScalingSettings(tuple(names), tuple(sides), folder, tuple(in_order(rest)))


def method_names() -> list[str]:
    """Those of `configs/method`, but for those that are no methods before they have a name or
    files."""
    paths = (Path(folder_of_configs()) / "method").glob("*.yaml")
    without = ("custom", "published", "distilled")
    return sorted(path.stem for path in paths if path.stem not in without)


def _sides(word: str) -> list[int]:
    value = with_sentences(OverridesParser.create().parse_overrides)([word])[0].value()
    check(value, Resolutions, "resolutions", [32, 64])
    for one in value:
        if not isinstance(one, int):
            raise ValueError(
                f"{word}: exponents are those of the side of a square, and {one} is none: give "
                f"sides as in [32,64]; what clips cost stands in the record of benchmarks.run"
            )
    return sorted(set(value))


def case_of(name: str, side: int, rest: Sequence[str], facts: Mapping[str, Any]) -> Case:
    """The case of sampling with a method at a resolution.

    rest: overrides of a run; facts: of the data.

    Raises:
        ValueError: where the overrides leave nothing to time, or set another side.
    """
    with initialize_config_dir(folder_of_configs(), version_base="1.3"):
        overrides = [f"method={name}", f"data.resolution={side}", f"cost.batches=[{BATCH}]", *rest]
        cfg = with_sentences(compose)("benchmark", overrides=overrides)
        options = {
            key: plain_config(cfg[key])
            for key in ("method", "denoiser", "sampler", "trainer", "cost")
            if key in cfg
        }
    node = method_node(options)
    timing = replace(group_of(TimingOptions, options["cost"], "cost"), alone=False)
    if not timing.repeats:
        raise ValueError("cost.repeats=0: nothing would be timed, give 1 or more")
    process_count(build(Recipe, definite(options["trainer"]), at="trainer"))
    if node["resolutions"][0] != side:
        raise ValueError(
            f"{name} would be measured at {node['resolutions'][0]} px instead of {side}: choose "
            f"the sides by resolutions=[...] alone"
        )
    config = {"method": node, "facts": facts, "trainer": definite(options["trainer"]), "text": None}
    device = device_for(options["trainer"]["accelerator"])
    finest = [node["resolutions"][:1]]
    _, sample = cases_of(config, finest, timing, device.type)
    return sample


def check_parts(name: str, cases: Sequence[Case]) -> None:
    """Refuses a method that cannot be built at any resolution.

    Raises:
        ValueError: with the reason at the first resolution.
    """
    refused: list[ValueError] = []
    for case in cases:
        try:
            on_shapes(case.method, offered=case.facts, at="method", elsewhere=GROUPS)
        except ValueError as error:
            refused.append(error)
        else:
            return
    raise ValueError(f"method={name}: {refused[0]}") from refused[0]


def facts_of(rest: Sequence[str]) -> dict[str, Any]:
    """Facts of the data at its own resolution; larger images are never made."""
    with initialize_config_dir(folder_of_configs(), version_base="1.3"):
        cfg = with_sentences(compose)("benchmark", overrides=list(rest))
        return datasets.build(plain_config(cfg["data"])).facts


def case_key(case: Case, where: str) -> str:
    """A key of a case, its hardware, and the files and code that it uses."""
    digests = inputs(asdict(case))
    return content_hash([asdict(case), where, *([digests] if digests else [])])


def scaling_row(name: str, case: Case, cost: Cost) -> Row:
    """The row of a case in plain units; on a CPU, memory is that above the start of the process."""
    row = {"method": name, **place_of(case.finest), "batch": cost.batch}
    if cost.sample_failure is not None:
        return {**row, "failure": cost.sample_failure}
    memory, base = cost.sample_memory_mib, cost.sample_memory_baseline_mib
    assert cost.sample_images_per_s is not None and memory is not None  # it has not failed
    return {
        **row,
        "seconds": 1 / cost.sample_images_per_s,
        "memory_mib": memory - (base or 0.0) if case.device == "cpu" else memory,
        "flops": cost.flops_per_image,
        "parameters": cost.parameters,
        "evaluations": cost.evaluations,
        "iqr_s": cost.sample_iqr_s,
        "noisy": cost.sample_noisy,
    }


def exponent(sides: Sequence[float], values: Sequence[float]) -> tuple[float, float | None] | None:
    """(p, its standard error) of value ~ side^p; None from one point, no error from two.

    Least squares of log value on log side over the positive values.
    """
    pairs = [(math.log(x), math.log(y)) for x, y in zip(sides, values, strict=True) if y > 0]
    if len(pairs) < 2:
        return None
    x, y = np.array(pairs).T
    if len(pairs) == 2:
        return float(np.polyfit(x, y, 1)[0]), None
    fit, covariance = np.polyfit(x, y, 1, cov=True)
    return float(fit[0]), math.sqrt(covariance[0, 0])


def exponents(rows: Sequence[Row]) -> dict[str, dict[str, str]]:
    """Exponents by method and quantity, as text."""
    fits = {}
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name and "failure" not in row]
        fits[name] = {
            key: exponent_text(
                exponent([row["resolution"] for row in own], [row[key] for row in own])
            )
            for key in QUANTITIES
        }
    return fits


def exponent_text(fit: tuple[float, float | None] | None) -> str:
    """An exponent with its standard error; a dash for None."""
    if fit is None:
        return "–"
    slope, error = fit
    return printed(slope, error) if is_spread(slope, error) else f"{slope:.2f}"


def exponent_table(rows: Sequence[Row]) -> Table:
    """Exponents for the terminal, a line for each method."""
    out = Table(title="exponents of the side (2: proportional to the pixels)")
    out.add_column("method")
    for what, unit, _ in QUANTITIES.values():
        out.add_column(f"{what}, {unit}", justify="right")
    for name, own in exponents(rows).items():
        out.add_row(terminal_text(name), *own.values())
    return out


def draw_exponents(path: Path, rows: Sequence[Row], conditions: str) -> None:
    """Draws a panel for each quantity, both axes logarithmic, a line for each method."""
    from matplotlib.figure import Figure

    fits = exponents(rows)
    sides = sorted({row["resolution"] for row in rows})
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    for axes, (key, (what, unit, factor)) in zip(
        figure.subplots(1, len(QUANTITIES)), QUANTITIES.items(), strict=True
    ):
        for i, (name, own_fits) in enumerate(fits.items()):
            own = [row for row in rows if row["method"] == name and row.get(key)]
            axes.plot(
                [row["resolution"] for row in own],
                [row[key] * factor for row in own],
                marker="osD^vPX*"[i % 8],
                color=f"C{i % 10}",
                label=f"{name}: {own_fits[key]}",
            )
        axes.set(xscale="log", yscale="log", xlabel="side, px", ylabel=f"{what}, {unit}")
        axes.set_xticks(sides, [str(side) for side in sides])
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=7, title="exponent", title_fontsize=7)
    figure.suptitle(f"untrained, {conditions}", fontsize=9)
    write_figure(path, figure)


class RowFile:
    """Rows of a folder by case (`case_key`), written after each resolution."""

    def __init__(self, folder: Path):
        self.path = folder / "rows.json"
        self.rows: dict[str, Row] = {}
        try:
            self.rows = dict(read_json(self.path))
        except FileNotFoundError:
            pass
        except (Damaged, TypeError, ValueError) as error:
            log.warning("all is measured again: %s", error)

    def add(self, rows: Mapping[str, Row]) -> None:
        """Adds and writes rows, but for failures, which the same command tries again."""
        self.rows |= {key: row for key, row in rows.items() if "failure" not in row}
        write_json(self.path, self.rows)


def measure_scaling(settings: ScalingSettings) -> list[Row]:
    """A row for each method and resolution; the files in the folder are written after each
    resolution."""
    names, folder, rest = settings.methods, settings.folder, settings.options
    facts, here = facts_of(rest), machine()
    of_side = {
        side: {name: case_of(name, side, rest, facts) for name in names}
        for side in settings.resolutions
    }
    for name in names:
        check_parts(name, [cases[name] for cases in of_side.values()])
    file, rows = RowFile(folder), []
    for side, cases in of_side.items():
        case = cases[names[0]]
        where = hardware_of(case.device, here)
        rows += measure_side(side, cases, where, file)
        conditions = f"{where}, {case.precision}, batch {'/'.join(map(str, case.batches))}"
        about = {"ended": now(), "hardware": conditions, "options": list(rest)}
        content = {"conditions": about, "exponents": exponents(rows), "rows": rows}
        write(folder / "scaling.json", json.dumps(content, indent=1).encode())
        draw_exponents(folder / "scaling.png", rows, conditions)
    return rows


def measure_side(side: int, cases: Mapping[str, Case], where: str, file: RowFile) -> list[Row]:
    """Rows of the cases at a resolution; missing ones are timed in turn. where: hardware."""
    keys = {name: case_key(case, where) for name, case in cases.items()}
    missing = [name for name in cases if keys[name] not in file.rows]
    if missing:
        log.info("%d px: %s", side, ", ".join(missing))
    rows = costs([cases[name] for name in missing], track)
    new = {
        keys[name]: scaling_row(name, cases[name], row)
        for name, row in zip(missing, rows, strict=True)
    }
    file.add(new)
    return [{**file.rows, **new}[keys[name]] for name in cases]


def scale(words: Sequence[str]) -> None:
    """What the command does with its words: measures, and prints exponents and files."""
    settings = scaling_settings(words)
    with worked_in(settings.folder):
        rows = measure_scaling(settings)
    print_whole(Console(), exponent_table(rows))
    for row in rows:
        if "failure" in row:
            print(one_line(f"{row['method']} at {row['resolution']} px: {row['failure']}"))
    print(settings.folder / "scaling.png", settings.folder / "scaling.json")
