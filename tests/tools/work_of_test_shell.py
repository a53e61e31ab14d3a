"""What `test_shell` runs, as a command `info` that does it: `python work_of_test_shell.py WORK [FLAGS]`."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from pathlib import Path

from irv2data.tools import console, main
from irv2data.tools.interrupts import stopping
from irv2data.tools.quiet import load_tensorflow


def tensorflow(arguments):
    load_tensorflow()
    import tensorflow as tf

    print(float(tf.constant(1.0) + 2))
    return 0


def bars(arguments):
    shown = console.Bars("files", reading="shards")
    shown("finding", 7, None)
    for done in range(5):
        shown("reading", done, 4)
        if done == 2:
            console.note("a note")
    shown.close()
    console.result("done")
    return 0


def waits(arguments):
    print("waiting", flush=True)
    time.sleep(60)


def stuck(arguments):
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
    number = threading.get_native_id()

    def tell():
        """Says so once the main thread waits for the mutex."""
        while f" {ctypes.addressof(mutex):#x} " not in Path(f"/proc/self/task/{number}/syscall").read_text():
            time.sleep(0.01)
        print("waiting", flush=True)

    libc.pthread_mutex_lock(mutex)
    threading.Thread(target=tell, daemon=True).start()
    libc.pthread_mutex_lock(mutex)  # for ever, and in C, as within TensorFlow


def steps(arguments):
    with stopping(b"stopping soon\n") as stop:
        print("stepping", flush=True)
        while not stop():
            time.sleep(0.01)
    print("finished the step")
    return 0


if __name__ == "__main__":
    arguments = main.parse(["irv2data", "info", "flowers", *sys.argv[2:]])
    arguments.run = {each.__name__: each for each in (tensorflow, bars, waits, stuck, steps)}[sys.argv[1]]
    arguments.left = lambda arguments: f"{arguments.dataset} is half done, run it again"
    sys.exit(main.guarded(arguments))
