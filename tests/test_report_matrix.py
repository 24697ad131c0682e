"""The matrix: the right cell from the record, its evidence, readable without colour, and safe in every format."""

from __future__ import annotations

import csv
import io
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhe_parties.attacks.base import ADVERSARIES
from rhe_parties.cli.reporting import show_report
from rhe_parties.errors import DataError
from rhe_parties.report.cells import evidence
from rhe_parties.report.export import CSV_COLUMNS, export_record, export_sweep, matrix_csv
from rhe_parties.report.frontier import frontiers
from rhe_parties.report.goals import goal_of, goal_title
from rhe_parties.report.html import render_html
from rhe_parties.report.latex import latex_text, matrix_latex
from rhe_parties.report.matrix import Cell, Entry, Matrix, build_matrix, matrix_of
from rhe_parties.report.raster import save_png
from rhe_parties.report.record import AttackRecord, Record, WorldRecord, save_record
from rhe_parties.report.scales import span, ticks
from rhe_parties.report.standalone import standalone
from rhe_parties.report.sweep_page import SweepFacts, render_sweep
from rhe_parties.report.trends import trends
from rhe_parties.report.verdicts import headline, verdicts
from tests.report_matrix import ADVERSARIES as INVENTED
from tests.report_matrix import WORLDS, broken_matrix, hostile_matrix, sweep_entries, threat_record
from tests.report_sample import HOSTILE, attack, rate, sample_record
from tests.test_report import Page, printed

FACTS = SweepFacts("frontier", "Leakage against N.", f"rhe sweep {HOSTILE}")


@cache
def threat() -> Matrix:
    matrix = matrix_of(threat_record())
    assert matrix is not None
    return matrix


def cell(matrix: Matrix, world: str, adversary: str) -> Cell:
    found = [c for row in matrix.cells for c in row if c.row.world and c.row.world.name == world]
    return next(c for c in found if c.column.adversary == adversary)


def one(*attacks: AttackRecord) -> Matrix:
    """A matrix of one world."""
    return build_matrix(
        [Entry("", Record(scenario="s", worlds=[WorldRecord(name="w", defence="d", attacks=[*attacks])]))]
    )


# ---- cells ---------------------------------------------------------------------------------------------------------


def test_a_matrix_is_shown_where_there_is_more_than_cards_can_say() -> None:
    assert matrix_of(sample_record()) is None
    assert matrix_of(Record(scenario="nothing")) is None
    assert [len(threat().rows), len(threat().columns)] == [len(WORLDS), len(INVENTED)]
    assert "prior-only" not in {column.adversary for column in threat().columns}, "the baseline is no adversary"


def test_columns_stand_in_groups_by_what_they_are_after() -> None:
    assert threat().groups == [
        ("Rebuild training images", 2), ("Recognise training images", 1), ("Guess a property of the training set", 1),
        ("Copy the classifier", 2), ("Rebuild the classified images", 1), ("Recover the secret key", 1),
        ("Cheat as a party", 1),
    ]  # fmt: skip


def test_a_goal_is_declared_or_read_off_the_statistics() -> None:
    def after(*names: str, goal: str = "") -> str:
        return goal_of([attack("x", "as-is", "leaked", [rate(name, 1, 1, 1, 0) for name in names], [], goal=goal)])

    assert after("identification_rate", "extraction_agreement", "mse") == "reconstruction"
    assert after("identification_rate", "extraction_agreement", "queries") == "extraction"
    assert after("tpr_at_fpr_1pct", "auc") == "membership"
    assert after("auc", goal="water-the-plants") == "water-the-plants"
    assert goal_title("water-the-plants") == "Water the plants"
    assert goal_title(after("something_new")) == "Other aims"
    titles = {name: goal_title(ADVERSARIES.load(name).goal) for name in ("hard-label", "lira", "inversion-network")}
    assert titles == {
        "hard-label": "Copy the classifier", "lira": "Recognise training images",
        "inversion-network": "Rebuild the classified images",
    }  # fmt: skip


def test_the_stronger_variant_stands_for_both_and_an_error_is_not_hidden() -> None:
    results = [rate("auc", 0.9, 0.8, 1.0, 0.5)]
    for outcomes, shown in (
        (("blocked", "not-leaked"), "not-leaked"),
        (("not-leaked", "leaked"), "leaked"),
        (("not-leaked", "error"), "error"),
        (("not-applicable", "blocked"), "blocked"),
    ):
        pair = [attack("x", v, o, results, []) for v, o in zip(("as-is", "ciphertext"), outcomes, strict=True)]
        found = one(*pair).cells[0][0]
        assert found.shown is not None
        assert (found.shown.outcome, len(found.attacks)) == (shown, 2)


