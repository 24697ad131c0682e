"""Table and report: right words from the numbers, nothing hostile gets through, and the page works in a browser."""

from __future__ import annotations

import io
import itertools
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from rhe_parties.report.exposure import LANES, exposure
from rhe_parties.report.html import render_html
from rhe_parties.report.record import Record, WorldRecord
from rhe_parties.report.table import FULL_WIDTH, render_error, render_table
from rhe_parties.report.verdicts import control_sentences, headline, verdicts
from rhe_parties.report.wording import format_value, size_text, world_cost
from tests.report_sample import RECORDS, attack, blocked_only, failed, hostile, rate, sample_record
from tests.report_tasks import TASKS

EVERY = {**RECORDS, **{f"task-{name}": make for name, make in TASKS.items()}}


def printed(record: Record, width: int = FULL_WIDTH) -> str:
    """The terminal table as plain text."""
    console = Console(width=width, file=io.StringIO(), no_color=True, force_terminal=False)
    console.print(render_table(record, "runs/quickstart/report.html", width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class Page(HTMLParser):
    """Checks nesting and collects tags with their attributes, headings and text."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        """The visible text, with ordinary spaces."""
        return " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())


# ---- terminal ------------------------------------------------------------------------------------------------


def test_table_fits_its_columns_and_tears_no_value_apart() -> None:
    text = printed(sample_record())
    assert max(map(len, text.splitlines())) <= FULL_WIDTH
    assert "\x1b" not in text
    for whole in (
        "quickstart: who can learn what about the private training images?",
        "sits at model-host",
        "99.8 % [98.9, 100]",
        "71.2 % [66.1, 75.9]",
        "chance 1.7 %",
        "baseline 0.386",
        "78.1 % [76.9, 79.2]",
        "blocked: missing",
        "plain head weights",
        "on ciphertexts",
        "Report: runs/quickstart/report.html",
    ):
        assert any(whole in line for line in text.splitlines()), whole
    row = next(line for line in text.splitlines() if "99.8 % [98.9" in line and "span-inversion" in line)
    assert "LEAKED" in row
    assert "0.095" in row


def test_table_says_outcomes_in_words_only_colour_is_lost_without_colour() -> None:
    text = printed(sample_record())
    rhe = text[text.index(" rhe ") : text.index("What it costs")]
    assert rhe.count("not leaked") == 2
    assert rhe.count("blocked: missing") == 2
    assert "LEAKED" not in rhe
    assert "head cosine 1.000" in text, "a leak that the columns do not show has its number in the outcome"


def test_costs_are_per_prediction() -> None:
    record = sample_record()
    cost = world_cost(record.worlds[1])
    assert cost.head == 62_311
    assert cost.predictions == 58 * 200
    assert cost.request == pytest.approx(205_012 / 200)
    assert cost.reply == pytest.approx(6_182_000 / 200)
    without = world_cost(record.worlds[1].model_copy(update={"utility": []}))
    assert (without.predictions, without.reply) == (None, 6_182_000)


@pytest.mark.parametrize("name", EVERY)
def test_every_record_gives_a_table(name: str) -> None:
    text = printed(EVERY[name]())
    assert "\x1b" not in text
    assert "nan" not in re.findall(r"[a-z]+", text.lower())
    assert max(map(len, text.splitlines())) <= FULL_WIDTH


def test_markup_in_names_is_printed_as_it_stands() -> None:
    assert "<script>" in printed(hostile())
    assert "[bold]" in printed(hostile())


def test_error_is_one_line_with_reason_and_what_is_kept() -> None:
    line = render_error(failed())
    assert "\n" not in line
    assert "model-host died after 3.1 s" in line
    assert "1 finished world and 1,638 messages kept" in line


# ---- words from numbers ----------------------------------------------------------------------------------------


def test_verdicts_are_computed_from_the_numbers() -> None:
    first, second = verdicts(sample_record())
    assert first.sentence == (
        "Without protection the adversary at the model host identified 99.8 % [98.9, 100] of the 580 private training "
        "images of 58 heads (each among 58 to 61 candidates, chance 1.7 %)."
    )
    assert second.sentence == (
        "With the encrypted head the same attack, run on ciphertexts, identified 2.1 % [1.1, 3.6], "
        "no better than chance (1.7 %)."
    )
    assert headline([first, second]) == (
        "Private training images leaked without protection; with the encrypted head no attack did better than chance."
    )


def test_a_leak_under_encryption_is_never_hidden_behind_the_leading_attack() -> None:
    record = sample_record()
    other = attack("timing", "ciphertext", "leaked", [rate("tpr_at_fpr_1pct", 0.4, 0.3, 0.5, 0.01)], [])
    record.worlds[1].attacks.append(other)
    verdict = verdicts(record)[1]
    assert verdict.state == "leaked"
    assert "rebuilt 40.0 % [30.0, 50.0]" in verdict.sentence
    assert "no attack did better" not in headline(verdicts(record))
    assert "40.0 %" in Page(render_html(record)).text


def test_without_positive_control_the_report_says_so() -> None:
    record = sample_record()
    only = record.model_copy(update={"worlds": record.worlds[1:]})
    assert control_sentences(only)[0].startswith("No positive control")
    assert verdicts(only)[0].sentence.startswith("With the encrypted head the strongest attack measured")
    assert "No positive control" in Page(render_html(only)).text
    assert "No positive control" in " ".join(printed(only).split())


def test_the_baseline_alone_is_no_attack() -> None:
    record = sample_record()
    rhe = record.worlds[1]
    less = rhe.model_copy(update={"attacks": [a for a in rhe.attacks if a.variant == "as-is"]})
    verdict = verdicts(record.model_copy(update={"worlds": [record.worlds[0], less]}))[1]
    assert verdict.state == "blocked"
    assert "missing: plain head weights" in verdict.sentence


def test_errors_and_blocked_worlds_have_their_reason_in_the_verdict() -> None:
    assert "model-host died" in verdicts(failed())[1].sentence
    assert verdicts(blocked_only())[0].state == "blocked"
    assert verdicts(Record(scenario="x")) == []
    assert headline([]) == "This run measured no attack."


@given(st.floats(0, 1), st.sampled_from(["identification_rate", "accuracy"]))
@settings(max_examples=200, deadline=None)
def test_no_rate_is_rounded_to_certainty(value: float, name: str) -> None:
    text = format_value(name, value)
    if 0 < value < 1:
        assert text not in ("0 %", "100 %")
    number = float(text.removesuffix(" %").lstrip("<>"))
    assert abs(number - 100 * value) <= 0.11


def test_sizes_and_missing_numbers() -> None:
    assert [size_text(n) for n in (0, 999, 31_402, 1_310_000, 2e9)] == [
        "0 B", "999 B", "31.4 kB", "1.31 MB", "2.00 GB",
    ]  # fmt: skip
    assert format_value("mse", math.nan) == format_value("mse", None) == "–"


# ---- who saw what ----------------------------------------------------------------------------------------------


def seen(world: WorldRecord, corrupted: list[str]) -> dict[str, str]:
    return {row.what: row.adversary for row in exposure(world, corrupted)}


def test_exposure_follows_the_messages() -> None:
    none, rhe = sample_record().worlds
    plain, hidden = seen(none, ["model-host"]), seen(rhe, ["model-host"])
    assert plain["head weights in clear"] == "yes"
    assert plain["logits"] == "yes"
    assert hidden["head weights in clear"] == "no"
    assert hidden["encrypted head"] == "encrypted"
    assert hidden["logits"] == "encrypted"
    assert hidden["decisions"] == "no"
    assert hidden["input images to classify"] == "yes"
    assert hidden["secret key"] == plain["secret key"] == "no"
    assert seen(rhe, ["key-holder"])["secret key"] == "yes"
    rows = {row.what: dict(zip(LANES, row.parties, strict=True)) for row in exposure(rhe, ["model-host"])}
    assert rows["logits"] == {
        "laboratory": "no", "data-owner": "no", "key-holder": "yes", "model-host": "encrypted",
    }  # fmt: skip
    assert rows["private training images"]["model-host"] == "no"


def test_released_logits_are_seen_where_decisions_go() -> None:
    world = sample_record().worlds[1]
    for release, wanted in (("classes", "no"), ("logits", "yes")):
        rows = {row.what: dict(zip(LANES, row.parties, strict=True)) for row in exposure(world, [], release)}
        assert rows["logits"]["laboratory"] == wanted
        assert rows["logits"]["model-host"] == "encrypted"


def test_the_unencrypted_twin_hides_nothing() -> None:
    record = sample_record()
    twin = record.worlds[1].model_copy(update={"name": "rhe:plain", "scheme": "plain"})
    view = seen(twin, ["model-host"])
    assert view["head weights in clear"] == view["logits"] == "yes"
    assert view["encrypted head"] == "no"
    record.worlds.append(twin)
    assert "rhe:plain: the twin without encryption" in " ".join(control_sentences(record))
    assert verdicts(record)[2].sentence.startswith("With the unencrypted twin (rhe:plain)")


def test_candidates_are_counted_from_chance_where_the_record_does_not_say() -> None:
    record = sample_record().model_copy(update={"dataset": {}})
    assert "each among about 58 candidates" in verdicts(record)[0].sentence


def test_a_tapped_link_exposes_what_it_carries() -> None:
    rhe = sample_record().worlds[1]
    tapped = [m.model_copy(update={"seen_by_adversary": m.kind == "decision"}) for m in rhe.messages]
    view = seen(rhe.model_copy(update={"messages": tapped}), [])
    assert view["decisions"] == "yes"
    assert view["logits"] == "no"


# ---- page --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_page_is_well_formed_and_refers_to_nothing_outside(name: str) -> None:
    html = render_html(EVERY[name]())
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "srcset", "data", "poster", "action", "xlink:href"):
                assert value.startswith("data:image/png;base64,"), (tag, key, value)
            if key == "href":
                assert value.startswith("#"), (tag, value)
    styles = "".join(re.findall(r"<style>(.*?)</style>", html, re.DOTALL))
    assert "url(" not in styles + "".join(a.get("style", "") for _, a in page.tags)
    assert "@import" not in styles
    assert "nan" not in re.findall(r"[a-z]+", page.text.lower())
    assert "\x1b" not in html


def test_hostile_text_stays_text() -> None:
    html = render_html(hostile())
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    page = Page(html)
    assert not [tag for tag, _ in page.tags if tag == "img"], "only PNG data URIs become images"
    assert "no image" in page.text


def test_page_is_accessible_and_complete() -> None:
    page = Page(render_html(sample_record()))
    tags = page.tags
    assert [t for t, _ in tags].count("h1") == 1
    levels = [int(t[1]) for t, _ in tags if re.fullmatch("h[1-6]", t)]
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), levels
    assert all(a.get("alt") for t, a in tags if t == "img")
    assert any("true private image 4 of 10, class 3" in a["alt"] for t, a in tags if t == "img")
    assert all(a.get("aria-label") for t, a in tags if t == "svg")
    assert all(a.get("scope") for t, a in tags if t == "th")
    order = [a["id"] for t, a in tags if t == "section" and "id" in a]
    assert order == [
        "cards", "threat", "images", "sequence", "exposure", "numbers", "cost", "limits", "repeat",
    ]  # fmt: skip
    for words in (
        "rhe run scenarios/quickstart.py -p heads=58",
        "3b0c3b0c",
        "each among 58 to 61 candidates",
        "A malicious host.",
        "blocked",
        "Missing plain head weights",
        "58 × 62.3 kB",
    ):
        assert words in page.text, words


def test_images_stand_in_rows_of_true_rebuilt_and_average() -> None:
    record = sample_record()
    shown = record.worlds[0].attacks[2].examples[0]
    sources = [a["src"] for t, a in Page(render_html(record)).tags if t == "img"]
    assert sources[:5] == shown.true[:5]
    assert sources[5:10] == shown.claimed[:5], "the reconstruction attack's images, not the baseline's"
    assert sources[10:15] == shown.class_average[:5]
    assert len(sources) == 2 * 2 * 30


def test_the_baselines_images_are_not_called_an_attacks() -> None:
    record = sample_record()
    record.worlds[1].attacks.pop()
    text = Page(render_html(record)).text
    assert "With the encrypted head baseline prior-only sees nothing; no attack made an image here" in text


def test_report_is_a_function_of_the_record() -> None:
    assert render_html(sample_record()) == render_html(sample_record())
