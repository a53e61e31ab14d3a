"""The commands as shell programs: help and its examples, quiet and verbose, colours, bars, interruptions, defects."""

from __future__ import annotations

import fcntl
import importlib
import io
import json
import logging
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irv2data.errors import EXIT_INTERRUPTED
from irv2data.tools import console, main
from irv2data.tools.quiet import load_tensorflow

WORK = str(Path(__file__).with_name("work_of_test_shell.py"))
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def few(tmp_path_factory, in_this_process) -> Path:
    """A dataset of four images."""
    from irv2data.convert import ConvertConfig, convert

    folder = tmp_path_factory.mktemp("few")
    for number in range(4):
        (folder / "source" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "source" / "ab"[number % 2] / f"{number}.jpg")
    with in_this_process():
        convert(folder / "source", folder / "flowers", ConvertConfig(splits=(("train", 1.0),)))
    return folder


@pytest.fixture
def plain(monkeypatch):
    """An environment that says nothing of colours."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)


def call(*words, **options):
    return main.run(main.parse(["irv2data", *map(str, words)]), **options)


# Help and examples.


@pytest.mark.parametrize("name", [None, *main.COMMANDS])
def test_every_example_is_a_command_line_that_works(name):
    module = main if name is None else importlib.import_module(f"irv2data.tools.{name}")
    assert len(module.EXAMPLES) >= 1
    for line, does in module.EXAMPLES:
        words = shlex.split(line)
        assert words[0] == "irv2data"
        assert name is None or words[1] == name
        assert does.strip()
        if "--help" in words:
            assert words[1] in main.COMMANDS
            continue
        arguments = main.parse(words)
        assert arguments.command == words[1]
        assert callable(arguments.run)


def test_an_example_out_of_date_is_found(capsys):
    for line in ("irv2data info flowers --recrod=3", "irv2data train flowers", "irv2data train a b --fit=stretch"):
        with pytest.raises(SystemExit):
            main.parse(shlex.split(line))
    assert "unrecognized arguments: --recrod=3" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], *([name] for name in main.COMMANDS), ["serve", "worker"]])
@pytest.mark.parametrize("columns", [50, 120])
def test_help_ends_with_examples_within_the_width(capsys, monkeypatch, words, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as stop:
        main.parse(["irv2data", *words, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    _, _, shown = text.partition("\nexamples:\n")
    lines = shown.splitlines()
    assert 0 < max(map(len, lines)) <= columns
    # As a shell reads them: a line that ends with a backslash goes on.
    commands = [line.strip() for line in shown.replace("\\\n", " ").splitlines() if line.startswith("  irv2data")]
    module = main if not words else importlib.import_module(f"irv2data.tools.{words[0]}")
    prefix = " ".join(["irv2data", *words])
    expected = [line for line, _ in module.EXAMPLES if line.startswith(prefix)]
    assert [shlex.split(line) for line in commands] == [shlex.split(line) for line in expected]


# Quiet and verbose.


@pytest.mark.parametrize(
    ("words", "verbosity"),
    [
        (["info", "x"], console.NORMAL),
        (["--quiet", "info", "x"], console.QUIET),
        (["info", "x", "--quiet"], console.QUIET),
        (["--verbose", "serve", "worker", "--dispatcher=a:1"], console.VERBOSE),
        (["serve", "--verbose", "worker", "--dispatcher=a:1"], console.VERBOSE),
        (["serve", "worker", "--verbose", "--dispatcher=a:1"], console.VERBOSE),
    ],
)
def test_quiet_and_verbose_before_and_after_the_command(words, verbosity):
    assert main.parse(["irv2data", *words]).verbosity == verbosity


def test_quiet_and_verbose_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as stop:
        main.parse(["irv2data", "info", "x", "--quiet", "--verbose"])
    assert stop.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_quiet_leaves_the_result_and_errors(few, tmp_path, capsys, serial):
    source = few / "source"
    assert call("convert", source, tmp_path / "all") == 0
    said = capsys.readouterr().out
    assert call("--quiet", "convert", source, tmp_path / "quiet") == 0
    quiet = capsys.readouterr()
    notes = [line for line in said.splitlines() if line.startswith("note: ")]
    assert notes == ["note: no records in validation"]

    def without(text, folder):
        lines = text.replace(str(folder), "").splitlines()
        return [re.sub(r"[\d.]+ s$", "", line) for line in lines if not line.startswith("note: ")]

    assert without(quiet.out, tmp_path / "quiet") == without(said, tmp_path / "all")
    assert "note: " not in quiet.out
    assert call("--quiet", "info", tmp_path / "missing") == 1
    assert capsys.readouterr().err.startswith("irv2data info: ")


def test_log_messages_by_verbosity(capsys):
    logger = logging.getLogger("irv2data.some.room")

    def said(verbosity):
        with console.showing(verbosity):
            logger.debug("one")
            logger.info("two")
            logger.warning("three of %d", 3)
            logger.error("four")
            console.note("five")
        return capsys.readouterr().err.splitlines()

    assert said(console.QUIET) == ["error: four"]
    assert said(console.NORMAL) == ["warning: three of 3", "error: four", "five"]
    assert said(console.VERBOSE) == [
        "debug: irv2data.some.room: one",
        "info: irv2data.some.room: two",
        "warning: irv2data.some.room: three of 3",
        "error: irv2data.some.room: four",
        "five",
    ]
    assert not logging.getLogger("irv2data").handlers


def test_tensorflow_is_silent_without_verbose():
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run([sys.executable, WORK, "tensorflow"], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3.0\n", "")


@pytest.mark.parametrize(("verbosity", "level"), [(console.NORMAL, "2"), (console.VERBOSE, "0")])
def test_verbose_has_tensorflow_tell_everything(monkeypatch, verbosity, level):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    with console.showing(verbosity):
        load_tensorflow()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == level
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")  # who says so himself gets that
    with console.showing(verbosity):
        load_tensorflow()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "1"


# Colours.


class Terminal:
    def __init__(self, tty=True):
        self.tty = tty

    def isatty(self):
        return self.tty


@pytest.mark.parametrize(
    ("tty", "environment", "coloured"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),  # https://no-color.org: when it is not an empty string
        (True, {"TERM": "dumb"}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(plain, monkeypatch, tty, environment, coloured):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    painted = console.paint("sound", "green", Terminal(tty))
    assert painted == ("\x1b[1;32msound\x1b[0m" if coloured else "sound")
    with console.showing(console.NORMAL, plain=True):
        assert console.paint("sound", "green", Terminal(tty)) == "sound"


def test_results_and_errors_are_coloured(plain, monkeypatch, few, tmp_path, capsys, serial):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert call("verify", few / "flowers", "--deep") == 0
    assert capsys.readouterr().out == "\x1b[1;32msound\x1b[0m\n"
    assert call("info", tmp_path / "missing") == 1
    assert capsys.readouterr().err.startswith("\x1b[1;31mirv2data info:\x1b[0m ")
    assert call("info", tmp_path / "missing", "--json") == 1
    assert not ANSI.search("".join(capsys.readouterr()))


# Bars.


def on_terminal(*words, environment=None):
    """What a process shows whose standard error is a terminal, its output, and exit code."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    process = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=child,
        env={**os.environ, "TERM": "xterm", **(environment or {})},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(child)
    shown = b""
    while True:
        select.select([parent], [], [], 60)
        try:
            data = os.read(parent, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        if not data:
            break
        shown += data
    out, _ = process.communicate(timeout=60)
    os.close(parent)
    return shown.decode(), out.decode(), process.returncode


def test_a_terminal_shows_bars_and_a_pipe_none():
    shown, out, code = on_terminal(WORK, "bars")
    assert (out, code) == ("done\n", 0)
    for part in ("reading: 100%|", "4/4 [", "shards/s]", "finding: 7 files ["):
        assert part in shown, part
    # A note stands on a line of its own, not within a bar.
    assert "a note" in [line.strip() for line in re.split(r"[\r\n]+", shown)]
    assert not ANSI.search(shown)
    for words, environment in ((["bars", "--quiet"], {}), (["bars"], {"NO_COLOR": "1", "TQDM_COLOUR": "green"})):
        shown, out, code = on_terminal(WORK, *words, environment=environment)
        assert (out, code) == ("done\n", 0)
        assert bool(shown) == ("--quiet" not in words)
        assert not ANSI.search(shown)
    done = subprocess.run([sys.executable, WORK, "bars"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("done\n", "a note\n")


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (timedelta(seconds=90), ""),
        (timedelta(minutes=30), ", until 22:45"),
        (timedelta(hours=3), ", until 2024-03-01 01:15"),
        (timedelta(days=4000000), ""),
    ],
)
def test_when_a_bar_ends(left, text):
    assert console.ends(left, datetime(2024, 2, 29, 22, 15)) == text


def test_a_bar_says_when_it_ends(monkeypatch):
    bar = console._Bar(total=1000, file=io.StringIO(), bar_format=console._BAR)
    bar.n, bar.start_t = 100, bar._time() - 60  # 540 seconds are left
    expected = {(datetime.now() + timedelta(seconds=540 + more)).strftime(", until %H:%M") for more in (-5, 0, 5)}
    assert any(text in str(bar) for text in expected), str(bar)
    bar.n = 0
    assert "until" not in str(bar)
    bar.close()


# Interruptions.


def start(*words, **options):
    return subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **options,
    )  # fmt: skip


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_an_interrupted_command_says_what_is_left(sent, flags):
    process = start(WORK, "waits", *flags)
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED == 75
    message = "interrupted; flowers is half done, run it again"
    assert err == f"irv2data info: {message}\n"
    error = {"error": {"type": "InterruptedRunError", "message": message, "exit_code": 75}}
    assert out == (json.dumps(error) + "\n" if flags else "")