def test_a_leak_nearer_to_chance_than_to_certainty_is_one_in_part() -> None:
    for value, state in ((0.76, "leaked"), (0.74, "partly")):
        assert one(attack("x", "as-is", "leaked", [rate("auc", value, 0.6, 0.9, 0.5)], [])).cells[0][0].state == state
    odd = one(attack("x", "as-is", "leaked", [rate("mse", 0.1, 0.05, 0.2, 0.5)], []))
    assert odd.cells[0][0].state == "leaked", "an error is no share of anything"


def test_a_cell_shows_its_columns_statistic_unless_its_leak_is_another() -> None:
    both = [rate("identification_rate", 0.02, 0.0, 0.05, 0.02), rate("tpr_at_fpr_1pct", 0.4, 0.3, 0.5, 0.01)]
    found = one(attack("x", "as-is", "leaked", both, [])).cells[0][0]
    assert (found.column.statistic, found.value) == ("identification_rate", "40.0 %")
    assert found.own_label == "rebuilt (TPR at 1 % FPR)"
    copied = cell(threat(), "rhe+client", "hard-label")
    assert (copied.value, copied.own_label, copied.queries) == ("99.4 %", "", "2,000 queries")


def test_a_failure_without_positive_control_says_that_it_proves_nothing() -> None:
    matrix = matrix_of(broken_matrix())
    assert matrix is not None
    assert cell(matrix, "none", "never").uncontrolled
    assert not cell(matrix, "rhe", "lira").uncontrolled
    words = {item.title: item.control for item in evidence(matrix)}
    assert words["never against none"].startswith("No positive control")
    assert words["lira against rhe"] == (
        "Positive control: the same adversary leaked in world none (0.995 [0.975, 1.000])."
    )
    assert words["lira against none"] == ""
    assert "†" in printed(broken_matrix())


def test_a_world_that_broke_off_has_an_error_in_every_cell() -> None:
    matrix = matrix_of(broken_matrix())
    assert matrix is not None
    assert {c.state for c in matrix.cells[-1]} == {"error"}
    assert matrix.cells[-1][0].reason == "model-host died"


def test_the_evidence_says_what_the_adversary_saw() -> None:
    found = next(item for item in evidence(threat()) if item.title == "span-inversion against rhe")
    assert "encrypted_head" in {message.kind for message in found.seen}
    assert all(message.seen_by_adversary for message in found.seen)
    held = dict(found.held)
    assert (held["encrypted head"], held["head weights in clear"]) == ("encrypted", "no")
    assert found.sentence.startswith("With the encrypted head span-inversion, run on ciphertexts, identified 1.7 %")
    assert [panel.word for panel in found.panels] == ["not leaked"]
    legend = " ".join(text for _, text in found.curves[0].legend)
    assert "Positive control, the same in world none" in legend
    assert found.curves[-1].folded, "the paper's own test"
    assert found.curves[-1].title.startswith("The paper's own test")


def test_the_headline_says_of_every_world_what_really_leaked_there() -> None:
    assert headline(verdicts(threat_record())) == (
        "Private training images leaked in 4 of 10 worlds, a property of the training set with dp-sgd (dp-sgd:1), "
        "the classifier itself in 2 of 10 worlds, the classified images in 2 of 10 worlds; "
        "with the encrypted head no attack did better than chance."
    )


# ---- page ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [threat_record, hostile_matrix, broken_matrix])
def test_every_cell_leads_to_its_evidence_and_is_read_out_whole(make: object) -> None:
    html = render_html(make())  # type: ignore[operator]
    page = Page(html)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a for t, a in page.tags if t == "a"]
    assert all(a["href"][0] == "#" and a["href"][1:] in ids for a in links)
    spoken = [a["aria-label"] for a in links if "aria-label" in a]
    assert len(spoken) == len([i for i in ids if re.fullmatch(r"cell-\d+-\d+", i)]) > 3
    assert all(re.search(r": (LEAKED|LEAKED in part|not leaked|blocked|error|n\.a\.),? ?", s) for s in spoken)
    assert all(a.get("scope") for t, a in page.tags if t == "th")
    assert [a.get("class") for t, a in page.tags if t == "table"].count("matrix") == 1
    assert "<script" not in html
    assert "\x1b" not in html
    assert "href='//x'" not in html.replace("&#39;", "")
    assert "nan" not in re.findall(r"[a-z]+", page.text.lower())


