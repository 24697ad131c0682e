"""The curves of `rhe bench reconstruct` as a table and as a picture."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from rhe_parties.bench.reconstruct import CurvePoint, ReconstructBench
from rhe_parties.metrics.truth import Measured

__all__ = ["draw_curves", "show_reconstruct_bench"]

_WIDTH = 124
_COLOURS = {"span-inversion": "#1f5fa8", "reconstructor": "#c8641e"}


def show_reconstruct_bench(result: ReconstructBench, console: Console) -> None:
    """Print the curves, the ratio and what the words mean; where the width is unknown, as wide as needed."""
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    title = (
        f"{result.dataset}; victim heads: {result.victims}; images per class: {result.images_per_class}; "
        f"cores: {result.cores}\ntrue-positive rate at 1 % false positives in %, 95 % interval"
    )
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.add_column("Method", style="bold", no_wrap=True)
    for column in (
        "Minutes",
        "CPU\nminutes",
        "Images\nor steps",
        "Shadow\nheads",
        "TPR, other\nreal heads",
        "TPR, random\nheads",
        "MSE\n(others)",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for name, points in result.curves.items():
        for point in points:
            table.add_row(name, *_cells(point))
    console.print(table)
    console.print(_summary(result))


def _cells(point: CurvePoint) -> tuple[str, ...]:
    other = f" ({point.mse.chance:.3f})" if point.mse.chance is not None else ""
    return (
        f"{point.minutes:.2f}",
        f"{point.cpu_minutes:.2f}",
        f"{point.effort:,}",
        f"{point.shadow_heads:,}",
        _rate(point.tpr),
        _rate(point.tpr_random),
        f"{point.mse.value:.3f}{other}",
    )


def _rate(measured: Measured | None) -> str:
    if measured is None:
        return "too few heads"
    return f"{100 * measured.value:.1f} ({100 * measured.low:.1f} to {100 * measured.high:.1f})"


def _summary(result: ReconstructBench) -> str:
    lines = [
        f"Minutes: from the auxiliary images to the claims about all {result.victims} heads; measuring is not counted.",
        "False positives: the same claims against other real heads' images, or claims made from random heads.",
        f"The mean image of each class, claimed for every head: {_rate(result.class_mean)} against other heads.",
    ]
    if result.ratio is not None:
        low, high = result.ratio["low"], result.ratio["high"]
        lines.append(
            f"After the longest common time span-inversion's rate is {result.ratio['value']:.1f} times the "
            f"reconstructor's (95 %: {low:.1f} to {high:.1f})."
        )
    return "\n".join(lines)


def draw_curves(result: ReconstructBench, path: Path) -> None:
    """TPR at 1 % FPR against minutes of compute, with 95 % bars; both kinds of negatives."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(
        f"{result.dataset}; victim heads: {result.victims}; images per class: {result.images_per_class}; "
        f"cores: {result.cores}",
        fontsize=11,
    )
    times = [point.minutes for points in result.curves.values() for point in points]
    panels = (("tpr", "negatives: other real heads"), ("tpr_random", "negatives: random heads (the paper's)"))
    for axis, (field, title) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        for name, points in result.curves.items():
            found = [(point.minutes, getattr(point, field)) for point in points]
            known = [(x, rate) for x, rate in found if rate is not None]
            if known:
                bars = [[r.value - r.low for _, r in known], [r.high - r.value for _, r in known]]
                values = [r.value for _, r in known]
                axis.errorbar(
                    [x for x, _ in known], values, bars, fmt="o-", capsize=3, color=_COLOURS[name], label=name
                )
        axis.axhline(0.01, color="grey", linestyle=":", label="chance")
        axis.set_xscale("log", base=2)
        axis.set_xlim(min(times) / 1.5, 1.5 * max(times))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_ylim(0, 1)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("minutes of compute")
        axis.grid(alpha=0.3, which="both")
    figure.axes[0].set_ylabel("TPR at 1 % FPR")
    figure.axes[0].legend()
    figure.savefig(path, dpi=130)
