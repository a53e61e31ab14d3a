"""What the how-to pages say of this package and do not show by a block of their own."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import photographs
import pytest
import tifffile
from PIL import Image

import irv2data
from irv2data.convert import ConvertConfig, convert
from irv2data.errors import UsageError
from irv2data.pipeline import order
from irv2data.training import TrainConfig, make_strategy, train
from tests.training.small_run import small_network

WHOLE = ConvertConfig(splits=(("train", 1.0),), max_bad_fraction=1.0)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A grey photograph: uint16 [128, 128] of 0 to 255."""
    with Image.open(photographs.source_path("skimage:camera.png")) as image:
        return np.asarray(image.convert("L").resize((128, 128)), np.uint16)


def stored(folder: Path) -> dict[str, np.ndarray]:
    """Name of each converted file, without its ending, to the pixels of its record."""
    convert(folder, folder.parent / "out", WHOLE)
    split = irv2data.Dataset(folder.parent / "out").split("train")
    pixels = [np.asarray(Image.open(BytesIO(split.read(row).encoded))) for row in range(split.num_records)]
    return {Path(split.source(row)).stem: each for row, each in enumerate(pixels)}


def test_tiffs_of_16_bits(serial, tmp_path, photo):
    folder = tmp_path / "scans" / "all"
    folder.mkdir(parents=True)
    values = photo * 257
    tifffile.imwrite(folder / "plain.tif", values)
    tifffile.imwrite(folder / "deflate.tif", values, compression="zlib")
    Image.fromarray(values).save(folder / "lzw.tif", compression="tiff_lzw")
    tifffile.imwrite(folder / "rgb.tif", np.stack([values, values[::-1], values.T], axis=-1), photometric="rgb")
    tifffile.imwrite(folder / "white_is_zero.tif", values, photometric="miniswhite")
    tifffile.imwrite(folder / "stack.tif", np.stack([values, values // 2]), photometric="minisblack")
    tifffile.imwrite(folder / "twelve_of_sixteen.tif", photo * 16)
    found = stored(folder.parent)
    for name in ("plain", "deflate", "lzw", "stack"):
        np.testing.assert_array_equal(found[name], photo, err_msg=name)
    np.testing.assert_array_equal(found["rgb"], np.stack([photo, photo[::-1], photo.T], axis=-1))
    np.testing.assert_array_equal(found["white_is_zero"], 255 - photo)
    assert found["twelve_of_sixteen"].max() == np.rint(photo.max() * 16 / 257) <= 16


def test_tiffs_without_a_range_are_rejected(serial, tmp_path, photo):
    folder = tmp_path / "scans" / "all"
    folder.mkdir(parents=True)
    tifffile.imwrite(folder / "good.tif", photo * 257)
    for name, kind in (("float", np.float32), ("signed", np.int16), ("long", np.uint32)):
        tifffile.imwrite(folder / f"{name}.tif", photo.astype(kind))
    assert set(stored(folder.parent)) == {"good"}
    rejects = (tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rejects) == 3
    assert all('"unsupported"' in line for line in rejects)


def test_replicas_that_do_not_divide_the_batch_name_sizes_that_work(dataset, cpu_strategy):
    pipeline = irv2data.Pipeline(dataset, image_size=(32, 32), batch_size=16)
    with pytest.raises(UsageError, match="batch_size 16 is not divisible by 3 replicas; use 15 or 18"):
        pipeline.distribute(cpu_strategy(3))


def test_rows_that_name_a_file_again_become_records_of_their_own(serial, photos, tmp_path):
    for name, file in zip(("one", "two"), sorted((photos / "train" / "table").glob("*.jpg")), strict=False):
        (tmp_path / f"{name}.jpg").hardlink_to(file)
    rows = [f"{name}.jpg,table,train" for name in ("one", "two", "one", "one")]
    (tmp_path / "rows.csv").write_text("\n".join(["path,label,fold", *rows]), encoding="utf-8")
    convert(tmp_path / "rows.csv", tmp_path / "out", ConvertConfig(splits="column:fold"))
    split = irv2data.Dataset(tmp_path / "out").split("train")
    assert sorted(split.source(row) for row in range(4)) == ["one.jpg", "one.jpg", "one.jpg", "two.jpg"]


def test_random_crops_of_tiny_images_are_a_few_pixels(serial, tmp_path, photo):
    folder = tmp_path / "tiny" / "all"
    folder.mkdir(parents=True)
    for number in range(64):
        Image.fromarray(np.roll(photo, number, 0)[:32, :32].astype(np.uint8)).save(folder / f"{number}.png")
    convert(folder.parent, tmp_path / "out", WHOLE)
    crops = irv2data.Pipeline(tmp_path / "out", fit="random_resized_crop", image_size=(96, 96), batch_size=64)
    assert crops.plan.canvases[-1] == (32, 32)
    assert 7 <= crops.plan.batch(0, 0).box[0, :, 2:].min() <= 12
    native = irv2data.Pipeline(tmp_path / "out", fit="native", image_size=(96, 96), batch_size=64)
    assert (native.plan.batch(0, 0).output == 32).all()


def test_a_native_image_is_bounded_by_the_longer_side_of_the_canvas(serial, tmp_path, photo):
    (tmp_path / "wide" / "all").mkdir(parents=True)
    Image.fromarray(photo.astype(np.uint8)).resize((400, 100)).save(tmp_path / "wide" / "all" / "one.jpg")
    convert(tmp_path / "wide", tmp_path / "out", WHOLE)
    sizes = {}
    for pixels in (102_400, 160_000):  # squares of 320 and 400
        pipeline = irv2data.Pipeline(
            tmp_path / "out",
            fit="native",
            image_size=(75, 75),
            batch_size=1,
            max_pixels=50_000,
            max_canvas_pixels=pixels,
        )
        sizes[pixels] = pipeline.plan.batch(0, 0).output[0, 0].tolist()
    assert sizes == {102_400: [80, 320], 160_000: [100, 400]}


def test_a_record_of_a_huge_epoch_is_known_without_the_others():
    n = 100_000_000
    few = order.permute(np.arange(90_000_000, 90_000_100), n, seed=7, epoch=2)
    assert len(set(few.tolist())) == 100
    assert few.min() >= 0
    assert few.max() < n
    assert order.permute(np.array([90_000_042]), n, seed=7, epoch=2)[0] == few[42]


def test_resume_begins_a_run_that_is_not_there_and_refuses_a_finished_one(dataset, tmp_path):
    config = TrainConfig(image_size=(75, 75), batch_size=12, max_steps=1, validation_split=None, tensorboard=False)
    with small_network():
        metrics = train(dataset, tmp_path / "run", config, make_strategy(1), resume=True)
        assert [row["epoch"] for row in metrics["history"]] == [0]
        with pytest.raises(UsageError, match="holds a finished run"):
            train(dataset, tmp_path / "run", config, make_strategy(1), resume=True)
