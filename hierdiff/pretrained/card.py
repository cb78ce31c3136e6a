"""The model card: what a folder holds, how it is used, and what was measured, as Markdown.

Everything in it is read from the config of the weights and from the record of their run; what
neither says is said to be unknown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from hierdiff.metrics.quality import NATIVE, Quality
from hierdiff.resolution import px
from hierdiff.results.record import Record

UNKNOWN = "not stated"
DIGITS = 4  # of a number, significant
RECIPE = (  # options of training that are told, in this order
    *("steps", "batch_size", "optimizer", "lr", "warmup", "lr_schedule", "weight_decay", "clip"),
    *("ema", "precision"),
)


def model_card(
    config: Mapping[str, Any],
    record: Record | None,
    *,
    parameters: int,
    licence: str | None = None,
    data_licence: str | None = None,
) -> str:
    """The text of a README.md.

    config: of the weights, as plain values. record: of their run, None where there is none.
    parameters: numbers in the weights. licence, data_licence: None where nothing is stated.
    """
    published = config.get("published") or {}
    licence = licence or published.get("licence") or None
    title = record.name if record is not None else config["method"]["name"]
    parts = [
        _front_matter(config, licence),
        f"# {title}",
        _about(config, parameters),
        _use(config),
        _numbers(record),
        _recipe(config, record),
        _data(config, record, data_licence),
        _origin(published, licence),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(config: Mapping[str, Any], licence: str | None) -> str:
    """YAML for the hub: its licences have ids, others are named in full."""
    known = licence is not None and " " not in licence
    lines = [f"license: {licence.lower() if known and licence else 'other'}"]
    if not known:
        lines.append(f"license_name: {json.dumps(licence or UNKNOWN)}")
    tags = json.dumps(["diffusion", "image-generation", config["method"]["name"]])
    return "\n".join(["---", *lines, "library_name: hierdiff", f"tags: {tags}", "---"])


def _about(config: Mapping[str, Any], parameters: int) -> str:
    facts, method = config["facts"], config["method"]
    node = method.get("config", {}).get("method", method)
    sides = ", ".join(px(side) for side in node.get("resolutions") or ())
    conditions = [
        f"{facts['classes']} classes" if facts.get("classes") else "",
        f"captions (text of width {facts['text_width']})" if facts.get("text_width") else "",
    ]
    named = " and ".join(filter(None, conditions)) or "none"
    return (
        f"Images by the method `{node['name']}` of hierdiff: resolutions {sides or UNKNOWN}, "
        f"{parameters:,} numbers in the weights, conditions: {named}."
    )


def _use(config: Mapping[str, Any]) -> str:
    label = " labels=[0]" if config["facts"].get("classes") else ""
    return f"""## Use

```sh
python -m hierdiff.sample checkpoint=FOLDER/model.safetensors n=4{label}
```

```python
from hierdiff.pretrained import from_pretrained

method, config = from_pretrained("FOLDER")
```

`config.json` has every option, and the SHA-256 of the weights, which is checked."""


def _numbers(record: Record | None) -> str:
    if record is None or not record.quality:
        return "## Numbers\n\nNothing was measured with these weights."
    rows = [row for row in record.quality if row.view == NATIVE and row.value is not None]
    return f"""## Numbers

| metric | resolution | value | spread | images | real images | best possible | measured by |
|---|---|---|---|---|---|---|---|
{chr(10).join(map(_row, rows))}

`spread`: standard deviation over seeds of the samples. `best possible`: what real images would get,
with as many."""


def _row(row: Quality) -> str:
    cells = (
        *(row.metric, px(row.level), _number(row.value), _number(row.spread)),
        *(_number(row.n), _number(row.n_reference), _number(row.floor), str(row.identity)),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.{DIGITS}g}"


def _recipe(config: Mapping[str, Any], record: Record | None) -> str:
    trainer = config.get("trainer") or {}
    lines = [f"- {name}: {trainer[name]}" for name in RECIPE if name in trainer]
    if record is not None:
        lines += [f"- {what}: {number}" for what, number in _spent(record)]
    lines += [f"- sampler: `{json.dumps(sampling)}`" for sampling in _sampling(config["method"])]
    return "## Recipe\n\n" + ("\n".join(lines) or UNKNOWN)


def _spent(record: Record) -> Iterator[tuple[str, str]]:
    spent = record.training.get("spent") or {}
    for name in ("images", "flops", "seconds"):
        if spent.get(name):
            yield f"{name} of training", _number(spent[name])


def _sampling(method: Mapping[str, Any]) -> Iterator[Any]:
    """The sampler of a method; of a published one also that of its files."""
    if isinstance(method.get("config"), Mapping):
        yield from _sampling(method["config"]["method"])
    if method.get("sampling"):
        yield method["sampling"]


def _data(config: Mapping[str, Any], record: Record | None, licence: str | None) -> str:
    data = config.get("data") or {}
    if not data:
        return f"## Data\n\nTrained elsewhere. Licence of the data: {licence or UNKNOWN}."
    lines = [
        f"- data: `{data.get('name', UNKNOWN)}`, part `{config.get('part', UNKNOWN)}`, "
        f"{data.get('resolution', UNKNOWN)} px",
        f"- SHA-256: {config.get('data_sha256', UNKNOWN)}",
        f"- licence: {licence or UNKNOWN}",
    ]
    if record is not None:
        commit = (record.provenance.get("git") or {}).get("commit")
        lines.append(f"- measured {record.provenance.get('ended')}, commit {commit or 'unknown'}")
    return "## Data\n\n" + "\n".join(lines)


def _origin(published: Mapping[str, Any], licence: str | None) -> str:
    """The licence; of a published network where it came from, too."""
    lines = [f"- of the weights: {licence or UNKNOWN}"]
    if published:
        lines += [
            f"- published by: {published['project']}",
            f"- file: `{published['file']}`, SHA-256 {published['sha256']}",
            *(f"- {note}" for note in published.get("notes") or ()),
        ]
    return "## Licence\n\n" + "\n".join(lines)
