"""Entry point: a released autoencoder as weights that `method.codec.checkpoint=` takes.

`python -m baselines.latent.convert FILE -o weights.safetensors --layout kl_f8`. FILE: safetensors,
or what `torch.load(weights_only=True)` reads, of the autoencoder or of a whole latent-diffusion
checkpoint. What comes out is a `latent` whose denoiser is small and untrained and whose latents
were never measured: the run that takes its autoencoder measures them on its own training set.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.latent.stage import AutoencoderStage
from hierdiff.config import folder_of_configs, from_yaml, reported
from hierdiff.interop import autoencoder, check_groups
from hierdiff.methods import Method
from hierdiff.metrics.weights import check_finite, content
from hierdiff.registry import suggest
from hierdiff.training.bounds import built, tensors_of
from hierdiff.training.format import save_weights
from hierdiff.trust import check_trust

log = logging.getLogger(__name__)
LAYOUTS = Path(folder_of_configs()) / "autoencoder"
DENOISER = {"name": "unet", "width": 8, "multiples": [1], "blocks": 1, "attention": 0, "groups": 4}


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a released file, alone or beside other things of its training.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: where it holds more than tensors, or one that is not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give the one that was released")
    try:
        found = content(path)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read as tensors alone ({error}): if you trust "
            f"its author, save torch.load(FILE, weights_only=False)['state_dict'] by torch.save"
        ) from error
    found = found.get("state_dict", found) if isinstance(found, Mapping) else {}
    found = found if isinstance(found, Mapping) else {}
    state = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
    check_finite(state, path)
    return state


def layout_of(name: str) -> dict[str, Any]:
    """A file of `hierdiff/configs/autoencoder/` by its name, or a YAML file of one's own.

    Raises:
        ValueError: for an unknown name, or a file that is no config.
        PermissionError: where it names code to import.
    """
    path = Path(name) if name.endswith(".yaml") else LAYOUTS / f"{name}.yaml"
    if not path.is_file():
        known = sorted(one.stem for one in LAYOUTS.glob("*.yaml"))
        raise ValueError(
            f"unknown layout {name!r}{suggest(name, known) or ','} known: {', '.join(known)}; "
            f"one of your own is a FILE.yaml of the same options"
        )
    layout = from_yaml(path)
    check_trust(layout, source=path)
    return layout


@torch.no_grad()
def convert(
    state: Mapping[str, Tensor], layout: Mapping[str, Any], source: Path
) -> tuple[Method, dict[str, Any]]:
    """A method with the released weights, and its config.

    Raises:
        ValueError: where names or shapes are not those of the layout.
    """
    facts = {"channels": layout.get("channels", 3)}
    node = {
        "name": "latent",
        "resolutions": [layout.get("resolution", 256)],
        "codec": {
            "name": "autoencoder",
            "autoencoder": dict(layout),
            "perceptual": {"name": "lpips"},  # what all of them were trained with
        },
        "denoiser": DENOISER,
        "share": 0,
    }
    config = {"method": node, "facts": facts}
    method = built(config, source)
    stage = method.stages[0]
    assert isinstance(stage, AutoencoderStage)
    check_groups(stage.autoencoder)
    own = stage.autoencoder.state_dict()
    given = autoencoder.rename(state)
    for name in sorted(own.keys() | given.keys()):
        theirs, ours = (tuple(part[name].shape) if name in part else None for part in (given, own))
        if theirs != ours:
            raise ValueError(
                f"{source} has {theirs or 'nothing'} as {name}, the layout {ours or 'nothing'}: "
                f"give the --layout that it was trained with"
            )
        own[name].copy_(given[name])
    return method, config


@reported
def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the weights of a released file as a run's."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("file", type=Path, help="safetensors, .ckpt or .pt")
    parser.add_argument("-o", "--out", type=Path, required=True, help="weights.safetensors")
    parser.add_argument("--layout", required=True, help="kl_f8, vq_f4, ... or a YAML file")
    given = parser.parse_args(arguments)
    method, config = convert(read_state(given.file), layout_of(given.layout), given.file)
    save_weights(given.out, tensors_of(method), config)
    log.info("method.codec.checkpoint=%s with the layout %s", given.out, given.layout)


if __name__ == "__main__":
    main()
