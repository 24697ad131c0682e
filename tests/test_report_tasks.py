"""The report of every task: the words a newcomer reads, the curves, the baselines, and records that are damaged."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from rhe_parties.metrics.truth import Curve
from rhe_parties.report.deeds import spoils
from rhe_parties.report.evidence import curve_figures, null_sentence, rows_of, score_figures
from rhe_parties.report.gallery import galleries
from rhe_parties.report.html import render_html
from rhe_parties.report.meanings import STATISTICS, statistic
from rhe_parties.report.plots import Line, drawable, histogram_svg, rate_at, roc_svg
from rhe_parties.report.record import CurveRecord, HistogramRecord, Record, load_record, save_record
from rhe_parties.report.table import FULL_WIDTH
from rhe_parties.report.verdicts import control_sentences, headline, verdicts
from rhe_parties.report.wording import find, world_phrase, world_release
from tests.report_sample import attack, rate, sample_record
from tests.report_tasks import TASKS, extraction, informed, inversion, membership, private_property, reconstruction
from tests.test_report import Page, printed


def page(record: Record) -> Page:
    """The parsed page."""
    return Page(render_html(record))


# ---- words -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("reconstruction", r"identified \d+\.\d % \[.*\] of the 600 private training images of 60 heads"),
        (
            "membership",
            r"told training images of 60 heads from other images with an AUC of 0\.9\d\d \[.*\], where 0\.5",
        ),
        ("property", r"named the private property \(class-share:0\) right for .* of 60 training sets \(always naming"),
        ("informed", r"identified for .* of 60 heads the one training image that it did not know"),
        ("extraction", r"copied the classifier: .* of fresh images .*, after 28,411 questions per head"),
        ("inversion", r"recognised .* of 1,200 classified images by what was released about them \(chance 20\.0 %\)"),
    ],
)
def test_every_task_has_a_sentence_of_its_own(task: str, said: str) -> None:
    first, *_ = verdicts(TASKS[task]())
    assert first.state == "leaked"
    assert re.search(said, first.sentence), first.sentence


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("reconstruction", "Private training images leaked"),
        ("membership", "Membership in the training set leaked"),
        ("property", "A property of the training set leaked"),
        ("informed", "Private training images leaked"),
        ("extraction", "The classifier itself leaked"),
        ("inversion", "The classified images leaked"),
    ],
)
def test_the_headline_says_what_leaked(task: str, words: str) -> None:
    assert headline(verdicts(TASKS[task]())).startswith(words)


def test_several_spoils_are_named_together_and_unknown_ones_vaguely() -> None:
    cell = attack("x", "as-is", "leaked", [], [])
    results = [(rate(name, 0.9, 0.8, 1.0, 0.1), cell) for name in ("extraction_agreement", "property_accuracy")]
    assert spoils(results) == "A property of the training set and the classifier itself"
    assert spoils([(rate("something_new", 0.9, 0.8, 1.0, 0.1), cell)]) == "Something of the private side"


def test_the_same_rate_is_called_after_the_task() -> None:
    assert "rebuilt" in statistic("tpr_at_fpr_1pct").label
    assert "members recognised" in statistic("tpr_at_fpr_1pct", membership=True).label
    text = page(membership()).text
    assert "members recognised (TPR at 10 % FPR)" in text
    assert "rebuilt (TPR" not in text


def test_every_statistic_of_every_task_is_explained() -> None:
    names = {r.statistic for make in TASKS.values() for w in make().worlds for a in w.attacks for r in a.results}
    unexplained = {n for n in names if "null_" not in n and "class_mean" not in n and "nearest_public" not in n}
    assert {n for n in unexplained if not statistic(n).meaning} == set()
    assert "epsilon_lower_bound" in names
    assert all(words.meaning.endswith(".") for words in STATISTICS.values())


def test_many_cells_come_with_a_warning_of_accidents() -> None:
    record = sample_record()
    assert not any("by accident" in sentence for sentence in control_sentences(record))
    record.worlds[1].attacks += [record.worlds[1].attacks[-1]] * 5
    assert any("10 attacks were measured" in sentence for sentence in control_sentences(record))


# ---- terminal ------------------------------------------------------------------------------------------------------


def test_long_names_are_broken_at_a_hyphen() -> None:
    record = sample_record()
    record.worlds[0].attacks[0].adversary = "span-membership"
    lines = [line.split() for line in printed(record, width=80).splitlines()]
    assert ["span-" in line for line in lines].count(True) == 1
    assert any(line[:1] == ["membership"] for line in lines)


@pytest.mark.parametrize(
    ("task", "titles"),
    [
        ("reconstruction", ("Training images", "Rebuilt (TPR", "Pixel error")),
        ("membership", ("Members told", "Recognised at", "Epsilon")),
        ("property", ("Private property", "Property told")),
        ("informed", ("Training images", "Pixel error")),
        ("extraction", ("Classifier", "Questions")),
        ("inversion", ("Inputs", "Pixel error")),
    ],
)
def test_columns_follow_what_was_measured(task: str, titles: tuple[str, ...]) -> None:
    text = printed(TASKS[task](), width=FULL_WIDTH)
    heading = text[text.index("What each adversary learned") : text.index("─")]
    assert [title for title in titles if title not in heading] == []
    assert max(map(len, text.splitlines())) <= FULL_WIDTH
    assert text.count("[") == text.count("]")  # no interval is cut off
    narrow = printed(TASKS[task](), width=80)
    assert max(map(len, narrow.splitlines())) <= 80


# ---- curves --------------------------------------------------------------------------------------------------------


def test_worlds_and_the_control_are_overlaid_in_one_figure() -> None:
    figures = curve_figures(reconstruction())
    assert [figure.folded for figure in figures] == [False, True, True]
    words = [text for _, text in figures[0].legend]
    assert words[0].startswith("Without protection, span-inversion: ")
    assert words[1].startswith("With the encrypted head, span-inversion, on ciphertexts: ")
    assert words[2].startswith("Control: span-inversion given an empty input: ")
    drawing = str(figures[0].drawing)
    assert drawing.count('class="curve ') == 3
    assert drawing.count('class="band ') == 3
    assert 'class="guess"' in drawing
    dashes = re.findall(r'class="curve [a-z-]+" stroke-dasharray="([^"]+)"', drawing)
    assert len(set(dashes)) == 3, "the lines must differ without colour"
    assert "class 3" in " ".join(text for _, text in figures[1].legend)


def test_legend_and_table_give_the_same_rate() -> None:
    record = reconstruction()
    result = find(record.worlds[0].attacks[1].results, "tpr_at_fpr_1pct")
    assert result is not None
    assert f"{result.value * 100:.1f} % at 1 % false alarms" in curve_figures(record)[0].legend[0][1]


def test_scores_are_shown_for_membership_in_every_world() -> None:
    figures = score_figures(membership())
    assert [caption.split(",")[0] for caption, _ in figures] == ["Without protection", "With the encrypted head"]
    assert "bar-positive leaked" in str(figures[0][1])
    assert "bar-positive not-leaked" in str(figures[1][1])


@pytest.mark.parametrize(
    "columns",
    [
        ([0.01, 1.0], [0.1, math.nan], [0.0, 1.0], [0.2, 1.0]),
        ([0.01, 1.0], [0.1, 1.0], [0.0, 1.0], [0.2]),
        ([0.0, 1.0], [0.1, 1.0], [0.0, 1.0], [0.2, 1.0]),
        ([0.5, 0.1], [0.1, 1.0], [0.0, 1.0], [0.2, 1.0]),
        ([0.1, 1.0], [0.1, 1.5], [0.0, 1.0], [0.2, 1.5]),
        ([1.0], [1.0], [1.0], [1.0]),
    ],
)
def test_damaged_curves_are_left_out(columns: tuple[list[float], ...]) -> None:
    curve = CurveRecord(name="roc", fpr=columns[0], tpr=columns[1], low=columns[2], high=columns[3])
    assert not drawable(curve)
    record = sample_record()
    record.worlds[0].attacks[2] = record.worlds[0].attacks[2].model_copy(update={"curves": [curve]})
    assert curve_figures(record) == []
    assert 'id="curves"' not in render_html(record)


@pytest.mark.parametrize(
    ("edges", "positives", "negatives"),
    [
        ([0.0, 1.0], [], []),
        ([0.0, 1.0], [math.inf], [0.5]),
        ([0.0, 1.0], [0.0], [0.0]),
        ([1.0, 1.0], [0.5], [0.5]),
        ([0.0, 1.0, 2.0], [0.5], [0.5]),
    ],
)
def test_damaged_histograms_are_left_out(edges: list[float], positives: list[float], negatives: list[float]) -> None:
    data = HistogramRecord(name="membership", edges=edges, positives=positives, negatives=negatives)
    assert histogram_svg("x", data, "leaked") is None


def test_points_of_a_curve_stay_inside_the_picture() -> None:
    curve = CurveRecord(name="roc", fpr=[1e-7, 1e-3, 1.0], tpr=[0.0, 0.5, 1.0], low=[0, 0.4, 1], high=[0.1, 0.6, 1])
    drawing = str(roc_svg("t", [Line("A", "leaked", curve)], "across", "up"))
    places = [tuple(map(float, pair)) for path in re.findall(r'd="M([^"z]+)', drawing) for pair in
              (point.split() for point in path.split("L"))]  # fmt: skip
    assert places
    assert all(0 <= x <= 480 and 0 <= y <= 330 for x, y in places)
    assert rate_at(curve, 0.01) == 0.5
    assert rate_at(curve, 1e-9) is None


def test_curves_survive_the_record_file(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    record = membership()
    save_record(record, file)
    again = load_record(file)
    assert again == record
    assert render_html(again) == render_html(record)


def test_curves_are_recorded_to_four_digits() -> None:
    values = np.array([1 / 3, 1.0])
    assert CurveRecord.of(Curve("roc", values, values, values, values)).tpr == [0.3333, 1.0]


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_baselines_and_controls_are_folded_below_the_attacks_own_numbers() -> None:
    cell = reconstruction().worlds[0].attacks[1]
    own, baselines = rows_of(cell)
    assert own[0].statistic == "identification_rate"
    assert {r.statistic for r in baselines} >= {"null_identification_rate", "class_mean_mse", "nearest_public_mse"}
    assert len(own) + len(baselines) == len(cell.results)
    text = page(reconstruction()).text
    assert "on an empty input: training images identified" in text
    assert "average public image of the class: pixel error (MSE)" in text


def test_the_null_control_is_read_out_and_convicts_an_attack_that_finds_something_in_nothing() -> None:
    cell = membership().worlds[0].attacks[1]
    assert null_sentence(cell).startswith("Null control, the same attack on an input that holds nothing: members told")
    results = [rate("auc", 0.9, 0.88, 0.92, 0.5), rate("null_auc", 0.8, 0.75, 0.85, 0.5)]
    assert "no evidence of a leak" in null_sentence(attack("x", "as-is", "leaked", results, []))
    assert null_sentence(attack("x", "as-is", "leaked", results[:1], [])) == ""


# ---- pictures ------------------------------------------------------------------------------------------------------


def test_single_images_of_many_heads_stand_side_by_side() -> None:
    record = informed()
    (gallery,) = galleries(record, verdicts(record))
    assert gallery.title == "10 heads, one image each"
    pictures = [picture for strip in gallery.panels[0].strips for _, row in strip for picture in row]
    assert len(pictures) == 30
    assert pictures[3].alt == "true private image 4 of 10, class 3, head victim-0003"
    assert "The one image that the adversary did not know" in page(record).text


def test_classified_images_are_not_called_private() -> None:
    html = page(inversion())
    assert "The classified images, and what the adversary made of the answers" in html.text
    alts = [attributes["alt"] for tag, attributes in html.tags if tag == "img"]
    assert any(alt.startswith("true input 4 of 10, class 3, head") for alt in alts)
    assert not any("private" in alt for alt in alts)


def test_a_flood_of_images_is_cut_and_says_so() -> None:
    record = inversion()
    shown = record.worlds[0].attacks[0].examples[0]
    many = shown.model_copy(
        update={"true": shown.true * 9, "claimed": shown.claimed * 9, "class_average": shown.class_average * 9}
    )
    cell = record.worlds[0].attacks[0].model_copy(update={"examples": [many]})
    world = record.worlds[0].model_copy(update={"attacks": [cell]})
    html = page(record.model_copy(update={"worlds": [world]}))
    assert sum(tag == "img" for tag, _ in html.tags) == 3 * 40
    assert "The first 40 of 90 images." in html.text


def test_a_task_without_pictures_has_its_curves_instead() -> None:
    ids = [
        attributes["id"] for tag, attributes in page(private_property()).tags if tag == "section" and "id" in attributes
    ]
    assert "curves" in ids
    assert "images" not in ids
    assert "No attack of this run made an image." in page(extraction()).text


# ---- worlds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "phrase", "release"),
    [
        ("rhe", "With the encrypted head", "classes"),
        ("rhe:ckks", "With the encrypted head (rhe:ckks)", "classes"),
        ("rhe+client", "With the encrypted head (the adversary may ask as a client)", "classes"),
        (
            "rhe:bfv+client+release=logits",
            "With the encrypted head (rhe:bfv; the adversary may ask as a client; logits released)",
            "logits",
        ),
    ],
)
def test_worlds_are_told_in_words(name: str, phrase: str, release: str) -> None:
    world = sample_record().worlds[1].model_copy(update={"name": name})
    assert world_phrase(world) == phrase
    assert world_release(world, "classes") == release


def test_the_release_policy_of_a_world_decides_who_sees_logits() -> None:
    record = sample_record()
    record.worlds[1] = record.worlds[1].model_copy(update={"name": "rhe+release=logits"})
    rows = re.findall(r'<th scope="row">logits</th>(.*?)</tr>', render_html(record))
    assert 'class="no"' in rows[0].split("</td>")[0], "in world none the laboratory gets classes"
    assert 'class="yes"' in rows[1].split("</td>")[0], "here it gets logits"
