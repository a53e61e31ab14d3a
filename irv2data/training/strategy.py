"""The replicas of a run: every GPU of every host, or logical CPU devices that stand in for them."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import tensorflow as tf

from irv2data.errors import InterruptedRunError, UsageError, one_line
from irv2data.training.config import AUTO, BFLOAT16, FLOAT32

_BFLOAT16_SINCE = (8, 0)  # compute capability: before NVIDIA's Ampere it is emulated


def make_strategy(replicas: int = 0) -> tf.distribute.Strategy:
    """A `MirroredStrategy`; or, where `TF_CONFIG` names several hosts, a `MultiWorkerMirroredStrategy` over them.

    Args:
        replicas: How many; 0 for all GPUs, or one CPU replica where there is none. More than there are GPUs is only
            possible without any: they are then logical devices that share the processor.

    Raises:
        UsageError: There are not so many GPUs, or TensorFlow has been initialised with other logical devices; or
            `TF_CONFIG` cannot be read, or goes with `replicas`.
    """
    if replicas < 0:
        raise UsageError(f"replicas must be 0 (all GPUs) or more, got {replicas}")
    if _hosts() > 1:
        if replicas:
            raise UsageError(f"TF_CONFIG names the hosts, which take part with all their GPUs; leave out {replicas=}")
        return tf.distribute.MultiWorkerMirroredStrategy()
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


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes what a run leaves behind."""
    resolver = strategy.cluster_resolver
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
        return True
    first = "chief" if "chief" in resolver.cluster_spec().jobs else "worker"
    return resolver.task_type == first and resolver.task_id == 0


def any_host(strategy: tf.distribute.Strategy, asked: bool) -> bool:
    """Whether any host says so: all of them have to call it, and get the same answer."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return asked
    return bool(_added_up(strategy)(tf.constant(float(asked))) > 0)


@functools.lru_cache(maxsize=1)
def _added_up(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    @tf.function
    def added_up(value: tf.Tensor) -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(tf.identity, args=(value,)), axis=None)

    return added_up


@contextmanager
def hosts_together(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Within, a host that goes away ends the run on the others, as TensorFlow's collective operations do, in one line.

    Raises:
        InterruptedRunError: It did; all hosts have to be started again.
    """
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise
        raise InterruptedRunError(
            f"another host of the job went away ({one_line(error)}); start all of them again with --resume"
        ) from error


def precision_on(strategy: tf.distribute.Strategy, precision: str) -> str:
    """`float32` or `bfloat16`: what `auto` means on the devices of a strategy."""
    if precision != AUTO:
        return precision
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus or any("GPU" not in device for device in strategy.extended.worker_devices):
        return FLOAT32
    capabilities = (tf.config.experimental.get_device_details(gpu).get("compute_capability") for gpu in gpus)
    return BFLOAT16 if all((each or (0, 0)) >= _BFLOAT16_SINCE for each in capabilities) else FLOAT32


def _hosts() -> int:
    """How many processes `TF_CONFIG` names; 1 without it."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        return 1
    try:
        cluster = json.loads(text).get("cluster", {})
        return max(1, sum(len(addresses) for job, addresses in cluster.items() if job in ("chief", "worker")))
    except (ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"TF_CONFIG is not the JSON that TensorFlow wants: {error}") from error
