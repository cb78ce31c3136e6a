"""Feature extractors by registry: uint8 images or clips in, one feature vector for each out."""

from hierdiff.metrics.extractors.base import Extractor, extractors
from hierdiff.metrics.extractors.clip import CLIP
from hierdiff.metrics.extractors.dinov2 import DINOv2
from hierdiff.metrics.extractors.efficientnet_lite0 import EfficientNetLite0
from hierdiff.metrics.extractors.haar import Haar
from hierdiff.metrics.extractors.i3d import I3D
from hierdiff.metrics.extractors.inception import INCEPTION_FILE, Inception
from hierdiff.metrics.extractors.random_conv import RandomConv
from hierdiff.metrics.extractors.squeezenet import SqueezeNet

__all__ = [
    "CLIP",
    "I3D",
    "INCEPTION_FILE",
    "DINOv2",
    "EfficientNetLite0",
    "Extractor",
    "Haar",
    "Inception",
    "RandomConv",
    "SqueezeNet",
    "extractors",
]
