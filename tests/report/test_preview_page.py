"""The page of a preview, of a dataset with the worst of names, rejects, duplicates and a damaged record."""

from __future__ import annotations

import base64
import functools
import html
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import irv2data
from irv2data import Augment
from irv2data.convert import ConvertConfig, convert
from irv2data.device import preprocess
from irv2data.preview.classes import skew
from irv2data.preview.config import PreviewConfig
from irv2data.preview.run import preview
from irv2data.preview.sizes import cloud
from irv2data.report import preview_charts as charts
from irv2data.report.page import shown
from irv2data.report.pictures import data_uri
from irv2data.report.preview_page import findings, label_text, preview_page, size_text
from irv2data.selection import select
from tests.conftest import run_serial

EVIL = "<script>alert(1)<img src=x onerror=alert(2)>"
NAMES = (b"a\"b'c&.jpg", "x\u202egpj.exe.jpg".encode(), b"bad\xff\x07.jpg", b"plain.jpg")
AUGMENT = Augment(rotate=20, mixup=0.3)
CONFIG = PreviewConfig(image_size=(40, 32), batch_size=4, buckets=2, images=4, augment=AUGMENT, seed=5)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """SPLIT/CLASS/*.jpg: a class and files with evil names, copies across classes and splits, and rejects."""
    folder = tmp_path_factory.mktemp("odd") / "source"
    rng = np.random.default_rng(1)

    def picture(*size: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).resize(size, Image.BICUBIC)

    for number in range(16):
        path = folder / ("validation" if number % 4 == 3 else "train") / "plain" / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(60 + 9 * number, 120 - 5 * number).save(path, quality=60 + number)
    evil = os.fsencode(folder / "train" / EVIL)
    os.mkdir(evil)
    for name in NAMES:
        with open(evil + b"/" + name, "wb") as file:
            picture(80, 70).save(file, "JPEG")
    plain = folder / "train" / "plain"
    shutil.copy(plain / "00.jpg", evil + b"/same.jpg")
    with Image.open(plain / "01.jpg") as image:
        image.save(folder / "validation" / "plain" / "alike.jpg", quality=80)
    whole = (plain / "02.jpg").read_bytes()
    (plain / "half <b>.jpg").write_bytes(whole[: len(whole) // 2])
    for name in NAMES:  # rejects, too
        with open(os.fsencode(plain) + b"/no " + name, "wb") as file:
            file.write(b"no image")
    return folder


@pytest.fixture(scope="module")
def previewed(source, in_this_process, tmp_path_factory):
    """(Dataset, facts, page): the dataset's third plain record of `train` is damaged."""
    folder = tmp_path_factory.mktemp("odd") / "made"
    with in_this_process(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("irv2data.near_duplicates.search"), "run_local", run_serial)
        convert(source, folder, ConvertConfig(splits="folders", max_bad_fraction=1))
        dataset = irv2data.Dataset(folder)
        file, _, offset = dataset.split("train").locate(damaged_row(dataset))
        with open(folder / file, "r+b") as stream:
            stream.seek(offset + 60)
            stream.write(b"\0\1\2\3")
        facts = preview(dataset, folder.parent / "page.html", CONFIG, source=source)
    return dataset, facts, (folder.parent / "page.html").read_text(encoding="utf-8")


def damaged_row(dataset) -> int:
    """The widest record of `train`: always among the images of the contact sheets."""
    split = dataset.split("train")
    return int((split.array("width") / split.array("height")).argmax())


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, {name: value or "" for name, value in attributes}))

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def faults(page: str) -> list[str]:
    """What a page must not have, or lacks."""
    parsed, found = Page(page), []
    found += ["script" for _ in parsed.of("script")]
    for tag, attributes in parsed.tags:
        found += [f"{tag} {name}" for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            if not attributes.get(name, "#").startswith(("#", "data:image/")):
                found.append(f"{tag} {name}={attributes[name]}")
    found += [f"{tag} without alt" for tag, attributes in parsed.tags if tag == "img" and not attributes.get("alt")]
    found += ["svg without a label" for attributes in parsed.of("svg") if not attributes.get("aria-label")]
    found += ["th without scope" for attributes in parsed.of("th") if "scope" not in attributes]
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch("h[1-6]", tag)]
    if levels[:1] != [1] or levels.count(1) != 1 or any(b > a + 1 for a, b in pairwise(levels)):
        found.append(f"headings {levels}")
    ids = {attributes["id"] for _, attributes in parsed.tags if "id" in attributes}
    found += [f"{each['href']} leads nowhere" for each in parsed.of("a") if each["href"][1:] not in ids]
    head = page[: page.index("<title>")]
    policy = "default-src &#39;none&#39;; img-src data:; style-src &#39;unsafe-inline&#39;"
    if html.unescape(policy) not in html.unescape(head):
        found.append("no policy")
    found += [f"U+{ord(c):04X}" for c in sorted(set(page)) if not c.isprintable() and c != "\n"]
    return found


