"""Adam with a learning rate for each block, and the average of the weights it has been through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from irv2data.errors import UsageError
from irv2data.training.config import CONSTANT, TrainConfig
from irv2data.training.phases import Phase


class GroupedOptimizer:
    """Several Keras optimizers that act as one: each has its own variables.

    Keras' optimizers have one learning rate for all variables. Adam looks at each variable by itself, so that one Adam
    a learning rate does what one Adam with many would.

    Args:
        groups: Pairs of an optimizer and the variables it changes.

    Attributes:
        learning_rate: Of the next step, of the first group.
        variables: Those of all optimizers: steps, moments, averages.
    """

    def __init__(self, groups: Sequence[tuple[keras.optimizers.Optimizer, Sequence[Any]]]):
        self._groups = [(optimizer, list(variables)) for optimizer, variables in groups]

    @property
    def learning_rate(self) -> float:
        """See above."""
        return float(self._groups[0][0].learning_rate)

    @property
    def variables(self) -> list[Any]:
        """See above."""
        return [variable for optimizer, _ in self._groups for variable in optimizer.variables]

    def build(self, variables: Sequence[Any]) -> None:
        """Makes the optimizers' variables; call it in the strategy's scope.

        Raises:
            ValueError: The groups do not hold exactly these variables.
        """
        held = [id(variable) for _, group in self._groups for variable in group]
        if sorted(held) != sorted(map(id, variables)):
            raise ValueError("the groups of an optimizer must hold each learning variable once")
        for optimizer, group in self._groups:
            optimizer.build(group)

    def apply(self, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        """One step; in a replica's context, where the gradients of all replicas are added up."""
        gradient = {id(variable): each for variable, each in zip(variables, gradients, strict=True)}
        for optimizer, group in self._groups:
            optimizer.apply([gradient[id(variable)] for variable in group], group)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the variables have their average values, if averages are kept; afterwards again their own."""
        own = [[variable.numpy() for variable in group] for optimizer, group in self._groups if optimizer.use_ema]
        if not own or not int(self._groups[0][0].iterations.numpy()):  # averages begin with the first step
            yield
            return
        for optimizer, group in self._groups:
            optimizer.finalize_variable_values(group)
        try:
            yield
        finally:
            for (_, group), values in zip(self._groups, own, strict=True):
                for variable, value in zip(group, values, strict=True):
                    variable.assign(value)


def learning_rate(highest: float, steps: int, config: TrainConfig) -> keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate over a phase: an even rise, then a half cosine down to nothing, or none.

    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017), without restarts; Goyal et
    al., "Accurate, large minibatch SGD" (2017), for the warm-up.

    Args:
        highest: Learning rate after the warm-up.
        steps: Of the phase.
        config: The options.

    Raises:
        UsageError: The phase is not longer than the warm-up.
    """
    warmup = config.warmup_steps
    if warmup >= steps:
        raise UsageError(f"warmup_steps must be less than the steps of a phase, {steps}, got {warmup}")
    return keras.optimizers.schedules.CosineDecay(
        # Not from 0, with which the first step would do nothing.
        highest / warmup if warmup else highest,
        decay_steps=steps - warmup,
        alpha=1.0 if config.schedule == CONSTANT else 0.0,
        warmup_target=highest if warmup else None,
        warmup_steps=warmup,
    )


def make_optimizer(
    groups: Sequence[tuple[float, Sequence[Any]]], phase: Phase, steps: int, config: TrainConfig
) -> GroupedOptimizer:
    """The optimizer of a phase; call it in the strategy's scope.

    Args:
        groups: Of `model.learning_groups`: shares of the phase's learning rate, and the variables that have it.
        phase: The phase.
        steps: How many it has.
        config: The options.

    Raises:
        UsageError: The phase is not longer than the warm-up.
    """

    def adam(share: float, variables: Sequence[Any]) -> keras.optimizers.Optimizer:
        optimizer = keras.optimizers.Adam(
            learning_rate(share * phase.learning_rate, steps, config),
            weight_decay=config.weight_decay or None,
            use_ema=config.ema > 0,
            ema_momentum=config.ema or 0.99,
        )
        # Loshchilov and Hutter's decay (2019) is for weights that multiply, not for offsets and scales.
        optimizer.exclude_from_weight_decay([variable for variable in variables if len(variable.shape) < 2])
        return optimizer

    return GroupedOptimizer([(adam(share, variables), variables) for share, variables in groups])
