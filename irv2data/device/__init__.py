"""Batched tensor functions that run where the model runs, and the Keras layer around them."""

from irv2data.device.augment import augment
from irv2data.device.layer import Preprocess
from irv2data.device.resample import axis_weights, resample, valid
from irv2data.device.stage import preprocess
from irv2data.pipeline.mixing import mix_labels

__all__ = ["Preprocess", "augment", "axis_weights", "mix_labels", "preprocess", "resample", "valid"]
