"""Hierarchical diffusion models compared under one protocol.

Matryoshka diffusion, cascaded, latent and end-to-end diffusion behind one interface of denoiser and
process, with one trainer and one harness. `hierdiff.methods.methods` builds a method from its
configuration, `hierdiff.training.train` trains it, `method.sample` samples it;
`python -m hierdiff.list` shows every part that can be chosen by name.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("hierdiff")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "unknown"
