"""The memory of the service over the time, by each library, with its phases."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

_COLORS = {"asyncsink": "#1f6f8b", "obstore": "#c58940", "aioboto3": "#8a8a8a"}


def draw_streams(result: Mapping[str, Any], path: Path) -> None:
    """Write a PNG. Blocking.

    Raises:
        ImportError: matplotlib is not installed (it comes with the contenders extra).
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    runs = result["runs"]
    top = 1.05 * max(run["summary"]["rss_bytes_max"] for run in runs.values()) / 1e6
    figure, axes = pyplot.subplots(len(runs), 1, figsize=(9, 2.4 * len(runs)), sharey=True, layout="constrained")
    for axis, (library, run) in zip(axes if len(runs) > 1 else [axes], runs.items(), strict=True):
        samples, told = run["samples"], run["summary"]
        axis.plot([each[0] for each in samples], [each[2] / 1e6 for each in samples], color=_COLORS[library])
        for name, some in groupby(samples, key=lambda each: each[1]):
            begins = next(some)[0]
            axis.axvline(begins, color="#bbbbbb", linewidth=0.8)
            axis.text(begins + 0.3, 0.97, name, fontsize=8, va="top", transform=axis.get_xaxis_transform())
        axis.set_title(
            f"{library}: {told['half_objects']} half objects, {told['told_and_lost']} told and lost, "
            f"{told['open_uploads']} open uploads, {told['exit_seconds']:.1f} s from SIGTERM to the end",
            fontsize=10,
            loc="left",
        )
        axis.set_ylim(0, top)
        axis.set_ylabel("resident MB", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("seconds", fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
