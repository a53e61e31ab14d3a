"""The device stage as a Keras layer: the first one of a model that takes batches as they come from the pipeline."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import keras
import tensorflow as tf

from irv2data.device.stage import preprocess
from irv2data.pipeline.augmentation import DRAWS, Augment
from irv2data.pipeline.config import LETTERBOX, NATIVE, OutputSpec


@keras.saving.register_keras_serializable("irv2data")
class Preprocess(keras.layers.Layer):
    """`irv2data.device.preprocess` as a layer without weights.

    Args:
        output: `pipeline.output`, or its fields as a dict (as a saved model stores them).
        **kwargs: Of `keras.layers.Layer`.

    Call arguments:
        inputs: A dict with at least `canvas` uint8 [B, H, W, 3], `box` float32 [B, 4] and `flip` bool or uint8 [B];
            `fitted` or `size` as `preprocess` needs them; or `image` float32 [B, h, w, 3] instead.

    Returns:
        [B, h, w, 3] of the output's dtype in [-1, 1]; `native`: [B, H, W, 3].
    """

    def __init__(self, output: OutputSpec | dict[str, Any], **kwargs: Any):
        # No autocasting: under a mixed precision policy it would round the boxes to bfloat16.
        super().__init__(autocast=False, **kwargs)
        if isinstance(output, dict):
            augment = output.get("augment")
            augment = Augment(**augment) if isinstance(augment, dict) else augment
            output = OutputSpec(**{**output, "image_size": tuple(output["image_size"]), "augment": augment})
        self.output_spec = output

    @staticmethod
    def inputs(output: OutputSpec | None = None, *, finished: bool = False) -> dict[str, Any]:
        """Symbolic inputs for a functional model: every key of `Pipeline.for_fit`'s inputs.

        All of them, read or not, because a functional model matches the values of a dict by position.

        Args:
            output: `pipeline.output`; needed for `letterbox`, with `augment`, and with `finished`.
            finished: The pipeline resizes on the host.
        """
        pixels: dict[str, Any] = {
            "canvas": keras.Input((None, None, 3), dtype="uint8", name="canvas"),
            "box": keras.Input((4,), dtype="float32", name="box"),
        }
        if finished:
            size = (None, None) if output is None or output.fit == NATIVE else output.image_size
            pixels = {"image": keras.Input((*size, 3), dtype="float32", name="image")}
        if output is not None and output.fit == LETTERBOX:
            pixels["fitted"] = keras.Input((4,), dtype="int32", name="fitted")
        return {
            **pixels,
            "size": keras.Input((2,), dtype="int32", name="size"),
            "flip": keras.Input((), dtype="bool", name="flip"),
            "draws": keras.Input((DRAWS if output is None else output.num_draws,), dtype="float32", name="draws"),
            "record": keras.Input((), dtype="int64", name="record"),
        }

    def call(self, inputs: dict[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Crops, resizes, mirrors and scales to [-1, 1]; with `training`, augments.

        Raises:
            ValueError: The boxes are no longer float32. A subclassed model under a mixed precision policy rounds its
                inputs before any layer sees them, and a box to half a pixel; give such a model `autocast=False`.
        """
        exact = "image" if "image" in inputs else "box"
        if inputs[exact].dtype != tf.float32:
            raise ValueError(
                f"{exact} must be float32, got {inputs[exact].dtype.name}: the model around Preprocess casts its "
                "inputs; make it with autocast=False"
            )
        output = self.output_spec
        return preprocess(inputs, output if training else replace(output, augment=None))

    def compute_output_spec(self, inputs: dict[str, Any], training: bool | None = None) -> keras.KerasTensor:
        """Shape and dtype of the result, without running it."""
        pixels = inputs["image"] if "image" in inputs else inputs["canvas"]
        size = pixels.shape[1:3] if self.output_spec.fit == NATIVE else self.output_spec.image_size
        shape = (pixels.shape[0], *size, 3)
        return keras.KerasTensor(shape, dtype=self.output_spec.dtype)

    def get_config(self) -> dict[str, Any]:
        """What a saved model stores."""
        return {**super().get_config(), "output": asdict(self.output_spec)}
