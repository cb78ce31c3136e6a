"""Methods: stages, what joins them, and the method under study. The baselines are plugins."""

from hierdiff.methods import matryoshka  # noqa: F401  (it registers)
from hierdiff.methods.bridge import Bridge, Handover, bridges
from hierdiff.methods.bridged import Bridged
from hierdiff.methods.diffusion import Diffusion
from hierdiff.methods.generator import Generator, Part, Request
from hierdiff.methods.method import Method, methods, on_shapes
from hierdiff.methods.sampling import Sampling
from hierdiff.methods.stage import Images, Stage, Turn

__all__ = [
    "Bridge",
    "Bridged",
    "Diffusion",
    "Generator",
    "Handover",
    "Images",
    "Method",
    "Part",
    "Request",
    "Sampling",
    "Stage",
    "Turn",
    "bridges",
    "methods",
    "on_shapes",
]
