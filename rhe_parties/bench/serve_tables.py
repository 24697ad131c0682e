"""The figures of `rhe bench serve` as tables for people."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from rhe_parties.bench.serve import LOAD, ServeBench, ServeSoak, ServeWishes
from rhe_parties.threat.model import KEY_HOLDER, MODEL_HOST

__all__ = ["show_serve_bench", "show_serve_soak"]

_WIDTH = 116


def show_serve_bench(result: ServeBench, console: Console) -> None:
    """Print the tables and the ratio; where the width is unknown, as wide as the figures need."""
    console = _wide(console)
    console.print(_rates(result))
    console.print(_costs(result))
    console.print(_memory(result.memory_mb))
    wishes = result.wishes
    console.print(
        f"encrypted over plain, same servers, same run: {100 * result.ratio:.1f} % of the requests a second "
        f"({100 * result.ratio_low:.1f} to {100 * result.ratio_high:.1f} over {wishes.rounds} rounds; "
        f"by CPU time {100 * result.cpu_ratio:.1f} %); "
        f"{result.decisions_differing} of {result.decisions:,} decisions differ; errors: {_errors(result.errors)}."
    )
    for case in result.cases:
        console.print(f"{case.name}: limited by {case.limit}.")


def show_serve_soak(result: ServeSoak, console: Console) -> None:
    """Print what came of a soak."""
    console = _wide(console)
    console.print(_memory(result.memory_mb))
    times = result.times
    console.print(
        f"{result.links} clients, a link each, {result.wishes.seconds:g} s, {_how(result.wishes)}: "
        f"{result.answers:,} answers, {result.requests_per_s:,.0f} a second, p50 {_ms(times['p50_ms'])}, "
        f"p99 {_ms(times['p99_ms'])}; {result.refused_by_budget:,} refusals by budget; "
        f"other errors: {_errors(result.errors)}."
    )
    for kind, text in result.texts.items():
        console.print(f"  {kind}: {text}", markup=False)


def _wide(console: Console) -> Console:
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH)


def _how(wishes: ServeWishes) -> str:
    what = f"images through {wishes.backbone}" if wishes.images else "features"
    return f"{wishes.batch} {what} a request, {'mutual TLS' if wishes.tls else 'no TLS'}"


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.add_column(first, style="bold", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _rates(result: ServeBench) -> Table:
    wishes = result.wishes
    title = (
        f"Served head: {result.features} features, {wishes.classes} classes; {_how(wishes)}; "
        f"{wishes.clients} requests under way\n(medians of {wishes.rounds} rounds of {wishes.seconds:g} s; "
        "half load: Poisson at half the rate)"
    )
    table = _table(
        title, "Head", "Requests/s", "Inputs/s", "p50, full", "p95", "p99", "p50, half", "p95", "p99", "p99/p50"
    )
    for case in result.cases:
        times = [_ms(load[name]) for load in (case.full, case.half) for name in ("p50_ms", "p95_ms", "p99_ms")]
        table.add_row(case.name, _rate(case.requests_per_s), _rate(case.inputs_per_s), *times, f"{case.tail:.2f}")
    return table


def _costs(result: ServeBench) -> Table:
    title = "CPU time of one request at full load (and share of a core)"
    table = _table(title, "Head", "Host", "Key holder", "Load generator", "Together", "Gathered inputs")
    for case in result.cases:
        cells = [f"{_ms(case.cpu_ms[p])} ({100 * case.busy[p]:.0f} %)" for p in (MODEL_HOST, KEY_HOLDER, LOAD)]
        table.add_row(case.name, *cells, _ms(sum(case.cpu_ms.values())), f"{case.gathered:.0f}")
    return table


def _memory(sizes: dict[str, dict[str, float]]) -> Table:
    table = _table("Resident memory after the first third", "Server", "First", "Last", "Highest", "Spread")
    for name, size in sizes.items():
        cells = [f"{size[which]:,.1f} MB" for which in ("first", "last", "high")]
        table.add_row(name, *cells, f"{100 * size['spread']:.1f} %")
    return table


def _errors(errors: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(errors.items())) or "none"


def _ms(value: float) -> str:
    return f"{value:.2f} ms" if value < 10 else f"{value:,.0f} ms"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
