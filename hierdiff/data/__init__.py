"""Datasets by name. Each gives an `ImageData`; the order of examples is `order.indices`."""

from hierdiff.data import critters, elpv, fluent_emoji, folder, order
from hierdiff.data.classes import class_index
from hierdiff.data.image_data import ImageData, conditions, datasets

__all__ = [
    "ImageData",
    "class_index",
    "conditions",
    "critters",
    "datasets",
    "elpv",
    "fluent_emoji",
    "folder",
    "order",
]
