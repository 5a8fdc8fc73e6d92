"""A photograph's bytes to what the shards hold: upright, RGB, square, of one size, a JPEG. And its perceptual hash."""

from __future__ import annotations

import io
import warnings

import imagehash
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

JPEG_QUALITY = 95

HASH_BITS = 256
"""Of a perceptual hash. With 64 bits, unrelated photographs come as near to each other as slight crops of one."""

_HASH_SIDE = 16
_LEAST_FOR_HASH = 128  # pixels a side: the hash is taken at 64


def decode(data: bytes, least: int) -> Image.Image:
    """Decode the image in a file's bytes: its first frame, upright as its EXIF orientation says, RGB, over white.

    Args:
        data: the file's bytes.
        least: pixels a side that are enough. Of a larger JPEG, libjpeg then decodes a half, a quarter or an eighth that
            still has as many, which costs less and averages what it leaves out.

    Raises:
        ValueError: why it cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd EXIF and the like: what cannot be read raises
            image = Image.open(io.BytesIO(data))
            image.draft(None, (least, least))
            return to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise ValueError(f"not an image that Pillow knows ({len(data)} bytes)") from None
    except Exception as error:  # the decoders of damaged files raise whatever they stumble over
        raise ValueError(f"{type(error).__name__}: {error}") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB: transparency over white, 16-bit grey scaled down.

    Raises:
        ValueError: floating-point pixels, of which only their maker knows what is white.
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
    """Crop the largest centred square of an RGB image, reduce it to `size` pixels, and encode it without metadata."""
    square = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    square.info = {}  # Pillow would carry a comment over
    file = io.BytesIO()
    square.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def perceptual_hash(data: bytes) -> str:
    """Compute the perceptual hash (pHash) of an image file, `HASH_BITS` bits as hex digits.

    Near in Hamming distance for the same image at another size or quality, in grey, brighter, or slightly cropped;
    not for a mirrored or turned one.

    Raises:
        ValueError: why the image cannot be read.
    """
    return str(imagehash.phash(decode(data, _LEAST_FOR_HASH), hash_size=_HASH_SIDE))
