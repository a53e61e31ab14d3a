"""Makes the virtual environment that the Makefile works in: everything locked, the project itself editable.

Standard library only, and no syntax or function newer than Python 3.6, so that an old Python gets a remedy instead of
a SyntaxError. Each problem is one line on stderr and exit status 1; nothing is installed before all checks pass.
"""

import argparse
import hashlib
import importlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from typing import Any, Callable, List, Optional, Sequence, Tuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST_PYTHON = (3, 10)
# What a person is most likely to have, and to have no trouble with, first.
PREFERRED_PYTHONS = ((3, 12), (3, 11), (3, 13), (3, 10))
# Free space: the environment itself, and pip unpacking wheels beside it. The CUDA libraries are another 5 GB.
DISK_GB = 4
DISK_GB_CUDA = 12
STAMP = "irv2data-bootstrap.txt"
UNFINISHED = "unfinished"


class BootstrapError(Exception):
    """One line for the person at the terminal: the problem and the remedy."""


def tensorflow_version(constraints: str) -> str:
    """Returns the TensorFlow that a constraints file locks, as "2.21"."""
    with open(constraints, encoding="utf-8") as lines:
        found = re.search(r"^tensorflow==(\d+\.\d+)", lines.read(), re.MULTILINE)
    if not found:
        raise BootstrapError("{} locks no tensorflow: run `make lock`".format(constraints))
    return found.group(1)


def newest_python(tensorflow: str) -> Tuple[int, int]:
    """Returns the newest Python that this TensorFlow has wheels for."""
    return (3, 13) if tuple(map(int, tensorflow.split("."))) >= (2, 20) else (3, 12)


def python_on_path(newest: Tuple[int, int]) -> Optional[str]:
    """Returns the name of a suitable Python on PATH that really starts (a pyenv shim may not), or None."""
    for version in PREFERRED_PYTHONS:
        name = "python{}.{}".format(*version)
        if version > newest or not shutil.which(name):
            continue
        try:
            answer = run([name, "-c", "import sys; print(sys.version_info[:2])"], timeout=20)
        except (OSError, subprocess.SubprocessError):
            continue
        if answer.returncode == 0 and answer.stdout.strip() == str(version):
            return name
    return None


def check_python(version: Sequence[int], tensorflow: str) -> None:
    """Raises BootstrapError unless this Python can run the project and this TensorFlow."""
    newest = newest_python(tensorflow)
    here = (version[0], version[1])
    if OLDEST_PYTHON <= here <= newest:
        return
    if here > newest:
        problem = "TensorFlow {} has no wheel for Python {}.{}".format(tensorflow, *here)
    else:
        problem = "irv2data needs Python {}.{} or newer, this is {}.{}".format(*(OLDEST_PYTHON + here))
    name = python_on_path(newest)
    if name:
        raise BootstrapError("{}: run `make PYTHON={} ...`".format(problem, name))
    raise BootstrapError(
        "{}: install Python {}.{} to {}.{}, then run `make PYTHON=python3.12 ...` (or whichever it is)".format(
            problem, *(OLDEST_PYTHON + newest)
        )
    )


def check_venv_modules(load: Callable[[str], Any] = importlib.import_module) -> None:
    """Raises BootstrapError unless Python can make virtual environments (Debian packages that part by itself)."""
    for module in ("venv", "ensurepip"):
        try:
            load(module)
        except ImportError:
            raise BootstrapError(
                "this Python has no `{}` module and cannot make a virtual environment: install it (Debian and Ubuntu: "
                "`apt install python3-venv`), or run `make PYTHON=...` with another Python".format(module)
            ) from None


def check_machine(system: str, machine: str, host_type: str, maxsize: int = sys.maxsize) -> None:
    """Raises BootstrapError where TensorFlow publishes no wheels; `host_type` tells musl from glibc."""
    if maxsize < 2**32:
        raise BootstrapError("TensorFlow has no wheel for a 32-bit Python: install a 64-bit one")
    if "musl" in host_type:
        raise BootstrapError("TensorFlow has no wheel for musl (Alpine): use a glibc distribution, e.g. Debian")
    wheels = {"Linux": ("x86_64", "aarch64"), "Darwin": ("arm64",), "Windows": ("AMD64",)}
    if machine not in wheels.get(system, ()):
        remedy = "use Linux on x86_64 or aarch64, or macOS on Apple silicon"
        if (system, machine) == ("Darwin", "x86_64"):
            remedy = "on Apple silicon use an arm64 Python; on an Intel Mac use a Linux container"
        raise BootstrapError("TensorFlow has no wheel for {} on {}: {}".format(system, machine, remedy))


