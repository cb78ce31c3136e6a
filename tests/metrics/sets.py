"""Random images, and the references made of them."""

import torch

from hierdiff.metrics.reference import references

RESOLUTIONS = (16, 8)


def images(n=40, seed=0, low=0, high=256):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (n, 3, 16, 16), dtype=torch.uint8, generator=generator)


def kept(batches, extractor, folder=None, **changes):
    about = {"data": "ab" * 32, "split": "test", "folder": folder} | changes
    return references(batches, extractor, RESOLUTIONS, **about)