def test_the_second_signal_ends_at_once_even_what_is_busy_outside_of_python():
    process = start(WORK, "stuck")
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)  # another one: two of a kind may be delivered as one
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (75, "stopped at once\n")


def test_what_asks_for_the_end_of_a_step_hears_of_the_first_signal():
    process = start(WORK, "steps")
    assert process.stdout.readline() == "stepping\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "finished the step\n", "stopping soon\n")


def test_a_signal_that_the_caller_ignores_stays_ignored():
    process = subprocess.Popen(
        [sys.executable, WORK, "waits"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    # Were the first one heeded, the second would have ended it at once.
    assert (process.returncode, err) == (75, "irv2data info: interrupted; flowers is half done, run it again\n")


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["convert", "a", "b", "--dry_run"], "nothing was written; run it again"),
        (["convert", "a", "--advise"], "nothing was written; run it again"),
        (["convert", "a", "b"], "nothing was written yet; run it again: b"),
        (["verify", "b"], "nothing was changed; run it again"),
        (["verify", "b", "--repair"], "`irv2data verify --repair b` again finishes what it may have begun"),
        (["index", "a", "b"], "the shards are as they were, and b has no new index; run it again"),
        (["info", "b"], "nothing was left behind; run it again"),
        (["evaluate", "run", "b"], "nothing was left behind; run it again"),
        (["study", "b", "out"], "nothing was left behind; run it again"),
        (["predict", "run", "a"], "nothing was written; run it again"),
        (["predict", "run", "a", "--output=b.csv"], "b.csv was not written; run it again"),
        (["train", "b", "run"], "--resume goes on from the last checkpoint in run, or begins where there is none"),
        (["serve", "dispatcher"], "nothing was left behind; run it again"),
    ],
)
def test_what_each_command_leaves(words, left, capsys):
    arguments = main.parse(["irv2data", *words])

    def interrupted(_):
        raise KeyboardInterrupt

    arguments.run = interrupted
    assert main.run(arguments) == 75
    assert capsys.readouterr().err == f"irv2data {words[0]}: interrupted; {left}\n"


