"""Baselines beside Matryoshka diffusion; importing this package registers them.

They come in through the plugin entry point, as a stranger's package would.
"""

from baselines import (  # noqa: F401  (registers)
    cascaded,
    end_to_end,
    local_conditional,
    pixel_readers,
    r3gan,
    sdxl,
)
from baselines.latent import method, readers, tiny  # noqa: F401  (registers)
from baselines.unclip import method as unclip  # noqa: F401  (registers)
