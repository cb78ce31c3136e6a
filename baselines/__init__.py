"""Baselines beside Matryoshka diffusion.

They come in through the plugin entry point, as a stranger's package would. Importing the package
loads none of them, so that its commands start at once.
"""

hierdiff_plugins = [
    "baselines.cascaded",
    "baselines.end_to_end",
    "baselines.local_conditional",
    "baselines.pixel_readers",
    "baselines.r3gan",
    "baselines.sdxl",
    "baselines.latent.method",
    "baselines.latent.readers",
    "baselines.latent.tiny",
    "baselines.unclip.method",
]
