"""The figures of a preview, each against a second way to work it out."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

import irv2data
from irv2data.convert import ConvertConfig, convert
from irv2data.errors import DatasetError, RecordError, UsageError
from irv2data.pipeline.config import FITS
from irv2data.pipeline.plan import Plan
from irv2data.preview import classes, rejects, sizes, stored
from irv2data.preview.config import PreviewConfig
from irv2data.preview.duplicates import duplicate_facts, exact_groups
from irv2data.preview.reading import encoded_images, small_picture
from irv2data.preview.sheets import chosen_rows


@pytest.mark.parametrize(
    ("counts", "ratio", "effective", "empty"),
    [
        ([8, 4, 4, 0], 2, 2**1.5, 1),
        ([5, 5], 1, 2, 0),
        ([1] * 1000, 1, 1000, 0),
        ([99, 1], 99, math.exp(-0.99 * math.log(0.99) - 0.01 * math.log(0.01)), 0),
    ],
)
def test_skew(counts, ratio, effective, empty):
    told = classes.skew(np.array(counts))
    assert told["ratio"] == ratio
    assert told["effective"] == pytest.approx(effective)
    assert told["empty"] == empty
    assert (counts[told["largest"]], counts[told["smallest"]]) == (max(counts), min(n for n in counts if n))


def test_skew_of_nothing():
    nothing = {"ratio": None, "effective": 0.0, "largest": None, "smallest": None}
    assert classes.skew(np.zeros(3, int)) == {**nothing, "empty": 3}
    assert classes.skew(np.zeros(0, int)) == {**nothing, "empty": 0}


def test_classes_are_those_of_the_records(dataset):
    told = classes.label_facts(dataset)
    assert (told["kind"], told["numbers"], told["labels_of_a_record"]) == ("class", None, None)
    for name, split in dataset.splits.items():
        counted = Counter(split.read(row).text for row in range(split.num_records))
        assert dict(zip(told["classes"]["names"], told["classes"]["counts"][name], strict=True)) == counted


def test_numbers():
    values = {
        "train": np.array([0, 1, 2, 10, np.nan, -np.inf], np.float32),
        "validation": np.array([5], np.float32),
    }
    told = classes.number_facts(values)
    finite = [0, 1, 2, 10, 5]
    assert (told["least"], told["median"], told["most"], told["not_finite"]) == (0, 2, 10, 2)
    assert told["mean"] == pytest.approx(np.mean(finite))
    assert told["deviation"] == pytest.approx(np.std(finite))
    for name, counts in told["counts"].items():
        bins = [min(39, int(value / 10 * 40)) for value in values[name].tolist() if math.isfinite(value)]
        assert {n: counts[n] for n in range(40) if counts[n]} == Counter(bins)
    empty = classes.number_facts({"train": np.zeros(0, np.float32)})
    assert (empty["least"], empty["mean"], sum(empty["counts"]["train"])) == (None, None, 0)


@pytest.fixture(scope="module")
def many(tmp_path_factory, in_this_process):
    """Twelve images, the n-th with a class for each bit of n; and the folder of the table."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    lines = []
    for number in range(12):
        image = Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).resize((40 + number, 30), Image.BICUBIC)
        image.save(folder / f"{number}.jpg")
        labels = [name for bit, name in enumerate(("sky", "sea", "sand", "sun")) if number >> bit & 1]
        lines.append(json.dumps({"file": f"{number}.jpg", "label": labels}) + "\n")
    (folder / "table.jsonl").write_text("".join(lines))
    with in_this_process():
        convert(folder / "table.jsonl", folder / "made", ConvertConfig(splits=(("a", 0.5), ("b", 0.5))))
    return irv2data.Dataset(folder / "made")


def test_several_classes_a_record(many):
    told = classes.label_facts(many)
    counts = [sum(each) for each in zip(*told["classes"]["counts"].values(), strict=True)]
    expected = {name: sum(n >> bit & 1 for n in range(12)) for bit, name in enumerate(("sky", "sea", "sand", "sun"))}
    assert dict(zip(told["classes"]["names"], counts, strict=True)) == expected
    assert told["labels_of_a_record"]["counts"] == [1, 4, 5, 2, 0, 0, 0, 0, 0, 0, 0]


