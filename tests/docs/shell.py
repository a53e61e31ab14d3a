"""Command lines of the documentation: `irv2data ...` in this process, all others by bash."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from irv2data.tools import main

ROOT = Path(__file__).parents[2]
# What else a page may run. Anything that is not here needs a reason to be skipped.
ALLOWED = ("cat", "cp", "echo", "find", "head", "irv2data", "ls", "mkdir", "mv", "python", "rm", "tar", "test")
SECONDS = 600  # for a process that hangs
CODE = "echo $?"
# Added to a command, or beside a flag, unless the page gives them: what it shows on thousands of images takes minutes.
QUICK = {
    "--advise": ("--sample=4",),
    "bench": ("--image_size=75", "--rounds=1", "--seconds=0.05", "--buckets=1", "--batch_size=16"),
    "doctor": ("--image_size=75", "--rounds=1", "--seconds=0.05", "--buckets=1", "--batch_size=16"),
    "train": ("--image_size=75", "--max_steps=1", "--buckets=1"),
    "study": (
        *("--fits=resize,letterbox", "--image_size=75", "--max_images=12", "--epochs=2", "--views=1", "--repeats=2"),
        *("--batch_size=6", "--seconds=0"),
    ),
}

_ASSIGNMENT = re.compile(r"\w+=\S*\s+")
# Quoted parts, in which nothing but a variable has a meaning.
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_NUMBER = re.compile(r"[-+]?\d[\d.,]*(e[-+]?\d+)?")


# Long ones whose output alone matters to a page: a second page that gives the same command is told what the first saw.
ONCE = ("doctor", "study")
_seen: dict[tuple[str, ...], tuple[int, str]] = {}


class CommandError(AssertionError):
    """A command that failed, with all that it said."""


@dataclass
class Transcript:
    """Commands of a `console` block, and the lines below them."""

    commands: list[str] = field(default_factory=list)
    output: list[str] = field(default_factory=list)


def commands(source: str) -> list[str]:
    """The commands of a `bash` block: a line each, or several that `\\` joins; comments are left out."""
    joined = source.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def transcript(source: str) -> Transcript:
    """The commands of a `console` block, which begin with `$ `, and what they print."""
    found = Transcript()
    for line in source.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            found.commands.append(line[2:].strip())
        elif line.strip():
            found.output.append(line.strip())
    return found


def run(command: str, *, may_fail: bool = False) -> tuple[int, str]:
    """Runs one command in the current folder; its exit code, and what it wrote to standard output and standard error.

    Raises:
        CommandError: It is not among those allowed, or its exit code is not 0 and it may not fail.
    """
    word = _ASSIGNMENT.sub("", command).split()[0]
    if word not in ALLOWED:
        raise CommandError(f"`{command}`: {word} is not run here; allowed are {', '.join(ALLOWED)}")
    code, said = _in_process(quick(_words(command))) if _alone(command) else _by_bash(command)
    if code != 0 and not may_fail:
        raise CommandError(f"`{command}` ended with exit code {code}:\n{said}")
    return code, said


def quick(words: list[str]) -> list[str]:
    """`irv2data COMMAND ...` with the flags of `QUICK` that it lacks."""
    given = {word.split("=")[0] for word in words}
    added = [flag for word in given for flag in QUICK.get(word, ())]
    return [*words, *(flag for flag in added if flag.split("=")[0] not in given)]


def check_output(expected: list[str], said: str) -> None:
    """Compares a page's output with a real one: its lines, in their order, are among the real ones.

    Any number is as good as any other, white space does not count, and `...` stands for anything.

    Raises:
        CommandError: A line is not there.
    """
    lines = iter(said.splitlines())
    for line in expected:
        if line == "...":
            continue
        pattern = re.compile(".*".join(re.escape(_shape(part)) for part in line.split("...")))
        if not any(pattern.fullmatch(_shape(real)) for real in lines):
            raise CommandError(
                f"the page says {line!r}, which is not (or not in this place) in what was printed:\n{said}"
            )


def _shape(line: str) -> str:
    return " ".join(_NUMBER.sub("0", line).split())


def _alone(command: str) -> bool:
    """Whether it is `irv2data ...` and nothing else: no pipe, no redirection, no second command."""
    bare = _QUOTED.sub("", command).split("#")[0]
    return command.startswith("irv2data ") and not re.search(r"[|<>;&]", bare)


def _words(command: str) -> list[str]:
    """The words that bash makes of a command: quotes, patterns and variables done."""
    script = f"irv2data() {{ printf '%s\\0' irv2data \"$@\"; }}\n{command}"
    return os.fsdecode(subprocess.run(["bash", "-c", script], check=True, capture_output=True).stdout).split("\0")[:-1]


def _in_process(words: list[str]) -> tuple[int, str]:
    if words[1] not in ONCE:
        return _called(words)
    if tuple(words) not in _seen:
        _seen[tuple(words)] = _called(words)
    return _seen[tuple(words)]


def _called(words: list[str]) -> tuple[int, str]:
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape", write_through=True)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        patch.setattr(sys, "argv", words)
        try:
            code = main.run(main.parse(words))
        except SystemExit as end:  # argparse's own way out
            code = end.code if isinstance(end.code, int) else 1
    return code, said.buffer.getvalue().decode("utf-8", "surrogateescape")


def _by_bash(command: str) -> tuple[int, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SECONDS,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout.decode("utf-8", "surrogateescape")
