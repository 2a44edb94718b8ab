"""`make bench`: one table of ratios, one of growth, and `out/bench/results.json`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from scalecli.cli.run import show_table
from scalecli.core.results import Results, now, versions
from scalecli.core.table import Column, Table, count
from tests.benchmarks import gem_package, growth, harness, localize, spiral, startup
from tests.benchmarks.timing import Comparison

COMPARISONS: dict[str, Callable[[], list[Comparison]]] = {
    "startup": startup.help_page,
    "knn": spiral.knn,
    "networks": spiral.network_training,
    "grid": spiral.article_grid,
    "gem": localize.gem,
    "gem-package": gem_package.gem_package,
    "prompts": localize.prompts,
    "cams": localize.cams,
    "folder": localize.folder,
    "harness": harness.harness_overhead,
}
POINTS = [10**4, 10**5, 10**6, 10**7]
GROWTH: dict[str, Callable[[], growth.Growth]] = {
    "knn-growth": lambda: growth.measure("kNN k=1, N × N", "knn", POINTS),
    "network-growth": lambda: growth.measure("polar network, N", "network", POINTS),
    "sweep-growth": lambda: growth.measure("sweep of knn1 and knn5", "knn_sweep", POINTS[1:-1]),
    "folder-growth": lambda: growth.measure("localize, JPEGs", "folder", [1, 10, 100, 1_000]),
}


def main() -> None:
    """Run all, or those named."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    names = [*COMPARISONS, *GROWTH]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(names)}")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(names):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    wanted, started, begin = chosen.names or names, now(), time.perf_counter()
    lines: list[Comparison] = []
    grown: list[growth.Growth] = []
    for name in wanted:
        print(f"{name} …", file=sys.stderr)
        if name in COMPARISONS:
            lines += COMPARISONS[name]()
        else:
            grown.append(GROWTH[name]())
        # After every one: an interrupted run keeps what it has measured.
        packages = ("numpy", "scipy", "scikit-learn", "torch", "timm", "open_clip_torch")
        Results(
            ("make", "bench", *chosen.names), "bench", {"names": wanted}, (*lines, *grown),
            {"seconds": time.perf_counter() - begin}, versions(*packages), started, now(),
        ).save(chosen.out)  # fmt: skip
    if lines:
        show_table(comparison_table(lines))
    if grown:
        show_table(growth_table(grown))
    print(f"{time.perf_counter() - begin:.0f} s; wrote {chosen.out / 'results.json'}")


def comparison_table(lines: list[Comparison]) -> Table:
    """One row per comparison; what bounds it, and what was checked, below."""
    body, notes = [], []
    for line in lines:
        body.append(
            [
                line.what,
                _time(line.ours_s),
                _time(line.peer_s),
                f"{line.ratio:.2f}×",
                f"{line.ratio_low:.2f}–{line.ratio_high:.2f}",
                line.target,
                "yes" if line.met else "no",
            ]
        )
        notes += [f"{line.what}: against {line.against}"]
        notes += [f"  {text}" for text in (line.limit, *line.notes) if text]
    columns = [
        Column("what", "left"),
        Column("ours"),
        Column("peer"),
        Column("ratio"),
        Column("spread"),
        Column("target"),
        Column("met"),
    ]
    return Table("Benchmarks (≥: times faster; ≤: times the peer's time)", columns, body, notes)


def growth_table(grown: list[growth.Growth]) -> Table:
    """Seconds and peak memory by size."""
    body = [
        [
            g.what,
            count(size),
            _time(second),
            f"{peak:,.0f}",
            f"{g.exponent:.2f}" if i + 1 == len(g.sizes) else "",
        ]
        for g in grown
        for i, (size, second, peak) in enumerate(zip(g.sizes, g.seconds, g.peak_mb, strict=True))
    ]
    columns = [
        Column("what", "left"), Column("size"), Column("seconds"), Column("peak MB"),
        Column("exponent"),
    ]  # fmt: skip
    return Table("How cost grows (fresh process per line)", columns, body)


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


if __name__ == "__main__":
    main()
