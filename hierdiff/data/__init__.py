"""Datasets by name. Each gives an `ImageData`; which examples are used when is said in `order`."""

from hierdiff.data import (
    cifar,
    clips,
    critters,
    elpv,
    fluent_emoji,
    folder,
    huggingface,
    order,
    parquet,
    tiny_imagenet,
    webdataset,
)
from hierdiff.data.classes import class_index
from hierdiff.data.image_data import ImageData, conditions, datasets

__all__ = [
    "ImageData",
    "cifar",
    "class_index",
    "clips",
    "conditions",
    "critters",
    "datasets",
    "elpv",
    "fluent_emoji",
    "folder",
    "huggingface",
    "order",
    "parquet",
    "tiny_imagenet",
    "webdataset",
]
