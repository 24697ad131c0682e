"""The matrix as a LaTeX table in the style of `booktabs`."""

from __future__ import annotations

from rhe_parties.report.cells import row_name
from rhe_parties.report.matrix import Cell, Matrix
from rhe_parties.report.matrix_words import row_facts
from rhe_parties.report.wording import printable

__all__ = ["latex_text", "matrix_latex"]

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "–": "--", "−": "$-$",
    "ε": r"$\varepsilon$", "δ": r"$\delta$", "|": r"\textbar{}", '"': r"\textquotedbl{}", "\ufffd": "?",
    # A bracket after a line break would be taken for the space to leave there.
    "[": "{[}", "]": "{]}",
}  # fmt: skip


def latex_text(text: str) -> str:
    """The text with everything escaped that LaTeX would take for itself."""
    return "".join(_ESCAPES.get(c, c) for c in printable(text))


def matrix_latex(matrix: Matrix) -> str:
    """A `tabular` of all cells, two lines each; it needs the package `booktabs`, and T1 as font encoding."""
    names = [latex_text(column.adversary) for column in matrix.columns]
    labels = [latex_text(column.label) for column in matrix.columns]
    heads = [_stack([name, label]) for name, label in zip(names, labels, strict=True)]
    lines = [
        r"% \usepackage[T1]{fontenc} \usepackage{booktabs}",
        rf"\begin{{tabular}}{{ll{'l' * len(names)}}}",
        r"\toprule",
        *_groups(matrix),
        " & ".join(["World", "Accuracy", *heads]) + r" \\",
        r"\midrule",
        *(_row(cells) for cells in matrix.cells if cells),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _groups(matrix: Matrix) -> list[str]:
    if not matrix.groups:
        return []
    titles, rules, start = ["", ""], [], 3
    for title, count in matrix.groups:
        titles.append(rf"\multicolumn{{{count}}}{{l}}{{{latex_text(title)}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + count - 1}}}")
        start += count
    return [" & ".join(titles) + r" \\", " ".join(rules)]


def _row(cells: list[Cell]) -> str:
    row = cells[0].row
    facts = row_facts(row)
    privacy = ", ".join(f"{name} {value}" for name, value in facts.privacy)
    world = _stack([latex_text(row_name(cells[0]) or row.error), latex_text(privacy)])
    accuracy = _stack([latex_text(facts.accuracy), latex_text(facts.accuracy_interval)])
    return " & ".join([world, accuracy, *map(_cell, cells)]) + r" \\"


def _cell(cell: Cell) -> str:
    word = latex_text(cell.word)
    first = rf"\textbf{{{word}}}" if cell.state in ("leaked", "partly") else word
    dagger = r"$^\dagger$" if cell.uncontrolled else ""
    number = " ".join(filter(None, (cell.value, cell.interval)))
    return _stack([first + dagger, latex_text(number or cell.reason), latex_text(cell.queries)])


def _stack(lines: list[str]) -> str:
    """Lines above each other in one cell."""
    return r"\shortstack[l]{" + r" \\ ".join(filter(None, lines)) + "}"
