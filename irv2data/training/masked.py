"""Inception-ResNet-v2 for images of differing sizes on a common canvas: nothing beside an image reaches its features.

An image lies in the top left corner of its canvas. Zeros beside it do not stay zeros: normalisations and biases make
something of them, and wherever a window reaches over the image's edge, that something would enter its features, where
the image alone would have met the zeros that a convolution pads with. What reaches over the edge, and what is done:

- Convolutions that pad: their input is multiplied by 0 beside the image.
- Average pooling that pads: the same, and it divides by how many valid pixels it has seen.
- Global average pooling: the same, over the whole image.

All else leaves the image's own features as they are. Layers without padding, max pooling among them, have their windows
inside the image; activations, normalisations, 1x1 convolutions and residual sums see one position at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from irv2data.device.resample import valid
from irv2data.errors import UsageError
from irv2data.training.config import SMALLEST_IMAGE

# (kernel, stride), each of height and width, of the layers without padding that a tensor has come through.
Windows = tuple[tuple[tuple[int, int], tuple[int, int]], ...]

# What a layer does to an image on a larger canvas.
_POINTWISE, _UNPADDED, _PADDED, _AVERAGING = range(4)


def masked_base(base: keras.Model) -> keras.Model:
    """The same network, sharing the layers and so the weights, with masks wherever padding would get in.

    The pooled features of an image are those that `base` gives for the image alone, whatever canvas it lies on, beside
    whatever others. An image with fewer than 75 pixels along an axis counts as one that zeros fill up to 75, the least
    that leaves the last stage a pixel; filler, of size 0 or 1, so has finite features and gradients. Nothing flows back
    to pixels beside an image.

    Layers keep their names and the order of their weights, so that weight files fit both and `training.model` finds its
    way. Batch normalisation has to stay in inference mode, as `training.model` leaves it: statistics of a batch would
    count what lies beside the images. In mixed precision what lies there must not overflow, for infinity times 0 is not
    0: bfloat16, not float16.

    Args:
        base: `keras.applications.InceptionResNetV2(include_top=False, pooling="avg")`, of any input size.

    Returns:
        A functional model of the same name from [images, size], float32 [B, H, W, 3] in [-1, 1] and int32 [B, 2] (valid
        height and width in pixels), to pooled features [B, 1536] of the base's dtype. H and W are at least 75.

    Raises:
        UsageError: The network has a layer that no mask is known for; or, when called, the canvas is too small.
    """
    images = keras.Input((None, None, 3), name="images")
    size = keras.Input((2,), dtype="int32", name="size")
    clamped = ValidSize(SMALLEST_IMAGE, name="valid_size")(images, size)
    masks: dict[Windows, keras.KerasTensor] = {}

    def mask(features: keras.KerasTensor, windows: Windows) -> keras.KerasTensor:
        """Made once for each resolution, and shared by all layers that need it."""
        if windows not in masks:
            masks[windows] = ValidPixels(windows, name=f"valid_pixels_{len(masks)}")(features, clamped)
        return masks[windows]

    # Whatever the canvas holds beside an image is not seen, and has no gradient.
    inside = ValidPixels((), name="valid_images")(images, size)
    start = keras.layers.Multiply(name="images_masked")([images, inside])
    reached: dict[int, tuple[keras.KerasTensor, Windows]] = {id(base.input): (start, ())}
    for layer in base.operations[1:]:
        # A tensor or, for layers that join branches, a list.
        inputs = keras.tree.map_structure(lambda tensor: reached[id(tensor)][0], layer.input)
        windows, *others = (reached[id(tensor)][1] for tensor in keras.tree.flatten(layer.input))
        if any(other != windows for other in others):
            raise UsageError(f"{layer.name}: its inputs differ in resolution; only Inception-ResNet-v2 can be masked")
        kind = _kind(layer)
        if kind == _AVERAGING:
            output = _MASKED[type(layer).__name__].from_config(layer.get_config())(inputs, mask(inputs, windows))
        elif kind == _PADDED:
            masked = keras.layers.Multiply(name=f"{layer.name}_masked", dtype=layer.dtype_policy)
            output = layer(masked([inputs, mask(inputs, windows)]))
        else:
            output = layer(inputs)
        if kind == _UNPADDED:
            windows = (*windows, _window(layer))
        reached[id(layer.output)] = (output, windows)
    return keras.Model([images, size], reached[id(base.output)][0], name=base.name)


def large_enough(canvases: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Canvases that the masked network takes, from small to large: those given, made 75 pixels high and wide at least.

    Args:
        canvases: Heights and widths, from small to large, the last of which holds all others.
    """
    grown = [(max(height, SMALLEST_IMAGE), max(width, SMALLEST_IMAGE)) for height, width in canvases]
    by_area = {height * width: (height, width) for height, width in grown}  # of equally large ones, one will do
    return tuple(by_area[area] for area in sorted(by_area))


