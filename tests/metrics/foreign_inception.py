"""Random weights for the Inception network, in a file named by its hash as the real one is."""

import hashlib
from pathlib import Path
from unittest import mock

import torch


def write_random(folder: Path) -> Path:
    from torch_fidelity import feature_extractor_inceptionv3 as source

    network = source.FeatureExtractorInceptionV3
    with (
        mock.patch.object(source, "load_state_dict_from_url", lambda *_, **__: {}),
        mock.patch.object(network, "load_state_dict", lambda *_: None),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(0)
        state = network("inception-v3-compat", ["2048"]).state_dict()
    path = folder / "random.pth"
    torch.save(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return path.rename(folder / f"weights-inception-random-{digest}.pth")
