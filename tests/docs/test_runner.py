"""The runner of the pages' blocks tells right from wrong."""

from __future__ import annotations

import pytest

from tests.docs import pages, shell


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a page, and runs it in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(text: str) -> pages.Outcome:
        page = tmp_path / "page.md"
        page.write_text(text, encoding="utf-8")
        return pages.run(page)

    return run


def block(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```", "", ""])


def test_blocks_share_a_namespace_and_a_folder(written, tmp_path):
    outcome = written(
        block("python", "x = 3", "open('made', 'w').write('it')")
        + "<!-- invisible-code-block: python\nx += 1\n-->\n"
        + block("bash", "cp made copy  # a comment", "", "# nothing", "cat copy \\", "  > joined")
        + block("python", "assert x == 4", "assert open('joined').read() == 'it'")
        + block("text", "not run")
        + block("json", '{"a": 1}')
        + block("yaml", "a: [1, 2]")
    )
    assert outcome.ran == ["python", "bash", "python", "json", "yaml"]
    assert outcome.skipped == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n" + block("python", "x = 3", "assert x == 4"), r"page.md:2: AssertionError"),
        (block("python", "import sys", "sys.exit(0)"), r"page.md:1: SystemExit"),
        (block("python", "y"), r"NameError: name 'y' is not defined"),
        (block("bash", "cat gone"), r"`cat gone` ended with exit code 1:\ncat: gone: No such file"),
        (block("bash", "cat gone | cat"), r"ended with exit code 1"),
        (block("bash", "curl example.org"), r"curl is not run here; allowed are cat, "),
        (block("bash", "irv2data info gone"), r"ended with exit code 1:\nirv2data info: gone: no such folder"),
        (block("bash", "irv2data info --gone x"), r"ended with exit code 2"),
        (block("console", "$ echo a b", "a c"), r"the page says 'a c'"),
        (block("console", "$ echo a", "$ echo b", "b", "a"), r"the page says 'a'"),
        (block("console", "$ cat gone", "$ echo $?", "3"), None),
        (block("console", "$ cat gone"), r"ended with exit code 1"),
        (block("json", "{'a': 1}"), r"JSONDecodeError"),
        (block("yaml", "a: [1"), r"ParserError"),
        ("<!-- invisible-code-block: python\nassert 0\n-->\n", r"page.md:1: AssertionError"),
        ("<!-- skip: next -->\n" + block("json", "{"), r"page.md:1: BlockError: a block is skipped by"),
        ('<!-- skip: start "all of it" -->\n' + block("json", "{"), r"page.md:1: BlockError: a block is skipped by"),
        ('<!-- skip: next "one" -->\n' + block("json", "{") + block("json", "{"), r"page.md:6: JSONDecodeError"),
    ],
)
def test_what_is_wrong_fails(written, text, said):
    if said is None:  # any number is as good as another
        written(text)
        return
    with pytest.raises(pages.BlockError, match=said):
        written(text)


def test_skipped_blocks_have_their_reasons(written):
    outcome = written('<!-- skip: next "no such machine here" -->\n' + block("bash", "false") + block("bash", "echo"))
    assert outcome == pages.Outcome(ran=["bash"], skipped=["no such machine here"])


@pytest.mark.parametrize(
    ("line", "real", "same"),
    [
        ("loss 1.25, 3 of 10", "loss  0.7,  12 of 10", True),
        ("a ... z", "a b c z", True),
        ("a ... z", "a b c", False),
        ("loss 1.25", "accuracy 1.25", False),
        ("2 replicas", "2 replicas train", False),
    ],
)
def test_output_is_compared_but_for_numbers(line, real, same):
    if same:
        shell.check_output(["...", line], f"first\n{real}\n")
        return
    with pytest.raises(shell.CommandError):
        shell.check_output([line], real)


def test_flags_that_make_it_quick_do_not_replace_those_given():
    words = ["irv2data", "train", "a", "b", "--max_steps=7"]
    assert shell.quick(words) == [*words, "--image_size=75", "--buckets=1"]
    assert shell.quick(["irv2data", "convert", "a", "b"]) == ["irv2data", "convert", "a", "b"]


def test_fences_are_found_without_sybil(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "text\n"
        + block("python", "x", "~~~")
        + "~~~ bash\n```\n~~~\n"
        + block("{toctree}", "a")
        + "````text\n```\n````\n"
    )
    found = pages.fences(page)
    assert [(fence.line, fence.language) for fence in found] == [(2, "python"), (7, "bash"), (14, "text")]
    assert [fence.text for fence in found] == ["x\n~~~", "```", "```"]
    page.write_text("```python\nx\n")
    with pytest.raises(pages.BlockError, match=r"page.md:1: this block has no end"):
        pages.fences(page)