def check_disk(folder: str, needed_gb: float, usage: Callable[[str], Any] = shutil.disk_usage) -> None:
    """Raises BootstrapError if the file system that `folder` is on, or will be on, is too full."""
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free_gb = usage(folder).free / 1e9
    if free_gb < needed_gb:
        raise BootstrapError(
            "{:.1f} GB free in {}, the installation needs about {:g}: free some, or run `make VENV=...` with a folder "
            "on another disk".format(free_gb, folder, needed_gb)
        )


def count_driver_gpus() -> int:
    """Returns the number of GPUs that `nvidia-smi -L` lists; 0 where it is missing or fails."""
    program = shutil.which("nvidia-smi")
    if not program:
        return 0
    try:
        answer = run([program, "-L"], timeout=60)
    except (OSError, subprocess.SubprocessError):
        return 0
    # MIG slices are listed too, indented under their GPU.
    return len(re.findall(r"^GPU \d+:", answer.stdout, re.MULTILINE)) if answer.returncode == 0 else 0


def count_tensorflow_gpus(python: str) -> int:
    """Returns the number of GPUs that TensorFlow sees in the environment of `python`; 0 if it cannot be asked."""
    code = "import tensorflow as tf; print('gpus', len(tf.config.list_physical_devices('GPU')))"
    try:
        answer = run([python, "-c", code], timeout=300)
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r"^gpus (\d+)$", answer.stdout, re.MULTILINE)
    return int(found.group(1)) if found else 0


def gpu_message(driver: int, tensorflow: int, visible: Optional[str]) -> Optional[str]:
    """Returns what to say when TensorFlow sees fewer GPUs than the driver, or None.

    Args:
        driver: GPUs that nvidia-smi lists.
        tensorflow: GPUs that TensorFlow lists.
        visible: the value of CUDA_VISIBLE_DEVICES, or None where it is not set.
    """
    if tensorflow >= driver:
        return None
    if visible is not None:
        remedy = "CUDA_VISIBLE_DEVICES is '{}': unset it to use them all".format(visible)
    else:
        remedy = (
            "update the NVIDIA driver (525 or newer), or see https://www.tensorflow.org/install/pip; until then the "
            "rest runs on the CPU"
        )
    return "TensorFlow sees {} of the driver's {} GPUs: {}".format(tensorflow, driver, remedy)


def digest(files: Sequence[str], extras: Sequence[str], root: str = ROOT) -> str:
    """Returns a digest of all that decides what is installed.

    The root is part of it because an editable install points there: a checkout that was moved is installed anew.
    """
    state = hashlib.sha256()
    for part in [root.encode("utf-8", "surrogateescape"), ",".join(sorted(extras)).encode()]:
        state.update(hashlib.sha256(part).digest())
    for path in files:
        with open(path, "rb") as content:
            state.update(hashlib.sha256(content.read()).digest())
    return state.hexdigest()


def read_stamp(venv: str) -> Optional[str]:
    """Returns what the last run left in the environment: a digest, UNFINISHED, or None."""
    try:
        with open(os.path.join(venv, STAMP), encoding="utf-8") as stamp:
            return stamp.read().strip()
    except OSError:
        return None


def write_stamp(venv: str, text: str) -> None:
    """Replaces the stamp in one step, so that a killed run cannot leave half a digest."""
    path = os.path.join(venv, STAMP)
    with open(path + ".part", "w", encoding="utf-8") as stamp:
        stamp.write(text + "\n")
    os.replace(path + ".part", path)


def venv_python(venv: str) -> str:
    """Returns the path of the environment's own Python."""
    return os.path.join(venv, "Scripts", "python.exe") if os.name == "nt" else os.path.join(venv, "bin", "python")


def run(command: Sequence[str], timeout: Optional[float] = None) -> Any:
    """Runs a command from the project's root; returns its status and its two outputs as text."""
    return subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=timeout,
    )


def run_or_fail(command: Sequence[str], problem: str) -> None:
    """Runs a command silently; if it fails, shows all it said and raises BootstrapError."""
    answer = run(command)
    if answer.returncode:
        sys.stderr.write(answer.stdout + answer.stderr)
        raise BootstrapError(problem)


