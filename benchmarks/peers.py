"""The other loaders' virtual environments: `python -m benchmarks.peers install` makes `.venv-peers`.

They are kept apart because their packages would move NumPy, protobuf and Pillow under TensorFlow's feet. Versions are
pinned in `peers.txt`; what is there already is left alone. Several GB where pip finds PyTorch for CUDA only.
`install-ffcv` makes `.venv-peers-ffcv`: it compiles, and needs what `peers-ffcv.txt` names.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS, FFCV = ".venv-peers", ".venv-peers-ffcv"


def python_of(home: str) -> Path:
    return ROOT / home / "bin" / "python"


def pip_install(home: str, *arguments: str) -> None:
    if not python_of(home).exists():
        venv.create(ROOT / home, with_pip=True)
    subprocess.run([str(python_of(home)), "-m", "pip", "install", *arguments], check=True)


def install() -> str:
    # Wheels only: none of these should start a compiler here.
    pip_install(PEERS, "--only-binary", ":all:", "--requirement", str(ROOT / "benchmarks" / "peers.txt"))
    return PEERS


def install_ffcv() -> str:
    # Its setup.py imports what it builds with, so that comes first, and pip's isolated builds would not see it.
    pip_install(FFCV, "setuptools", "wheel", "numpy==2.4.6", "torch==2.13.0")
    requirements = ROOT / "benchmarks" / "peers-ffcv.txt"
    pip_install(FFCV, "--no-build-isolation", "--requirement", str(requirements))
    return FFCV


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = {"install": install, "install-ffcv": install_ffcv}
    parser.add_argument("action", choices=actions)
    try:
        home = actions[parser.parse_args().action]()
    except subprocess.CalledProcessError as error:
        print(f"pip failed with status {error.returncode}; its messages stand above", file=sys.stderr)
        return 1
    print(f"{home} is ready: python -m benchmarks.loaders")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
