"""The interpreter waits for what graphs call, and lets nothing new begin."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import threading, time
from irv2data.pipeline import leaving

begun, told = threading.Event(), threading.Event()


class Waiting:
    def close(self):
        told.set()


def work():
    with leaving.call():
        begun.set()
        told.wait()
        time.sleep(0.3)
        print("finished", flush=True)
    try:
        with leaving.call():
            print("began anew", flush=True)
    except leaving.LeavingError as error:
        print(error, flush=True)


waiting = Waiting()
leaving.close_at_exit(waiting)
threading.Thread(target=work, daemon=True).start()
begun.wait()
"""


def test_what_is_under_way_ends_and_nothing_begins():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["finished", "the interpreter is ending"]
