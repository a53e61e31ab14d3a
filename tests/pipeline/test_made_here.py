"""A client of the service knows the share of its chunks that no worker gave."""

from __future__ import annotations

import pytest

from irv2data import Pipeline
from irv2data.pipeline.service import client, receiver
from tests.pipeline.servers import Servers

OPTIONS = {"fit": "random_resized_crop", "image_size": (64, 64), "batch_size": 12}


@pytest.fixture
def own(tmp_path):
    """Servers to start and kill."""
    each = Servers(tmp_path / "dispatcher")
    yield each
    each.close()


def test_the_share_that_no_worker_gave(own, dataset, monkeypatch):
    positions, real = [], client.Service._made_here

    def counted(service, position):
        positions.append(position)
        return real(service, position)

    monkeypatch.setattr(client.Service, "_made_here", counted)
    monkeypatch.setattr(receiver, "PATIENCE", 0.5)
    own.start_dispatcher()
    pipeline = Pipeline(dataset, service=own.address, **OPTIONS)
    assert pipeline.made_here is None
    assert Pipeline(dataset, **OPTIONS).made_here is None
    assert len(list(pipeline.batches())) == len(positions) == 10  # nobody else was there
    assert pipeline.made_here == 1.0
    monkeypatch.setattr(receiver, "PATIENCE", 60)
    own.start_worker()
    positions.clear()
    assert len(list(pipeline.batches(epochs=2))) == 20
    # Of all 30 so far.
    assert pipeline.made_here == pytest.approx((10 + len(positions)) / 30)
    assert len(positions) < 20
