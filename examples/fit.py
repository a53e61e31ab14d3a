"""`python examples/fit.py DATASET RUN`: Keras' own `fit` on all GPUs; run again, it goes on where it was killed."""

import sys
from pathlib import Path

import keras
import tensorflow as tf

import irv2data

EPOCHS, SAVE_EVERY = 3, 3
dataset, run, Preprocess = irv2data.Dataset(sys.argv[1]), Path(sys.argv[2]), irv2data.device.Preprocess
pipeline = irv2data.Pipeline(dataset, fit="random_resized_crop", image_size=(96, 96), batch_size=24)
steps, saved = pipeline.steps_per_epoch(), max(run.glob("[0-9]*.keras"), default=None)
epoch, step = divmod(int(saved.stem), steps) if saved else (0, 0)
strategy = tf.distribute.MirroredStrategy()
with strategy.scope():
    if saved:
        model = keras.models.load_model(saved)  # the optimizer's state included
    else:
        inputs = Preprocess.inputs(pipeline.output)
        x = keras.layers.Conv2D(16, 7, strides=4, activation="relu")(Preprocess(pipeline.output)(inputs))
        model = keras.Model(inputs, keras.layers.Dense(len(dataset.classes))(keras.layers.GlobalMaxPooling2D()(x)))
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)


def save(batch: int, logs: object) -> None:
    if (done := int(model.optimizer.iterations.numpy())) % SAVE_EVERY == 0:
        run.mkdir(parents=True, exist_ok=True)
        model.save(run / "partial.keras")
        (run / "partial.keras").replace(run / f"{done:08d}.keras")  # whole or not at all


callback = keras.callbacks.LambdaCallback(on_train_batch_end=save)
while epoch < EPOCHS:
    end = epoch + 1 if step else EPOCHS  # Keras counts equal epochs: what is left of one is a `fit` of its own
    data, left = pipeline.for_fit(strategy, epochs=end, start=(epoch, step)), steps - step
    model.fit(data, initial_epoch=epoch, epochs=end, steps_per_epoch=left, shuffle=False, callbacks=[callback])
    epoch, step = end, 0
