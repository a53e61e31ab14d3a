"""What the folder of a finished run tells those who use its network."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irv2data.errors import UsageError, WeightsError, one_line
from irv2data.pipeline.config import NATIVE
from irv2data.training.config import OF_FIT, evaluation_fit

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run that `irv2data train` has finished.

    Attributes:
        folder: Where it lies.
        classes: Class names in label order.
        fitting: The options of `PipelineConfig` that fit images as its evaluation did: `fit`, `image_size`, and what
            belongs to that fit; for `native` the canvases too, whose largest one bounds an image.
        largest: Height and width of the largest canvas of its evaluation.
    """

    folder: Path
    classes: tuple[str, ...]
    fitting: dict[str, Any]
    largest: tuple[int, int]

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> FinishedRun:
        """Reads all but the network.

        Raises:
            UsageError: The folder holds no finished run.
        """
        place = Path(folder)
        metrics, classes = _read(place / "metrics.json"), _read(place / "classes.json")
        try:
            config = metrics["config"]
            fit = evaluation_fit(config["fit"])
            more = {name: _plain(config[name]) for name, of in OF_FIT.items() if of == fit and name in config}
            canvases = tuple((height, width) for height, width in metrics["evaluation_canvases"])
            if fit == NATIVE:
                more["canvases"] = canvases
            return cls(
                folder=place,
                classes=tuple(classes),
                fitting={"fit": fit, "image_size": _plain(config["image_size"]), **more},
                largest=canvases[-1],
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise _unfinished(place / "metrics.json", f"is none of its files: {error!r}") from error

    def load_model(self) -> keras.Model:
        """The network, as `training.model.build_model` made it; call it in the strategy's scope.

        Raises:
            WeightsError: It cannot be loaded, or is one of other classes.
        """
        import keras

        import irv2data.training.masked  # noqa: F401  # registers the layers of a network for `native` images

        file = self.folder / "model.keras"
        try:
            model = keras.models.load_model(file, compile=False)
        except Exception as error:  # zipfile, h5py and Keras each raise their own
            raise WeightsError(f"{file}: cannot be loaded ({one_line(error)})") from error
        if model.output_shape[-1] != len(self.classes):
            raise WeightsError(
                f"{file}: tells {model.output_shape[-1]} classes apart, {self.folder / 'classes.json'} names "
                f"{len(self.classes)}; they are of different runs"
            )
        return model


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unfinished(path, str(error)) from error


def _unfinished(path: Path, why: str) -> UsageError:
    return UsageError(f"{path.parent}: holds no finished run of `irv2data train` ({path.name}: {why})")


def _plain(value: Any) -> Any:
    """A pair as JSON has it, as options take it."""
    return tuple(value) if isinstance(value, list) else value
