"""Draw a photograph-like image of a species. Pose, light, background and occlusion vary, the traits do not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from flowers.synthetic.species import LINE_PERIOD, PetalTip, Species

Image = NDArray[np.uint8]

SIDE = 512
"""The side in pixels at which images are drawn, before they are reduced."""

_SUBPIXEL_BITS = 4  # cv2 takes polygon corners as fixed-point numbers with this many fractional bits
_BACKGROUND_SIDE = 128  # drawn small and enlarged, which blurs it like a lens


@dataclass(frozen=True, slots=True)
class Head:
    """A flower head, with its centre and radius in pixels, its foreshortening `squash`, and its angles in radians."""

    x: float
    y: float
    radius: float
    angle: float
    squash: float
    lean: float


def draw_image(species: Species, rng: np.random.Generator) -> Image:
    """Draw an image of `species`, uint8 `[512, 512, 3]` RGB. Everything that is not a trait comes from `rng`."""
    image = _draw_background(rng)
    heads = _pose(species, rng)
    _draw_stems(image, heads, species, rng)
    for head in heads:
        _draw_head(image, head, species, rng)
    _occlude(image, species, rng)
    return _apply_light(image, rng)


def reduce_image(image: Image, size: int) -> Image:
    """Reduce an image, uint8 `[S, S, 3]`, to `size` pixels a side, blurred first to avoid aliasing."""
    if size == len(image):
        return image
    blurred = cv2.GaussianBlur(image, (0, 0), 0.5 * len(image) / size)
    return cv2.resize(blurred, (size, size), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def _pose(species: Species, rng: np.random.Generator) -> list[Head]:
    """Place the heads: one for a single flower, several for the other inflorescences."""
    x, y = rng.uniform(0.38, 0.62, 2) * SIDE
    size = rng.uniform(0.8, 1.25)
    lean = rng.uniform(0, math.pi)

    def head(dx: float, dy: float, radius: float) -> Head:
        squash = rng.uniform(0.65, 1.0)
        return Head(x + size * dx, y + size * dy, size * radius, rng.uniform(0, 2 * math.pi), squash, lean)

    if species.inflorescence == "single":
        return [head(0, 0, 165)]
    if species.inflorescence == "spike":
        sway = rng.uniform(-0.25, 0.25)
        return [head(sway * dy + rng.normal(0, 14), dy, 34 + 0.11 * (dy + 190)) for dy in range(-190, 200, 42)]
    if species.inflorescence == "umbel":
        angles = np.linspace(0, 2 * math.pi, 11) + rng.uniform(0, 1)
        reaches = np.where(np.arange(11) % 3 == 0, 55, 125)
        return [head(r * math.cos(a), 0.7 * r * math.sin(a), 42) for a, r in zip(angles, reaches, strict=True)]
    angles = np.linspace(0, 2 * math.pi, 4)[:3] + rng.uniform(0, 2)
    return [head(100 * math.cos(a), 95 * math.sin(a), 92) for a in angles]


def _petal_outline(tip: PetalTip, width: float) -> NDArray[np.float64]:
    """Return a petal's outline, float64 `[N, 2]`, along +x from the centre, of length 1 and the given width."""
    t = np.linspace(0, 1, 14)
    half = {
        "round": np.sin(math.pi * t**0.75) ** 0.7,
        "pointed": np.sin(math.pi * t**0.6),
        "notched": np.sin(math.pi * t**1.1) ** 0.6,
        "spoon": np.sin(math.pi * t**2.2) ** 0.8 + 0.12 * (1 - t),
    }[tip] * (width / 2)
    x = t - 0.16 * (t == 1) if tip == "notched" else t
    return np.concatenate([np.stack([x, half], 1), np.stack([x, -half], 1)[::-1]])


