"""Show images with captions in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined

from flowers.reporting.photographs import SIDE, Image, as_uri
from flowers.reporting.report import CaptionedImage, MistakeShown, PairShown


@dataclass(frozen=True, slots=True)
class Card:
    """Images that belong together, with a title above and a note below them."""

    images: Sequence[CaptionedImage]
    title: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Gallery:
    """A gallery of images, which Jupyter shows if it is the last expression of a cell.

    cards: the images, in groups.
    side: the width of each image on the page, in pixels; None: half the image's width, for screens of high density.
    """

    cards: Sequence[Card] = field(repr=False)
    side: int | None = SIDE

    def _repr_html_(self) -> str:
        """Return the HTML that Jupyter shows."""
        environment = Environment(loader=PackageLoader("flowers.reporting"), autoescape=True, undefined=StrictUndefined)
        return environment.get_template("gallery.html").render(cards=self.cards, width=self._width, uri=self._uri)

    def _width(self, image: Image) -> int:
        return self.side or image.shape[1] // 2

    def _uri(self, image: Image) -> str:
        return as_uri(image, max(image.shape) if self.side is None else 2 * self.side)


def show_images(images: Sequence[Image], captions: Sequence[str], side: int | None = SIDE) -> Gallery:
    """Show images, each with its caption.

    Args:
        images: uint8 `[H, W, 3]`.
        captions: one for each image.
        side: see `Gallery`.
    """
    return Gallery([Card(caption_images(images, captions))], side)


def caption_images(images: Sequence[Image], captions: Sequence[str]) -> list[CaptionedImage]:
    """Return images uint8 `[H, W, 3]` with their captions, which are also their alternative texts."""
    return [CaptionedImage(image, caption, caption) for image, caption in zip(images, captions, strict=True)]


def show_pairs(pairs: Sequence[PairShown], side: int | None = SIDE) -> Gallery:
    """Show confused pairs of classes, with images of both. `side`: see `Gallery`."""
    return Gallery([Card(pair.images, f"{pair.title}: {pair.mistakes} confused") for pair in pairs], side)


def show_mistakes(mistakes: Sequence[MistakeShown], side: int | None = SIDE) -> Gallery:
    """Show wrong predictions, each with its saliency and the most probable classes. `side`: see `Gallery`."""
    return Gallery([Card(shown.images, _title(shown), _likeliest(shown)) for shown in mistakes], side)


def _title(mistake: MistakeShown) -> str:
    return f"{mistake.truth}: {mistake.true_probability:.1%}"


def _likeliest(mistake: MistakeShown) -> str:
    return "predicted: " + ", ".join(f"{name} {probability:.0%}" for name, probability in mistake.likeliest)