# Defects.


def test_a_defect_is_one_line_and_verbose_shows_where(capsys):
    def breaks(_):
        raise ValueError("two\nlines")

    for flags, shown in (([], "(--verbose shows where)"), (["--verbose"], "(the traceback is above)")):
        arguments = main.parse(["irv2data", "info", "flowers", "--json", *flags])
        arguments.run = breaks
        with pytest.raises(ValueError, match="two"):  # whoever calls it from Python gets the error itself
            main.run(arguments)
        assert main.guarded(arguments) == 1
        out, err = capsys.readouterr()
        message = f"this is a bug in irv2data, please report it: ValueError: two lines {shown}"
        assert err.splitlines()[-1] == f"irv2data info: {message}"
        assert ("Traceback (most recent call last)" in err and "in breaks" in err) == bool(flags)
        assert json.loads(out) == {"error": {"type": "ValueError", "message": message, "exit_code": 1}}


def test_no_memory_is_no_defect(capsys):
    def breaks(_):
        raise MemoryError("cannot allocate 7 GiB")

    arguments = main.parse(["irv2data", "info", "flowers"])
    arguments.run = breaks
    assert main.guarded(arguments) == 1
    assert capsys.readouterr().err == (
        "irv2data info: out of memory (cannot allocate 7 GiB); a smaller --batch_size, cache or number of workers "
        "needs less\n"
    )