def _kind(layer: keras.layers.Layer) -> int:
    name = type(layer).__name__
    # By name, for Keras has no public one of the residual sum's class.
    if name in ("Activation", "BatchNormalization", "Cast", "Concatenate", "CustomScaleLayer"):
        return _POINTWISE
    if name == "GlobalAveragePooling2D":
        return _AVERAGING
    if name in ("Conv2D", "MaxPooling2D", "AveragePooling2D"):
        if _window(layer) == ((1, 1), (1, 1)):
            return _POINTWISE
        if layer.padding == "valid":
            return _UNPADDED
        # With a stride, padding goes by the canvas: it would shift the windows by what lies beside the image.
        if layer.strides == (1, 1) and name != "MaxPooling2D":
            return _PADDED if name == "Conv2D" else _AVERAGING
    raise UsageError(f"{layer.name}: no mask is known for this {name}; only Inception-ResNet-v2 can be masked")


def _window(layer: keras.layers.Layer) -> tuple[tuple[int, int], tuple[int, int]]:
    return (layer.kernel_size if isinstance(layer, keras.layers.Conv2D) else layer.pool_size), layer.strides


@keras.saving.register_keras_serializable("irv2data")
class ValidSize(keras.layers.Layer):
    """The size that an image counts as.

    Args:
        least: Pixels along each axis that it has at least.
        **kwargs: Of `keras.layers.Layer`.

    Call arguments:
        images: [B, H, W, C].
        size: int32 [B, 2], height and width in pixels.

    Returns:
        int32 [B, 2].
    """

    def __init__(self, least: int, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        self.least = least

    def call(self, images: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        """The given size, or `least` where that is more.

        Raises:
            UsageError: The canvas is known to be smaller than `least`.
        """
        height, width = images.shape[1:3]
        if any(side is not None and side < self.least for side in (height, width)):
            raise UsageError(
                f"canvas of {height}x{width} pixels: the network needs at least {self.least} along each axis; "
                "give the pipeline larger canvases"
            )
        return tf.maximum(size, self.least)

    def compute_output_spec(self, images: keras.KerasTensor, size: keras.KerasTensor) -> keras.KerasTensor:
        """Shape and dtype of the result, without running it."""
        return keras.KerasTensor(size.shape, dtype="int32")

    def get_config(self) -> dict[str, Any]:
        """What a saved model stores."""
        return {**super().get_config(), "least": self.least}


@keras.saving.register_keras_serializable("irv2data")
class ValidPixels(keras.layers.Layer):
    """1 where features see their image alone, 0 beside.

    Args:
        windows: (kernel, stride), each of height and width, of the layers without padding before the features.
        **kwargs: Of `keras.layers.Layer`.

    Call arguments:
        features: [B, h, w, C], of which only h and w matter.
        size: int32 [B, 2], height and width of the images in pixels.

    Returns:
        float32 [B, h, w, 1].
    """

    def __init__(self, windows: Windows, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        self.windows = windows

    def call(self, features: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        """Follows the size through the windows."""
        for kernel, stride in self.windows:
            size = (size - kernel) // stride + 1
        return valid(size, tf.shape(features))

    def compute_output_spec(self, features: keras.KerasTensor, size: keras.KerasTensor) -> keras.KerasTensor:
        """Shape and dtype of the result, without running it."""
        return keras.KerasTensor((*features.shape[:3], 1), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """What a saved model stores."""
        return {**super().get_config(), "windows": self.windows}


@keras.saving.register_keras_serializable("irv2data")
class MaskedAveragePooling(keras.layers.AveragePooling2D):
    """Average pooling that counts valid pixels only, as it counts only pixels of the tensor at the tensor's edge.

    The arguments are those of `keras.layers.AveragePooling2D`.

    Call arguments:
        inputs: [B, h, w, C].
        inside: [B, h, w, 1], 1 where pixels are valid, 0 elsewhere.

    Returns:
        [B, h', w', C] of the compute dtype; 0 where a window has seen no valid pixel.
    """

    def call(self, inputs: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
        """The mean with zeros in place of what is not valid, over the share of the window that is valid."""
        share = super().call(tf.cast(inside, tf.float32))
        return super().call(inputs * inside) * tf.cast(tf.math.reciprocal_no_nan(share), inputs.dtype)


@keras.saving.register_keras_serializable("irv2data")
class MaskedGlobalAverage(keras.layers.GlobalAveragePooling2D):
    """Global average pooling over valid pixels.

    The arguments are those of `keras.layers.GlobalAveragePooling2D`.

    Call arguments:
        inputs: [B, h, w, C].
        inside: [B, h, w, 1], 1 where pixels are valid, 0 elsewhere.

    Returns:
        [B, C] of the compute dtype, 0 for an image without a valid pixel; sums are float32.
    """

    def call(self, inputs: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
        """Sum over count."""
        total = tf.reduce_sum(tf.cast(inputs * inside, tf.float32), axis=[1, 2])
        count = tf.reduce_sum(tf.cast(inside, tf.float32), axis=[1, 2])
        return tf.cast(tf.math.divide_no_nan(total, count), inputs.dtype)


_MASKED: dict[str, Any] = {"AveragePooling2D": MaskedAveragePooling, "GlobalAveragePooling2D": MaskedGlobalAverage}
