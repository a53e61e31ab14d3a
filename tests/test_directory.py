"""`irv2data.image_dataset_from_directory` beside Keras' own, and the cache folder it converts into."""

from __future__ import annotations

import inspect
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import irv2data
from irv2data.directory.kept import default_folder, keep, key
from irv2data.directory.listing import list_images
from irv2data.directory.options import Options
from irv2data.errors import DatasetError, SourceError, UsageError
from irv2data.pipeline.config import PipelineConfig
from irv2data.pipeline.fits import output_sizes, source_boxes

IMAGES = 120
PATIENCE = 120  # seconds for what takes a few

# Not guarded by `if __name__ == "__main__":`, as scripts for Keras are not.
SCRIPT = """
import sys
from irv2data.directory.kept import keep
from irv2data.directory.listing import list_images
print(keep(list_images(sys.argv[1], None, None, follow_links=False), sys.argv[2], lambda line: None).fingerprint)
"""


@pytest.fixture(scope="module")
def folder(photos) -> Path:
    return photos / "train"


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def both(folder, cache_dir):
    """Ours and Keras' own dataset for the same arguments."""

    def make(**arguments):
        ours = irv2data.image_dataset_from_directory(folder, verbose=False, cache_dir=cache_dir, **arguments)
        arguments.pop("cache", None)
        return ours, keras.utils.image_dataset_from_directory(folder, verbose=False, **arguments)

    return make


@pytest.fixture
def few(folder, tmp_path) -> Path:
    """A directory of two classes of six photographs."""
    for name in ("portrait", "texture"):
        (tmp_path / "few" / name).mkdir(parents=True)
        for path in sorted((folder / name).iterdir())[:6]:
            shutil.copy2(path, tmp_path / "few" / name)
    return tmp_path / "few"


def images_of(dataset) -> np.ndarray:
    return np.concatenate([np.asarray(element[0] if isinstance(element, tuple) else element) for element in dataset])


def labels_of(dataset) -> np.ndarray:
    return np.concatenate([np.asarray(labels) for _, labels in dataset])


