"""N replicas train as one; and the proof of it fails where they do not."""

from __future__ import annotations

import functools
import json

import keras
import pytest

from irv2data.errors import UsageError
from irv2data.tools import main
from irv2data.training import proof

# What Keras 3.8 reports as the loss is wrong on several replicas; what it learns from is right.
REPORTS = tuple(int(part) for part in keras.__version__.split(".")[:2]) >= (3, 9)


def differing(findings) -> set[tuple[str, str]]:
    return {(finding.loop, finding.what) for finding in findings if not finding.same}


def expected() -> set[tuple[str, str]]:
    return set() if REPORTS else {(proof.FIT, "loss"), (proof.FIT, "metrics")}


@pytest.mark.parametrize(("replicas", "sync_bn"), [(2, False), (3, True)])
def test_replicas_train_as_one(replicas, sync_bn):
    found = proof.prove(replicas, sync_bn=sync_bn)
    assert [(each.loop, each.what) for each in found] == [
        (loop, what) for loop in (proof.LOOP, proof.FIT) for what in ("loss", "gradients", "weights", "metrics")
    ]
    assert differing(found) == expected()
    assert all(each.difference < 1e-5 for each in found if each.loop == proof.LOOP)


def test_statistics_of_a_replica_alone_are_found(monkeypatch):
    monkeypatch.setattr(proof, "network", functools.partial(proof.network, synchronized=False))
    found = proof.prove(2, sync_bn=True)
    everything = {(loop, what) for loop in (proof.LOOP, proof.FIT) for what in ("gradients", "weights")}
    assert everything <= differing(found)


def test_a_loss_of_a_wrong_scale_is_found(monkeypatch):
    step = proof.TrainStep

    def mean_of_the_replica(strategy, model, optimizer, batch_size, *others):
        return step(strategy, model, optimizer, batch_size // strategy.num_replicas_in_sync, *others)

    monkeypatch.setattr(proof, "TrainStep", mean_of_the_replica)
    assert {(proof.LOOP, "gradients"), (proof.LOOP, "weights"), (proof.LOOP, "metrics")} <= differing(proof.prove(2))


def test_one_replica_proves_nothing():
    with pytest.raises(UsageError, match="there is one replica: nothing to compare; give --replicas=2"):
        proof.prove(1)


def test_doctor(capsys):
    code = main.run(main.parse(["irv2data", "doctor", "--distribution", "--replicas=2", "--json"]))
    report = json.loads(capsys.readouterr().out)
    assert code == (0 if REPORTS else 1)
    assert report["sound"] is REPORTS
    assert (report["replicas"], report["sync_bn"], report["keras"]) == (2, False, keras.__version__)
    assert len(report["findings"]) == 8
    assert main.run(main.parse(["irv2data", "doctor"])) == 2
