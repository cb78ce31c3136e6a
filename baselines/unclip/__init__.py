"""unCLIP: a prior of image embeddings, a decoder of them, and upsamplers.

Ramesh et al., arXiv 2204.06125.
"""
