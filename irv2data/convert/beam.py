"""The engine `beam`: Apache Beam runs the shards, on the runner that its options name. Imported only when asked for.

The pipeline carries one file name a shard and nothing else. What a worker needs, and what it has to say, are files in
the dataset's work folder: service runners refuse large job submissions, and a bundle that is tried again, or runs
twice at once, does no more than write the same files once more, each whole or not at all.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from irv2data import storage
from irv2data.convert.workers import Marker
from irv2data.convert.writer import ShardResult, Task, load_result
from irv2data.errors import DatasetError, Irv2dataError, SourceError, UsageError, one_line

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
    from apache_beam.runners.runner import PipelineState
except ImportError as error:
    raise UsageError(f"engine=beam needs the 'beam' extra, pip install 'irv2data[beam]' ({one_line(error)})") from error

# Beside the result of a shard: the task to do, and why a worker could not do it.
_TASK, _FAILURE = ".task", ".failure"

_REMEDY = "finished shards are kept, go on with --resume (an append: with --append)"


class _Shard(NamedTuple):
    """What is known here of a shard that is handed out: its path, that of its result, and the number of its sources."""

    path: str
    result: str
    sources: int


def new_pipeline(arguments: Sequence[str]) -> beam.Pipeline:
    """An empty pipeline with Beam's own command-line options, checked as far as Beam checks them before a run.

    Args:
        arguments: `--runner=FlinkRunner`, `--parallelism=8` and so on.

    Raises:
        UsageError: Beam refuses them, or the runner they name is not installed.
    """
    said = io.StringIO()
    try:
        options = PipelineOptions(list(arguments))
        with contextlib.redirect_stderr(said):  # argparse prints all of Beam's options there, and exits
            mode = options.view_as(DirectOptions).direct_running_mode
            options.get_all_options()
        sys.stderr.write(said.getvalue())  # a warning of flags that Beam does not know, which a job server may
        standard = options.view_as(StandardOptions)
        # Since Beam 2.68 the DirectRunner hands over to Prism, a binary that it downloads and that knows no running
        # modes; whoever names one means the runner that has them: https://github.com/apache/beam/pull/34612.
        if mode != "in_memory" and standard.runner in (None, StandardOptions.DEFAULT_RUNNER):
            standard.runner = "FnApiRunner"
        return beam.Pipeline(options=options)
    except SystemExit:
        raise UsageError(f"beam_options: {said.getvalue().strip().rpartition('error: ')[2]}") from None
    except (AttributeError, ImportError, ValueError) as error:
        raise UsageError(f"beam_options: {one_line(error)}") from error


def run_beam(
    function: Callable[[Task, Marker], ShardResult],
    tasks: Iterable[Task],
    *,
    pipeline: beam.Pipeline,
    finished: Callable[[int, ShardResult], None],
    progress: Callable[[int], None],
    **limits: Any,
) -> None:
    """Applies a function to every task in a Beam pipeline, and waits for its end.

    Args:
        function: Writes a task's shard and commits its result; importable by the workers.
        tasks: Its arguments. Workers open their paths, so these must be URIs or lie on a file system that all share.
        pipeline: Of `new_pipeline`; it runs once.
        finished: Called here with a task's number and result, in order, when the pipeline has ended.
        progress: Called here with the number of a shard's sources, likewise.
        **limits: What the local engine does about decoders that hang or crash; here Beam does what it does.

    Raises:
        DatasetError: The pipeline failed, or ended without a shard; finished shards stay.
    """
    shards = [_hand_out(task) for task in tasks]
    if not shards:
        return
    paths = [shard.result + _TASK for shard in shards]
    # Reshuffled, or a runner would fuse creation and conversion into one stage of one worker.
    _ = pipeline | "shards" >> beam.Create(paths) | beam.Reshuffle() | "convert" >> beam.Map(_convert, function)
    try:
        state = _run(pipeline)
    except Exception as error:  # each runner has its own
        raise DatasetError(_reason(shards, _last_line(error))) from error
    if state != PipelineState.DONE:
        raise DatasetError(_reason(shards, f"the runner ended it as {state}"))
    for number, shard in enumerate(shards):
        result = load_result(shard.result)
        if result is None or storage.size(shard.path) != result.bytes:
            raise DatasetError(f"{shard.path}: the pipeline ended without it; do its workers write to another machine?")
        progress(shard.sources)
        finished(number, result)


def _hand_out(task: Task) -> _Shard:
    """Writes down what a worker needs for a shard."""
    root, shard, result = (
        path if storage.is_remote(path) else os.path.abspath(path) for path in (task.root, task.shard, task.result)
    )
    for old in (result, result + _FAILURE):  # of an earlier run
        storage.remove(old)
    storage.write_bytes(result + _TASK, pickle.dumps(replace(task, root=root, shard=shard, result=result)))
    return _Shard(shard, result, len(task.rows.names))


def _convert(path: str, function: Callable[[Task, Marker], ShardResult]) -> None:
    """Does one task, in a worker."""
    result = path.removesuffix(_TASK)
    if storage.exists(result):
        return  # by an earlier try of the bundle
    try:
        task: Task = pickle.loads(storage.read_bytes(path))
        # Else each source would be a reject of its own, and the dataset an empty one.
        if not storage.exists(task.root):
            raise SourceError(f"{task.root}: a worker does not see it; use a URI or a file system that all share")
        function(task, Marker())
    except Exception as error:
        # A worker that does not see the work folder either is known by what Beam says of it.
        with contextlib.suppress(OSError):
            said = str(error) if isinstance(error, Irv2dataError) else one_line(error)
            storage.write_bytes(result + _FAILURE, said.encode("utf-8", "surrogateescape"))
        raise


def _run(pipeline: beam.Pipeline) -> str:
    """Runs a pipeline to its end, and returns which one that was."""
    running = pipeline.run()
    try:
        return str(running.wait_until_finish())
    except KeyboardInterrupt:
        running.cancel()  # or its workers would go on writing
        raise


def _reason(shards: Sequence[_Shard], otherwise: str) -> str:
    """Why a pipeline failed: what a worker wrote down of an unfinished shard, or else what Beam says."""
    for shard in shards:
        failure = shard.result + _FAILURE
        if not storage.exists(shard.result) and storage.exists(failure):
            said = storage.read_bytes(failure).decode("utf-8", "surrogateescape")
            return f"{shard.path}: a Beam worker could not convert it ({said}); {_REMEDY}"
    return f"{os.path.dirname(shards[0].path)}: the Beam pipeline failed ({otherwise}); {_REMEDY}"


def _last_line(error: Exception) -> str:
    """What a runner's error says; of a worker's traceback, which is all that some give, its end."""
    text = str(error).strip()
    return text.rpartition("\n")[2] if "Traceback (most recent call last)" in text else one_line(error)