def differences(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and largest difference of each image, of 255."""
    apart = np.abs(ours - theirs).reshape(len(ours), -1)
    return apart.mean(axis=1), apart.max(axis=1)


def test_keras_signature():
    ours = inspect.signature(irv2data.image_dataset_from_directory).parameters
    theirs = inspect.signature(keras.utils.image_dataset_from_directory).parameters
    positional = [(name, p.default) for name, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    # `format` came after Keras 3.8.
    assert [each for each in positional if each[0] in theirs] == [(name, p.default) for name, p in theirs.items()]
    assert {name for name, _ in positional} - set(theirs) <= {"format"}
    assert [name for name, p in ours.items() if p.kind is p.KEYWORD_ONLY] == ["cache", "cache_dir"]


SUBSETS = {"validation_split": 0.3, "seed": 7}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"shuffle": True, "seed": 3},
        {"class_names": ["texture", "medicine", "outdoors", "portrait", "table"]},
        {"label_mode": "categorical"},
        {"label_mode": None},
        {"labels": None, "batch_size": 50},
        {"labels": [number % 3 for number in range(IMAGES)], "label_mode": "categorical"},
        {"labels": [number % 2 for number in range(IMAGES)], "label_mode": "binary"},
        {"labels": [number / 2 for number in range(IMAGES)]},
        {"batch_size": None, "data_format": "channels_first"},
        {"subset": "training", "shuffle": True, **SUBSETS},
        {"subset": "validation", "shuffle": True, **SUBSETS},
        {"subset": "validation", **SUBSETS},
        {"color_mode": "grayscale", "cache": "host"},
        {"labels": None, "cache": "host", "batch_size": None},
    ],
    ids=str,
)
def test_same_files_labels_and_shapes_as_keras(both, arguments):
    ours, theirs = both(**{"image_size": (32, 40), "shuffle": False, **arguments})
    assert ours.file_paths == theirs.file_paths
    assert ours.class_names == theirs.class_names
    assert len(ours) == len(theirs)
    assert ours.element_spec == theirs.element_spec
    if isinstance(ours.element_spec, tuple):
        batched = (lambda dataset: dataset) if arguments.get("batch_size", 32) else (lambda dataset: dataset.batch(7))
        found, wanted = labels_of(batched(ours)), labels_of(batched(theirs))
        if arguments.get("shuffle"):
            found, wanted = np.sort(found, axis=0), np.sort(wanted, axis=0)
        np.testing.assert_array_equal(found, wanted)


def test_both_subsets(both):
    ours, theirs = both(subset="both", image_size=(32, 32), **SUBSETS)
    assert [part.file_paths for part in ours] == [part.file_paths for part in theirs]
    assert [len(part.file_paths) for part in ours] == [84, 36]
    np.testing.assert_array_equal(labels_of(ours[1]), labels_of(theirs[1]))  # which neither shuffles


def test_a_listing_follows_keras(tmp_path):
    for name in ("b/z.JPG", "b/a/2.png", "b/a-1/1.gif", "a/x.jpeg", "a/.y.bmp", "a/no.txt", ".c/h.jpg", "top.jpg"):
        (tmp_path / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / name).touch()
    (tmp_path / "files" / "empty").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "l.png").touch()
    (tmp_path / "files" / "b" / "linked").symlink_to(tmp_path / "elsewhere")
    for labels, follow_links in (("inferred", True), (None, True)):
        found = list_images(tmp_path / "files", labels, None, follow_links=follow_links)
        theirs = keras.utils.image_dataset_from_directory(
            str(tmp_path / "files"), labels=labels, shuffle=False, follow_links=follow_links, verbose=False
        )
        assert found.paths(np.arange(len(found.names))) == theirs.file_paths
        assert found.class_names == theirs.class_names
    assert "b/linked/l.png" in found.names
    assert "b/linked/l.png" not in list_images(tmp_path / "files", None, None, follow_links=False).names


def sizes_of(paths: list[str]) -> np.ndarray:
    return np.array([Image.open(path).size[::-1] for path in paths])


def test_pixels(both):
    ours, theirs = both(image_size=(299, 299), shuffle=False)
    mean, most = differences(images_of(ours), images_of(theirs))
    lossless = np.array([path.endswith(".png") for path in ours.file_paths])
    profile = np.array(["icc_profile" in Image.open(path).info for path in ours.file_paths])
    # Keras decodes JPEG with the fast inverse DCT, conversion and pipeline with the accurate one.
    assert mean[~lossless].max() < 1.5
    assert most[~lossless].max() < 12
    assert most[lossless & ~profile].max() < 1e-3
    # Colour profiles are settled at conversion; Keras ignores them.
    assert profile.sum() == 3
    assert mean[profile].max() < 8
    wrong, _ = differences(images_of(ours)[1:], images_of(theirs)[:-1])
    assert wrong.min() > 8
    kept, _ = both(image_size=(299, 299), shuffle=False, cache="host")
    for _ in range(2):
        assert differences(images_of(kept), images_of(ours))[1].max() <= 0.501


def test_large_photographs_are_closer_to_the_antialiased_image_than_keras(both):
    side = 96
    ours, theirs = both(image_size=(side, side), shuffle=False)
    paths = np.array(ours.file_paths)
    large = (sizes_of(ours.file_paths) >= 2 * side).all(axis=1) & (np.char.find(paths, ".jpg") >= 0)
    assert large.sum() > 50
    truth = np.stack(
        [
            tf.image.resize(tf.io.decode_jpeg(Path(path).read_bytes(), channels=3), (side, side), antialias=True)
            for path in paths[large]
        ]
    )
    off, _ = differences(images_of(ours)[large], truth)
    keras_off, _ = differences(images_of(theirs)[large], truth)
    assert np.median(off) < 0.7 * np.median(keras_off)


def keras_crop(size: np.ndarray, output: tuple[int, int]) -> np.ndarray:
    """What `smart_resize` cuts out: int [2]."""
    height, width = size
    return np.array([min(height, int(width * output[0] / output[1])), min(width, int(height * output[1] / output[0]))])


def keras_pad(size: np.ndarray, output: tuple[int, int]) -> np.ndarray:
    """Where `resize_with_pad` puts an image: int [4], height, width, y, x."""
    exact = size.astype(np.float32) / (size / np.float32(output)).astype(np.float32).max()
    return np.concatenate([np.floor(exact), np.floor((np.float32(output) - exact) / 2)]).astype(int)


@pytest.mark.parametrize("how", ["crop_to_aspect_ratio", "pad_to_aspect_ratio"])
def test_aspect_kept_with_the_same_box_or_one_a_pixel_off(both, how):
    output = (299, 400)
    ours, theirs = both(image_size=output, shuffle=False, **{how: True})
    sizes = sizes_of(ours.file_paths)
    options = Options(
        label_mode="int", color_mode="rgb", batch_size=32, image_size=output, shuffle=False, seed=0,
        validation_split=None, subset=None, interpolation="bilinear", crop_to_aspect_ratio=how.startswith("crop"),
        pad_to_aspect_ratio=how.startswith("pad"), data_format="channels_last", format="tf", cache="none",
    )  # fmt: skip
    config = PipelineConfig(**options.pipeline(shuffle=False))
    if how.startswith("crop"):
        found = source_boxes(sizes[:, 0], sizes[:, 1], np.zeros((len(sizes), 0)), config)[:, 2:]
        wanted = np.array([keras_crop(size, output) for size in sizes])
    else:
        fitted = output_sizes(sizes[:, 0], sizes[:, 1], config, output)
        found = np.concatenate([fitted, (np.array(output) - fitted) // 2], axis=1)
        wanted = np.array([keras_pad(size, output) for size in sizes])
    assert np.abs(found - wanted).max() == 1
    same = (found == wanted).all(axis=1) & np.array([path.endswith(".jpg") for path in ours.file_paths])
    assert same.sum() > 20
    mean, most = differences(images_of(ours), images_of(theirs))
    # Small photographs are enlarged here, and the two decoders' differences with them.
    assert mean[same].max() < 2.5
    assert most[same].max() < 25


def test_grayscale_pixels(both):
    ours, theirs = both(image_size=(299, 299), shuffle=False, color_mode="grayscale")
    mean, _ = differences(images_of(ours), images_of(theirs))
    jpeg = np.array([path.endswith(".jpg") for path in ours.file_paths])
    assert mean[jpeg].max() < 1.0


@pytest.mark.parametrize("cache", ["none", "host"])
def test_every_iteration_is_another_epoch(folder, cache_dir, cache):
    def make(**arguments):
        return irv2data.image_dataset_from_directory(
            folder, image_size=(24, 24), batch_size=16, verbose=False, cache_dir=cache_dir, cache=cache, **arguments
        )

    known = {image.tobytes(): number for number, image in enumerate(images_of(make(shuffle=False)))}
    assert len(known) == IMAGES

    def orders(dataset, epochs: int) -> list[list[int]]:
        """Which of the known images each one is."""
        batches = [images.numpy() for images, _ in dataset]
        assert [len(images) for images in batches] == ([16] * 7 + [8]) * epochs
        order = [known[image.tobytes()] for images in batches for image in images]
        return [order[start : start + IMAGES] for start in range(0, len(order), IMAGES)]

    first = make(seed=5)
    epochs = [orders(first, 1)[0] for _ in range(2)]
    assert all(sorted(epoch) == list(range(IMAGES)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert orders(make(seed=5).repeat(2), 2) == epochs
    assert orders(make(seed=6), 1)[0] != epochs[0]


def test_labels_follow_their_images(both):
    ours, theirs = both(image_size=(24, 24), seed=2)
    label_of = {}
    unshuffled, _ = both(image_size=(24, 24), shuffle=False)
    for image, label in unshuffled.unbatch():
        label_of[image.numpy().tobytes()] = int(label)
    assert all(label_of[image.numpy().tobytes()] == label for image, label in ours.unbatch())
    assert np.array_equal(np.sort(labels_of(ours)), np.sort(labels_of(theirs)))


@pytest.mark.parametrize("replicas", [1, 2])
def test_fit(folder, cache_dir, cpu_strategy, replicas):
    train, validation = irv2data.image_dataset_from_directory(
        folder, image_size=(16, 16), subset="both", verbose=False, cache_dir=cache_dir, **SUBSETS
    )
    with cpu_strategy(replicas).scope():
        model = keras.Sequential([keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(5)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    steps: list[int] = []
    counted = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: steps.append(step))
    history = model.fit(
        train, validation_data=validation if replicas == 2 else None, epochs=2, verbose=0, callbacks=[counted]
    ).history
    assert steps == list(range(len(train))) * 2
    assert np.isfinite(history["loss"] + history.get("val_loss", [])).all()
    assert history["loss"][0] != history["loss"][1]


def test_damaged_files_are_left_out_and_named(few, tmp_path, caplog):
    paths = sorted(few.rglob("*.jpg"))
    paths[3].write_bytes(paths[3].read_bytes()[:-400])
    (few / "texture" / "a.png").write_text("no image")
    with caplog.at_level(logging.WARNING):
        ours = irv2data.image_dataset_from_directory(
            few, image_size=(24, 24), shuffle=False, verbose=False, cache_dir=tmp_path / "cache"
        )
    theirs = keras.utils.image_dataset_from_directory(few, image_size=(24, 24), shuffle=False, verbose=False)
    lost = {str(paths[3]), str(few / "texture" / "a.png")}
    sound = [number for number, path in enumerate(theirs.file_paths) if path not in lost]
    assert ours.file_paths == [theirs.file_paths[number] for number in sound]
    assert len(sound) == 11
    np.testing.assert_array_equal(labels_of(ours), [int("texture" in path) for path in ours.file_paths])
    assert images_of(ours).shape == (11, 24, 24, 3)
    (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "2 files cannot be used and are left out: portrait/" in record.getMessage()
    assert "(truncated)" in record.getMessage()
    assert "texture/a.png (not_an_image)" in record.getMessage()
    with pytest.raises(tf.errors.InvalidArgumentError):
        images_of(theirs)


def test_the_key_follows_what_is_there(few):
    def now():
        return key(list_images(few, "inferred", None, follow_links=False))

    first = now()
    assert now() == first == key(list_images(few, None, None, follow_links=True))
    path = next(few.rglob("*.jpg"))
    content, status = path.read_bytes(), path.stat()
    path.write_bytes(content[::-1])  # of the same length
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    second = now()
    path.write_bytes(content + b"\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    third = now()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert now() == first
    path.rename(path.with_name("moved.jpg"))
    assert len({first, second, third, now()}) == 4


def test_a_later_call_converts_nothing_and_a_damaged_cache_is_made_anew(few, tmp_path, capsys):
    def call():
        return irv2data.image_dataset_from_directory(few, image_size=(8, 8), cache_dir=tmp_path / "cache")

    call()
    assert capsys.readouterr().out.splitlines()[1].startswith("Converting 12 files, once, to ")
    found = images_of(call())
    assert capsys.readouterr().out == "Found 12 files belonging to 2 classes.\n"
    (shard,) = (tmp_path / "cache").glob("*/*.tfrecord")
    shard.write_bytes(shard.read_bytes()[:-1])
    again = images_of(call())
    assert "Converting" in capsys.readouterr().out
    np.testing.assert_array_equal(np.sort(found.sum((1, 2, 3))), np.sort(again.sum((1, 2, 3))))


def start(script: Path, *arguments) -> subprocess.Popen:
    command = [sys.executable, *map(str, (script, *arguments))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_two_processes_that_start_at_once_and_one_that_is_killed(folder, tmp_path):
    cache = tmp_path / "cache"
    listing = list_images(folder, None, None, follow_links=False)
    place = cache / key(listing)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    killed = start(script, folder, cache)
    deadline = time.monotonic() + PATIENCE
    while not (place / ".convert" / "plan.json").exists():
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    with pytest.raises(DatasetError, match=r"has no dataset\.json"):
        irv2data.Dataset(place)
    said: list[str] = []
    processes = [start(script, folder, cache) for _ in range(2)]
    results = [process.communicate(timeout=PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    dataset = keep(listing, cache, said.append)
    assert said == []
    assert [printed.strip() for printed, _ in results] == [dataset.fingerprint] * 2
    assert dataset.split("images").num_records == IMAGES
    assert irv2data.convert.verify(place, deep=True, workers=1) == []
    assert sorted(path.name for path in cache.iterdir()) == [place.name, f"{place.name}.lock"]


def test_where_the_cache_is(monkeypatch, few):
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert default_folder() == Path("/elsewhere/irv2data")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_folder() == Path("/home/someone/.cache/irv2data")
    with pytest.raises(UsageError, match="cache_dir lies inside the directory of images"):
        irv2data.image_dataset_from_directory(few, verbose=False, cache_dir=few / "portrait")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": "folders"}, "labels must be 'inferred', None, or a list"),
        ({"labels": [1, 2]}, "got 2 labels, and .* holds 12 images"),
        ({"labels": None, "class_names": ["portrait"]}, "class_names .* goes with labels='inferred'"),
        ({"class_names": ["portrait", "cats"]}, "has no cats"),
        ({"label_mode": "number"}, "label_mode must be"),
        ({"label_mode": "binary", "class_names": ["portrait"]}, "exactly two classes"),
        ({"color_mode": "rgba"}, "color_mode must be 'rgb' or 'grayscale', got 'rgba'"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"image_size": (32, 32, 3)}, "image_size must be a height and a width"),
        ({"image_size": 0}, "image_size must be"),
        ({"interpolation": "nearest"}, "interpolation must be one of bilinear, lanczos3, got 'nearest'"),
        ({"validation_split": 0.5}, "validation_split and subset go together"),
        ({"validation_split": 1.5, "subset": "both", "seed": 1}, "validation_split must be between 0 and 1, got 1.5"),
        ({"validation_split": 0.5, "subset": "test", "seed": 1}, "subset must be"),
        ({"validation_split": 0.5, "subset": "both"}, "needs a seed"),
        ({"validation_split": 0.05, "subset": "validation", "seed": 1}, "of 12 images is none"),
        ({"crop_to_aspect_ratio": True, "pad_to_aspect_ratio": True}, "exclude each other"),
        ({"data_format": "channels_middle"}, "data_format must be"),
        ({"format": "grain"}, "format must be 'tf'"),
        ({"cache": "device"}, "cache must be one of none, host, got 'device'"),
    ],
    ids=str,
)
def test_bad_arguments(few, cache_dir, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:  # what Keras raises, and UsageError is
        irv2data.image_dataset_from_directory(few, verbose=False, cache_dir=cache_dir, **arguments)
    assert isinstance(caught.value, UsageError)
    assert "\n" not in str(caught.value)


def test_a_directory_that_is_none_or_empty(tmp_path):
    with pytest.raises(SourceError, match="cannot be listed"):
        irv2data.image_dataset_from_directory(tmp_path / "missing")
    with pytest.raises(SourceError, match="holds no images"):
        irv2data.image_dataset_from_directory(tmp_path)
    with pytest.raises(UsageError, match="must be a local one"):
        irv2data.image_dataset_from_directory("gs://bucket/images")
