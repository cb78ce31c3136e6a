"""Names and shapes of the released RIN code, and what its layout computes, written out again."""

import math

import pytest
import torch
import torch.nn.functional as F

from hierdiff.batch import Cond
from hierdiff.denoisers import denoisers
from hierdiff.denoisers.rin import RIN
from hierdiff.interop import load
from hierdiff.interop.rin import rename
from tests.denoisers.test_rin import PUBLISHED
from tests.test_configs import composed

TINY = {
    "name": "rin",
    "width": 12,
    "latents": 5,
    "latent_width": 16,
    "patch": 2,
    "blocks": 2,
    "depth": 2,
    "heads": 4,
    "read_heads": 2,
    "expansion": 2,
    "latent_expansion": 3,
    "resolution": 8,
}
CLASSES = 3
POSITIONS = "tape.S{}_pos_emb.Skernel.Svis_pos_embedding"
END = "/.ATTRIBUTES/VARIABLE_VALUE"


def layout(node: dict, classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released network of these options."""
    width, inside = node["width"], node["latent_width"]
    heads, patch = node["heads"], node["patch"]
    read_heads = node.get("read_heads") or heads
    names: dict[str, tuple[int, ...]] = {}

    def norm(name: str, size: int) -> None:
        names.update({f"{name}/gamma": (size,), f"{name}/beta": (size,)})

    def dense(name: str, inputs: int, outputs: int) -> None:
        names.update({f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)})

    def mlp(name: str, size: int, ratio: int) -> None:
        norm(f"{name}/layernorms/0", size)
        dense(f"{name}/mlp_layers/0/dense1", size, size * ratio)
        dense(f"{name}/mlp_layers/0/dense2", size * ratio, size)

    def attention(name: str, size: int, source: int, inner: int, count: int) -> None:
        each = inner // count
        for part, inputs in (("query", size), ("key", source), ("value", source)):
            names[f"{name}/_{part}_dense/kernel"] = (inputs, count, each)
            names[f"{name}/_{part}_dense/bias"] = (count, each)
        names[f"{name}/_output_dense/kernel"] = (count, each, size)
        names[f"{name}/_output_dense/bias"] = (size,)

    latent_ratio, ratio = node.get("latent_expansion", 4), node.get("expansion", 4)
    names["stem/kernel"], names["stem/bias"] = (patch, patch, 3, width), (width,)
    norm("stem_ln", width)
    dense("time_emb/dense_0", inside // 4, inside)
    dense("time_emb/dense_1", inside, inside)
    dense("cond_proj", classes, inside)
    names[POSITIONS.format("latent")] = (node["latents"] - 2, inside)
    names[POSITIONS.format("tape")] = ((node["resolution"] // patch) ** 2, width)
    mlp("latent_prev_proj", inside, latent_ratio)
    norm("latent_prev_ln", inside)
    for block in range(node["blocks"]):
        read, write = (f"{unit}_units/{block}/dec_layers/0" for unit in ("read", "write"))
        for name, size, source, grow in (
            (read, inside, width, latent_ratio),
            (write, width, inside, ratio),
        ):
            norm(f"{name}/cross_ln", size)
            attention(f"{name}/cross_mha", size, source, min(width, inside), read_heads)
            mlp(f"{name}/mlp", size, grow)
        for layer in range(node["depth"]):
            name = f"latent_processing_units/{block}/enc_layers/{layer}"
            norm(f"{name}/mha_ln", inside)
            attention(f"{name}/mha", inside, inside, inside, heads)
            mlp(f"{name}/mlp", inside, latent_ratio)
    norm("output_ln", width)
    dense("output_linear", width, patch * patch * 3)
    return names


def checkpoint(node: dict, classes: int, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Both networks with other numbers, and what else a checkpoint holds."""
    generator = torch.Generator().manual_seed(0)
    state = {f"save_counter{END}": torch.zeros(())}
    for network in ("denoiser", "denoiser_ema"):
        for name, shape in layout(node, classes).items():
            value = torch.empty(shape, device=device)
            if device == "cpu":
                value = 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
            state[f"model/{network}/{name}{END}"] = value
    return state


class WrittenOut:
    """The released network, one variable at a time, under their names and in their shapes."""

    def __init__(self, weights: dict[str, torch.Tensor]):
        self.w = weights

    def norm(self, name, x):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * self.w[f"{name}/gamma"] + self.w[f"{name}/beta"]

    def dense(self, name, x):
        return x @ self.w[f"{name}/kernel"] + self.w[f"{name}/bias"]

    def mlp(self, name, x):
        h = self.norm(f"{name}/layernorms/0", x)
        h = F.gelu(self.dense(f"{name}/mlp_layers/0/dense1", h))
        return x + self.dense(f"{name}/mlp_layers/0/dense2", h)

    def attention(self, name, x, source):
        q, k, v = (
            torch.einsum("bnd,dhs->bnhs", y, self.w[f"{name}/_{part}_dense/kernel"])
            + self.w[f"{name}/_{part}_dense/bias"]
            for part, y in (("query", x), ("key", source), ("value", source))
        )
        scores = torch.einsum("bnhs,bmhs->bhnm", q, k) / q.shape[-1] ** 0.5
        mixed = torch.einsum("bhnm,bmhs->bnhs", scores.softmax(-1), v)
        out = torch.einsum("bnhs,hsd->bnd", mixed, self.w[f"{name}/_output_dense/kernel"])
        return out + self.w[f"{name}/_output_dense/bias"]

    def cross(self, name, x, source):
        x = x + self.attention(f"{name}/cross_mha", self.norm(f"{name}/cross_ln", x), source)
        return self.mlp(f"{name}/mlp", x)

    def time(self, gamma, width):
        rates = 1e4 ** (-2 * torch.arange(width // 2, dtype=torch.float64) / width)
        angles = 1000 * gamma[:, None] * rates
        waves = torch.cat([angles.sin(), angles.cos()], -1)
        waves = (waves - waves.mean(-1, keepdim=True)) / waves.std(-1, keepdim=True, correction=0)
        return self.dense("time_emb/dense_1", F.silu(self.dense("time_emb/dense_0", waves)))

    def __call__(self, x, gamma, one_hot, previous, node):
        """x: b h w c."""
        b, side, patch = len(x), x.shape[1] // node["patch"], node["patch"]
        pieces = x.reshape(b, side, patch, side, patch, 3)
        tape = torch.einsum("bipjqc,pqcd->bijd", pieces, self.w["stem/kernel"])
        tape = self.norm("stem_ln", (tape + self.w["stem/bias"]).reshape(b, side * side, -1))
        tape = tape + self.w[POSITIONS.format("tape")]
        time = self.time(gamma, node["latent_width"] // 4)[:, None]
        own = self.w[POSITIONS.format("latent")].expand(b, -1, -1)
        latent = torch.cat([own, time, self.dense("cond_proj", one_hot)[:, None]], 1)
        latent = latent + self.norm("latent_prev_ln", self.mlp("latent_prev_proj", previous))
        for block in range(node["blocks"]):
            latent = self.cross(f"read_units/{block}/dec_layers/0", latent, tape)
            for layer in range(node["depth"]):
                name = f"latent_processing_units/{block}/enc_layers/{layer}"
                h = self.norm(f"{name}/mha_ln", latent)
                latent = self.mlp(f"{name}/mlp", latent + self.attention(f"{name}/mha", h, h))
            tape = self.cross(f"write_units/{block}/dec_layers/0", tape, latent)
        out = self.dense("output_linear", self.norm("output_ln", tape))
        out = out.reshape(b, side, side, patch, patch, 3).permute(0, 1, 3, 2, 4, 5)
        return out.reshape(x.shape), latent


def network_of(node: dict, classes: int) -> RIN:
    return denoisers.build(node, offered={"channels": 3, "classes": classes})


@pytest.mark.parametrize("which", ["denoiser_ema", "denoiser"])
def test_a_network_of_the_weights_computes_what_the_released_one_does(which):
    state = checkpoint(TINY, CLASSES)
    network = network_of(TINY, CLASSES).double().eval()
    load(network, rename(state, which))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 8, 8, 3, generator=generator, dtype=torch.float64)
    previous = torch.randn(2, 5, 16, generator=generator, dtype=torch.float64)
    gamma = torch.tensor([0.2, 0.9], dtype=torch.float64)
    labels = torch.tensor([2, -1])
    one_hot = F.one_hot(labels + 1, CLASSES + 1)[:, 1:].double()
    start = f"model/{which}/"
    weights = {
        key.removeprefix(start).removesuffix(END): value
        for key, value in state.items()
        if key.startswith(start)
    }
    image, latent = WrittenOut(weights)(x, gamma, one_hot, previous, TINY)
    with torch.no_grad():
        cond = network.prepare(Cond(labels=labels))
        log_snr = torch.logit(gamma)[:, None]
        out = network((x.permute(0, 3, 1, 2),), log_snr, cond, (previous,))
    # the time enters in single precision, and its norm has an epsilon
    close = {"rtol": 0, "atol": 2e-4 * float(image.abs().max())}
    torch.testing.assert_close(out.levels[0].permute(0, 2, 3, 1), image, **close)
    close = {"rtol": 0, "atol": 2e-4 * float(latent.abs().max())}
    torch.testing.assert_close(out.carry[0], latent, **close)


def test_names_without_the_last_part_and_numpy_arrays_are_read_as_well():
    state = checkpoint(TINY, CLASSES)
    short = {name.removesuffix(END): value for name, value in state.items()}
    arrays = {name: value.numpy() for name, value in state.items()}
    usual = rename(state)
    for other in (rename(short), rename(arrays)):
        assert usual.keys() == other.keys()
        assert all(torch.equal(usual[name], other[name]) for name in usual)


@pytest.mark.parametrize("name, classes, count", PUBLISHED)
def test_every_variable_of_the_published_sizes_has_its_place(name, classes, count):
    node = composed(f"denoiser={name}")["denoiser"]
    assert sum(map(math.prod, layout(node, classes).values())) == count
    with torch.device("meta"):
        network = network_of(node, classes)
    load(network, rename(checkpoint(node, classes, "meta")))


def test_every_number_arrives_once():
    """The bias that is divided by a gain apart."""
    state = {k: v for k, v in checkpoint(TINY, CLASSES).items() if "denoiser_ema" in k}
    theirs = torch.cat([v.flatten() for k, v in state.items() if "prev_proj/layern" not in k])
    ours = {k: v for k, v in rename(state).items() if k not in ("memory.gain", "memory.bias")}
    assert torch.equal(
        theirs.sort().values, torch.cat([v.flatten() for v in ours.values()]).sort().values
    )


def test_what_no_network_here_has_is_refused():
    state = checkpoint(TINY, CLASSES)
    with pytest.raises(ValueError, match="has no model/tape/"):
        rename(state, "tape")
    other = {**state, f"model/denoiser_ema/tape_prev_ln/gamma{END}": torch.ones(12)}
    with pytest.raises(ValueError, match="have no tape_prev_ln"):
        rename(other)
    fixed = {**state, f"model/denoiser_ema/tape.Slatent_pos_emb_res.Skernel{END}": torch.ones(12)}
    with pytest.raises(ValueError, match="have no tape.Slatent_pos_emb_res"):
        rename(fixed)
    grown = {**state, f"model/denoiser_ema/conv_units/0/kernel{END}": torch.ones(12)}
    with pytest.raises(ValueError, match="have no conv_units/0"):
        rename(grown)