def test_sizes(dataset):
    told = sizes.size_facts(dataset)
    shapes = []
    for split in dataset.splits.values():
        for row in range(split.num_records):
            with Image.open(io.BytesIO(split.read(row).encoded)) as image:
                shapes.append((image.height, image.width))
    heights, widths = (sorted(side) for side in zip(*shapes, strict=True))
    assert told["height"] == {"least": heights[0], "median": (heights[89] + heights[90]) / 2, "most": heights[-1]}
    assert told["width"]["most"] == widths[-1]
    assert sorted(map(tuple, told["cloud"]["points"])) == sorted(shapes)
    aspects = told["aspects"]
    assert aspects["landscape"] == sum(width > height for height, width in shapes)
    assert aspects["portrait"] == sum(width < height for height, width in shapes)
    assert aspects["landscape"] + aspects["portrait"] + aspects["square"] == sum(aspects["counts"]) == 180
    assert aspects["widest"] == max(width / height for height, width in shapes)
    lower = sum(count for edge, count in zip(aspects["edges"], aspects["counts"], strict=False) if edge < 1)
    assert lower == aspects["portrait"]


def test_aspects_beyond_the_histogram_are_counted_at_its_ends(many, monkeypatch):
    monkeypatch.setattr(sizes, "_WIDEST", 1.4)  # of 40 x 30 to 51 x 30
    told = sizes.size_facts(many)["aspects"]
    assert told["counts"][-1] >= sum((40 + n) / 30 >= 1.4 for n in range(12)) > 0
    assert sum(told["counts"]) == 12


@pytest.mark.parametrize("largest", [18, 4000])
def test_densities(largest):
    rng = np.random.default_rng(0)
    height, width = rng.integers(12, largest, (2, 5000))
    density = sizes.cloud(height, width)["density"]
    counts = np.array(density["counts"])
    assert counts.sum() == 5000
    assert counts.size <= 48 * 48
    rows, columns = (np.array(density[f"{name}_edges"]) for name in ("height", "width"))
    assert rows[0] < 12 <= rows[1] - 0.5 + 1
    cell = (np.searchsorted(rows, height[7]) - 1, np.searchsorted(columns, width[7]) - 1)
    inside = (height > rows[cell[0]]) & (height < rows[cell[0] + 1])
    inside &= (width > columns[cell[1]]) & (width < columns[cell[1] + 1])
    assert counts[cell] == inside.sum() >= 1
    assert sizes.cloud(height[:1000], width[:1000])["density"] is None


def test_buckets_are_those_of_the_plan(dataset):
    config = PreviewConfig(image_size=(48, 64), batch_size=10, buckets=3, fit="letterbox", seed=3)
    told = sizes.bucket_facts(dataset.split("train"), config)
    assert set(told["fits"]) == set(FITS)
    for fit in FITS:
        plan = Plan(dataset.split("train"), config.pipeline(fit))
        valid: dict[tuple[int, ...], int] = defaultdict(int)
        steps: Counter[tuple[int, ...]] = Counter()
        decoded = []
        for step in range(12):
            batch = plan.batch(0, step)
            canvas = tuple(batch.canvas[0].tolist())
            steps[canvas] += 1
            decoded += batch.size[0].tolist()
            valid[canvas] += sum(height * width for height, width in batch.size[0].tolist())
        for canvas in told["fits"][fit]["canvases"]:
            shape = (canvas["height"], canvas["width"])
            assert canvas["images"] == 10 * steps[shape]
            if steps[shape]:
                assert canvas["padding_waste"] == pytest.approx(
                    1 - valid[shape] / (10 * steps[shape] * math.prod(shape))
                )
        if fit == "letterbox":
            assert sorted(told["decoded"]["points"]) == sorted(decoded)


