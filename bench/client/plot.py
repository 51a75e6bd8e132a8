# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Results to a picture: `python -m bench.client.plot RESULTS.json PICTURE.svg`, with what requirements.txt names."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from .results import ARTICLE, OURS, PLAIN, WAYS, Results, median, play_seconds

COLOURS = {PLAIN: "#6b7785", ARTICLE: "#c0392b", OURS: "#0a7d5a"}


def draw(results: Results, path: Path) -> None:
    """All panels in one picture."""
    figure, axes = pyplot.subplots(2, 2, figsize=(12, 7.5), constrained_layout=True)
    _bars(
        axes[0, 0],
        {way: [row.seconds * 1000 for row in results.logins if row.way == way] for way in WAYS},
        "milliseconds for `ssh host true`, cold",
        "%.0f ms",
    )
    _bars(
        axes[0, 1],
        {way: [row.seconds for row in results.copies if row.way == way] for way in WAYS},
        "seconds for %g MB by scp (%s)" % (results.size / 1e6, results.cipher),
        "%.2f s",
    )
    _lines(axes[1, 0], results)
    hosts = results.plays[0].hosts
    _bars(
        axes[1, 1],
        {way: play_seconds(results.plays, way) for way in (PLAIN, OURS)},
        "seconds for a play of %d tasks on %d hosts" % (results.plays[0].tasks, hosts),
        "%.1f s",
    )
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_axisbelow(True)
    facts = results.machine
    quick = "QUICK RUN, no measurement.  " if "quick" in facts else ""
    figure.suptitle(
        "%ssesame.knock's client beside plain ssh and the article's ProxyCommand, one run\n"
        "%s, kernel %s; load before: %s; bar: median, ticks: each turn"
        % (quick, facts["machine"], facts["kernel"], facts["load before"].partition(":")[0]),
        fontsize=11,
    )
    figure.savefig(path)


def _bars(axis: Any, values: dict[str, list[float]], label: str, form: str) -> None:
    for place, (way, found) in enumerate(values.items()):
        middle = statistics.median(found)
        axis.barh(place, middle, color=COLOURS[way], height=0.6)
        axis.plot(found, [place] * len(found), "|", color="black", markersize=12)
        axis.text(max(found), place, "  " + form % middle, va="center")
    axis.set_yticks(range(len(values)), list(values))
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.set_xlabel(label)


def _lines(axis: Any, results: Results) -> None:
    for line, style in zip(results.lines, ("-", "--")):
        values = sorted(line.seconds)
        if not values:
            continue
        heights = [100 * (place + 1) / line.logins for place in range(len(values))]
        name = "%g ms, %g %% lost each way (n = %d, %d failed)"
        told = name % (line.delay, line.loss, line.logins, len(line.failures))
        axis.step([values[0], *values], [0, *heights], style, where="post", color=COLOURS[OURS], label=told)
    base = median(results.logins, OURS)
    if base:
        axis.axvline(base, color=COLOURS[PLAIN], linewidth=1, label="one login without either")
    axis.set_xscale("log")
    axis.set_ylim(0, 103)
    axis.set_xlabel("seconds for a login over a bad line, many at a time (log)")
    axis.set_ylabel("logins that are in, %")
    axis.grid(alpha=0.3, which="both")
    axis.legend(fontsize=8, loc="lower right")


if __name__ == "__main__":
    draw(Results.load(Path(sys.argv[1])), Path(sys.argv[2]))
