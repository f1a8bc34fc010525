"""A soak as a picture: memory, descriptors and threads over the time, and the faults that its requests met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

_OURS, _OTHERS = "#1f6f8b", "#b8b8b8"
_PANELS = (
    ("rss_bytes", "resident memory, MB", 1e6),
    ("descriptors", "open descriptors", 1.0),
    ("threads", "threads", 1.0),
)


def draw_soak(result: Mapping[str, Any], path: Path) -> None:
    """Write a PNG. Blocking.

    Raises:
        ImportError: matplotlib is not installed (it comes with the contenders extra).
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    samples: Sequence[Mapping[str, float]] = result["samples"]
    told = result["summary"]
    minutes = [sample["seconds"] / 60 for sample in samples]
    figure, axes = pyplot.subplots(4, 1, figsize=(10, 9), sharex=True, layout="constrained")
    for axis, (name, title, scale) in zip(axes, _PANELS, strict=False):
        trend = told["trends"][name]
        axis.plot(minutes, [sample[name] / scale for sample in samples], color=_OURS, linewidth=1)
        for level, label in ((trend["first_third"], "first third"), (trend["last_third"], "last third")):
            style = ":" if label.startswith("first") else "--"
            axis.axhline(level / scale, color="#444444", linewidth=0.8, linestyle=style, label=f"{label}, low tide")
        axis.set_ylim(bottom=0)
        axis.set_title(f"{title}: {trend['slope_per_minute'] / scale:+.2f} a minute", fontsize=10, loc="left")
        axis.legend(fontsize=8, loc="lower right")
    faults = [max(0.0, after["faults"] - before["faults"]) for before, after in pairwise(samples)]
    axes[3].bar(minutes[1:], faults, width=1 / 60, color=_OTHERS)
    axes[3].set_title("faults between two samples", fontsize=10, loc="left")
    axes[3].set_xlabel("minutes", fontsize=8)
    for axis in axes:
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{told['rounds']:,} rounds, {told['requests']:,} requests, {sum(told['faults'].values()):,} faults, "
        f"{told['credentials_ended']:,} credentials ended, {told['changes']:,} changes of the tree",
        fontsize=11,
    )
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