def test_a_split_smaller_than_a_batch_is_one(many):
    told = sizes.bucket_facts(many.split("a"), PreviewConfig(image_size=(16, 16), batch_size=64))
    for fit in told["fits"].values():
        assert (fit["steps"], fit["filler"]) == (1, 0)
        assert sum(canvas["images"] for canvas in fit["canvases"]) == many.split("a").num_records


def test_bytes(dataset):
    told = stored.byte_facts(dataset)
    lengths = [int(n) for split in dataset.splits.values() for n in split.array("length")]
    assert sum(lengths) == sum(split.num_bytes for split in dataset.splits.values())
    assert (told["least"], told["most"], told["mean"]) == (min(lengths), max(lengths), pytest.approx(np.mean(lengths)))
    assert sum(told["counts"]) == len(lengths)
    formats = Counter(split.read(row).format for split in dataset.splits.values() for row in range(split.num_records))
    assert told["formats"]["png"] == formats["PNG"]
    assert told["formats"]["baseline"] + told["formats"].get("progressive", 0) == formats["JPEG"]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_quality_of_libjpeg_is_found(mode):
    for quality in (1, 10, 25, 50, 75, 90, 92, 100):
        data = io.BytesIO()
        Image.new(mode, (16, 16)).save(data, "JPEG", quality=quality)
        with Image.open(data) as image:
            assert stored.jpeg_quality(image.quantization) == (quality, True)


def test_quality_of_other_tables_is_the_nearest():
    data = io.BytesIO()
    Image.new("RGB", (16, 16)).save(data, "JPEG", quality=80)
    with Image.open(data) as image:
        tables = {number: list(values) for number, values in image.quantization.items()}
    tables[0][5] += 1
    assert stored.jpeg_quality(tables) == (80, False)
    # Twice the steps of quality 80 are those of quality 60, but for rounding: its scale is 80 %, that of 80 is 40 %.
    doubled = {number: [2 * value for value in values] for number, values in image.quantization.items()}
    assert stored.jpeg_quality(doubled)[0] == 60


def test_qualities_of_a_dataset(dataset, photos):
    every = stored.quality_facts(dataset, PreviewConfig(samples=1000))
    jpegs = len(list(photos.rglob("*.jpg")))
    assert (every["jpegs"], every["sampled"], every["counts"][90], every["exact"]) == (jpegs, jpegs, jpegs, jpegs)
    some = stored.quality_facts(dataset, PreviewConfig(samples=40))
    assert (some["jpegs"], some["sampled"], sum(some["counts"]), some["damaged"]) == (jpegs, 40, 40, 0)


def test_large_images_have_a_quality_and_no_jpegs_none(many, monkeypatch):
    data = io.BytesIO()
    Image.new("L", (64, 64)).save(data, "JPEG", quality=33)
    size = data.getvalue().index(b"\xff\xc0") + 5
    large = data.getvalue()[:size] + b"\xea\x60\xea\x60" + data.getvalue()[size + 4 :]  # 60,000 x 60,000
    monkeypatch.setattr(stored, "encoded_images", lambda split, rows: [(0, large), (1, b"GIF89a"), (2, b"")])
    told = stored.quality_facts(many, PreviewConfig())
    assert (told["counts"][33], sum(told["counts"]), told["damaged"]) == (2, 2, 4)  # both splits
    assert told["damage"] == "record 1 of a: not a JPEG file"


def test_images_are_read_whatever_their_order(many):
    split = many.split("a")
    rows = np.array([4, 0, 2])
    found = dict(encoded_images(split, rows))
    assert found == {row: split.read(row).encoded for row in rows.tolist()}


def test_a_damaged_record_is_told(many, tmp_path):
    split = many.split("a")
    folder = tmp_path / "damaged"
    shutil.copytree(many.folder, folder)
    damaged = irv2data.Dataset(folder).split("a")
    file, number, offset = split.locate(3)
    with open(folder / file, "r+b") as stream:
        stream.seek(offset + 40)
        stream.write(b"\0\1\2\3")
    found = dict(encoded_images(damaged, np.arange(5)))
    assert isinstance(found[3], RecordError)
    assert str(found[3]).startswith(f"{file}, record {number}: checksum of the record")
    assert [row for row, image in found.items() if isinstance(image, bytes)] == [0, 1, 2, 4]
    told = stored.quality_facts(irv2data.Dataset(folder), PreviewConfig())
    assert (told["damaged"], sum(told["counts"]), told["damage"]) == (1, 11, str(found[3]))