def test_the_page_is_sound(previewed):
    assert faults(previewed[2]) == []


@pytest.mark.parametrize(
    ("was", "now", "fault"),
    [
        ("<main>", "<main><script>1</script>", "script"),
        ("<main>", '<main><p onclick="x">', "p onclick"),
        ("<main>", '<main><img alt="a" src="//x.org/a.png">', "img src=//x.org/a.png"),
        ("<main>", '<main><img src="data:image/png;base64,">', "img without alt"),
        ("<main>", "<main><h4>", "headings"),
        ("<main>", '<main><a href="#no">', "#no leads nowhere"),
        ("<main>", "<main>\u202e", "U+202E"),
        ('scope="col"', "", "th without scope"),
        ("default-src", "other-src", "no policy"),
    ],
)
def test_an_unsound_page_is_found(previewed, was, now, fault):
    assert any(each.startswith(fault) for each in faults(previewed[2].replace(was, now, 1)))


def test_names_are_shown_as_they_are(previewed):
    texts = Page(previewed[2]).texts
    assert EVIL in texts
    assert f"train/{EVIL}/same.jpg" in texts
    rejected = ["a\"b'c&.jpg", "x\\u202egpj.exe.jpg", "bad\\udcff\\x07.jpg", "plain.jpg"]
    assert {f"train/plain/no {name}" for name in rejected} | {"train/plain/half <b>.jpg"} <= set(texts)
    # matplotlib's text, shortened there
    assert any(text.startswith("<script>alert(1)<img src=x") and text.endswith("…") for text in texts)


def test_what_cannot_be_shown_is_an_escape():
    assert shown("x\u202egpj\n\udcff\x07é") == "x\\u202egpj\\n\\udcff\\x07é"
    assert shown("שלום <b>") == "שלום <b>"


def test_facts(previewed, source):
    dataset, facts, _ = previewed
    counts = facts["counts"]
    records = {"train": 17, "validation": 5}
    assert {name: split["records"] for name, split in counts["splits"].items()} == records
    assert (counts["sources"], counts["rejected"], counts["dropped"], counts["records"]) == (27, 5, 0, 22)
    assert counts["bytes"] == sum(path.stat().st_size for path in dataset.folder.glob("*.tfrecord"))
    assert facts["labels"]["classes"]["counts"] == {"train": [5, 12], "validation": [0, 5]}
    assert facts["fingerprint"] == dataset.fingerprint
    assert {group["code"]: group["count"] for group in facts["rejects"]["codes"]} == {
        "not_an_image": 4,
        "truncated": 1,
    }
    assert json.loads(json.dumps(facts)) == json.loads(json.dumps(facts, allow_nan=False))


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (
            [5, 12],
            "2 classes. The largest, <bdi>c1</bdi>, has 2.4 times the records of the smallest, <bdi>c0</bdi>.",
        ),
        ([9, 9], "2 classes. All have the same number of records. </p>"),
        ([9, 9, 0], "3 classes. Those that have any have the same number of records. 1 has no record.</p>"),
        ([9, 0], "2 classes. 1 has no record.</p>"),
        ([9], "1 class. </p>"),
    ],
)
def test_how_equal_the_classes_are(previewed, counts, said):
    facts = previewed[1]
    names = [f"c{number}" for number in range(len(counts))]
    of_classes = {"names": names, "counts": {"train": counts}, "skew": skew(np.array(counts))}
    told = {**facts, "labels": {**facts["labels"], "classes": of_classes}}
    page = preview_page(told, sheets=[], pictures={"members": {}, "rejects": {}}, looked=False)
    assert said in " ".join(page.split())


