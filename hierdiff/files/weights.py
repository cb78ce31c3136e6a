"""Where the weights of a run are."""

from __future__ import annotations

from pathlib import Path

from hierdiff.options import check


def weights_of(run: object) -> str:
    """The file of the weights of a run, from its folder or from the file itself.

    Raises:
        ValueError: where no run is named.
    """
    if run is None:
        raise ValueError("of=null: name the run to go on from, of=runs/NAME")
    check(run, str | Path, "of", "runs/NAME")
    path = Path(str(run))
    return str(path / "weights.safetensors" if path.is_dir() else path)
