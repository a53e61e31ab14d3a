"""The pages of the documentation, and their code blocks as Sybil runs them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest import SkipTest

import yaml
from sybil import Document, Example
from sybil.evaluators.skip import Skipper
from sybil.parsers.markdown import CodeBlockParser, SkipParser

from tests.docs import shell

ROOT = Path(__file__).parents[2]
NOT_RUN = ("text", "dockerfile")
# Where Python blocks are written, below the page's working folder: what traces functions looks for their source.
SOURCES = ".blocks"

_FENCE = re.compile(r"^[ \t>]*(`{3,}|~{3,})[ \t]*(.*)$")
_WANTED = re.compile(r"^<!-- (files|network): ([\w ]+) -->$", re.MULTILINE)


class BlockError(AssertionError):
    """A block that failed, by page and line."""


@dataclass
class Outcome:
    """What became of a page's blocks: languages of those that ran, and the reason of each that was skipped."""

    ran: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def pages(root: Path = ROOT) -> list[Path]:
    """README.md and every page below docs, in the order of their names."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def wanted(page: Path, what: str) -> list[str]:
    """The words of the page's comments `<!-- files: ... -->` (what a page needs) or `<!-- network: ... -->`."""
    found = _WANTED.findall(page.read_text(encoding="utf-8"))
    return [word for name, words in found if name == what for word in words.split()]


def parse(page: Path) -> Document:
    """The page with its blocks, invisible ones too, and the comments that skip some."""
    blocks = [CodeBlockParser(language, evaluator) for language, evaluator in EVALUATORS.items()]
    return Document.parse(str(page), *blocks, SkipParser())


def is_block(example: Example) -> bool:
    """Whether it is a block that a reader sees, and not a comment."""
    return example.document.text[example.region.start :].lstrip(" \t>").startswith(("```", "~~~"))


def run(page: Path) -> Outcome:
    """Runs a page's blocks one after another in the current folder.

    Raises:
        BlockError: One failed.
    """
    outcome = Outcome()
    for example in parse(page):
        try:
            if isinstance(example.region.evaluator, Skipper):
                _check_skip(*example.parsed)
            example.evaluate()
        except SkipTest as skip:
            outcome.skipped.append(str(skip))
        except (Exception, SystemExit) as error:
            raise BlockError(f"{page}:{example.line}: {type(error).__name__}: {error}") from error
        else:
            if is_block(example):
                outcome.ran.append(example.region.lexemes["arguments"])
    return outcome


@dataclass(frozen=True)
class Fence:
    """A fenced block, found without Sybil."""

    line: int
    language: str
    text: str


def fences(page: Path) -> list[Fence]:
    """Every fenced block but directives (`{toctree}`), which are for Sphinx."""
    found, inside, closing = [], [], ""
    start = (0, "")
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        bare = line.strip(" \t>")
        if not closing and (match := _FENCE.match(line)):
            start, inside, closing = (number, match[2].strip()), [], match[1]
        elif closing and bare.startswith(closing) and not bare.strip("`~"):
            found.append(Fence(*start, "\n".join(inside)))
            closing = ""
        else:
            inside.append(line)
    if closing:
        raise BlockError(f"{page}:{start[0]}: this block has no end")
    return [fence for fence in found if not re.fullmatch(r"\{[\w-]+\}.*", fence.language)]


def _check_skip(action: str, reason: str | None) -> None:
    """Sybil itself would pass over a block without any reason, or over all that follow."""
    if action != "next" or reason is None or not re.fullmatch(r'"[^"]+"', reason):
        raise BlockError('a block is skipped by <!-- skip: next "the reason" -->')


def _python(example: Example) -> None:
    """Runs the block from a file of its own, whose line numbers are the page's."""
    file = Path(SOURCES).absolute() / f"{Path(example.path).stem}-{example.line}.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n" * (example.line + example.parsed.line_offset) + example.parsed, encoding="utf-8")
    exec(compile(file.read_text(encoding="utf-8"), file, "exec", dont_inherit=True), example.namespace)


def _bash(example: Example) -> None:
    for command in shell.commands(example.parsed):
        shell.run(command)


def _console(example: Example) -> None:
    transcript = shell.transcript(example.parsed)
    said, code = "", 0
    for command, following in zip(transcript.commands, [*transcript.commands[1:], ""], strict=True):
        if command == shell.CODE:
            said += f"{code}\n"
            continue
        # Whoever looks at an exit code may see another than 0.
        code, printed = shell.run(command, may_fail=following == shell.CODE)
        said += printed
    shell.check_output(transcript.output, said)


def _json(example: Example) -> None:
    json.loads(example.parsed)


def _yaml(example: Example) -> None:
    yaml.safe_load(example.parsed)


EVALUATORS: dict[str, Callable[[Example], None]] = {
    "python": _python,
    "bash": _bash,
    "console": _console,
    "json": _json,
    "yaml": _yaml,
}
