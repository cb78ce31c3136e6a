"""Methods: stages, what joins them, and the method under study. The baselines are plugins."""

from hierdiff.methods import matryoshka  # noqa: F401  (it registers)
from hierdiff.methods.bridge import Bridge, Bridged, bridges
from hierdiff.methods.diffusion import Diffusion
from hierdiff.methods.method import Method, methods, on_shapes
from hierdiff.methods.sampling import Sampling
from hierdiff.methods.stage import Images, Stage, Turn

__all__ = [
    "Bridge",
    "Bridged",
    "Diffusion",
    "Images",
    "Method",
    "Sampling",
    "Stage",
    "Turn",
    "bridges",
    "methods",
    "on_shapes",
]
