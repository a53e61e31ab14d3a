"""A command called in this process, as the tests of commands call it."""

from __future__ import annotations

from irv2data.tools import main


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `irv2data ARGUMENTS`."""
    capsys.readouterr()
    try:
        code = main.run(main.parse(["irv2data", *arguments]))
    except SystemExit as stop:  # argparse's own way out
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err
