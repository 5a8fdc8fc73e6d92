"""Draw the traits of the garden's species from a seed, as different from each other as possible."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Inflorescence = Literal["single", "spike", "umbel", "cluster"]
PetalTip = Literal["round", "pointed", "notched", "spoon"]
Texture = Literal["plain", "ringed", "veined"]
Colour = tuple[float, float, float]

INFLORESCENCES: tuple[Inflorescence, ...] = ("single", "single", "single", "spike", "umbel", "cluster")
PETAL_TIPS: tuple[PetalTip, ...] = ("round", "pointed", "notched", "spoon")
PETAL_HUES = (0.0, 0.04, 0.09, 0.145, 0.52, 0.60, 0.70, 0.78, 0.86, 0.94)
CENTRE_HUES = (0.0, 0.08, 0.14, 0.25, 0.75)

LOOKALIKE_PAIRS = 10
"""Pairs of species that differ only in the direction of hair-fine lines on their petals."""

LINE_PERIOD = 3.6
"""Pixels between these lines at 512 px: 2.3 at 331 px, but 1.4 at 192 px, below the sampling limit of 2."""


@dataclass(frozen=True, slots=True)
class Species:
    """The traits of a species. Lengths are fractions of the flower's radius, colours are RGB in 0..1."""

    inflorescence: Inflorescence
    petals: int
    rows: int
    petal_width: float
    petal_tip: PetalTip
    base: Colour
    tip: Colour
    centre: Colour
    centre_radius: float
    spotted: bool
    texture: Texture
    leaf: Colour


def _colour(hue: float, saturation: float, value: float) -> Colour:
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)


def _random_species(rng: np.random.Generator) -> Species:
    hue = float(rng.choice(PETAL_HUES))
    saturation = float(rng.choice((0.08, 0.5, 0.9), p=(0.2, 0.3, 0.5)))
    two_toned = rng.random() < 0.5
    tip_hue = float(rng.choice(PETAL_HUES)) if two_toned else hue
    inflorescence = INFLORESCENCES[int(rng.integers(len(INFLORESCENCES)))]
    return Species(
        inflorescence=inflorescence,
        petals=int(rng.choice((3, 4, 5, 6, 8, 12, 18))) if inflorescence == "single" else int(rng.choice((4, 5, 6))),
        rows=int(rng.choice((1, 2, 3))) if inflorescence == "single" else 1,
        petal_width=float(rng.choice((0.45, 0.8, 1.15))),
        petal_tip=PETAL_TIPS[int(rng.integers(len(PETAL_TIPS)))],
        base=_colour(hue, saturation, float(rng.choice((0.65, 0.95)))),
        tip=_colour(tip_hue, saturation if two_toned else saturation * 0.6, 0.95),
        centre=_colour(float(rng.choice(CENTRE_HUES)), 0.85, float(rng.choice((0.25, 0.9)))),
        centre_radius=float(rng.choice((0.12, 0.24, 0.38))),
        spotted=bool(rng.random() < 0.25),
        texture="plain",
        leaf=_colour(float(rng.choice((0.22, 0.30, 0.40))), 0.6, float(rng.choice((0.35, 0.6)))),
    )


def _traits(species: Species) -> np.ndarray:
    """Return a species as a point, float64 `[22]`. The distance of two points approximates how different they look."""
    kinds = sorted(set(INFLORESCENCES))
    return np.array(
        [
            *(2.0 * (species.inflorescence == kind) for kind in kinds),
            *(1.0 * (species.petal_tip == tip) for tip in PETAL_TIPS),
            *(2.5 * channel for channel in species.base),
            *(2.5 * channel for channel in species.tip),
            *(1.5 * channel for channel in species.centre),
            1.2 * np.log2(species.petals),
            0.7 * species.rows,
            1.5 * species.petal_width,
            4.0 * species.centre_radius,
            1.2 * species.spotted,
        ]
    )


def draw_species(seed: int, count: int) -> list[Species]:
    """Draw `count` species for `seed`, in label order.

    Candidates are drawn at random. Each next species is the candidate farthest from those already
    taken (farthest-point rule: Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"), so that no
    two look alike by chance. Then `LOOKALIKE_PAIRS` pairs of neighbours are made to look alike on purpose.
    """
    rng = np.random.default_rng([seed, count])
    candidates = [_random_species(rng) for _ in range(20 * count)]
    points = np.stack([_traits(candidate) for candidate in candidates])
    taken = [0]
    distance = np.linalg.norm(points - points[0], axis=1)
    while len(taken) < count:
        taken.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[taken[-1]], axis=1))
    species = [candidates[index] for index in rng.permutation(taken)]
    return _with_lookalikes(species, rng)


def _with_lookalikes(species: list[Species], rng: np.random.Generator) -> list[Species]:
    """Replace some neighbours by twins that differ only in their petals' fine lines: rings or straight."""
    result = list(species)
    for first in 2 * rng.permutation(len(species) // 2)[:LOOKALIKE_PAIRS]:
        broad = replace(species[first], inflorescence="single", petals=5, rows=1, petal_width=1.15, spotted=False)
        result[first] = replace(broad, texture="ringed")
        result[first + 1] = replace(broad, texture="veined")
    return result
