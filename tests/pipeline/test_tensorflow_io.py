"""tensorflow-io that cannot be loaded: one line, of whoever needs it, and nothing before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What tensorflow-io 0.37.1 does beside TensorFlow 2.21, and what others might.
WARNS = '''
import warnings
warnings.warn("""unable to load libtensorflow_io_plugins.so: unable to open file: x.so, from paths: ['x.so']
caused by: ['x.so: undefined symbol: _ZN3tsl5mutex6unlockEv']""")
warnings.warn("file system plugins are not loaded: unable to open file: y.so, from paths: ['y.so']")
'''
FAILS = 'raise ImportError("x.so: undefined symbol: _ZN3tsl5mutex6unlockEv")'
OPERATIONS = """
class Lazy:
    def __getattr__(self, name):
        raise NotImplementedError("unable to open file: libtensorflow_io.so")
core_ops = Lazy()
"""

PROGRAM = """
import sys
import irv2data
from irv2data.errors import UsageError
from irv2data.pipeline import tensorflow_io

pipeline = irv2data.Pipeline(sys.argv[1], batch_size=4, image_size=(8, 8))
assert len(next(pipeline.batches().as_numpy_iterator())["record"]) == 4
assert "tensorflow_io" not in sys.modules
for _ in range(2):
    for needing in (
        lambda: tensorflow_io.open_scheme("s3://bucket/flowers/x.tfrecord"),
        lambda: tensorflow_io.operation("io_decode_avif", "decoding"),
    ):
        try:
            needing()
        except UsageError as error:
            print(error)
"""


@pytest.mark.parametrize(("module", "why"), [(WARNS, "['x.so: undefined symbol"), (FAILS, "x.so: undefined symbol")])
def test_one_line_says_that_it_does_not_load_and_what_to_do(dataset, tmp_path, module, why):
    (tmp_path / "tensorflow_io" / "python" / "ops").mkdir(parents=True)
    (tmp_path / "tensorflow_io" / "__init__.py").write_text(module)
    (tmp_path / "tensorflow_io" / "python" / "__init__.py").write_text("")
    (tmp_path / "tensorflow_io" / "python" / "ops" / "__init__.py").write_text(OPERATIONS)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", PROGRAM, str(dataset.folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert lines[:2] == lines[2:]
    needs = "needs tensorflow-io, which does not load beside TensorFlow 2."
    assert lines[0].startswith(f"s3://bucket/flowers/x.tfrecord: reading s3:// directly {needs}")
    assert lines[0].endswith(": pip install 'irv2data[io]' (TensorFlow 2.16, Python 3.10 to 3.12), or leave direct out")
    assert lines[1].startswith(f"decoding {needs}")
    assert why in lines[0]
    assert why in lines[1]
    # Its own warnings, which name files and no remedy, are not printed beside.
    assert "plugins" not in done.stderr