def test_the_page_reads_as_one_sentence_per_cell() -> None:
    text = render_html(threat_record()).replace("\N{NO-BREAK SPACE}", " ")
    for spoken in (
        'aria-label="span-inversion against rhe: not leaked, training images identified 1.7 % [0, 3.7], chance 1.7 %, '
        'n 580. Show the evidence."',
        'aria-label="hard-label against rhe: blocked, missing decisions on images of its own. Show the evidence."',
        'aria-label="key-recovery against none: n.a., nothing is encrypted. Show the evidence."',
    ):
        assert spoken in text
    for words in ("ε 8,", "steps 160", "What a host learns that cheats", "Tomorrow’s keys", "How to read the matrix"):
        assert words in text


@pytest.mark.parametrize("theme", [0, 1, 2])
def test_outcomes_are_written_with_enough_contrast(theme: int) -> None:
    """WCAG AA asks for 4.5 to 1; light, dark and print."""
    sheet = (files("rhe_parties.report") / "templates" / "report.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", re.findall(r":root \{([^}]*)\}", sheet)[theme]))

    def light(name: str) -> float:
        code = colours[name].lstrip("#")
        parts = [int(c, 16) / 255 for c in (re.findall("..", code) if len(code) == 6 else [c * 2 for c in code])]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for ink, ground in (("paper", "leak"), ("leak", "leak-wash"), ("safe", "safe-wash"), ("soft", "wash"),
                        ("soft", "raised"), ("warn", "raised"), ("ink", "wash")):  # fmt: skip
        a, b = sorted((light(ink), light(ground)))
        assert (b + 0.05) / (a + 0.05) >= 4.5, (ink, ground)


# ---- plots ---------------------------------------------------------------------------------------------------------


def test_frontiers_are_of_adversaries_that_leaked_and_of_what_the_worlds_differ_in() -> None:
    found = {item.adversary: item for item in frontiers(threat())}
    assert "never" not in {item.adversary for item in frontiers(build_matrix([Entry("", broken_matrix())]))}
    assert [key.split("-")[2] for key, _, _ in found["span-inversion"].drawings] == [
        "accuracy", "bytes", "work", "epsilon",
    ]  # fmt: skip
    assert found["span-inversion"].chosen
    assert not found["informed"].chosen
    drawing = str(found["span-inversion"].drawings[0][2])
    assert re.findall(r'class="point-number[^>]*>([\d, ]+)<', drawing) == ["1, 8", "2", "3", "4, 5, 6, 7, 10", "9"]
    assert "nan" not in drawing


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_axes_have_a_few_round_ticks_within_their_ends(low: float, size: float) -> None:
    found = ticks(low, low + size, False)
    assert all(low <= value <= low + size for value in found)
    assert len(found) <= 12
    first, last = span([size, 3 * size], True)
    assert 2 <= len([v for v in ticks(first, last, True) if first <= v <= last]) <= 12


def test_trends_follow_numeric_keys_world_by_world() -> None:
    figures = {figure.title: figure for figure in trends(build_matrix(sweep_entries()))}
    assert list(figures) == [
        f"{what} against images_per_class"
        for what in ("accuracy of the classifier", "span-inversion: training images identified",
                     "informed: rebuilt (TPR at 1 % FPR)", "lira: members told apart (AUC)")
    ]  # fmt: skip
    lines = [text for _, text in figures["span-inversion: training images identified against images_per_class"].legend]
    assert lines[0] == "none, mode=fast"
    assert len(lines) == 4


def test_the_page_of_a_sweep_names_every_place_and_what_failed() -> None:
    html = render_sweep(FACTS, sweep_entries())
    page = Page(html)
    assert "<script" not in html
    assert "images_per_class=16, mode=fast : no record" in page.text
    assert "4 of 6 places of the grid have a record, 1 with an error" in page.text
    assert "What changes with the grid" in page.text
    assert Page(render_sweep(FACTS, [])).text.count("No adversary was run") == 1


# ---- files ---------------------------------------------------------------------------------------------------------


def test_csv_has_a_row_per_cell_in_full_precision() -> None:
    rows = list(csv.DictReader(io.StringIO(matrix_csv(threat()))))
    assert len(rows) == len(WORLDS) * len(INVENTED)
    assert tuple(rows[0]) == CSV_COLUMNS
    found = next(r for r in rows if (r["world"], r["adversary"]) == ("dp-sgd:8", "span-inversion"))
    assert float(found["value"]) == pytest.approx(0.017 + 0.31 * 0.983)
    assert (found["epsilon"], found["outcome"], found["positive_control"]) == ("8.0", "leaked", "yes")
    blocked = next(r for r in rows if (r["world"], r["adversary"]) == ("none", "hard-label"))
    assert (blocked["value"], blocked["reason"]) == ("", "missing decisions on images of its own")


