"""`rhe plan`: the encrypted head that the planner chooses, why, and what the alternatives would have cost."""

from __future__ import annotations

import dataclasses
import json as json_module
import math
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from rhe_parties.errors import ParameterError
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.planner import Candidate, plan_head, predicted_microseconds, weigh

__all__ = [
    "Batch",
    "Classes",
    "FeatureNorm",
    "Features",
    "Hidden",
    "LogitError",
    "Scheme",
    "Security",
    "parse_hidden",
    "plan_command",
]

_SHOWN = 8

Features = Annotated[int, typer.Option("--features", help="Features D that the head takes.")]
Classes = Annotated[int, typer.Option("--classes", help="Classes K.")]
Hidden = Annotated[str, typer.Option("--hidden", help="Widths of hidden square layers, such as 8 or 16,8.")]

Batch = Annotated[int, typer.Option("--batch", help="Inputs per request that the layout is made for.")]
LogitError = Annotated[
    float | None, typer.Option("--logit-error", help="Relative error of the logits that is still fine.")
]
Security = Annotated[int, typer.Option("--security", help="128, 192 or 256 bits.")]
Scheme = Annotated[str | None, typer.Option("--scheme", help="bfv, ckks or plain (default: the cheaper).")]
FeatureNorm = Annotated[float, typer.Option("--feature-norm", help="Public bound of a feature vector's length.")]


def parse_hidden(text: str) -> tuple[int, ...]:
    """Widths of hidden layers from `8` or `16,8`; empty for a linear head.

    Raises:
        ParameterError: something else than whole numbers.
    """
    try:
        return tuple(int(part) for part in text.split(",") if part.strip() and int(part) != 0)
    except ValueError:
        raise ParameterError(f"hidden {text[:40]!r} is not allowed (allowed: widths such as 8 or 16,8)") from None


def plan_command(
    features: Features,
    classes: Classes,
    hidden: Hidden = "",
    batch: Batch = 1,
    logit_error: LogitError = None,
    security: Security = 128,
    scheme: Scheme = None,
    feature_norm: FeatureNorm = 16.0,
    json: Annotated[bool, typer.Option("--json", help="Print plan and alternatives as JSON.")] = False,
) -> None:
    """Plan an encrypted head: parameters, bytes, noise margin, and why the alternatives lost."""
    widths = parse_hidden(hidden)
    wishes = (features, classes, widths, batch, logit_error, security, scheme, feature_norm)
    plan = plan_head(*wishes)
    candidates = weigh(*wishes)
    if json:
        typer.echo(json_module.dumps(_as_json(plan, candidates, batch), indent=1))
        return
    console = Console(highlight=False)
    console.print(_plan_table(plan))
    console.print(_candidate_table(candidates, batch))


def _as_json(plan: HeadPlan, candidates: tuple[Candidate, ...], batch: int) -> dict[str, object]:
    return {
        "plan": plan.to_dict(),
        "predicted_us": round(predicted_microseconds(plan, batch), 1),
        "alternatives": [
            {
                "what": c.what,
                "predicted_us": None if math.isinf(c.microseconds) else round(c.microseconds, 1),
                "reason": c.reason,
                "head_bytes": c.plan.head_bytes if c.plan else None,
                "reply_bytes": c.plan.reply_bytes if c.plan else None,
            }
            for c in candidates
        ],
        "rows": [dataclasses.astuple(_Row(*row)) for row in plan.describe()],
    }


@dataclasses.dataclass(frozen=True)
class _Row:
    what: str
    value: str
    why: str


def _plan_table(plan: HeadPlan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="Encrypted head", title_justify="left", title_style="bold")
    table.add_column("", style="bold")
    table.add_column("Planned")
    table.add_column("Why", style="dim")
    for row in plan.describe():
        table.add_row(*row)
    return table


def _candidate_table(candidates: tuple[Candidate, ...], batch: int) -> Table:
    title = f"Alternatives (predicted for a batch of {batch}: host, wire at 1 Gbit/s, key holder; one core)"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.add_column("Way")
    for name in ("Predicted", "Head", "Reply"):
        table.add_column(name, justify="right")
    table.add_column("Verdict")
    for index, candidate in enumerate(candidates[:_SHOWN]):
        plan = candidate.plan
        table.add_row(
            candidate.what,
            _time(candidate.microseconds),
            "–" if plan is None else _size(plan.head_bytes),
            "–" if plan is None else _size(plan.reply_bytes * -(-batch // plan.batch)),
            "[bold]chosen[/bold]" if index == 0 and not candidate.reason else candidate.reason,
        )
    return table


def _time(microseconds: float) -> str:
    if math.isinf(microseconds):
        return "–"
    return f"{microseconds / 1000:.2f} ms" if microseconds < 1e6 else f"{microseconds / 1e6:.1f} s"


def _size(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"
