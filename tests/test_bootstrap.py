"""scripts/bootstrap.py: each thing it checks for, and what it says."""

import ast
import collections
import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "bootstrap.py"
DiskUsage = collections.namedtuple("DiskUsage", "total used free")


@pytest.fixture(scope="module")
def bootstrap():
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def path_folder(tmp_path, monkeypatch):
    """An empty folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_parses_on_python_3_6():
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 6))
    # The parser lets this one through; Python 3.6 does not.
    futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    assert futures == []


def test_imports_nothing_that_must_be_installed():
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


# Python, TensorFlow, what the message starts with (None: accepted).
@pytest.mark.parametrize(
    ("version", "tensorflow", "problem"),
    [
        ((3, 9, 18), "2.21", "irv2data needs Python 3.10 or newer, this is 3.9: "),
        ((2, 7, 18), "2.21", "irv2data needs Python 3.10 or newer, this is 2.7: "),
        ((3, 10, 0), "2.21", None),
        ((3, 13, 9), "2.21", None),
        ((3, 14, 0), "2.21", "TensorFlow 2.21 has no wheel for Python 3.14: "),
        ((4, 0, 0), "2.21", "TensorFlow 2.21 has no wheel for Python 4.0: "),
        ((3, 13, 0), "2.20", None),
        ((3, 12, 0), "2.16", None),
        ((3, 13, 0), "2.16", "TensorFlow 2.16 has no wheel for Python 3.13: "),
    ],
)
def test_python_version(bootstrap, path_folder, version, tensorflow, problem):
    if problem is None:
        bootstrap.check_python(version, tensorflow)
        return
    with pytest.raises(bootstrap.BootstrapError) as error:
        bootstrap.check_python(version, tensorflow)
    newest = "3.12" if tensorflow == "2.16" else "3.13"
    remedy = f"install Python 3.10 to {newest}, then run `make PYTHON=python3.12 ...` (or whichever it is)"
    assert str(error.value) == problem + remedy


def test_remedy_names_a_python_that_starts(bootstrap, path_folder):
    program(path_folder, "python3.12", "echo 'pyenv: python3.12: command not found' >&2; exit 127")
    program(path_folder, "python3.11", "echo '(3, 11)'")
    program(path_folder, "python3.10", "echo '(3, 10)'")
    with pytest.raises(bootstrap.BootstrapError) as error:
        bootstrap.check_python((3, 14, 0), "2.21")
    assert str(error.value) == "TensorFlow 2.21 has no wheel for Python 3.14: run `make PYTHON=python3.11 ...`"


def test_remedy_names_no_python_that_tensorflow_has_no_wheel_for(bootstrap, path_folder):
    program(path_folder, "python3.13", "echo '(3, 13)'")
    assert bootstrap.python_on_path((3, 13)) == "python3.13"
    assert bootstrap.python_on_path((3, 12)) is None


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_missing_module_is_named_with_its_package(bootstrap, missing):
    def load(name):
        if name == missing:
            raise ImportError(name)

    with pytest.raises(bootstrap.BootstrapError, match=f"no `{missing}` module.*`apt install python3-venv`"):
        bootstrap.check_venv_modules(load)


@pytest.mark.parametrize(
    ("system", "machine", "host", "maxsize", "problem"),
    [
        ("Linux", "x86_64", "x86_64-pc-linux-gnu", 2**63 - 1, None),
        ("Linux", "aarch64", "aarch64-unknown-linux-gnu", 2**63 - 1, None),
        ("Darwin", "arm64", "", 2**63 - 1, None),
        ("Linux", "x86_64", "i686-pc-linux-gnu", 2**31 - 1, "no wheel for a 32-bit Python"),
        ("Linux", "armv7l", "arm-linux-gnueabihf", 2**31 - 1, "no wheel for a 32-bit Python"),
        ("Linux", "x86_64", "x86_64-alpine-linux-musl", 2**63 - 1, r"no wheel for musl \(Alpine\)"),
        ("Linux", "riscv64", "riscv64-linux-gnu", 2**63 - 1, "no wheel for Linux on riscv64: use Linux on x86_64"),
        ("Darwin", "x86_64", "", 2**63 - 1, "no wheel for Darwin on x86_64: on Apple silicon use an arm64 Python"),
    ],
)
def test_machine(bootstrap, system, machine, host, maxsize, problem):
    if problem is None:
        bootstrap.check_machine(system, machine, host, maxsize)
        return
    with pytest.raises(bootstrap.BootstrapError, match=problem):
        bootstrap.check_machine(system, machine, host, maxsize)


def test_disk_is_measured_where_the_folder_will_be(bootstrap, tmp_path):
    asked = []

    def usage(folder):
        asked.append(folder)
        return DiskUsage(total=10e9, used=6.5e9, free=3.5e9)

    bootstrap.check_disk(str(tmp_path / "not" / "there"), 3.4, usage)
    with pytest.raises(bootstrap.BootstrapError, match=r"3\.5 GB free in .*, the installation needs about 4:"):
        bootstrap.check_disk(str(tmp_path / "not" / "there"), 4, usage)
    assert asked == [str(tmp_path)] * 2


GPU = "GPU {}: NVIDIA H200 (UUID: GPU-5f1e{}7a2-0000-1111-2222-333344445555)"
MIG = "  MIG 1g.18gb     Device  0: (UUID: MIG-0a1b2c3d-0000-1111-2222-333344445555)"


@pytest.mark.parametrize(
    ("lines", "status", "gpus"),
    [
        (["No devices found."], 0, 0),
        ([], 0, 0),
        ([GPU.format(0, 0)], 0, 1),
        ([GPU.format(index, index) for index in range(3)], 0, 3),
        ([GPU.format(0, 0), MIG, MIG], 0, 1),
        (["NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."], 9, 0),
        # What a driver that just broke may print before it gives up.
        ([GPU.format(0, 0)], 15, 0),
    ],
)
def test_driver_gpus(bootstrap, path_folder, lines, status, gpus):
    listing = "\n".join(f'echo "{line}"' for line in lines)
    program(path_folder, "nvidia-smi", f'[ "$*" = "-L" ] || exit 2\n{listing}\nexit {status}')
    assert bootstrap.count_driver_gpus() == gpus


def test_no_driver(bootstrap, path_folder):
    assert bootstrap.count_driver_gpus() == 0


@pytest.mark.parametrize(
    ("text", "gpus"), [("echo noise; echo gpus 2", 2), ("echo gpus 0", 0), ("echo gpus 2 >&2; exit 1", 0)]
)
def test_tensorflow_gpus(bootstrap, path_folder, text, gpus):
    program(path_folder, "python", text)
    assert bootstrap.count_tensorflow_gpus(str(path_folder / "python")) == gpus


def test_fewer_gpus_message(bootstrap):
    assert bootstrap.gpu_message(2, 2, None) is None
    assert bootstrap.gpu_message(0, 0, None) is None
    message = bootstrap.gpu_message(2, 0, None)
    assert message.startswith("TensorFlow sees 0 of the driver's 2 GPUs: update the NVIDIA driver (525 or newer)")
    assert bootstrap.gpu_message(3, 1, "2") == (
        "TensorFlow sees 1 of the driver's 3 GPUs: CUDA_VISIBLE_DEVICES is '2': unset it to use them all"
    )
    assert "\n" not in message


def test_digest_changes_with_each_input(bootstrap, tmp_path):
    files = [tmp_path / "pyproject.toml", tmp_path / "setup.py", tmp_path / "constraints.txt"]
    for path in files:
        path.write_text("one")
    first = bootstrap.digest(files, ["dev", "report"], "/a")
    assert bootstrap.digest(files, ["dev", "report"], "/a") == first
    assert bootstrap.digest(files, ["report", "dev"], "/a") == first, "the order of extras installs nothing else"
    others = {
        bootstrap.digest(files, ["dev"], "/a"),
        bootstrap.digest(files, ["dev", "report", "cuda"], "/a"),
        bootstrap.digest(files, ["dev", "report"], "/b"),
    }
    for path in files:
        path.write_text("two")
        others.add(bootstrap.digest(files, ["dev", "report"], "/a"))
        path.write_text("one")
    assert len(others - {first}) == 6


def test_every_lock_file_locks_tensorflow(bootstrap, tmp_path):
    versions = {path.name: bootstrap.tensorflow_version(str(path)) for path in ROOT.glob("requirements/*.txt")}
    assert versions["constraints.txt"] == versions["constraints-beam.txt"] == "2.21"
    assert versions["constraints-oldest.txt"] == versions["constraints-io.txt"] == "2.16"
    (tmp_path / "empty.txt").write_text("numpy==2.4.6\n")
    with pytest.raises(bootstrap.BootstrapError, match="locks no tensorflow: run `make lock`"):
        bootstrap.tensorflow_version(str(tmp_path / "empty.txt"))


class Installer:
    """Stands in for bootstrap.run: makes an empty environment, notes each command, fails where it is told to."""

    def __init__(self, bootstrap, venv):
        self.python, self.bootstrap, self.venv = pathlib.Path(bootstrap.venv_python(str(venv))), bootstrap, venv
        self.steps, self.stamps, self.failing = [], [], None

    def __call__(self, command, timeout=None):
        step = "venv" if command[1:3] == ["-m", "venv"] else "project" if "--editable" in command else command[-1]
        self.steps.append(step)
        self.stamps.append(self.bootstrap.read_stamp(str(self.venv)))
        if step == self.failing:
            raise KeyboardInterrupt
        if step == "venv":
            self.python.parent.mkdir(parents=True, exist_ok=True)
            self.python.write_text("")
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def installer(bootstrap, tmp_path, monkeypatch):
    installer = Installer(bootstrap, tmp_path / "venv")
    monkeypatch.setattr(bootstrap, "run", installer)
    monkeypatch.setattr(bootstrap, "count_driver_gpus", lambda: 0)
    monkeypatch.setattr(bootstrap, "check_disk", lambda *_: None)
    monkeypatch.setattr(bootstrap, "lock_checkout", lambda: None)
    return installer


def command_line(installer, extras="dev"):
    return installer.bootstrap.main(["--venv", str(installer.venv), "--extras", extras])


def test_installs_once(installer, capsys):
    assert command_line(installer) == 0
    assert installer.steps == ["venv", "pip>=23.1", "project"]
    assert capsys.readouterr().out.count("\n") == 1
    assert command_line(installer) == 0
    assert installer.steps == ["venv", "pip>=23.1", "project"], "nothing changed, nothing is run"
    assert capsys.readouterr().out == ""


def test_new_inputs_update_in_place(installer):
    command_line(installer)
    installer.steps.clear()
    keep = installer.venv / "keep"
    keep.write_text("")
    assert command_line(installer, "dev,report") == 0
    assert installer.steps == ["import pip", "pip>=23.1", "project"]
    assert keep.exists()


@pytest.mark.parametrize("failing", ["venv", "pip>=23.1", "project"])
def test_interrupted_install_is_redone(installer, capsys, failing):
    installer.failing = failing
    assert command_line(installer) == 130
    assert capsys.readouterr().err == "bootstrap: interrupted; the next run starts over\n"
    assert set(installer.stamps) == {installer.bootstrap.UNFINISHED}
    (installer.venv / "half-installed").mkdir()
    installer.steps.clear()
    installer.failing = None
    assert command_line(installer) == 0
    assert installer.steps == ["venv", "pip>=23.1", "project"]
    assert not (installer.venv / "half-installed").exists()


def test_an_environment_of_somebody_else_is_not_wiped(installer):
    installer.python.parent.mkdir(parents=True)
    installer.python.write_text("")
    (installer.venv / "theirs").write_text("")
    assert command_line(installer) == 0
    assert (installer.venv / "theirs").exists()
    assert "venv" not in installer.steps


def test_an_environment_whose_python_is_gone_is_made_anew(installer):
    command_line(installer)
    installer.steps.clear()
    installer.python.unlink()
    assert command_line(installer) == 0
    assert installer.steps == ["venv", "pip>=23.1", "project"]


def test_gpus_bring_the_cuda_extra(installer, monkeypatch, capsys):
    monkeypatch.setattr(installer.bootstrap, "count_driver_gpus", lambda: 2)
    monkeypatch.setattr(installer.bootstrap, "count_tensorflow_gpus", lambda python: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert command_line(installer) == 0
    said = capsys.readouterr()
    assert "[dev,cuda]" in said.out
    assert said.err.startswith("bootstrap: TensorFlow sees 1 of the driver's 2 GPUs: ")


def test_problem_is_one_line_on_stderr(installer, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    assert command_line(installer) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("bootstrap: TensorFlow 2.21 has no wheel for Python 3.99: ")
    assert said.err.count("\n") == 1
    assert not installer.venv.exists(), "nothing is made before the checks pass"
    assert not {"venv", "project"} & set(installer.steps)


def test_wipe_keeps_the_stamp_and_follows_no_link(bootstrap, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("")
    venv = tmp_path / "venv"
    (venv / "lib" / "package").mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text("")
    os.symlink(outside, venv / "lib64")
    bootstrap.write_stamp(str(venv), bootstrap.UNFINISHED)
    bootstrap.wipe(str(venv))
    assert os.listdir(venv) == [bootstrap.STAMP]
    assert (outside / "file").exists()
