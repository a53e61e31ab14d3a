"""The directive `command`: what `irv2data COMMAND --help` says, from the parser that reads the command line itself."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from irv2data.tools import console, main

_COLUMNS = 88  # of the usage


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of one command."""
    about = main.COMMANDS[name]
    parser = argparse.ArgumentParser(
        prog=f"irv2data {name}", description=f"{about[0].upper()}{about[1:]}.", formatter_class=_Formatter
    )
    _module(name).add_arguments(parser)
    console.add_verbosity(parser)
    return parser


def _module(name: str) -> Any:
    return importlib.import_module(f"irv2data.tools.{name}")


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_COLUMNS)


class Command(SphinxDirective):
    """`{command} convert`: description, usage, and each argument with its help and default."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes in the directive's place."""
        (name,) = self.arguments
        if name not in main.COMMANDS:
            raise self.error(f"irv2data has no command {name!r}; it has {', '.join(main.COMMANDS)}")
        return list(self._described(parser_of(name), getattr(_module(name), "EXAMPLES", ())))

    def _described(self, parser: argparse.ArgumentParser, examples: Sequence[tuple[str, str]]) -> Iterator[nodes.Node]:
        if parser.description:
            yield nodes.paragraph("", parser.description)
        yield _block(parser.format_usage().removeprefix("usage: ").strip(), "text")
        arguments = nodes.definition_list(classes=["command"])
        parts: dict[str, argparse.ArgumentParser] = {}
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parts.update(action.choices)
            elif not isinstance(action, argparse._HelpAction) and action.help != argparse.SUPPRESS:
                arguments += self._argument(parser, action)
        if arguments.children:
            yield arguments
        for line, about in examples:
            if line.startswith(f"{parser.prog} ") and not line.removeprefix(f"{parser.prog} ").startswith(tuple(parts)):
                yield nodes.paragraph("", f"{about[0].upper()}{about[1:].rstrip('.')}:")
                yield _block(line, "bash")
        for name, part in parts.items():
            # argparse's own prog has the words of the command line before it.
            part.formatter_class = _Formatter
            yield nodes.rubric("", "", nodes.literal("", f"{parser.prog} {name}"))
            yield from self._described(part, examples)

    def _argument(self, parser: argparse.ArgumentParser, action: argparse.Action) -> nodes.definition_list_item:
        term = nodes.term("", "", nodes.literal("", _spelling(action)))
        command = parser.prog.replace(" ", "-")
        # One for each spelling, so that `commands.md#irv2data-train-unfreeze` leads here.
        for word in action.option_strings or [action.dest]:
            term["ids"].append(nodes.make_id(f"{command}-{word.strip('-')}"))
        text = (action.help or "") % _values(parser, action)
        return nodes.definition_list_item("", term, nodes.definition("", nodes.paragraph("", text)))


def _block(text: str, language: str) -> nodes.literal_block:
    block = nodes.literal_block(text, text)
    block["language"] = language
    return block


def _spelling(action: argparse.Action) -> str:
    """As it is typed: `DATASET`, `--quality=QUALITY`, `--json`."""
    shown = action.metavar if action.metavar is not None else action.dest.upper()
    value = shown if isinstance(shown, str) else " ".join(shown)
    if action.choices is not None:
        value = "{" + ",".join(str(choice) for choice in action.choices) + "}"
    if not action.option_strings:
        return f"{value}..." if action.nargs in ("*", "+") else value
    flags = ", ".join(action.option_strings)
    return flags if action.nargs == 0 else f"{flags}={value}"


def _values(parser: argparse.ArgumentParser, action: argparse.Action) -> dict[str, Any]:
    """What `%(default)s` and the like stand for in a help text."""
    return {**vars(action), "prog": parser.prog}


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the directive."""
    app.add_directive("command", Command)
    return {"parallel_read_safe": True}
