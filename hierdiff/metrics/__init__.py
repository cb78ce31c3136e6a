"""Metrics: feature extractors, distances and their references, and measurements of cost."""
