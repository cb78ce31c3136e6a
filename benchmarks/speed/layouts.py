"""Networks whose speed is measured, by name: options of a run, and the facts of its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TEXT = {"text_width": 64, "text_length": 16}  # of the small layouts
T5 = {"text_width": 2048, "text_length": 128}  # of the official ones
MDM_15M: dict[str, Any] = {  # the official network, small: 64 > 32 px, 14,977,638 parameters
    "name": "nested_unet",
    "width": 32,
    "scalars": {"scale": 64},
    "multiples": [1, 2],
    "blocks": [2, 1],
    "attention": 0,
    "ffn": False,
    "time_width": 256,
    "inner": {
        "name": "unet",
        "width": 64,
        "multiples": [1, 2, 3],
        "blocks": 2,
        "attention": [0, 1, 1],
        "time_width": 256,
        "scalars": {"scale": 64},
    },
}


@dataclass(frozen=True)
class Layout:
    """A network and its levels.

    overrides: options of a run. facts: of the data, beside its 3 channels. denoiser: a node in
    place of the one that the overrides choose. batch: images at once.
    """

    overrides: Sequence[str]
    facts: Mapping[str, int] = field(default_factory=dict)
    denoiser: Mapping[str, Any] | None = None
    batch: int = 8


def _official(name: str, batch: int) -> Layout:
    return Layout((f"experiment={name}",), T5, batch=batch)


def _flat(denoiser: str, side: int, *options: str, channels: int = 3, batch: int = 8) -> Layout:
    """A network of one level and 1000 classes; its clock is that of log-SNR."""
    chosen = ("method=end_to_end", f"denoiser={denoiser}", f"data.resolution={side}", *options)
    return Layout(chosen, {"channels": channels, "classes": 1000}, batch=batch)


def _dit(name: str, batch: int) -> Layout:
    """A DiT on latents of 4 x 32 x 32, without its learned variance."""
    clock = "denoiser.clock={name: log_snr}"
    return _flat(name, 32, clock, "denoiser.learned_variance=false", channels=4, batch=batch)


LAYOUTS: dict[str, Layout] = {
    "mdm_15m": Layout(("method=mdm", "data.resolution=64"), TEXT, MDM_15M),
    "default": Layout(("method=mdm",), {"classes": 10}, batch=16),
    "mdm_64": _official("mdm_64", 2),
    "mdm_256": _official("mdm_256", 1),
    "mdm_1024": _official("mdm_1024", 1),
    "dit_s": _dit("dit_s_2", 8),
    "dit_b": _dit("dit_b_2", 4),
    "dit_xl": _dit("dit_xl_2", 2),
    "ldm": _flat("ldm_4", 64, "denoiser.clock={name: log_snr}", batch=1),
    "rin": _flat("rin_64", 64, batch=2),
}


def method_of(name: str) -> dict[str, Any]:
    """The node of a layout's method, sampled by DDIM and clipped to [-1, 1]."""
    # here, so that names of layouts do without them
    from hydra import compose, initialize_config_dir

    from hierdiff.command import plain_config, with_sentences
    from hierdiff.config import folder_of_configs
    from hierdiff.prepared import method_node

    layout = LAYOUTS[name]
    with initialize_config_dir(folder_of_configs(), version_base="1.3"):
        cfg = with_sentences(compose)("benchmark", overrides=list(layout.overrides))
        options = {key: plain_config(cfg[key]) for key in ("method", "denoiser")}
    if layout.denoiser is not None:
        options["denoiser"] = dict(layout.denoiser)
    sampling = {"rule": {"name": "ddim"}, "steps": 25, "threshold": {"name": "static"}}
    return {**method_node(options), "sampling": sampling}
