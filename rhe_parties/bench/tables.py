"""The benchmark's figures as tables for people."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from rhe_parties.bench.head import CaseResult, HeadBench

__all__ = ["show_head_bench"]

_WIDTH = 112


def show_head_bench(result: HeadBench, console: Console) -> None:
    """Print all tables and the ratios; where the width is unknown, as wide as the figures need."""
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    for table in (_times(result), _bytes(result), _precision(result)):
        console.print(table)
    console.print(_summary(result))
    if result.backbones:
        console.print(_backbones(result))


def _table(title: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.add_column("Case", style="bold", no_wrap=True)
    for column in columns:
        table.add_column(
            column, justify="left" if column == "Who learns what" else "right", no_wrap=column != "Who learns what"
        )
    return table


def _times(result: HeadBench) -> Table:
    layers = f", hidden {'+'.join(map(str, result.hidden))}" if result.hidden else ""
    title = (
        f"Host's time after the backbone: {result.features} features{layers}, {result.classes} classes\n"
        f"(one input: median and 5 to 95 %, one thread; rates per second: {result.batch} inputs at once)"
    )
    table = _table(title, "One input", "5 to 95 %", "Rate, one core", f"Rate, {result.cores} cores")
    for case in result.cases:
        span = f"{_ms(case.latency_low_ms)} – {_ms(case.latency_high_ms)}"
        row = (_ms(case.latency_ms), span, _rate(case.throughput_per_s), _rate(case.throughput_all_per_s))
        table.add_row(case.name, *row)
    return table


def _bytes(result: HeadBench) -> Table:
    table = _table("Bytes", "Keys", "Head", "Request", "Reply", f"Reply of {result.batch}, each", "Memory")
    for case in result.cases:
        values = (case.key_bytes, case.head_bytes, case.request_bytes, case.reply_bytes, case.batch_reply_bytes)
        table.add_row(case.name, *map(_size, values), _size(case.peak_bytes))
    return table


def _precision(result: HeadBench) -> Table:
    table = _table(f"Precision on {result.inputs}", "Logit error", "Decisions that differ", "Who learns what")
    for case in result.cases:
        differing = f"{case.decisions_differing} of {case.decisions:,}"
        table.add_row(case.name, f"{case.logit_error:.1e}", differing, case.learns)
    return table


def _summary(result: HeadBench) -> str:
    peer, r = _peer(result), result.ratios
    return (
        f"ours against {peer.name}, same run: latency {r['latency']:,.0f} times lower; throughput "
        f"{r['throughput']:,.0f} times higher per core, {r['throughput_all']:,.0f} times on all {result.cores} cores; "
        f"reply {r['reply_bytes']:,.0f} times smaller ({r['batch_reply_bytes']:,.0f} times, {result.batch} at once)."
    )


def _backbones(result: HeadBench) -> Table:
    table = _table("Encrypted head (K=10) next to a backbone, one image", "Threads", "Backbone", "Head", "Head's share")
    for row in result.backbones:
        table.add_row(
            row.name, str(row.threads), _ms(row.backbone_ms), _ms(row.head_ms), f"{100 * row.head_share:.2f} %"
        )
    return table


def _peer(result: HeadBench) -> CaseResult:
    return next(case for case in result.cases if case.name.startswith("tenseal"))


def _ms(value: float) -> str:
    if value < 0.1:
        return f"{1000 * value:.1f} µs"
    return f"{value:.3f} ms" if value < 10 else f"{value:,.0f} ms"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _size(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"
