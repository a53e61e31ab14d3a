"""`irv2data doctor --distribution`: does training on N replicas give what it gives on one, on this machine?"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from irv2data.errors import EXIT_DONE, EXIT_FAILED, UsageError

from .common import add_json, print_json, table
from .quiet import load_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument(
        "--distribution", action="store_true", help="compare losses, gradients, weights and metrics with one replica's"
    )
    parser.add_argument("--replicas", type=int, default=0, help="how many; 0: all GPUs, or two logical CPUs")
    parser.add_argument("--sync_bn", action="store_true", help="with batch normalisation that learns on all replicas")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit code: 1 where something differs."""
    if not arguments.distribution:
        raise UsageError("doctor looks at one thing so far; give --distribution")
    load_tensorflow()
    import keras
    import tensorflow as tf

    from irv2data.training import make_strategy
    from irv2data.training.proof import ALLOWED, prove

    replicas = arguments.replicas or len(tf.config.list_physical_devices("GPU")) or 2
    make_strategy(replicas)  # logical CPUs have to be there before TensorFlow is used
    found = prove(replicas, sync_bn=arguments.sync_bn)
    sound = all(finding.same for finding in found)
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    if arguments.json:
        print_json(
            {
                "sound": sound,
                "replicas": replicas,
                "sync_bn": arguments.sync_bn,
                "allowed": ALLOWED,
                **versions,
                "findings": [asdict(finding) for finding in found],
            }
        )
    else:
        rows = [("", "", "largest difference", "")]
        rows += [(each.loop, each.what, f"{each.difference:.1e}", "same" if each.same else "DIFFERS") for each in found]
        print(table(rows, right=frozenset((2,))))
        print(
            f"{replicas} replicas {'train as' if sound else 'do NOT train as'} one (TensorFlow "
            f"{versions['tensorflow']}, Keras {versions['keras']}; allowed {ALLOWED:.0e} of the largest value)"
        )
    return EXIT_DONE if sound else EXIT_FAILED