def wipe(venv: str) -> None:
    """Empties the environment but for its stamp, so that a run killed in here is still known to be unfinished."""
    for entry in os.scandir(venv):
        if entry.name == STAMP:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.remove(entry.path)


def install(venv: str, constraints: str, extras: Sequence[str], stamp: str) -> None:
    """Makes or updates the environment; the stamp says UNFINISHED until all of it is there."""
    python = venv_python(venv)
    previous = read_stamp(venv)
    os.makedirs(venv, exist_ok=True)
    write_stamp(venv, UNFINISHED)
    # Only what this script left half done is wiped: an environment without a stamp is somebody's own.
    if previous == UNFINISHED or (previous is not None and not os.path.exists(python)):
        wipe(venv)
    if not os.path.exists(python):
        run_or_fail([sys.executable, "-m", "venv", venv], "cannot make the environment {}: see above".format(venv))
    elif run([python, "-c", "import pip"]).returncode:
        # Somebody's own, made by uv.
        run_or_fail([python, "-m", "ensurepip"], "{} has no pip: remove it, or see above".format(venv))
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # The first releases of Python 3.10 bring a pip that knows no editable install from pyproject.toml.
    run_or_fail([*pip, "pip>=23.1"], "pip cannot update itself: see above; is the network reachable?")
    # A relative path: pip would take brackets in an absolute one for extras.
    project = ".[{}]".format(",".join(extras)) if extras else "."
    run_or_fail(
        [*pip, "--constraint", constraints, "--editable", project],
        "pip failed: see above; is the network reachable? Then run the same command again",
    )
    write_stamp(venv, stamp)


def lock_checkout() -> Any:
    """Waits until no other bootstrap works in this checkout; the lock ends with this process."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    handle = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def bootstrap(venv: str, constraints: str, extras: Sequence[str]) -> None:
    """Brings the environment up to date, or finds that it is."""
    gpus = count_driver_gpus()
    if gpus and "cuda" not in extras:
        extras = [*extras, "cuda"]
    inputs = [os.path.join(ROOT, "pyproject.toml"), os.path.join(ROOT, "setup.py"), constraints]
    stamp = digest(inputs, extras)
    lock_checkout()
    if read_stamp(venv) == stamp and os.path.exists(venv_python(venv)):
        return

    tensorflow = tensorflow_version(constraints)
    if not os.path.exists(venv_python(venv)) or read_stamp(venv) == UNFINISHED:
        # An environment that is only brought up to date keeps the Python that made it.
        check_python(sys.version_info, tensorflow)
        check_venv_modules()
    check_machine(platform.system(), platform.machine(), sysconfig.get_config_var("HOST_GNU_TYPE") or "")
    if read_stamp(venv) is None:
        check_disk(venv, DISK_GB_CUDA if "cuda" in extras else DISK_GB)

    print(
        "bootstrap: installing TensorFlow {} and [{}] into {}: once, {}".format(
            tensorflow,
            ",".join(extras),
            venv,
            "about 5 GB, 5 to 15 minutes" if "cuda" in extras else "about 1 GB to download, 1 to 5 minutes",
        ),
        flush=True,
    )
    install(venv, constraints, extras, stamp)
    if gpus:
        message = gpu_message(gpus, count_tensorflow_gpus(venv_python(venv)), os.environ.get("CUDA_VISIBLE_DEVICES"))
        if message:
            print("bootstrap: " + message, file=sys.stderr)


def main(arguments: Optional[List[str]] = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Make or update the project's virtual environment.")
    parser.add_argument("--venv", default=".venv", help="its folder, from the project's root (default: .venv)")
    parser.add_argument("--constraints", default="requirements/constraints.txt", help="the lock file to install by")
    parser.add_argument("--extras", default="dev,docs,report", help="extras of the project, separated by commas")
    options = parser.parse_args(arguments)
    extras = [name.strip() for name in options.extras.split(",") if name.strip()]
    # A terminated run must take pip with it, as an interrupted one does: the next one would work beside it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        bootstrap(os.path.join(ROOT, options.venv), os.path.join(ROOT, options.constraints), extras)
    except BootstrapError as error:
        print("bootstrap: {}".format(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bootstrap: interrupted; the next run starts over", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
