"""The command preview: what it writes and prints, and how each wrong use ends in one line and its exit code."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json

import pytest
import tensorflow as tf
from PIL import Image

import irv2data
from irv2data.convert import ConvertConfig, adopt, convert
from irv2data.preview import run
from irv2data.report.preview_page import MARK
from tests.conftest import run_serial
from tests.tools.calls import call


@pytest.fixture(autouse=True)
def _no_workers(monkeypatch):
    monkeypatch.setattr(importlib.import_module("irv2data.near_duplicates.search"), "run_local", run_serial)


@pytest.fixture(scope="module")
def single(tmp_path_factory, in_this_process) -> irv2data.Dataset:
    """One record without a label in `train`, none in `validation`."""
    folder = tmp_path_factory.mktemp("single")
    (folder / "images").mkdir()
    Image.new("RGB", (40, 30), (10, 200, 30)).save(folder / "images" / "0.png")
    with in_this_process():
        convert(folder / "images", folder / "made", ConvertConfig(labels="none"))
    return irv2data.Dataset(folder / "made")


FLAGS = ("--image_size=24x32", "--images=2", "--augment=")


def test_the_page_and_its_figures(capsys, dataset, tmp_path):
    out = tmp_path / "page.html"
    code, printed, err = call(capsys, "preview", str(dataset.folder), str(out), *FLAGS, "--batch_size=12", "--json")
    facts = json.loads(printed)
    assert (code, err) == (0, "")
    assert facts["page"] == str(out)
    assert facts["dataset"] == dataset.location
    assert facts["counts"]["splits"]["validation"]["records"] == 60
    assert facts["config"]["image_size"] == [24, 32]
    assert facts["config"]["augment"] is None
    assert facts["duplicates"]["near"]["damaged"] == 0
    assert [image["why"] for image in facts["sheets"]["images"]] == ["smallest", "largest"]
    page = out.read_text()
    assert f'content="{MARK}"' in page
    assert "augmented" not in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html"]


def test_one_record_without_a_label(capsys, single, tmp_path):
    out = tmp_path / "page.html"
    code, printed, _ = call(capsys, "preview", str(single.folder), str(out), *FLAGS, "--no_near_duplicates")
    assert code == 0
    assert printed == f"No records: validation.\npage: {out}\n"
    page = out.read_text()
    assert "The records have no labels." in page
    assert "There are no JPEGs" in page
    assert "Not looked for." in page


@pytest.fixture
def without_sheets(monkeypatch):
    """The device stage takes seconds, and is not what these are about."""
    monkeypatch.setattr(run, "sheet_facts", lambda *arguments: (None, []))


@pytest.mark.usefixtures("without_sheets")
def test_pages_of_ours_are_replaced_and_no_other_files(capsys, single, tmp_path):
    out = tmp_path / "page.html"
    arguments = (str(single.folder), str(out), *FLAGS, "--no_near_duplicates")
    assert call(capsys, "preview", *arguments)[0] == call(capsys, "preview", *arguments)[0] == 0
    page = out.read_text()
    assert 'id="seen"' not in page
    out.write_text("<p>mine</p>")
    code, _, err = call(capsys, "preview", *arguments)
    assert code == 2
    assert f"{out}: is there and no preview of irv2data; choose another name or give --overwrite" in err
    assert out.read_text() == "<p>mine</p>"
    assert call(capsys, "preview", *arguments, "--overwrite")[0] == 0
    assert out.read_text() == page  # equal content, equal page


@pytest.mark.usefixtures("without_sheets")
def test_a_page_appears_complete_or_not_at_all(single, tmp_path, monkeypatch):
    out = tmp_path / "page.html"
    out.write_text(f"the last {MARK}")

    def fails(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "preview_page", fails)
    config = run.PreviewConfig(image_size=(24, 32), images=1, near_duplicates=False)
    with pytest.raises(KeyboardInterrupt):
        run.preview(single, out, config)
    assert out.read_text() == f"the last {MARK}"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.skipif(importlib.util.find_spec("tensorflow_io") is not None, reason="tensorflow-io decodes AVIF")
def test_images_that_nothing_here_decodes_are_told(capsys, tmp_path, in_this_process):
    """Others' records, in keys of their own, in a format that only tensorflow-io decodes."""
    with tf.io.TFRecordWriter(str(tmp_path / "train.tfrecord")) as writer:
        for width in (40, 50):
            image = io.BytesIO()
            Image.effect_noise((width, 30), 60).convert("RGB").save(image, "AVIF")
            values = {
                "jpg": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.getvalue()])),
                "target": tf.train.Feature(int64_list=tf.train.Int64List(value=[width % 3])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString())
    with in_this_process():
        adopt([tmp_path / "train.tfrecord"], tmp_path / "made", split="train")
    out = tmp_path / "page.html"
    code, printed, _ = call(capsys, "preview", str(tmp_path / "made"), str(out), *FLAGS, "--json")
    facts = json.loads(printed)
    assert code == 0
    assert facts["bytes"]["formats"] == {"avif": 2}
    assert facts["quality"]["jpegs"] == 0
    assert facts["labels"]["classes"]["counts"] == {"train": [0, 1, 1]}
    assert facts["duplicates"]["near"]["damaged"] == 0
    assert "has 2 AVIF images, and decoding them" in facts["sheets"]["problem"]
    page = out.read_text()
    assert "shards that others wrote, adopted" in page
    assert "decoding them" in page


@pytest.mark.usefixtures("serial")
def test_nothing_but_rejects(capsys, tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "x.jpg").write_bytes(b"no image")
    convert(tmp_path / "images", tmp_path / "made", ConvertConfig(max_bad_fraction=1))
    out = tmp_path / "page.html"
    code, printed, _ = call(capsys, "preview", str(tmp_path / "made"), str(out), *FLAGS)
    assert code == 0
    assert printed == f"No records: train, validation.\n1 source rejected, 100.00% of all.\npage: {out}\n"
    page = out.read_text()
    assert 'id="sizes"' not in page
    assert "a/x.jpg" in page


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["{missing}", "{out}"], 1, "{missing}: no such folder; make a dataset with"),
        (["{single}", "{missing}/page.html"], 2, "{missing} is no folder; make it first"),
        (["{single}", "{folder}"], 2, "{folder}: is a folder; OUT.html is the page to write"),
        (["{single}", "{out}", "--source={missing}"], 2, "{missing}: no such folder; source is the folder"),
        (["{single}", "{out}", "--split=test"], 2, "has no split 'test'; it has train, validation"),
        (["{single}", "{out}", "--split=validation"], 2, "split 'validation' has no records; use another split"),
        (["{single}", "{out}", "--buckets=99"], 2, "buckets must be between 1 and 32, got 99"),
        (["{single}", "{out}", "--image_size=big"], 2, "an image size is 299 or HEIGHTxWIDTH, got 'big'"),
        (["{single}", "{out}", "--augment=spin=1"], 2, "augment has no 'spin'"),
        (
            ["{single}", "{out}", "--augment=mixup=1", "--no_near_duplicates"],
            2,
            "has no labels that mixup and cutmix could mix; leave them out",
        ),
    ],
)
def test_wrong_uses(capsys, single, tmp_path, flags, code, message):
    places = {"single": single.folder, "missing": tmp_path / "no", "out": tmp_path / "a.html", "folder": tmp_path}
    found, printed, err = call(capsys, "preview", *(flag.format(**places) for flag in flags))
    assert (found, printed) == (code, "")
    assert message.format(**places) in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