def _fill(image: Image, outline: NDArray[np.float64], colour: NDArray[np.float64]) -> None:
    corners = np.round(outline * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(image, [corners], _rgb(colour), cv2.LINE_AA, _SUBPIXEL_BITS)


def _rgb(colour: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = np.clip(np.asarray(colour) * 255, 0, 255)
    return float(red), float(green), float(blue)


def _place(outline: NDArray[np.float64], head: Head, angle: float, scale: float) -> NDArray[np.float64]:
    """Rotate an outline by `angle` in the head's plane, foreshorten it, and move it to the head's position."""
    cos, sin = math.cos(angle), math.sin(angle)
    flat = outline @ np.array([[cos, sin], [-sin, cos]]) * scale * head.radius
    cos, sin = math.cos(head.lean), math.sin(head.lean)
    axes = np.array([[cos, sin], [-sin, cos]])
    placed: NDArray[np.float64] = flat @ axes.T * np.array([1.0, head.squash]) @ axes + np.array([head.x, head.y])
    return placed


def _draw_head(image: Image, head: Head, species: Species, rng: np.random.Generator) -> None:
    base, tip = np.array(species.base), np.array(species.tip)
    step = 2 * math.pi / species.petals
    width = species.petal_width * min(1.1, 1.4 * math.sin(step / 2) + 0.15)
    outline = _petal_outline(species.petal_tip, width)
    before = image.copy() if species.texture != "plain" else None
    for row in range(species.rows):
        reach = 1.0 - 0.27 * row
        for petal in range(species.petals):
            angle = head.angle + step * (petal + 0.5 * row) + rng.normal(0, 0.05)
            length = reach * rng.normal(1, 0.04)
            shade = rng.normal(1, 0.05)
            _fill(image, _place(outline * 1.03, head, angle, length), 0.62 * shade * tip)
            for part, mix in ((1.0, 0.0), (0.78, 0.5), (0.52, 1.0)):
                colour = shade * ((1 - mix) * tip + mix * base)
                _fill(image, _place(outline * np.array([part, part**0.5]), head, angle, length * 0.97), colour)
            if species.spotted:
                _draw_spots(image, head, angle, length, rng)
    if before is not None:
        _draw_lines(image, before, head, species, rng)
    _draw_centre(image, head, species, rng)


def _draw_spots(image: Image, head: Head, angle: float, length: float, rng: np.random.Generator) -> None:
    for x, y in rng.uniform((0.35, -0.1), (0.75, 0.1), (4, 2)):
        spot = _place(np.array([[x, y]]), head, angle, length)[0]
        centre = (int(spot[0] * 16), int(spot[1] * 16))
        cv2.circle(image, centre, int(head.radius * 0.03 * 16) + 16, (70, 15, 40), -1, cv2.LINE_AA, _SUBPIXEL_BITS)


def _draw_centre(image: Image, head: Head, species: Species, rng: np.random.Generator) -> None:
    circle = np.array([[math.cos(a), math.sin(a)] for a in np.linspace(0, 2 * math.pi, 24, endpoint=False)])
    colour = np.array(species.centre)
    for scale, shade in ((1.0, 0.6), (0.9, 1.0), (0.45, 0.75)):
        _fill(image, _place(circle, head, 0.0, species.centre_radius * scale), colour * shade * rng.normal(1, 0.04))


def _draw_lines(image: Image, before: Image, head: Head, species: Species, rng: np.random.Generator) -> None:
    """Modulate the petals with hair-fine lines of the same spacing and depth, as rings or straight."""
    reach = int(head.radius * 1.15)
    left, top = max(0, int(head.x) - reach), max(0, int(head.y) - reach)
    window = np.s_[top : int(head.y) + reach, left : int(head.x) + reach]
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    y, x = rows[window[0]] - head.y, columns[:, window[1]] - head.x
    direction = rng.uniform(0, math.pi)
    across = x * math.cos(direction) + y * math.sin(direction)
    distance = np.hypot(x, y) if species.texture == "ringed" else across
    period = LINE_PERIOD * rng.uniform(0.9, 1.25)
    wave = 1 + 0.32 * np.sin(2 * math.pi / period * distance)
    petals = (image[window] != before[window]).any(axis=2)
    wave = np.where(petals, wave, 1.0)[..., None]
    image[window] = np.clip(image[window] * wave, 0, 255).astype(np.uint8)


def _leaf(x: float, y: float, length: float, width: float, angle: float) -> NDArray[np.float64]:
    outline = _petal_outline("pointed", width / length) * length
    cos, sin = math.cos(angle), math.sin(angle)
    placed: NDArray[np.float64] = outline @ np.array([[cos, sin], [-sin, cos]]) + np.array([x, y])
    return placed


def _draw_background(rng: np.random.Generator) -> Image:
    """Draw out-of-focus ground: blotches of leaf, earth or sky, and blades across them."""
    tone = np.array(((0.20, 0.33, 0.14), (0.36, 0.28, 0.18), (0.52, 0.62, 0.72), (0.13, 0.17, 0.13))[rng.integers(4)])
    blotches = np.clip(tone + rng.normal(0, 0.09, (7, 7, 3)), 0, 1).astype(np.float32)
    small = cv2.resize(blotches, (_BACKGROUND_SIDE, _BACKGROUND_SIDE), interpolation=cv2.INTER_CUBIC)
    ground: Image = np.clip(small * 255, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(4, 16))):
        x, y = rng.uniform(0, _BACKGROUND_SIDE, 2)
        green = np.array((0.25, 0.45, 0.16)) * rng.uniform(0.4, 1.5)
        _fill(ground, _leaf(x, y, rng.uniform(25, 90), rng.uniform(4, 26), rng.uniform(0, 2 * math.pi)), green)
    ground = cv2.GaussianBlur(ground, (0, 0), rng.uniform(0.8, 3.0)).astype(np.uint8)
    return cv2.resize(ground, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def _draw_stems(image: Image, heads: list[Head], species: Species, rng: np.random.Generator) -> None:
    foot = np.array([np.mean([head.x for head in heads]) + rng.normal(0, 40), SIDE + 20.0])
    green = _rgb(np.array(species.leaf) * 0.9)
    for head in heads:
        start = (round(head.x), round(head.y))
        cv2.line(image, start, (int(foot[0]), int(foot[1])), green, 7, cv2.LINE_AA)
    top = np.array([heads[-1].x, heads[-1].y])
    for side in (-1, 1):
        x, y = top + (foot - top) * rng.uniform(0.55, 0.8)
        angle = -math.pi / 2 + side * rng.uniform(0.5, 1.2)
        _fill(image, _leaf(x, y, rng.uniform(90, 170), rng.uniform(30, 60), angle), np.array(species.leaf))


def _occlude(image: Image, species: Species, rng: np.random.Generator) -> None:
    """Draw up to two leaves or blades of grass in front of the flower, reaching in from an edge."""
    for _ in range(int(rng.integers(0, 3))):
        edge = rng.uniform(0, 2 * math.pi)
        x, y = SIDE / 2 + 0.68 * SIDE * np.array([math.cos(edge), math.sin(edge)])
        length, width = rng.uniform(150, 330), rng.uniform(14, 60)
        colour = np.array(species.leaf) * rng.uniform(0.5, 1.2)
        _fill(image, _leaf(x, y, length, width, edge + math.pi + rng.normal(0, 0.5)), colour)


def _apply_light(image: Image, rng: np.random.Generator) -> Image:
    """Apply exposure, the colour of the light, a brightness gradient across the image, and sensor noise."""
    across, down = rng.uniform(-0.22, 0.22, 2)
    ramp = np.linspace(-1, 1, SIDE)
    slope = (1 + across * ramp[None, :] + down * ramp[:, None]).astype(np.float32)
    exposure, warmth = rng.uniform(0.72, 1.22), rng.uniform(-0.07, 0.07)
    tint = exposure * np.array([1 + warmth, 1, 1 - warmth])
    grain = rng.standard_normal((SIDE, SIDE), np.float32)
    grain *= np.float32(rng.uniform(0.5, 3))
    channels = (
        cv2.add(cv2.multiply(channel, slope, dtype=cv2.CV_32F, scale=float(factor)), grain, dtype=cv2.CV_8U)
        for channel, factor in zip(cv2.split(image), tint, strict=True)
    )
    return cv2.merge(list(channels)).astype(np.uint8, copy=False)
