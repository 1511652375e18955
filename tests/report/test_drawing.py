"""Plots as SVG: colours that follow the page, text that is text, labels that do not overlap."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from runtime.report.drawing import axes, colour, render, spread, standalone


def paint(figure: Figure) -> None:
    plot = axes(figure, 30, 10, 10, 30)
    plot.plot([0, 1], [0, 1], marker="o", color=colour("blue"))
    plot.set_xlabel("tokens & $steps$")


def test_an_svg_is_text_and_variables() -> None:
    svg = render("line", "a line", 200, 100, paint)
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert root.get("viewBox") == "0 0 200 100"
    assert root.get("aria-label") == "a line"
    assert "tokens & $steps$" in [element.text for element in root.iter("text")]
    assert "var(--blue)" in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg), "a colour that would not follow the page"
    assert "http" not in svg
    for element in root.iter("use"):
        assert root.find(f".//*[@id='{element.get('href', '').removeprefix('#')}']") is not None


def test_the_same_plot_is_the_same_bytes_and_two_plots_share_no_id() -> None:
    assert render("a", "", 200, 100, paint) == render("a", "", 200, 100, paint)
    first, second = (set(re.findall(r'id="(\w+)"', render(name, "", 200, 100, paint))) for name in "ab")
    assert first
    assert not first & second


def test_a_file_of_its_own_follows_light_and_dark() -> None:
    file = standalone(render("a", "", 200, 100, paint), 200, 100, "made by a test")
    root = ElementTree.fromstring(file)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in file
    assert file.count("http") == 1


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_labels_keep_their_distance_and_order(wanted: list[float]) -> None:
    places = spread(wanted, 10, 0, 100)
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    gaps = [places[b] - places[a] for a, b in pairwise(order)]
    assert all(gap >= 10 - 1e-9 for gap in gaps)
    assert all(-1e-9 <= place <= 100 + 1e-9 for place in places)


def test_labels_with_room_stay_where_they_are() -> None:
    assert spread([50, 10, 80], 10, 0, 100) == [50, 10, 80]
    assert spread([40, 40], 10, 0, 100) == pytest.approx([35, 45])
