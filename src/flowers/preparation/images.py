"""Convert photographs to upright, square RGB JPEGs of one size, and compute their perceptual hashes."""

from __future__ import annotations

import io
import warnings

import imagehash
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

JPEG_QUALITY = 95

HASH_BITS = 256
"""Bits of a perceptual hash. With 64, unrelated photographs are as close as slight crops of the same one."""

_HASH_SIDE = 16
_MIN_SIDE_FOR_HASH = 128  # in pixels: the hash is computed at 64


def decode(data: bytes, min_side: int) -> Image.Image:
    """Decode an image file's first frame, upright by its EXIF orientation, as 8-bit RGB over white.

    Args:
        data: the file's bytes.
        min_side: the side in pixels that is needed. libjpeg decodes a larger JPEG at a half, a quarter or an eighth of
            its size, as long as both sides stay at least this long. That is faster, and averages the pixels.

    Raises:
        ValueError: the image cannot be read; the message explains why.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for example about invalid EXIF; unreadable images raise
            image = Image.open(io.BytesIO(data))
            image.draft(None, (min_side, min_side))
            return to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise ValueError(f"not an image that Pillow knows ({len(data)} bytes)") from None
    except Exception as error:  # decoders raise many types for damaged files
        raise ValueError(f"{type(error).__name__}: {error}") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB, with transparency over white and 16-bit grey scaled down.

    Raises:
        ValueError: the image has floating-point pixels, whose range is unknown.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        pixels = np.asarray(image).clip(0, 65535) >> 8
        image = Image.fromarray(pixels.astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def square_jpeg(image: Image.Image, size: int) -> bytes:
    """Crop the largest centred square of an RGB image, resize it to `size` pixels, and encode it without metadata."""
    square = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    square.info = {}  # Pillow would copy a comment
    file = io.BytesIO()
    square.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def perceptual_hash(data: bytes) -> str:
    """Compute the perceptual hash (pHash) of an image file, `HASH_BITS` bits as hex digits.

    Its Hamming distance is small for the same image at another size or quality, in grey, brighter, or slightly cropped,
    but not for a mirrored or rotated one.

    Raises:
        ValueError: the image cannot be read; the message explains why.
    """
    return str(imagehash.phash(decode(data, _MIN_SIDE_FOR_HASH), hash_size=_HASH_SIDE))