def test_of_a_remote_dataset_few_shards_are_fetched(local, tmp_path):
    remote = irv2data.Dataset(f"file://{local.folder}", cache_dir=tmp_path / "cache")
    told = stored.quality_facts(remote, PreviewConfig(samples=20))
    assert (told["sampled"], told["counts"][90], told["damaged"]) == (20, 20, 0)
    assert told["jpegs"] == stored.quality_facts(local, PreviewConfig(samples=1))["jpegs"]
    for split in remote.splits.values():
        here = [shard.file for shard in split.shards if (remote.folder / shard.file).exists()]
        assert 1 <= len(here) <= 4 < len(split.shards)
    assert rejects.reject_facts(remote) == {"rejected": 0, "lines": 0, "codes": []}


def test_the_same_content(dataset):
    by_content = defaultdict(list)
    for name, split in dataset.splits.items():
        for row in range(split.num_records):
            by_content[bytes(split.array("content")[row])].append((name, row))
    assert exact_groups(dataset) == [tuple(group) for group in by_content.values() if len(group) > 1]


def test_groups_and_their_flags(many, tmp_path, monkeypatch):
    """Of contents: 0 is in both splits with two labels, 1 twice in one split with one, all others once."""
    contents = {name: np.zeros((split.num_records, 32), np.uint8) for name, split in many.splits.items()}
    for name, array in contents.items():
        for row in range(len(array)):
            array[row] = np.frombuffer(hashlib.sha256(f"{name} {row}".encode()).digest(), np.uint8)
    labels = {name: [split.read(row).label for row in range(split.num_records)] for name, split in many.splits.items()}
    contents["b"][1] = contents["a"][0]
    contents["a"][4] = contents["a"][2]
    contents["a"][3, :8] = contents["a"][1, :8]  # the head alone
    array = irv2data.manifest.Split.array
    monkeypatch.setattr(
        irv2data.manifest.Split,
        "array",
        lambda split, name: contents[split.name] if name == "content" else array(split, name),
    )
    told = duplicate_facts(many, near=False)
    assert told["near"] is None
    exact = told["exact"]
    assert (exact["groups"], exact["records"], exact["leaks"]) == (2, 4, 1)
    differ = [labels["a"][0] != labels["b"][1], labels["a"][2] != labels["a"][4]]
    assert exact["conflicts"] == sum(differ) == 2
    first, second = exact["shown"]
    assert [(member["split"], member["record"]) for member in first["members"]] == [("a", 0), ("b", 1)]
    assert (first["leak"], second["leak"]) == (True, False)
    assert first["members"][0]["source"] == many.split("a").source(0)
    assert first["members"][0]["label"] == list(many.split("a").read(0).text)


def test_rejects_show_every_detail_before_one_twice(many, tmp_path, monkeypatch):
    lines = [("truncated", f"{n}.jpg", "ends") for n in range(30)]
    lines += [("truncated", "other.jpg", "no end")]
    lines += [("corrupt", f"{n}.png", f"at byte {n}") for n in range(20)]
    path = tmp_path / "rejects.jsonl"
    path.write_text("".join(json.dumps({"path": p, "code": c, "detail": d}) + "\n" for c, p, d in lines))
    monkeypatch.setattr(many, "location", str(tmp_path))
    told = rejects.reject_facts(many)
    assert told["lines"] == 51
    assert [(group["code"], group["count"], len(group["shown"])) for group in told["codes"]] == [
        ("truncated", 31, 12),
        ("corrupt", 20, 12),
    ]
    shown = [line["path"] for line in told["codes"][0]["shown"]]
    assert shown == [*(f"{n}.jpg" for n in range(11)), "other.jpg"]
    path.write_text('{"path": "a", "code": "corrupt", "detail": "b"}\n{"path": 3}\n')
    with pytest.raises(DatasetError, match=rf"^{path}: line 2 is no reject .*; restore the file or convert again$"):
        rejects.reject_facts(many)
    path.unlink()
    assert rejects.reject_facts(many)["lines"] is None


