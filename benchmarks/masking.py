"""What masking padding out costs: `python -m benchmarks.masking [--batch 4] [--side 299]`.

Milliseconds of Inception-ResNet-v2 in float32 on the same canvases, as it is and masked: `forward`, and `training`, a
step's gradients of all weights with normalisations in inference mode. Both in turn in each round, and the cost is a
ratio within the round, so that what else the machine does weighs on both; `wall` by the clock, `processor` by the
processor time of all threads, which others disturb less. `values` are counted, not measured: how many an image has
multiplied by a mask, and how many there would be if all activations and max-poolings had one. Figures are JSON lines.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.circumstances import circumstances, tell, versions
from benchmarks.conversion import spread

Pass = Callable[..., Any]


def passes(model: Any) -> dict[str, Pass]:
    """A network's forward pass and gradients, as graphs; each gives a number that depends on all of it."""
    import tensorflow as tf

    @tf.function
    def forward(inputs: Any) -> tf.Tensor:
        return tf.reduce_sum(model(inputs, training=False))

    @tf.function
    def training(inputs: Any) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(inputs, training=False))
        return tf.add_n([tf.reduce_sum(each) for each in tape.gradient(loss, model.trainable_variables)])

    return {"forward": forward, "training": training}


_CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def timed(functions: dict[str, Callable[[], Any]], rounds: int) -> list[dict[str, dict[str, float]]]:
    """Milliseconds of each by each clock, in each round, after one that traces."""
    found = []
    for number in range(rounds + 1):
        times = {}
        # Every other round the other way about, so that neither always comes after the other.
        for name in sorted(functions, reverse=number % 2 == 1):
            began = {clock: read() for clock, read in _CLOCKS.items()}
            float(functions[name]())
            times[name] = {clock: 1e3 * (read() - began[clock]) for clock, read in _CLOCKS.items()}
        if number:
            found.append(times)
    return found


def values(model: Any, tensors: list[Any], side: int) -> int:
    """How many values these tensors of a network have for one image of that side."""
    import keras

    inputs = [keras.KerasTensor((1, side, side, 3)), keras.KerasTensor((1, 2), dtype="int32")]
    shapes = keras.Model(model.inputs, tensors).compute_output_spec(inputs[: len(model.inputs)])
    return sum(math.prod(each.shape) for each in shapes)


def counted(plain: Any, masked: Any, side: int) -> dict[str, int]:
    import keras

    layers = keras.layers
    multiplied = (layers.Multiply, layers.AveragePooling2D, layers.GlobalAveragePooling2D)
    everywhere = (layers.Activation, layers.MaxPooling2D)
    # What a mask is for comes first among a layer's inputs.
    ours = [keras.tree.flatten(layer.input)[0] for layer in masked.layers if isinstance(layer, multiplied)]
    theirs = [layer.output for layer in plain.layers if isinstance(layer, everywhere)]
    return {"masked": values(masked, ours, side), "everywhere": values(plain, theirs, side)}


def masking(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import keras
    import tensorflow as tf

    from irv2data.training.masked import masked_base

    plain = keras.applications.InceptionResNetV2(
        weights=None, include_top=False, pooling="avg", input_shape=(None, None, 3)
    )
    masked = masked_base(plain)
    rng = np.random.default_rng(0)
    images = tf.constant(rng.uniform(-1, 1, (options.batch, options.side, options.side, 3)), tf.float32)
    size = tf.constant(rng.integers(options.side // 2, options.side, (options.batch, 2)), tf.int32)
    graphs = {"plain": passes(plain), "masked": passes(masked)}
    multiplied = counted(plain, masked, options.side)
    for what in ("forward", "training"):
        functions: dict[str, Callable[[], Any]] = {
            "plain": lambda what=what: graphs["plain"][what](images),
            "masked": lambda what=what: graphs["masked"][what]([images, size]),
        }
        rounds = timed(functions, options.rounds)
        yield {
            "benchmark": "masking",
            "what": what,
            "milliseconds": {
                name: {clock: spread(each[name][clock] for each in rounds) for clock in _CLOCKS} for name in functions
            },
            "masked_over_plain": {
                clock: spread((each["masked"][clock] / each["plain"][clock] for each in rounds), 3) for clock in _CLOCKS
            },
            "values": multiplied,
            "images": options.batch,
            "side": options.side,
            "met": True,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="images (default: %(default)s)")
    parser.add_argument("--side", type=int, default=299, help="of the canvases, in pixels (default: %(default)s)")
    parser.add_argument("--record", help="file that the figures are appended to as JSON lines")
    options = parser.parse_args()
    installed = versions("tensorflow", "keras", "numpy")
    figures = (
        {**each, "rounds": options.rounds, **circumstances("masking"), "versions": installed}
        for each in masking(options)
    )
    return 0 if tell(figures, options.record) else 1


if __name__ == "__main__":
    raise SystemExit(main())
