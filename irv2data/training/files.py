"""Image files of any kind on their way to a network: found, read, and made what conversion would store of them.

Free of TensorFlow, because worker processes import it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from irv2data.convert.config import ConvertConfig
from irv2data.convert.engines import run_local
from irv2data.convert.rejects import RejectError
from irv2data.convert.sources.reading import read_source
from irv2data.convert.sources.store import open_store
from irv2data.convert.sources.walk import Passed
from irv2data.convert.transcode import transcode
from irv2data.convert.workers import Marker
from irv2data.errors import SourceError

_CHUNK = 8  # files of one task: few, for their contents wait in memory until the network is ready for them

Reason = tuple[str, str]
Top = tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network says of one file.

    Attributes:
        path: The file.
        top: Class numbers and probabilities, the most probable first; empty if there is an error.
        error: Code (one of `irv2data.convert.rejects.REJECT_CODES`) and detail, of a file that is no image.
    """

    path: str
    top: Top = ()
    error: Reason | None = None


@dataclass(frozen=True, kw_only=True)
class _Task:
    """Some files. `barred` holds those that took down a worker, by their position."""

    paths: tuple[str, ...]
    config: ConvertConfig
    barred: Mapping[int, Reason] = field(default_factory=dict)


def find_files(path: str) -> Iterator[str]:
    """The images below a folder in the byte order of their paths, as conversion finds them; a file is itself.

    Raises:
        SourceError: A folder holds no images, or cannot be listed.
    """
    if not os.path.isdir(path):
        yield path
        return
    name = None
    for name in open_store(path).images(Passed(), class_depth=0, follow_links=False, progress=lambda files: None):
        yield os.path.join(path, os.fsdecode(name))
    if name is None:
        raise SourceError(f"{path}: holds no images")


def predict_files(
    paths: Sequence[str],
    predict: Callable[[list[bytes]], Sequence[Top]],
    *,
    batch_size: int,
    workers: int = 0,
    found: Callable[[Prediction], None],
) -> None:
    """Predicts files of any number: they are read and checked in worker processes, while the network is at others.

    Args:
        paths: The files.
        predict: Called with up to `batch_size` images as conversion stores them, with its default options (PNG stays
            PNG); gives the most probable classes of each.
        batch_size: Images predicted at once.
        workers: Worker processes; 0 for the number of usable cores.
        found: Called with each file's prediction, in the order of the files.
    """
    waiting: dict[int, bytes] = {}
    there: dict[int, Prediction] = {}
    following = 0

    def tasks() -> Iterator[_Task]:
        config, rest = ConvertConfig(png="keep"), iter(paths)
        while chunk := tuple(islice(rest, _CHUNK)):
            yield _Task(paths=chunk, config=config)

    def finished(number: int, results: list[bytes | Reason]) -> None:
        for position, result in enumerate(results, number * _CHUNK):
            if isinstance(result, bytes):
                waiting[position] = result
            else:
                there[position] = Prediction(path=paths[position], error=result)
        while len(waiting) >= batch_size:
            flush(islice(list(waiting), batch_size))
        tell()

    def flush(positions: Iterable[int]) -> None:
        batch = {position: waiting.pop(position) for position in positions}
        for position, top in zip(batch, predict(list(batch.values())), strict=True):
            there[position] = Prediction(path=paths[position], top=top)

    def tell() -> None:
        nonlocal following
        while following in there:
            found(there.pop(following))
            following += 1

    limits = ConvertConfig()
    run_local(
        _encoded,
        tasks(),
        workers=workers,
        finished=finished,
        progress=lambda files: None,
        lost=lambda task, item, code, detail: replace(task, barred={**task.barred, item: (code, detail)}),
        item_seconds=limits.decode_seconds,
        worker_mib=limits.worker_mib,
    )
    if waiting:
        flush(list(waiting))
    tell()


def _encoded(task: _Task, marker: Marker) -> list[bytes | Reason]:
    """What conversion would store of each file, or why it would not; runs in a worker."""
    results: list[bytes | Reason] = []
    for item, path in enumerate(task.paths):
        marker.begin(item)
        try:
            results.append(task.barred[item] if item in task.barred else _stored(path, task.config))
        except RejectError as error:
            results.append((error.code, error.detail))
        except MemoryError:
            results.append(("out_of_memory", f"decoding needed more than {task.config.worker_mib} MiB"))
        finally:
            marker.end()
            marker.advance()
    return results


def _stored(path: str, config: ConvertConfig) -> bytes:
    folder, name = os.path.split(path)
    return transcode(read_source(folder or ".", os.fsencode(name)), config).encoded
