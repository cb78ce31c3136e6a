"""Datasets by name. Each gives an `ImageData`; which examples are used when is said in `order`."""

from hierdiff.data import critters, elpv, fluent_emoji, folder, order, parquet, webdataset
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
    "parquet",
    "webdataset",
]