def test_duplicates(previewed):
    _, facts, page = previewed
    exact, near = facts["duplicates"]["exact"], facts["duplicates"]["near"]
    assert (exact["groups"], exact["records"], exact["leaks"], exact["conflicts"]) == (1, 2, 0, 1)
    assert [member["source"] for member in exact["shown"][0]["members"]] == sorted(
        [f"train/{EVIL}/same.jpg", "train/plain/00.jpg"], key=lambda name: sources(previewed[0]).index(name)
    )
    assert (near["groups"], near["records"], near["leaks"], near["conflicts"], near["damaged"]) == (1, 2, 1, 0, 1)
    assert [member["source"] for member in near["shown"][0]["members"]] == [
        "train/plain/01.jpg",
        "validation/plain/alike.jpg",
    ]
    assert page.count('class="flag"') == 2
    told = findings(facts)
    assert "1 group of the same content with different labels." in told
    assert "1 group of images that look alike in several splits." in told
    assert "5 sources rejected, 18.52% of all." in told
    assert "1 record damaged; `irv2data verify --deep` says which." in told


def sources(dataset) -> list[str]:
    split = dataset.split("train")
    return [split.source(row) for row in range(split.num_records)]


def test_small_pictures_are_those_of_the_records(previewed):
    dataset, _, page = previewed
    split = dataset.split("train")
    row = sources(dataset).index("train/plain/01.jpg")
    picture = pictures(page, f"look alike: record {row} of train")[0]
    with Image.open(io.BytesIO(split.read(row).encoded)) as stored:
        expected = stored.convert("RGB")
    expected.thumbnail((96, 96))
    assert picture.size == expected.size
    assert difference(picture, expected) < 4
    assert difference(picture, expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > 20


def test_a_truncated_reject_is_seen(previewed):
    (picture,) = pictures(previewed[2], "train/plain/half <b>.jpg")
    assert picture.size == (68, 96)
    assert previewed[2].count('class="picture"') == 2


def test_the_network_sees_these_pictures(previewed):
    dataset, facts, page = previewed
    seen = facts["sheets"]
    rows = [image["record"] for image in seen["images"]]
    assert len(set(rows)) == 4
    rows.remove(damaged_row(dataset))
    (damaged,) = seen["damaged"]
    assert dataset.split("train").source(damaged_row(dataset)) in damaged
    assert page.count(">damaged</span>") == 9  # five fits, four of them augmented too
    for fit, augment in (("random_resized_crop", None), ("letterbox", AUGMENT), ("native", None)):
        options = {"fit": fit, "image_size": (40, 32), "batch_size": 4, "seed": 5, "augment": augment}
        options |= {"shuffle": None, "buckets": 1, "drop_remainder": False}
        pipeline = irv2data.Pipeline(select(dataset, "train", np.array(rows)), **options)
        (batch,) = pipeline.batches()
        images = (np.asarray(preprocess(batch, pipeline.output)) + 1) * 127.5
        for place, row in enumerate(rows):
            image = images[place]
            if fit == "native":
                height, width = batch["size"][place].numpy()
                image = image[:height, :width]
            (picture,) = pictures(page, f"record {row}, {fit}{', augmented' if augment else ''}")
            assert picture.size == (image.shape[1], image.shape[0])
            assert difference(picture, image) < 5  # of a JPEG of few pixels and much contrast
            assert difference(picture, image[:, ::-1]) > 6
            assert f'src="{data_uri(np.rint(image).clip(0, 255).astype(np.uint8))}"' in page
            if augment:
                (plain,) = pictures(page, f"record {row}, {fit}")
                assert difference(plain, image) > 6


def pictures(page: str, alt: str) -> list[Image.Image]:
    """The pictures of that alternative text."""
    found = [each["src"].partition("base64,")[2] for each in Page(page).of("img") if each["alt"] == alt]
    return [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in found]


def difference(one, other) -> float:
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean())


