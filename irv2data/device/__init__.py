"""Batched tensor functions that run where the model runs, and the Keras layer around them."""

from irv2data.device.layer import Preprocess
from irv2data.device.resample import axis_weights, preprocess, resample, valid

__all__ = ["Preprocess", "axis_weights", "preprocess", "resample", "valid"]
