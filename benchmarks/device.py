"""The device stage: `python -m benchmarks.device [stage|augment|step ...] [--lower FOLDER]`.

`stage`: milliseconds for a batch of 64 canvases of 448x448 to 299x299 on this machine's first device, beside what one
would write with TensorFlow alone: crop and `tf.image.resize(antialias=True)` image by image, and
`tf.image.crop_and_resize`, which does not antialias. `augment`: what each augmentation takes, as a graph and compiled.
`step`: what a step of `cache="device"` takes the host beyond an empty `strategy.run`, of images so small that there is
nothing else to do. All in turn in each round; figures are JSON lines.

`--lower` writes the device stage and a training step of Inception-ResNet-v2 in mixed precision as StableHLO, to be
timed on an accelerator by any XLA runtime, instead of measuring.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.circumstances import circumstances, tell, versions
from benchmarks.conversion import spread
from benchmarks.feeds import BATCH, SIDE

CANVAS = 448
MOST_STEP = 1.0  # milliseconds
_STEPS = 200
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "geometry": {"translate": 0.1, "rotate": 15, "zoom": 0.1, "shear": 10},
    "colours": {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1, "grayscale": 0.1},
    "rand_augment": {"rand_layers": 2},
    "erase": {"erase": 0.5},
    "mixup_cutmix": {"mixup": 0.2, "cutmix": 1.0},
}


def batch() -> dict[str, Any]:
    """Canvases of noise, boxes of random size and place, draws."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    extent = rng.uniform(SIDE, CANVAS, (BATCH, 2))
    start = rng.random((BATCH, 2)) * (CANVAS - extent)
    return {
        "canvas": tf.constant(rng.integers(0, 256, (BATCH, CANVAS, CANVAS, 3), np.uint8)),
        "box": tf.constant(np.concatenate([start, extent], axis=1), tf.float32),
        "flip": tf.constant(rng.random(BATCH) < 0.5),
        "draws": tf.constant(rng.random((BATCH, 64)), tf.float32),
    }


def operations() -> dict[str, float]:
    """Counted on paper, in 10^9 multiplications and additions a batch: the two products of the device stage."""
    rows, columns = SIDE * CANVAS * CANVAS * 3, SIDE * CANVAS * SIDE * 3
    return {"rows": 2e-9 * BATCH * rows, "columns": 2e-9 * BATCH * columns}


def by_cropping(inputs: dict[str, Any]) -> Any:
    import tensorflow as tf

    def one(image: tuple[Any, Any, Any]) -> Any:
        canvas, box, flip = image
        y, x, height, width = tf.unstack(tf.cast(tf.round(box), tf.int32))
        resized = tf.image.resize(canvas[y : y + height, x : x + width], (SIDE, SIDE), antialias=True)
        return tf.cond(flip, lambda: tf.reverse(resized, [1]), lambda: resized) / 127.5 - 1.0

    images = (inputs["canvas"], inputs["box"], inputs["flip"])
    return tf.map_fn(one, images, fn_output_signature=tf.TensorSpec([SIDE, SIDE, 3], tf.float32), parallel_iterations=8)


def crop_and_resize(inputs: dict[str, Any]) -> Any:
    import tensorflow as tf

    y, x, height, width = tf.unstack(inputs["box"] / (CANVAS - 1), axis=1)
    ends = tf.where(inputs["flip"], x, x + width), tf.where(inputs["flip"], x + width, x)
    boxes = tf.stack([y, ends[1], y + height, ends[0]], axis=1)
    images = tf.cast(inputs["canvas"], tf.float32)
    return tf.image.crop_and_resize(images, boxes, tf.range(BATCH), (SIDE, SIDE)) / 127.5 - 1.0