def test_charts_are_of_bounded_size():
    rng = np.random.default_rng(0)
    canvases = [{"height": 304, "width": 304}, {"height": 608, "width": 608}]
    lengths = []
    for images in (1000, 200_000, 2_000_000):
        height, width = np.exp(rng.normal(6, 0.6, (2, images))).astype(int) + 1
        lengths.append(len(charts.sizes(cloud(height, width), canvases, "sizes")))
    assert max(lengths) < 200_000
    for number in (1, 2, 40, 41, 1000, 20_000):
        counts = {"train": rng.integers(0, 900, number).tolist(), "validation": [0] * number}
        assert len(charts.class_bars([f"class {n}" for n in range(number)], counts)) < 100_000


def test_class_names_are_text_in_charts():
    chart = charts.class_bars(["$x_1$ <b>&", "a" * 100], {"train": [3, 1]})
    assert "$x_1$ &lt;b&gt;&amp;" in chart
    assert "a" * 27 + "…" in chart
    assert "a" * 28 not in chart


def test_many_classes_have_a_table_of_ends():
    from irv2data.report.preview_page import _class_rows

    told = _class_rows({"names": [f"c{n}" for n in range(1000)], "counts": {"train": list(range(1000))}})
    assert [row["name"] for row in told["rows"]] == [f"c{n}" for n in (*range(999, 989, -1), *range(9, -1, -1))]
    assert told["left"] == 980
    two = _class_rows({"names": ["a", "b"], "counts": {"train": [1, 2], "test": [3, 0]}})
    assert two["rows"] == [{"name": "a", "counts": [1, 3], "all": 4}, {"name": "b", "counts": [2, 0], "all": 2}]


@pytest.mark.parametrize(
    ("size", "text"), [(17, "17 bytes"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3,072.0 GiB")]
)
def test_sizes_for_people(size, text):
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("label", "text"), [(None, ""), ("cat", "cat"), (["a", "b"], "a, b"), ([], ""), (1.5, "1.5"), (2.0, "2")]
)
def test_labels_as_text(label, text):
    assert label_text(label) == text


class _Recorder(SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, format, *arguments):
        self.asked.append(self.path)


_WRAPPER = """<!doctype html><body><script>
onload = () => {
  const told = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument;
    return [frame.title, page.documentElement.scrollWidth, page.querySelectorAll("h2").length,
            [...page.images].filter(image => image.complete && image.naturalWidth).length];
  });
  document.body.replaceChildren(JSON.stringify(told));
};
</script>%s</body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_asks_for_nothing_and_never_scrolls_sideways(previewed, tmp_path):
    page = previewed[2]
    probe = '<main><img src="/%s.png" alt=""><div style="width:%dpx">'
    bad = page.replace("Content-Security-Policy", "X-None").replace("<main>", probe % ("leak", 800))
    files = {
        "page.html": page,
        "guarded.html": page.replace("<main>", probe % ("guarded", 100)),
        "bad.html": bad,
    }
    frames = [("page.html", 390), ("page.html", 1200), ("guarded.html", 390), ("bad.html", 390)]
    inside = [
        f'<iframe src="{name}" title="{name}" style="border:0;width:{width}px"></iframe>' for name, width in frames
    ]
    for name, text in {**files, "wrapper.html": _WRAPPER % "".join(inside)}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    handler = type("Handler", (_Recorder,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = subprocess.run(
            [
                CHROMIUM,
                *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
                *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                f"--user-data-dir={tmp_path / 'profile'}",
                "--window-size=1400,900",
                "--dump-dom",
                f"http://127.0.0.1:{server.server_address[1]}/wrapper.html",
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    finally:
        server.shutdown()
        server.server_close()
    told = json.loads(html.unescape(re.search(r"<body>(\[.*\])</body>", done.stdout, re.DOTALL).group(1)))
    sections, images = len(re.findall("<h2", page)), page.count("<img ")
    assert sections == 8
    assert told[0] == ["page.html", 390, sections, images]
    assert told[1] == ["page.html", 1200, sections, images]
    assert told[2][:2] == ["guarded.html", 390]
    assert told[3][1] >= 800  # that is how it shows
    asked = [path for path in handler.asked if path != "/favicon.ico"]
    assert sorted(set(asked)) == ["/bad.html", "/guarded.html", "/leak.png", "/page.html", "/wrapper.html"]
