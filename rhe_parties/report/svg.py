"""Elements of inline SVG, escaped, in one width that stays readable on a phone."""

from __future__ import annotations

import math

from markupsafe import Markup

__all__ = ["WIDTH", "cut", "svg", "tag"]

WIDTH = 480


def tag(name: str, content: str | Markup = "", **attributes: str | float) -> Markup:
    """One element; `class_` stands for `class`, underscores for hyphens; everything is escaped."""
    parts = [Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _text(v)) for key, v in attributes.items()]
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), Markup("").join(parts), content)


def _text(value: str | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def svg(height: float, label: str, css: str, *content: Markup, width: float = WIDTH) -> Markup:
    """A drawing, of the common width unless told otherwise; `label` is what a screen reader says of it."""
    return tag(
        "svg",
        Markup("").join([tag("title", label), *content]),
        class_=css, viewBox=f"0 0 {math.ceil(width)} {math.ceil(height)}", role="img", aria_label=label,
    )  # fmt: skip


def cut(text: str, length: int) -> str:
    """The text, cut where it would leave the picture; tables hold it in full."""
    return text if len(text) <= length else text[: length - 1] + "…"
