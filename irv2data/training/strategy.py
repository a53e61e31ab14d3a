"""The replicas of a run: every GPU there is, or logical CPU devices that stand in for them."""

from __future__ import annotations

import tensorflow as tf

from irv2data.errors import UsageError


def make_strategy(replicas: int = 0) -> tf.distribute.Strategy:
    """A `MirroredStrategy`.

    Args:
        replicas: How many; 0 for all GPUs, or one CPU replica where there is none. More than there are GPUs is only
            possible without any: they are then logical devices that share the processor.

    Raises:
        UsageError: There are not so many GPUs, or TensorFlow has been initialised with other logical devices.
    """
    if replicas < 0:
        raise UsageError(f"replicas must be 0 (all GPUs) or more, got {replicas}")
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        if replicas > len(gpus):
            raise UsageError(f"replicas must be at most the number of GPUs, {len(gpus)}, got {replicas}")
        return tf.distribute.MirroredStrategy([f"GPU:{number}" for number in range(replicas or len(gpus))])
    count = max(1, replicas)
    cpu = tf.config.list_physical_devices("CPU")[0]
    if count > len(tf.config.get_logical_device_configuration(cpu) or [None]):
        try:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
        except RuntimeError as error:
            raise UsageError(
                f"replicas: {count} logical CPU devices must be set up before TensorFlow is first used ({error})"
            ) from error
    # Not the collective operations that are the default: all strategies of a process share their group keys, so that a
    # second one with another number of replicas aborts (tensorflow/tensorflow#61314).
    return tf.distribute.MirroredStrategy(
        [f"CPU:{number}" for number in range(count)], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
