"""WebP and AVIF records: what adoption reads of them, and what it leaves out as nothing decodes it as it looks."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

import irv2data
from irv2data import index
from irv2data.convert import adopt, verify
from irv2data.convert.records import check_image, is_turned
from irv2data.tools import main
from tests.convert.test_adopt import write

LYING = Image.Exif()
LYING[0x0112] = 6


def picture(height=31, width=47, channels=3, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8))


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opaque(image):
    image.putalpha(255)
    return image


@pytest.mark.parametrize(
    ("image", "kind", "options", "code"),
    [
        (picture(), "WEBP", {}, index.WEBP),  # VP8
        (picture(), "WEBP", {"lossless": True}, index.WEBP),  # VP8L
        (picture(), "WEBP", {"icc_profile": b"0" * 128}, index.WEBP),  # VP8X
        (picture(channels=4), "WEBP", {}, index.WEBP_ALPHA),
        (picture(channels=4), "WEBP", {"lossless": True}, index.WEBP_ALPHA),
        (picture(), "AVIF", {}, index.AVIF),
        (picture().convert("L"), "AVIF", {}, index.AVIF),
        (opaque(picture()), "AVIF", {}, index.AVIF),
    ],
)
def test_format_and_size(image, kind, options, code):
    encoded = saved(image, kind, **options)
    assert check_image(encoded, others=True)[1:] == (code, 31, 47)
    assert not is_turned(encoded, code)
    # Conversion stores neither, so that in its datasets they are no images.
    with pytest.raises(ValueError, match=r"^the image is (WebP|AVIF), neither JPEG nor PNG$"):
        check_image(encoded)


@pytest.mark.parametrize(("kind", "code"), [("WEBP", index.WEBP), ("AVIF", index.AVIF)])
def test_an_image_that_lies_down_is_known(kind, code):
    assert is_turned(saved(picture(), kind, exif=LYING.tobytes()), code)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_animations_are_left_out(kind):
    encoded = saved(picture(), kind, save_all=True, append_images=[picture(seed=1)])
    with pytest.raises(ValueError, match=r"^is an animated (WebP|AVIF), which the pipeline's decoders do not take$"):
        check_image(encoded, others=True)


def test_avif_whose_decoder_would_show_something_else_is_left_out():
    with pytest.raises(ValueError, match=r"^is an AVIF with transparent pixels"):
        check_image(saved(picture(channels=4), "AVIF"), others=True)
    encoded = bytearray(saved(picture(), "AVIF"))
    encoded[encoded.index(b"av1C") + 6] |= 0x40
    with pytest.raises(ValueError, match=r"^is an AVIF of more than 8 bits"):
        check_image(bytes(encoded), others=True)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_a_damaged_image_is_left_out(kind):
    encoded = saved(picture(200, 300), kind, quality=90)
    with pytest.raises(ValueError, match=r"^the image cannot be decoded \("):
        check_image(encoded[: len(encoded) // 2], others=True)


def test_an_adopted_dataset_says_what_it_holds(serial, tmp_path, capsys):
    images = [saved(picture(20 + n, 30, seed=n), "WEBP", exif=LYING.tobytes()) for n in range(3)]
    images += [saved(picture(40, 50), "JPEG"), saved(picture(41, 50), "AVIF"), saved(picture(42, 50), "GIF")]
    path = write(tmp_path / "x.tfrecord", *({"image": image, "label": 0} for image in images))
    adoption = adopt([path], tmp_path / "out")
    assert (adoption.rejected, adoption.turned) == (1, 3)
    dataset = irv2data.Dataset(tmp_path / "out")
    split = dataset.split("train")
    assert dataset.contents.formats == ("webp", "avif")
    assert split.array("format").tolist() == [index.WEBP] * 3 + [index.BASELINE, index.AVIF]
    assert split.array("height").tolist() == [20, 21, 22, 40, 41]
    assert split.array("width").tolist() == [30, 30, 30, 50, 50]
    # Whoever knows version 2 alone would take all that is no PNG for JPEG: it has to see that this is another.
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["version"] == 3
    assert verify(str(tmp_path / "out"), deep=True) == []
    assert main.run(main.parse(["irv2data", "info", str(tmp_path / "out"), "--json"])) == 0
    formats = json.loads(capsys.readouterr().out)["splits"]["train"]["formats"]
    assert formats == {"baseline": 1, "progressive": 0, "png": 0, "webp": 3, "avif": 1}


def test_the_manifest_of_jpeg_and_png_is_what_it_was(serial, tmp_path, capsys):
    images = [saved(picture(), "JPEG"), saved(picture(), "PNG")]
    path = write(tmp_path / "x.tfrecord", *({"image": image, "label": 0} for image in images))
    adopt([path], tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (manifest["version"], "formats" in manifest) == (2, False)
    assert main.run(main.parse(["irv2data", "info", str(tmp_path / "out")])) == 0
    assert "webp" not in capsys.readouterr().out


def test_a_shard_of_webp_is_repaired(serial, tmp_path):
    images = [saved(picture(seed=n), "WEBP") for n in range(4)]
    path = write(tmp_path / "x.tfrecord", *({"image": image, "label": 0} for image in images))
    adopt([path], tmp_path / "out")
    (tmp_path / "out" / "index" / "train" / "height.npy").write_bytes(b"")
    assert main.run(main.parse(["irv2data", "verify", str(tmp_path / "out"), "--repair"])) == 0
    dataset = irv2data.Dataset(tmp_path / "out")
    assert dataset.contents.formats == ("webp",)
    assert dataset.split("train").array("height").tolist() == [31] * 4


def test_a_size_that_the_header_alone_states_is_believed_only_with_the_image(serial):
    encoded = bytearray(saved(picture(), "WEBP", icc_profile=b"0" * 128))
    at = encoded.index(b"VP8X") + 8 + 4
    encoded[at : at + 3] = struct.pack("<I", 99)[:3]
    with pytest.raises(ValueError, match=r"cannot be decoded"):
        check_image(bytes(encoded), others=True)
