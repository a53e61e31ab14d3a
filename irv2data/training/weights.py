"""Where the weights of Inception-ResNet-v2 come from, and the check that they are the right ones."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import warnings
from pathlib import Path

import keras

from irv2data.errors import UsageError, WeightsError, one_line

BASE = "inception_resnet_v2"  # name of the layer that is the network, in every model of `build_model`
# As in keras/src/applications/inception_resnet_v2.py.
IMAGENET_FILE = "inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5"
IMAGENET_MD5 = "d19885ff4a710c122648d3b5c3b684e4"
IMAGENET_URL = "https://storage.googleapis.com/tensorflow/keras-applications/inception_resnet_v2/" + IMAGENET_FILE

_DIGITS = {"md5": 32, "sha256": 64}
_WITH_DIGEST = re.compile(r"(.+)#(md5|sha256)=(.*)", re.DOTALL)
_BLOCK = 1 << 20


def base_with_weights(shape: tuple[int | None, int | None, int], weights: str) -> keras.Model:
    """Inception-ResNet-v2 without its ImageNet head, with average pooling.

    Args:
        shape: Of an image, (height, width, 3); None for any height or width.
        weights: `imagenet` (from Keras' cache, fetched if need be), `none` (random), or the path of a file: weights
            alone, or a model of `build_model`. The path may end in the digest that the file must have, as pip has it:
            `FILE#sha256=HEX` or `FILE#md5=HEX`.

    Raises:
        UsageError: The digest is none.
        WeightsError: The weights cannot be had, are others than they should be, or do not fit; the message says which
            file belongs where.
    """
    file = weights_file(weights)  # first, for building takes seconds, and an error should not
    # The name is given so that the layer is found whatever Keras calls it by default.
    base = keras.applications.InceptionResNetV2(
        weights=None, include_top=False, pooling="avg", input_shape=shape, name=BASE
    )
    if file is not None:
        _load(base, file)
    return base


def weights_file(weights: str) -> Path | None:
    """The file that `base_with_weights` loads, which raises what this one raises; None for random weights."""
    if weights == "none":
        return None
    return _imagenet() if weights == "imagenet" else _given(weights)


def digest_of(file: Path, algorithm: str) -> str:
    """Hexadecimal digest of a file, `md5` or `sha256`."""
    digest = hashlib.new(algorithm)
    with open(file, "rb") as content:
        while block := content.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _imagenet() -> Path:
    """The ImageNet weights in Keras' cache."""
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")).expanduser()
    file = home / "models" / IMAGENET_FILE
    found = digest_of(file, "md5") if file.is_file() else None
    if found == IMAGENET_MD5:
        return file  # not by way of Keras, which passes over a cache that it may not write to
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras prints its download progress to standard output
            fetched = keras.utils.get_file(
                IMAGENET_FILE, IMAGENET_URL, cache_dir=str(home), cache_subdir="models", file_hash=IMAGENET_MD5
            )
    except Exception as error:  # urllib, ssl and Keras each raise their own
        there = "" if found is None else f"{file} is damaged, its MD5 is {found}, and "
        raise WeightsError(
            f"{there}the ImageNet weights cannot be fetched ({one_line(error)}); put {IMAGENET_FILE} "
            f"(MD5 {IMAGENET_MD5}) into {file.parent}, or give --weights=PATH, or --weights=none"
        ) from error
    return Path(fetched)


def _given(weights: str) -> Path:
    """The file of a path, which may name a digest."""
    path, algorithm, expected = weights, "md5", None
    if match := _WITH_DIGEST.fullmatch(weights):
        path, algorithm, expected = match[1], match[2], match[3].lower()
        if not re.fullmatch(f"[0-9a-f]{{{_DIGITS[algorithm]}}}", expected):
            raise UsageError(
                f"weights: {algorithm} is {_DIGITS[algorithm]} hexadecimal digits, got {match[3]!r}; "
                f"`{algorithm}sum {path}` prints them"
            )
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"{path}: no such weights file; --weights takes imagenet, none, or a path")
    wanted = {} if expected is None else {algorithm: expected}
    if file.name == IMAGENET_FILE:
        wanted.setdefault("md5", IMAGENET_MD5)
    for algorithm, expected in wanted.items():
        found = digest_of(file, algorithm)
        if found != expected:
            raise WeightsError(
                f"{path}: its {algorithm.upper()} is {found}, not {expected}: it is damaged or another file; "
                "get it again"
            )
    return file


def _load(base: keras.Model, file: Path) -> None:
    try:
        with warnings.catch_warnings():
            # What Keras does not find in a file it leaves at random values, with no more than a warning.
            warnings.simplefilter("error", UserWarning)
            if file.suffix == ".keras":
                base.set_weights(keras.models.load_model(file, compile=False).get_layer(BASE).get_weights())
            else:
                base.load_weights(file)
    except Exception as error:  # h5py, zipfile and Keras each raise their own
        raise WeightsError(
            f"{file}: does not hold weights of Inception-ResNet-v2 without its head ({one_line(error)})"
        ) from error
