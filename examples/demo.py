"""The whole way on one machine: a folder of photographs, a dataset, a benchmark, a fine-tuned network, a picture.

Run by `make demo [IMAGES=folder]`. Every step is the command a user would type; it is printed before it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import photographs

IMAGE_SIZE, LARGEST_BATCH = 96, 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="your folder, one sub-folder a class (default: real samples)")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="made anew (default: %(default)s)")
    parser.add_argument("--short", action="store_true", help="fewer images and steps")
    options = parser.parse_args()
    started = time.monotonic()
    output: Path = options.output
    if (output / "photographs").exists():  # made by an earlier run of this demo
        shutil.rmtree(output / "photographs")
    output.mkdir(parents=True, exist_ok=True)
    dataset, run = output / "dataset", output / "run"

    source, splits = options.images, "--splits=train=0.8,validation=0.2"
    if source is None:
        source, splits = output / "photographs", "--splits=folders"
        count = photographs.write_folder(source, images_per_source=16 if options.short else 40)
        print(f"No IMAGES=folder was given: {count} cuttings of {len(photographs.all_sources())} real photographs.")

    seconds: dict[str, float] = {}

    def step(name: str, *arguments: str | Path) -> dict[str, Any]:
        report, seconds[name] = irv2data(*arguments)
        return report

    converted = step("convert", "convert", source, dataset, splits, "--overwrite")
    verified = step("verify", "verify", dataset, "--deep")
    if not verified["sound"]:
        raise SystemExit(f"demo: the dataset is not sound: {verified['problems'][0]}")
    replicas = gpus() or 2
    batch_size = min(LARGEST_BATCH, converted["splits"]["train"]["records"]) // replicas * replicas
    if batch_size == 0:
        raise SystemExit(f"demo: {replicas} replicas need {replicas} training images; put more into {source}")
    size, batch = f"--image_size={IMAGE_SIZE}", f"--batch_size={batch_size}"
    rounds = ("--rounds=2", "--seconds=1") if options.short else ("--rounds=3", "--seconds=2")
    bench = step("bench", "bench", dataset, size, batch, *rounds)
    held_out = "validation" if converted["splits"]["validation"]["records"] else ""
    trained = step(
        "train",
        *("train", dataset, run, "--weights=none", size, batch, f"--max_steps={10 if options.short else 40}"),
        *("--head_epochs=1" if options.short else "--head_epochs=2", f"--replicas={replicas}"),
        *(f"--validation_split={held_out}", "--overwrite"),
    )
    page = None
    if held_out and not options.short:
        step(
            "study",
            *("study", dataset, output / "study", "--weights=none", size, batch, "--max_images=160", "--repeats=3"),
            *("--fits=resize,center_crop,random_resized_crop,letterbox,native", "--views=2", "--learning_rate=0.01"),
            *("--rounds=3", "--seconds=0.5", "--overwrite"),
        )
        page = output / "study" / "study.html"
    sheet = output / "what-the-network-sees.png"
    draw(dataset, sheet, batch_size)

    records = sum(split["records"] for split in converted["splits"].values())
    shards = sum(split["shards"] for split in converted["splits"].values())
    first, last = trained["history"][0], trained["history"][-1]
    rows = [
        ("images", f"{records:,} of {converted['sources']:,} files, {converted['rejected']:,} rejected"),
        ("shards", f"{shards:,}"),
        ("convert", f"{converted['sources'] / converted['seconds']:,.0f} images/s"),
        ("verify --deep", f"{records / seconds['verify']:,.0f} images/s, start included"),
        ("pipeline", f"{bench['images_per_second']['median']:,.0f} images/s to uint8 batches"),
        ("with device stage", f"{bench['finished_images_per_second']['median']:,.0f} images/s to finished images"),
        ("train", rate(last) + f", {trained['replicas']} replicas, {IMAGE_SIZE}x{IMAGE_SIZE}"),
        ("training loss", f"{first['loss_first_fifth']:.3f} at first, {last['loss_last_fifth']:.3f} at last"),
        *(held_out_rows(trained) if held_out else ()),
        ("dataset", str(dataset)),
        ("model, metrics", str(run)),
        ("contact sheet", str(sheet)),
        *([("study page", str(page))] if page else []),
    ]
    print()
    print("\n".join(f"{name:18} {value}" for name, value in rows))
    print(f"\nThe network had random weights: this shows the machinery, not the accuracy. {elapsed(started)}")
    return 0


def irv2data(*arguments: str | Path) -> tuple[dict[str, Any], float]:
    """Runs `irv2data ARGUMENTS --json`, showing the command; returns its report and the seconds it took."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ irv2data {shlex.join(words)}", flush=True)
    started = time.monotonic()
    command = [sys.executable, "-m", "irv2data.tools.main", *words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 3):  # 3: done, with more rejects than the budget; the table shows them
        raise SystemExit(done.returncode)
    return json.loads(done.stdout), time.monotonic() - started


def gpus() -> int:
    """Number of GPUs that TensorFlow sees."""
    from irv2data.tools.quiet import load_tensorflow

    load_tensorflow()
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def draw(dataset: Path, sheet: Path, batch_size: int) -> None:
    """Draws the contact sheet of the first training images."""
    from irv2data import Pipeline
    from irv2data.report import contact_sheet

    pipeline = Pipeline(dataset, fit="random_resized_crop", image_size=(IMAGE_SIZE, IMAGE_SIZE), batch_size=batch_size)
    contact_sheet(pipeline, sheet)


def rate(row: dict[str, Any]) -> str:
    """Images per second of an epoch, where it had more than the one step that traces."""
    speed = row["images_per_second"]
    return "one step only" if speed is None else f"{speed:,.1f} images/s, {row['input_wait']:.1%} waiting for input"


def held_out_rows(trained: dict[str, Any]) -> list[tuple[str, str]]:
    """Loss and accuracy on the validation split, before and after."""
    before, after = trained["validation_before"], trained["validation_after"]
    return [
        ("held-out loss", f"{before['loss']:.3f} before, {after['loss']:.3f} after"),
        ("held-out accuracy", f"{before['accuracy']:.3f} before, {after['accuracy']:.3f} after"),
    ]


def elapsed(started: float) -> str:
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    return f"{minutes} min {seconds} s."


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    raise SystemExit(main())
