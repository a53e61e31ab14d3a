"""The two tables of `benchmarks.loaders`, as text and as a picture."""

from __future__ import annotations

from typing import Any

YARDSTICK = "libjpeg_turbo"
# What the ratios of each table are to, and the other rows of irv2data's own; every peer is in both.
BASES = {"host": "irv2data_host", "stage": "irv2data"}
_OURS = {
    "host": ("irv2data_host", "irv2data_host_bilinear"),
    "stage": ("irv2data", "irv2data_blocks", "irv2data_unordered"),
}
TITLES = {
    "host": "Like for like: finished float crops of 299x299, resized on the host",
    "stage": "The host's part: irv2data makes uint8 canvases and leaves the resize to the device",
}


def rows_of(records: list[dict[str, Any]], table: str) -> list[dict[str, Any]]:
    """The fastest first."""
    found = [
        record for record in records if record["loader"] in _OURS[table] or not record["loader"].startswith("irv2data")
    ]
    return sorted(found, key=lambda record: -record["images_per_second"]["median"])


def text(records: list[dict[str, Any]], table: str) -> str:
    """One of the two tables, the fastest first."""
    base = BASES[table]

    def cell(value: dict[str, float] | None, digits: int) -> str:
        if value is None:
            return "-"
        return f"{value['median']:.{digits}f} ({value['min']:.{digits}f} to {value['max']:.{digits}f})"

    lines = [("loader", "images/s", f"over {base}", f"over {YARDSTICK}", "CPU ms/image", "peak MiB", "batch")]
    for record in rows_of(records, table):
        lines.append(
            (
                record["title"],
                cell(record["images_per_second"], 0),
                cell(record[f"over_{base}"], 2),
                cell(record[f"over_{YARDSTICK}"], 2),
                f"{record['cpu_ms_per_image']['median']:.2f}",
                f"{record['peak_mib']:.0f}",
                f"{record['dtype']} {record['batch']}" if record["batch"] else "-",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    body = ("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return "\n".join((f"\n{TITLES[table]}", *body))


def draw(records: list[dict[str, Any]], path: str) -> None:
    """Bars of the medians, with the slowest and the fastest round."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tables = {table: rows_of(records, table)[::-1] for table in TITLES}
    heights = [len(rows) for rows in tables.values()]
    figure, axes = plt.subplots(
        len(tables), figsize=(10, 1.6 + 0.36 * sum(heights)), height_ratios=heights, sharex=True, layout="constrained"
    )
    for axis, (table, rows) in zip(axes, tables.items(), strict=True):
        medians = [row["images_per_second"]["median"] for row in rows]
        ranges = [
            [abs(row["images_per_second"][end] - median) for row, median in zip(rows, medians, strict=True)]
            for end in ("min", "max")
        ]
        colours = [
            "tab:gray" if row["loader"] == YARDSTICK else "tab:orange" if "irv2data" in row["loader"] else "tab:blue"
            for row in rows
        ]
        axis.barh([row["title"] for row in rows], medians, color=colours, xerr=ranges, ecolor="black", capsize=3)
        for number, row in enumerate(rows):
            axis.text(row["images_per_second"]["max"], number, f"  {medians[number]:.0f}", va="center")
        axis.set_title(TITLES[table], loc="left", fontsize=11)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("images/s, median of the rounds with the slowest and the fastest")
    axes[-1].set_xlim(right=1.1 * max(row["images_per_second"]["max"] for row in records))
    first = records[0]
    figure.suptitle(
        f"{first['files']} JPEG photographs, {first['mean_bytes'] / 1e3:.0f} kB on average, sides of "
        f"{first['sides'][0]} to {first['sides'][1]} px; batches of 64; {first['cores']} cores",
        fontsize=11,
    )
    figure.savefig(path, dpi=120)
