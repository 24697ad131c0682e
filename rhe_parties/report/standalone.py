"""A figure of the page as a file of its own: colours and fonts as attributes, for programs that know no style sheet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from xml.etree import ElementTree

__all__ = ["NAMESPACE", "standalone", "svg_text"]

NAMESPACE = "http://www.w3.org/2000/svg"
SHEETS = ("report.css", "matrix.css")
_PROPERTIES = (
    "fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "stroke-linecap", "font-size",
    "font-weight", "font-style", "text-anchor", "opacity", "paint-order",
)  # fmt: skip
_COMPOUND = re.compile(r"(?:svg)?((?:\.[a-z][\w-]*)+)")
_FONT = "DejaVu Sans, Verdana, sans-serif"


@dataclass(frozen=True)
class _Rule:
    """Class names of the element and of one ancestor (empty: any), and the attributes that they give."""

    ancestor: frozenset[str]
    own: frozenset[str]
    attributes: dict[str, str]


def standalone(drawing: str) -> ElementTree.Element:
    """The drawing as an SVG element with every style of the page's light theme resolved, on a white ground.

    Args:
        drawing: one `<svg>` element as `rhe_parties.report.svg` makes it.
    """
    root = ElementTree.fromstring("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in drawing))
    _resolve(root, [])
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib |= {"xmlns": NAMESPACE, "width": width, "height": height, "font-family": _FONT}
    root.insert(0, ElementTree.Element("rect", {"width": width, "height": height, "fill": "#ffffff"}))
    return root


def svg_text(root: ElementTree.Element) -> str:
    """The whole file."""
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _resolve(element: ElementTree.Element, above: list[frozenset[str]]) -> None:
    own = frozenset(element.attrib.pop("class", "").split())
    for rule in _rules():
        if rule.own <= own and (not rule.ancestor or any(rule.ancestor <= names for names in above)):
            element.attrib |= rule.attributes
    for child in element:
        _resolve(child, [*above, own])


@cache
def _rules() -> list[_Rule]:
    """The page's rules that drawings need, weakest first."""
    folder = files("rhe_parties.report") / "templates"
    text = "\n".join((folder / name).read_text(encoding="utf-8") for name in SHEETS)
    text = _without_media(re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))
    blocks = re.findall(r"([^{}]+)\{([^{}]*)\}", text)
    declared = [(selectors, _declarations(body)) for selectors, body in blocks]
    colours = {name: value for _, pairs in declared for name, value in pairs.items() if name.startswith("--")}
    found: list[_Rule] = []
    for selectors, pairs in declared:
        attributes = {name: _resolved(value, colours) for name, value in pairs.items() if name in _PROPERTIES}
        found += [rule for one in selectors.split(",") if attributes and (rule := _rule(one, attributes))]
    return sorted(found, key=lambda rule: len(rule.own) + len(rule.ancestor))


def _declarations(body: str) -> dict[str, str]:
    pairs = (part.split(":", 1) for part in body.split(";") if ":" in part)
    return {name.strip(): value.strip() for name, value in pairs}


def _resolved(value: str, colours: dict[str, str]) -> str:
    return re.sub(r"var\((--[\w-]+)\)", lambda match: colours[match[1]], value).removesuffix("px")


def _rule(selector: str, attributes: dict[str, str]) -> _Rule | None:
    parts = [_COMPOUND.fullmatch(part) for part in selector.split()]
    if not 1 <= len(parts) <= 2:
        return None
    names = [frozenset(part[1].strip(".").split(".")) for part in parts if part is not None]
    if len(names) < len(parts):
        return None
    return _Rule(names[0] if len(names) == 2 else frozenset(), names[-1], attributes)


def _without_media(text: str) -> str:
    """The sheet without its conditional parts: dark theme, phone, print."""
    kept, depth, start = [], 0, 0
    while (at := text.find("@media", start)) >= 0:
        kept.append(text[start:at])
        start = text.index("{", at) + 1
        depth = 1
        while depth:
            depth += {"{": 1, "}": -1}.get(text[start], 0)
            start += 1
    return "".join([*kept, text[start:]])