def test_csv_holds_no_formula_and_no_terminal_escape() -> None:
    record = hostile_matrix()
    record.worlds[0].name = "=1+1"
    text = matrix_csv(build_matrix([Entry("@x", record)]))
    assert "'=1+1" in text
    assert "\x1b" not in text
    assert {r["setting"] for r in csv.DictReader(io.StringIO(text))} == {"'@x"}


def test_latex_is_a_table_of_equal_rows_with_everything_escaped() -> None:
    assert latex_text("a&b_50%$#{}~^\\") == (r"a\&b\_50\%\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}")
    for matrix in (threat(), build_matrix([Entry("", hostile_matrix())])):
        text = matrix_latex(matrix)
        body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
        assert len(body) == len(matrix.rows)
        assert {len(re.findall(r"(?<!\\)&", row)) for row in body} == {len(matrix.columns) + 1}
        bare = re.sub(r"\\[{}]", "", text)
        assert bare.count("{") == bare.count("}")
        assert not re.search(r"\\\\ *\[", text), "LaTeX would take the interval for a length"
        assert not re.search(r"(?<!\\)[#_%](?! \\usepackage)", text)
    assert r"\shortstack[l]{\textbf{LEAKED} \\ 99.0 \% {[}97.0, 100{]}}" in matrix_latex(threat())


def test_export_writes_tables_and_every_figure_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_record(sample_record(), tmp_path / "record.json")
    show_report(str(tmp_path), False, tmp_path / "figures")
    there = {path.name for path in (tmp_path / "figures").iterdir()}
    assert f"Exported {len(there)} files" in capsys.readouterr().out
    assert {"matrix.csv", "matrix.tex", "matrix.svg", "matrix.png", "intervals-1.svg", "messages-2.png"} <= there
    names = {name.removesuffix(".svg") for name in there if name.endswith(".svg")}
    assert {f"{name}.png" for name in names} <= there
    captions = (tmp_path / "figures" / "captions.txt").read_text(encoding="utf-8")
    assert {line.partition(":")[0] for line in captions.splitlines()} == names
    for name in names:
        text = (tmp_path / "figures" / f"{name}.svg").read_text(encoding="utf-8")
        ElementTree.fromstring(text)
        assert "var(" not in text
        assert 'class="' not in text
        picture = (tmp_path / "figures" / f"{name}.png").read_bytes()
        assert picture[:8] == b"\x89PNG\r\n\x1a\n"
        assert len(picture) > 4000, f"{name} is blank"


def test_standalone_figures_have_the_pages_colours() -> None:
    root = standalone(str(frontiers(threat())[0].drawings[0][2]))
    fills = {element.attrib.get("fill") for element in root.iter() if "rx" in element.attrib}
    assert fills == {"#b3261e", "#fbfaf7"}, "filled where it leaked, open where not"
    assert root.attrib["xmlns"] == "http://www.w3.org/2000/svg"


def test_a_figure_of_unknown_parts_is_refused(tmp_path: Path) -> None:
    for part in ("<ellipse/>", '<path d="M0 0C1 1 2 2 3 3"/>'):
        with pytest.raises(ValueError, match="no figure"):
            save_png(standalone(f'<svg viewBox="0 0 9 9">{part}</svg>'), tmp_path / "x.png")


def test_hostile_names_and_sweeps_can_be_exported_and_an_unusable_folder_is_named(tmp_path: Path) -> None:
    written = export_sweep(sweep_entries()[1:4:2], tmp_path / "sweep")
    assert {"matrix.png", "matrix.svg"} <= {path.name for path in written}
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot export to .*file"):
        export_record(hostile_matrix(), tmp_path / "file")


# ---- terminal ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 116])
def test_the_terminal_has_a_compact_matrix_with_symbols_and_numbers(width: int) -> None:
    text = printed(threat_record(), width)
    block = text[text.index("Who can learn what") : text.index("What it costs")]
    assert max(map(len, block.splitlines())) <= width
    row = next(line for line in block.splitlines() if line.split()[:1] == ["rhe"])
    assert row.split()[1:6] == ["○", "1.7", "%", "○", "1.0"]
    assert "● LEAKED   ◐ LEAKED in part   ○ not leaked   ⊘ blocked   ! error   – n.a." in " ".join(block.split("\n"))
    assert "Who can learn what" not in printed(sample_record(), width)
    assert "\x1b" not in printed(hostile_matrix(), width)
