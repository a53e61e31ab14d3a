"""`Pipeline.for_fit`: Keras' own `fit` consumes exactly the planned epochs, over replicas."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import irv2data
from irv2data.errors import UsageError


def make(dataset, **options):
    options = {"image_size": (16, 16), "batch_size": 24, "fit": "random_resized_crop", **options}
    return irv2data.Pipeline(dataset, **options)


class Recorder(keras.layers.Layer):
    """Appends the record, box and images of every batch that it sees to a list: one entry a replica and step."""

    def __init__(self, log):
        super().__init__(autocast=False)
        self.append_to_log = log.append  # not the list: Keras would keep a copy

    def call(self, inputs):
        images, record, box = inputs

        def append(images, record, box):
            self.append_to_log((images.numpy(), record.numpy(), box.numpy()))
            return images

        result = tf.py_function(append, [images, record, box], tf.float32)
        return tf.ensure_shape(result, images.shape)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs[0].shape, dtype="float32")


def recording_model(pipeline, log):
    inputs = irv2data.device.Preprocess.inputs()
    images = irv2data.device.Preprocess(pipeline.output)(inputs)
    images = Recorder(log)([images, inputs["record"], inputs["box"]])
    logits = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(images))
    model = keras.Model(inputs, logits)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    return model


def steps_of(log, replicas, size):
    """The log as [steps][records of the global batch], sorted by record, with their boxes and images."""
    assert len(log) % replicas == 0
    assert all(len(record) == size for _, record, _ in log)
    for start in range(0, len(log), replicas):
        # Replicas run at once, so their entries may stand in any order.
        images, record, box = (np.concatenate(values) for values in zip(*log[start : start + replicas], strict=True))
        order = np.argsort(record, kind="stable")
        yield images[order], record[order], box[order]


@pytest.mark.parametrize(("replicas", "start"), [(2, (0, 0)), (3, (1, 2))])
def test_fit_consumes_the_planned_epochs(dataset, cpu_strategy, replicas, start):
    pipeline, strategy, log = make(dataset), cpu_strategy(replicas), []
    steps = pipeline.steps_per_epoch()
    with strategy.scope():
        model = recording_model(pipeline, log)
    before = model.layers[-1].kernel.numpy()
    first = start[0] + 1
    if start[1]:  # the rest of an epoch has another number of steps, hence a `fit` of its own
        rest = pipeline.for_fit(strategy, epochs=first, start=start)
        model.fit(
            rest, steps_per_epoch=steps - start[1], epochs=first, initial_epoch=start[0], shuffle=False, verbose=0
        )
        start_whole = (first, 0)
    else:
        start_whole = start
    data = pipeline.for_fit(strategy, epochs=3, start=start_whole)
    history = model.fit(data, steps_per_epoch=steps, epochs=3, initial_epoch=start_whole[0], shuffle=False, verbose=0)
    assert len(history.history["loss"]) == 3 - start_whole[0]
    assert np.isfinite(history.history["loss"]).all()
    assert np.abs(model.layers[-1].kernel.numpy() - before).max() > 0

    planned = [(epoch, step) for epoch in range(3) for step in range(steps) if (epoch, step) >= start]
    seen = list(steps_of(log, replicas, 24 // replicas))
    assert len(seen) == len(planned)
    for (images, record, box), (epoch, step) in zip(seen, planned, strict=True):
        batch = pipeline.plan.batch(epoch, step)
        order = np.argsort(batch.record[0], kind="stable")
        np.testing.assert_array_equal(record, batch.record[0, order], err_msg=f"{epoch} {step}")
        np.testing.assert_array_equal(box, batch.box[0, order])
        if step == steps - 1:
            expected = next(pipeline.batches(epoch, step).as_numpy_iterator())
            expected = irv2data.device.preprocess(expected, pipeline.output).numpy()
            np.testing.assert_allclose(images, expected[order], atol=1e-4 / 127.5)


def test_elements(dataset):
    pipeline = make(dataset, drop_remainder=False, batch_size=50)
    data = pipeline.for_fit(tf.distribute.get_strategy(), epochs=2)
    whole = [batch for epoch in (0, 1) for batch in pipeline.batches(epoch).as_numpy_iterator()]
    elements = list(data.as_numpy_iterator())
    assert len(elements) == len(whole) == 6
    for (inputs, label, weight), batch in zip(elements, whole, strict=True):
        assert inputs.keys() == batch.keys() - {"label", "weight"} == irv2data.device.Preprocess.inputs().keys()
        np.testing.assert_array_equal(label, batch["label"])
        np.testing.assert_array_equal(weight, batch["weight"])
        for name, value in inputs.items():
            np.testing.assert_array_equal(value, batch[name])
            assert value.dtype == ("uint8" if name == "flip" else batch[name].dtype)


@pytest.mark.parametrize("keras_version", ["3.8.0", "3.15.1"])
def test_replicas_get_the_same_rows_with_every_keras(dataset, cpu_strategy, monkeypatch, keras_version):
    pipeline, strategy = make(dataset, batch_size=50, drop_remainder=False), cpu_strategy(2)
    monkeypatch.setattr(keras, "__version__", keras_version)
    elements = list(pipeline.for_fit(strategy, epochs=2, start=(1, 1)))
    batches = list(pipeline.batches(1, 1).as_numpy_iterator())
    assert len(elements) == len(batches) == 2
    for (inputs, label, weight), batch in zip(elements, batches, strict=True):
        for name, value in {**inputs, "label": label, "weight": weight}.items():
            for replica, part in enumerate(strategy.experimental_local_results(value)):
                np.testing.assert_array_equal(part, batch[name][25 * replica : 25 * (replica + 1)], err_msg=name)


@pytest.mark.parametrize("start", [(0, 3), (1, 5)])
def test_start(dataset, start):
    pipeline = make(dataset)
    data = pipeline.for_fit(tf.distribute.get_strategy(), epochs=3, start=start)
    found = [inputs["record"].tolist() for inputs, _, _ in data.as_numpy_iterator()]
    places = [(epoch, step) for epoch in range(3) for step in range(5) if (epoch, step) >= start]
    assert found == [pipeline.plan.batch(*place).record[0].tolist() for place in places]


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ((3, 0), r"start: epoch must be in \[0, 3\), got 3"),
        ((-1, 0), r"start: epoch must be in \[0, 3\), got -1"),
        ((1, 6), "epoch 1 has steps 0 to 5, got step 6"),
        ((0, -1), "epoch 0 has steps 0 to 5, got step -1"),
    ],
)
def test_a_start_that_is_not_there(dataset, start, message):
    with pytest.raises(UsageError, match=message):
        make(dataset).for_fit(tf.distribute.get_strategy(), epochs=3, start=start)


def test_weights_of_filler_reach_the_loss(dataset):
    # One batch of 120 images and 8 of filler whose loss would be that of label 0 if it counted.
    pipeline = make(dataset, batch_size=128, drop_remainder=False, fit="resize")
    inputs = irv2data.device.Preprocess.inputs()
    images = irv2data.device.Preprocess(pipeline.output)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(images)))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"))
    ((features, label, weight),) = pipeline.for_fit(tf.distribute.get_strategy(), epochs=1).as_numpy_iterator()
    logits = model(features).numpy()
    log_likelihood = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -log_likelihood[np.arange(128), label][weight > 0].sum()
    data = pipeline.for_fit(tf.distribute.get_strategy(), epochs=1)
    loss = model.fit(data, steps_per_epoch=1, shuffle=False, verbose=0).history["loss"][0]
    # Keras reports the sum over images divided by their number, filler included.
    assert loss == pytest.approx(expected, rel=1e-4) or loss == pytest.approx(expected / 128, rel=1e-4)
