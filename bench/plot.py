# Copyright: (c) 2026, the sesame.knock authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Results to a picture: `python -m bench.plot RESULTS.json PICTURE.svg`, with the packages of requirements.txt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, NullFormatter

from .results import C_KNOCKD, FWKNOP, OURS, PEERS, RECIPE, SHIPPED_C_KNOCKD, SILENT_C_KNOCKD, Results

COLOURS = {
    OURS: "#0a7d5a",
    C_KNOCKD: "#c0392b",
    SHIPPED_C_KNOCKD: "#8e2a1e",
    SILENT_C_KNOCKD: "#e59a90",
    FWKNOP: "#7a5ea8",
    RECIPE: "#6b7785",
}
MARKS = {OURS: "o", SILENT_C_KNOCKD: "s"}
MANY, MODERATE, DOORS = 1_000_000, 50_000, 10_000

PLAIN = FuncFormatter(lambda value, _place: format(value, ",g"))


def draw(results: Results, path: Path) -> None:
    """All panels in one picture."""
    figure, axes = pyplot.subplots(2, 2, figsize=(13, 9.5), constrained_layout=True)
    _floods(axes[0, 0], results)
    _latencies(axes[0, 1], results)
    _throughput(axes[1, 0], results)
    _flat_cost(axes[1, 1], results)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_axisbelow(True)
    facts = results.machine
    quick = "QUICK RUN, no measurement.  " if "quick" in facts else ""
    figure.suptitle(
        "%ssesame.knock's daemon beside its peers, one run\n%s, kernel %s; load before: %s"
        % (quick, facts["machine"], facts["kernel"], facts["load before"].partition(":")[0]),
        fontsize=12,
    )
    figure.savefig(path)


def _floods(axis: Any, results: Results) -> None:
    cases = [("1,000,000 sources,\nfull speed", None, 0.0), ("1 source,\nfull speed", 1, 0.0)]
    cases.append(("1,000,000 sources,\n50,000/s", None, float(MODERATE)))
    width = 0.2
    for place, (_name, sources, asked) in enumerate(cases):
        for number, peer in enumerate(PEERS):
            row = results.share(peer, sources, asked)
            if not row:
                continue
            left = place + (number - 1.5) * width
            axis.bar(left, row.percent, width * 0.9, color=COLOURS[peer], label=None if place else peer)
            label = "%.0f %%\n%.0fk" % (row.percent, row.rate / 1000)
            axis.text(left, row.percent + 1, label, ha="center", va="bottom", fontsize=7)
    axis.set_xticks(range(len(cases)), [name for name, _sources, _asked in cases])
    axis.set_ylim(0, 128)
    axis.set_yticks(range(0, 101, 20))
    axis.set_ylabel("clients that get in, %")
    clients = next(row.clients for row in results.shares)
    axis.set_title(
        "Knocks that open during a flood of first knocks\n(n = %d each; below: thousands sent a second)" % clients
    )
    axis.legend(ncols=4, fontsize=8, loc="upper center", frameon=False)


def _latencies(axis: Any, results: Results) -> None:
    for peer in PEERS:
        for flooded, style in ((False, "-"), (True, "--")):
            row = results.latency(peer, flooded)
            if not row:
                continue
            name = "%s%s (n = %d)" % (peer, ", flood" if flooded else "", len(row.microseconds))
            if not row.opened:
                axis.plot([], [], style, color=COLOURS[peer], label=name + ": never")
                continue
            values = [value / 1000 for value in row.opened]
            heights = [100 * (place + 1) / len(row.microseconds) for place in range(len(values))]
            axis.step([values[0], *values], [0, *heights], style, where="post", color=COLOURS[peer], label=name)
    axis.set_xscale("log")
    axis.set_ylim(0, 103)
    axis.set_xlabel("milliseconds from the last knock to a connection (log)")
    axis.set_ylabel("clients that are in, %")
    axis.set_title("Latency; dashed: during 50,000/s\nfrom 1,000,000 sources (fwknop: 65,536)")
    axis.grid(alpha=0.3, which="both")
    axis.xaxis.set_major_formatter(PLAIN)
    axis.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False)


def _throughput(axis: Any, results: Results) -> None:
    peers = {OURS: OURS, SHIPPED_C_KNOCKD: C_KNOCKD + "\n(syslog)", C_KNOCKD: C_KNOCKD + "\n(log file)"}
    peers[SILENT_C_KNOCKD] = C_KNOCKD + "\n(no log)"
    for place, peer in enumerate(peers):
        runs = [row.throughput / 1e3 for row in results.costs if (row.peer, row.sources, row.family) == (peer, 1, 4)]
        median = results.throughput(peer)
        if not median:
            continue
        axis.barh(place, median / 1e3, color=COLOURS[peer], height=0.6)
        axis.plot(runs, [place] * len(runs), "|", color="black", markersize=14)
        axis.text(max(runs), place, "  %.0f" % (median / 1e3), va="center")
    axis.set_yticks(range(len(peers)), peers.values())
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set_xlabel("thousand packets that one core handles in a second")
    axis.set_title("Throughput, first knocks from one source\n(bar: median, ticks: each run)")


def _flat_cost(axis: Any, results: Results) -> None:
    series = (
        (OURS, 1, OURS + ", 1 door", "-", -14),
        (OURS, DOORS, OURS + ", 10,000 doors", ":", 8),
        (SILENT_C_KNOCKD, 1, "C knockd without log, 1 door", "-", -24),
    )
    for peer, doors, name, style, above in series:
        rows = [row for row in results.costs if (row.peer, row.doors, row.family) == (peer, doors, 6)]
        if not rows:
            continue
        alive = sorted({row.live for row in rows})
        costs = [(results.cost(peer, live, doors, 6) or 0) / 1000 for live in alive]
        axis.plot(alive, costs, style, marker=MARKS[peer], color=COLOURS[peer], label=name)
        dots = [(row.live, row.per_packet / 1000) for row in rows]
        axis.plot(*zip(*dots), ".", color=COLOURS[peer], alpha=0.5)
        for left, height in zip(alive, costs):
            axis.annotate(
                "%.1f" % height,
                (left, height),
                textcoords="offset points",
                xytext=(6, above),
                fontsize=8,
                color=COLOURS[peer],
            )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("live knockers (log); the rightmost: 1,000,000 sources, 250,000 held")
    axis.set_ylabel("microseconds of CPU time per packet (log)")
    axis.set_title("Cost of a packet under overload\n(line: median, dots: each run)")
    axis.grid(alpha=0.3, which="both")
    for direction in (axis.xaxis, axis.yaxis):
        direction.set_major_formatter(PLAIN)
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_yticks([1, 2, 5, 10, 20, 50, 100])
    axis.set_ylim(top=120)
    axis.legend(fontsize=8, loc="upper left")


if __name__ == "__main__":
    draw(Results.load(Path(sys.argv[1])), Path(sys.argv[2]))
