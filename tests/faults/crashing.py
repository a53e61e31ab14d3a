"""A conversion whose decoder crashes, hangs or eats memory at images with such a comment; a script.

crashing.py SOURCE DATASET WORKERS
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from irv2data.convert import ConvertConfig, convert, writer
from irv2data.convert.transcode import transcode

CRASH, HANG, EAT = b"made to crash", b"made to hang", b"made to eat"


def treacherous(content, config):
    if CRASH in content:
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(100)
    if HANG in content:
        time.sleep(1000)
    eaten = []
    while EAT in content:
        eaten.append(bytes(16 << 20))
    return transcode(content, config)


writer.transcode = treacherous  # in the workers too: they import this module

if __name__ == "__main__":
    config = ConvertConfig(
        splits=(("train", 0.6), ("validation", 0.4)), shard_mib=0.003, decode_seconds=3, worker_mib=256
    )
    report = convert(sys.argv[1], sys.argv[2], config, workers=int(sys.argv[3]))
    print(json.dumps(report.as_json()))
