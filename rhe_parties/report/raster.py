"""Standalone figures as PNG, drawn by matplotlib: the few elements that the report's figures are made of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Outline
from matplotlib.patheffects import withStroke

__all__ = ["save_png"]

_ANCHORS = {"start": "left", "middle": "center", "end": "right"}
_STEP = re.compile(r"([A-Za-z])([^A-Za-z]*)")
_SCALE = 2  # pixels per unit, sharp enough for a slide


def save_png(root: ElementTree.Element, path: Path) -> None:
    """Draw what `standalone` made.

    Raises:
        OSError: the file cannot be written.
        ValueError: an element or a path command that no figure of the report uses.
    """
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    # At 72 units to the inch a unit is a point: sizes of fonts and lines need no conversion.
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    _draw_all(axes, root)
    figure.savefig(path, dpi=72 * _SCALE)


def _draw_all(axes: Any, element: ElementTree.Element) -> None:
    for child in element:
        if child.tag == "g":
            _draw_all(axes, child)
        elif child.tag == "text":
            _text(axes, child)
        elif child.tag != "title":
            _shape(axes, child)


def _number(element: ElementTree.Element, name: str, default: float = 0.0) -> float:
    return float(element.attrib.get(name, default))


def _shape(axes: Any, element: ElementTree.Element) -> None:
    style = _style(element)
    if element.tag == "circle":
        centre = (_number(element, "cx"), _number(element, "cy"))
        axes.add_artist(Circle(centre, _number(element, "r"), **style))
    elif element.tag == "rect":
        corner = (_number(element, "x"), _number(element, "y"))
        size = (_number(element, "width"), _number(element, "height"))
        box = f"round,pad=0,rounding_size={_number(element, 'rx')}" if _number(element, "rx") else "square,pad=0"
        axes.add_artist(FancyBboxPatch(corner, *size, boxstyle=box, **style))
    elif element.tag == "line":
        ends = [(_number(element, f"x{i}"), _number(element, f"y{i}")) for i in (1, 2)]
        axes.add_artist(PathPatch(Outline(ends), **{**style, "facecolor": "none"}))
    elif element.tag == "path":
        axes.add_artist(PathPatch(_outline(element.attrib["d"]), **style))
    else:
        raise ValueError(f"no figure is made of <{element.tag}>")


def _style(element: ElementTree.Element) -> dict[str, Any]:
    width = _number(element, "stroke-width", 1.0)
    stroke = element.attrib.get("stroke", "none")
    style: dict[str, Any] = {
        "facecolor": element.attrib.get("fill", "#000000"),
        "edgecolor": stroke,
        "linewidth": width if stroke != "none" else 0.0,
        "alpha": _number(element, "opacity", 1.0),
        "clip_on": False,
    }
    dashes = element.attrib.get("stroke-dasharray", "none")
    if dashes != "none" and stroke != "none":
        # Matplotlib counts dashes in line widths.
        style["linestyle"] = (0, tuple(float(part) / width for part in dashes.replace(",", " ").split()))
    return style


def _outline(text: str) -> Outline:
    """Path commands M, L, H, V, q and z."""
    points: list[tuple[float, float]] = []
    codes: list[Any] = []
    x = y = 0.0
    for command, rest in _STEP.findall(text):
        numbers = [float(part) for part in re.findall(r"-?[\d.]+", rest)]
        if command in "ML":
            for i in range(0, len(numbers), 2):
                x, y = numbers[i], numbers[i + 1]
                points.append((x, y))
                codes.append(Outline.MOVETO if command == "M" and i == 0 else Outline.LINETO)
        elif command in "HV":
            x, y = (numbers[0], y) if command == "H" else (x, numbers[0])
            points.append((x, y))
            codes.append(Outline.LINETO)
        elif command == "q":
            points += [(x + numbers[0], y + numbers[1]), (x + numbers[2], y + numbers[3])]
            codes += [Outline.CURVE3, Outline.CURVE3]
            x, y = points[-1]
        elif command == "z":
            points.append((x, y))
            codes.append(Outline.CLOSEPOLY)
        else:
            raise ValueError(f"no figure has the path command {command!r}")
    return Outline(points, codes)


def _text(axes: Any, element: ElementTree.Element) -> None:
    size = _number(element, "font-size", 14.0)
    stroke = element.attrib.get("stroke", "none")
    effects = [withStroke(linewidth=_number(element, "stroke-width"), foreground=stroke)] if stroke != "none" else None
    lines = [(part.text or "", part) for part in element] or [(element.text or "", element)]
    for place, (text, part) in enumerate(lines):
        axes.text(
            float(part.attrib.get("x", element.attrib.get("x", 0))),
            _number(element, "y") + 1.1 * size * place,
            text,
            fontsize=size,
            fontfamily="DejaVu Sans",
            # The page's fonts are narrower than matplotlib's own.
            fontstretch="condensed",
            fontweight="bold" if _number(element, "font-weight", 400) >= 600 else "normal",
            fontstyle=element.attrib.get("font-style", "normal"),
            color=element.attrib.get("fill", "#000000"),
            horizontalalignment=_ANCHORS[element.attrib.get("text-anchor", "start")],
            verticalalignment="baseline",
            path_effects=effects,
            parse_math=False,
            zorder=1,  # that of shapes: what comes later lies on top
        )