def test_pictures_of_rejects_come_from_the_source_alone(tmp_path):
    root = tmp_path / "source"
    (root / "cats").mkdir(parents=True)
    image = Image.new("RGB", (300, 150), (200, 30, 30))
    outside = tmp_path / "secret.jpg"
    for path in (root / "cats" / "whole.jpg", root / "cats" / "crashing.jpg", outside):
        image.save(path)
    whole = (root / "cats" / "whole.jpg").read_bytes()
    (root / "cats" / "half.jpg").write_bytes(whole[: len(whole) - 40])
    os.symlink(outside, root / "cats" / "link.jpg")
    os.mkfifo(root / "cats" / "pipe.jpg")
    (root / "cats" / "large.jpg").write_bytes(whole + bytes(33 << 20))
    names = ["whole.jpg", "half.jpg", "link.jpg", "pipe.jpg", "large.jpg", "gone.jpg", "nul\0.jpg"]
    paths = [*(f"cats/{name}" for name in names), "../secret.jpg", str(outside), "train-0.tfrecord#3", "\udcff.jpg"]
    facts = {
        "codes": [
            {"code": "truncated", "shown": [{"path": path, "detail": ""} for path in paths]},
            {"code": "decoder_crashed", "shown": [{"path": "cats/crashing.jpg", "detail": ""}]},
        ]
    }
    found = rejects.reject_pictures(facts, root, 96)
    assert list(found) == ["cats/whole.jpg", "cats/half.jpg"]
    assert found["cats/half.jpg"].size == (96, 48)
    assert np.abs(np.asarray(found["cats/whole.jpg"]).mean(axis=(0, 1)) - (200, 30, 30)).max() < 3


def test_small_pictures():
    def saved(image, kind, **options):
        data = io.BytesIO()
        image.save(data, kind, **options)
        return data.getvalue()

    clear = Image.new("RGBA", (50, 100), (0, 0, 0, 0))
    picture = small_picture(saved(clear, "PNG"), 40)
    assert picture.size == (20, 40)
    assert picture.getpixel((5, 5)) == (255, 255, 255)
    assert small_picture(saved(Image.new("CMYK", (20, 10)), "JPEG"), 40).size == (20, 10)
    assert small_picture(b"\xff\xd8\xff nothing", 40) is None
    assert small_picture(b"", 40) is None
    bomb = saved(Image.new("1", (8000, 8000)), "PNG")
    assert len(bomb) < 100_000
    assert small_picture(bomb, 40) is None


def test_chosen_images_are_unlike_each_other():
    rng = np.random.default_rng(0)
    height, width = rng.integers(20, 900, (2, 300))
    chosen = chosen_rows(height, width, 9)
    why = {reason: row for row, reason in chosen}
    pixels = height * width
    assert len(why) == len({row for row, _ in chosen}) == 9
    assert pixels[[row for row, _ in chosen]].tolist() == sorted(pixels[[row for row, _ in chosen]])
    assert (why["smallest"], why["largest"]) == (pixels.argmin(), pixels.argmax())
    assert (why["widest"], why["tallest"]) == ((width / height).argmax(), (width / height).argmin())
    for share in (12, 38, 62, 88):
        assert (pixels < pixels[why[f"larger than {share}%"]]).mean() == pytest.approx(share / 100, abs=0.01)
    assert chosen_rows(np.array([5]), np.array([7]), 8) == [(0, "smallest")]
    equal = chosen_rows(np.full(4, 10), np.full(4, 10), 3)
    assert len({row for row, _ in equal}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": "stretch"}, "fit must be one of resize, .* got 'stretch'"),
        ({"samples": 0}, "samples must be 1 or more, got 0"),
        ({"images": 65}, "images must be between 1 and 64, got 65"),
        ({"buckets": 0}, "buckets must be between 1 and 32, got 0"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(UsageError, match=message):
        PreviewConfig(**options)
