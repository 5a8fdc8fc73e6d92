"""A gallery's HTML holds each image once, with its caption as text."""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from flowers.reporting.gallery import Card, Gallery, caption_images, show_images, show_mistakes, show_pairs
from flowers.reporting.report import CaptionedImage, MistakeShown, PairShown

IMAGES = [np.full((64, 64, 3), 40 * number, np.uint8) for number in range(1, 4)]


def decode_images(html: str) -> list[NDArray[Any]]:
    """Return the images of a page, in BGR."""
    return [
        cv2.imdecode(np.frombuffer(b64decode(text), np.uint8), cv2.IMREAD_COLOR)
        for text in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    ]


def test_images_are_in_order_with_their_captions() -> None:
    html = show_images(IMAGES, ["one", "two", "three"])._repr_html_()
    assert [round(image.mean() / 40) for image in decode_images(html)] == [1, 2, 3]
    assert re.findall(r"<figcaption[^>]*>(\w+)<", html) == re.findall(r'alt="(\w+)"', html) == ["one", "two", "three"]


@pytest.mark.parametrize(("side", "width", "pixels"), [(16, 16, 32), (128, 128, 64), (None, 32, 64)])
def test_images_have_the_requested_width_and_are_never_enlarged(side: int | None, width: int, pixels: int) -> None:
    html = show_images(IMAGES[:1], ["one"], side)._repr_html_()
    assert re.findall(r"width: (\d+)px", html) == [str(width)]
    assert decode_images(html)[0].shape == (pixels, pixels, 3)


def test_captions_and_titles_are_escaped() -> None:
    html = Gallery([Card(caption_images(IMAGES[:1], ["<b>"]), title="<i>", note="<u>")])._repr_html_()
    assert not {"<b>", "<i>", "<u>"} & set(re.findall(r"<\w>", html))
    assert all(text in html for text in ("&lt;b&gt;", "&lt;i&gt;", "&lt;u&gt;"))


def test_a_missing_caption_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        show_images(IMAGES, ["one"])


def test_pairs_and_mistakes_show_all_their_images() -> None:
    images = [CaptionedImage(image, "description", "caption") for image in IMAGES]
    pairs = [PairShown("rose and daisy", 3, images), PairShown("iris and lotus", 2, images[:1])]
    html = show_pairs(pairs)._repr_html_()
    assert len(decode_images(html)) == 4 and "rose and daisy: 3" in html
    mistakes = [MistakeShown("1f", "rose", 0.125, images[:2], [("daisy", 0.5), ("iris", 0.25)])]
    html = show_mistakes(mistakes, side=20)._repr_html_()
    assert len(decode_images(html)) == 2 and "rose: 12.5%" in html and "daisy 50%, iris 25%" in html
