"""Latent diffusion: an autoencoder trained adversarially, then diffusion in its latents.

Esser et al., arXiv 2012.09841; Rombach et al., arXiv 2112.10752.
"""
