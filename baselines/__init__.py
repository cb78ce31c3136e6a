"""Baselines beside Matryoshka diffusion; importing this package registers them.

They come in through the plugin entry point, as a stranger's package would.
"""

from baselines import cascaded, end_to_end, pixel_readers, r3gan, sdxl  # noqa: F401  (registers)
from baselines.latent import method, readers, tiny  # noqa: F401  (registers)
from baselines.unclip import method as unclip  # noqa: F401  (registers)