def timed(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each, all in turn in each round after one that traces."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            result = function()
            np.asarray(result[0, 0, 0])  # waits for the device, and fetches next to nothing
            if number:
                found[name].append(1e3 * (time.perf_counter() - began))
    return {name: spread(times) for name, times in found.items()}


def _compiled(function: Callable[..., Any], *arguments: Any) -> dict[str, Callable[[], Any]]:
    import tensorflow as tf

    return {
        name: functools.partial(tf.function(function, jit_compile=compiled), *arguments)
        for name, compiled in (("graph", False), ("compiled", True))
    }


def stage(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import tensorflow as tf

    from irv2data.device import preprocess
    from irv2data.pipeline.config import OutputSpec

    inputs = batch()
    functions = {
        f"preprocess_{dtype}_{name}": each
        for dtype in ("float32", "bfloat16")
        for name, each in _compiled(
            functools.partial(preprocess, output=OutputSpec(image_size=(SIDE, SIDE), dtype=dtype)), inputs
        ).items()
    }
    functions |= {
        name: functools.partial(tf.function(function), inputs)
        for name, function in (("image_resize", by_cropping), ("crop_and_resize", crop_and_resize))
    }
    yield {
        "benchmark": "stage",
        "milliseconds": timed(functions, options.rounds),
        "images": BATCH,
        "canvas": CANVAS,
        "side": SIDE,
        "giga_operations": operations(),
        "met": True,
    }


def augment(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import tensorflow as tf

    from irv2data import Augment
    from irv2data.device import augment

    rng = np.random.default_rng(0)
    pixels = tf.constant(rng.uniform(0, 255, (BATCH, SIDE, SIDE, 3)), tf.float32)
    functions = {}
    for name, given in AUGMENTATIONS.items():
        what = Augment(**given)
        draws = tf.constant(rng.random((BATCH, what.num_draws)), tf.float32)

        def change(pixels: tf.Tensor, draws: tf.Tensor, what: Augment = what) -> tf.Tensor:
            return augment(pixels, draws, what)

        functions |= {f"{name}_{way}": each for way, each in _compiled(change, pixels, draws).items()}
    yield {"benchmark": "augment", "milliseconds": timed(functions, options.rounds), "images": BATCH, "met": True}


def step(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Wall time of a step of 16x16 pixels, planning and uploading of windows included, beside an empty one."""
    import tensorflow as tf

    import irv2data
    from benchmarks.prepared import prepare

    strategy = tf.distribute.MirroredStrategy(
        [device.name for device in tf.config.list_logical_devices("GPU")][:1] or ["CPU:0"]
    )
    with tempfile.TemporaryDirectory(prefix="irv2data-bench-") as place:
        data, _ = prepare(Path(place), options.files, None, cores=2)
        pipeline = irv2data.Pipeline(
            data.dataset, image_size=(16, 16), batch_size=BATCH, fit="random_resized_crop", cache="device"
        )
        for _ in pipeline.distribute(strategy):
            pass
        batches = iter(pipeline.distribute(strategy, 1, epochs=10_000))

        @tf.function
        def empty(value: tf.Tensor) -> Any:
            return strategy.run(lambda value: value, args=(value,))

        nothing = tf.constant(0)
        rounds = []
        for number in range(options.rounds + 1):
            times = {}
            for name, call in (("empty", lambda: empty(nothing)), ("batch", lambda: next(batches))):
                began = time.perf_counter()
                for _ in range(_STEPS):
                    call()
                times[name] = 1e3 * (time.perf_counter() - began) / _STEPS
            if number:
                rounds.append(times)
    beyond = [each["batch"] - each["empty"] for each in rounds]
    yield {
        "benchmark": "step",
        "files": options.files,
        "milliseconds": {name: spread((each[name] for each in rounds), 2) for name in rounds[0]},
        "beyond_empty": spread(beyond, 2),
        "most": MOST_STEP,
        "met": spread(beyond, 2)["median"] < MOST_STEP,
    }


def lower(folder: Path) -> None:
    """Writes MODULE.mlir of the device stage, of each augmentation, and of a training step, for batches of 64."""
    import keras
    import tensorflow as tf

    from irv2data import Augment
    from irv2data.device import augment, preprocess
    from irv2data.pipeline.config import OutputSpec
    from irv2data.training.model import build_model

    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, function: Callable[..., Any], *arguments: Any) -> None:
        ir = tf.function(function, jit_compile=True).experimental_get_compiler_ir(*arguments)(stage="stablehlo")
        (folder / f"{name}.mlir").write_text(ir)

    # Made by functions: a default value would be an argument to TensorFlow.
    def of_stage(output: OutputSpec) -> Callable[..., Any]:
        return lambda canvas, box, flip: preprocess({"canvas": canvas, "box": box, "flip": flip}, output)

    def of_augment(what: Augment) -> Callable[..., Any]:
        return lambda pixels, draws: augment(pixels, draws, what)

    inputs = batch()
    for dtype in ("float32", "bfloat16"):
        output = OutputSpec(image_size=(SIDE, SIDE), dtype=dtype)
        write(f"stage_{dtype}", of_stage(output), *(inputs[name] for name in ("canvas", "box", "flip")))
    pixels = tf.zeros([BATCH, SIDE, SIDE, 3])
    for name, given in AUGMENTATIONS.items():
        what = Augment(**given)
        write(name, of_augment(what), pixels, tf.zeros([BATCH, what.num_draws]))
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = build_model(classes=1000, image_size=(SIDE, SIDE), weights="none")
    model.trainable = True

    def train(images: tf.Tensor, label: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                label, tf.cast(model(images, training=True), tf.float32)
            )
            loss = tf.reduce_mean(losses)
        return [loss, *tape.gradient(loss, model.trainable_variables)]

    write("training_step", train, tf.zeros([BATCH, SIDE, SIDE, 3], tf.bfloat16), tf.zeros([BATCH], tf.int64))


_BENCHMARKS: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "stage": stage,
    "augment": augment,
    "step": step,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=f"of {', '.join(_BENCHMARKS)}; all if none")
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--files", type=int, default=4704, help="photographs of `step` (default: %(default)s)")
    parser.add_argument("--lower", metavar="FOLDER", type=Path, help="write StableHLO there instead")
    parser.add_argument("--record", help="file that the figures are appended to as JSON lines")
    options = parser.parse_args()
    if unknown := set(options.benchmarks) - set(_BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(_BENCHMARKS)}")
    if options.lower:
        lower(options.lower)
        return 0
    installed = versions("tensorflow", "keras", "numpy")
    figures = (
        {**each, "rounds": options.rounds, **circumstances("device"), "versions": installed}
        for name in options.benchmarks or _BENCHMARKS
        for each in _BENCHMARKS[name](options)
    )
    return 0 if tell(figures, options.record) else 1


if __name__ == "__main__":
    raise SystemExit(main())
