"""A released autoencoder becomes weights that a run takes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hierdiff.convert import main
from hierdiff.methods import Request
from hierdiff.training import load_method
from tests import tiny
from tests.baselines.latent.test_latent import NET, node, trained
from tests.interop.test_autoencoder import layout as theirs
from tests.interop.test_autoencoder import read
from tests.training.runs import images


def test_a_run_uses_it_and_measures_its_latents_on_its_own_images(tmp_path: Path):
    (state, tensors, _), layout = read(), theirs()
    save_file(state, tmp_path / "released.safetensors")
    out = tmp_path / "weights.safetensors"
    main([str(tmp_path / "released.safetensors"), "resolution=32", "-o", str(out)])
    with pytest.raises(ValueError, match="sampled before it is trained"):
        load_method(out)[0].sample(Request(1, noise=tiny.noise()))
    wanted = node(checkpoint=str(out), autoencoder=layout)
    wanted |= {"resolutions": [32], "denoiser": NET}
    run = trained(tmp_path / "run", wanted, steps=2, data=images(side=32))
    method, _ = load_method(run.weights)
    codec = method.stages[1].codec
    mean = codec.moments(tensors["images"]).chunk(2, 1)[0]
    assert (mean - tensors["mean"]).abs().max() < 1e-5 * tensors["mean"].abs().max()
    x = images(side=32).batch(torch.arange(20)).images
    z = torch.cat([codec.encode(x)[0], codec.encode(x.flip(-1))[0]])
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    assert any("ImageNet" in note for note in method.stages[0].notes)
