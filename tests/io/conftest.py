"""The tests of the extra `io` need tensorflow-io, and so an environment of their own: `make test-io`."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("tensorflow_io") else ["test_*.py"]
