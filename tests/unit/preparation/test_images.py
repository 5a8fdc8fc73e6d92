"""Photographs of any format are decoded, cropped to a square, encoded and hashed in the same way."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from PIL.ImageOps import mirror

from flowers.preparation.images import HASH_BITS, decode, perceptual_hash, square_jpeg
from flowers.preparation.split import hash_words
from tests.helpers.photographs import draw_photograph, encode_image

EXIF_ORIENTATION = 0x0112
STORED_AS = {  # how a camera stores an image, by its EXIF orientation (EXIF 2.3, table 6)
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}


def decode_pixels(data: bytes, least: int = 10_000) -> np.ndarray:
    image = decode(data, least)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("orientation", STORED_AS)
def test_images_are_turned_upright(orientation: int) -> None:
    upright = draw_photograph(1)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    stored = encode_image(STORED_AS[orientation](upright), "PNG", exif=exif)
    np.testing.assert_array_equal(decode_pixels(stored), np.asarray(upright))


def make_image(mode: str, value: int | tuple[int, ...]) -> Image.Image:
    return Image.new(mode, (8, 6), value)


def make_transparent_palette() -> Image.Image:
    image = make_image("P", 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.info["transparency"] = 1
    return image


MODES = {
    "opaque": (encode_image(make_image("RGBA", (10, 20, 30, 255)), "PNG"), (10, 20, 30)),
    "transparent": (encode_image(make_image("RGBA", (10, 20, 30, 0)), "PNG"), (255, 255, 255)),
    "half transparent": (encode_image(make_image("RGBA", (0, 100, 200, 128)), "PNG"), (127, 177, 227)),
    "grey, half transparent": (encode_image(make_image("LA", (100, 128)), "PNG"), (177, 177, 177)),
    "palette with transparency": (encode_image(make_transparent_palette(), "PNG", transparency=1), (255, 255, 255)),
    "RGB with transparency": (
        encode_image(make_image("RGB", (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
        (255, 255, 255),
    ),
    "grey": (encode_image(make_image("L", 77), "PNG"), (77, 77, 77)),
    "grey of 16 bits": (encode_image(make_image("I;16", 0x80FF), "PNG"), (128, 128, 128)),
    "grey of 16 bits, TIFF": (encode_image(make_image("I;16", 0xFFFF), "TIFF"), (255, 255, 255)),
    "black and white": (encode_image(make_image("1", 1), "PNG"), (255, 255, 255)),
    "CMYK": (encode_image(make_image("CMYK", (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
    "CMYK, JPEG": (encode_image(make_image("CMYK", (255, 0, 0, 0)), "JPEG", quality=100), (0, 255, 255)),
    "the first frame": (
        encode_image(
            make_image("RGB", (9, 9, 9)), "GIF", save_all=True, append_images=[make_image("RGB", (200, 0, 0))]
        ),
        (9, 9, 9),
    ),
}


@pytest.mark.parametrize("case", MODES)
def test_every_mode_becomes_rgb(case: str) -> None:
    data, colour = MODES[case]
    np.testing.assert_allclose(decode_pixels(data), np.broadcast_to(colour, (6, 8, 3)), atol=2)


@pytest.mark.parametrize("turned", [False, True])
def test_the_square_is_cut_from_the_centre(turned: bool) -> None:
    image = Image.new("RGB", (400, 100), "red")
    image.paste("lime", (150, 0, 250, 100))
    image = image.transpose(Image.Transpose.ROTATE_90) if turned else image
    square = decode_pixels(square_jpeg(image, 50))
    assert square.shape == (50, 50, 3)
    np.testing.assert_allclose(square, np.broadcast_to((0, 255, 0), (50, 50, 3)), atol=12)


def test_the_crop_is_the_same_at_every_size() -> None:
    image = draw_photograph(3, 300, 200).convert("L").convert("RGB")  # grey: colours are stored at half the resolution
    small, large = (Image.open(io.BytesIO(square_jpeg(image, size))) for size in (64, 512))
    reduced = np.asarray(large.resize((64, 64), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(reduced - np.asarray(small)).mean() < 1
    assert np.abs(reduced - np.roll(np.asarray(small), 1, axis=1)).mean() > 3  # a shift by one pixel is detected


def test_fine_lines_are_averaged() -> None:
    lines = np.zeros((512, 512, 3), np.uint8)
    lines[:, ::2] = 255
    square = decode_pixels(square_jpeg(Image.fromarray(lines), 96))[4:-4, 4:-4]
    assert np.abs(square - 127.5).max() < 4


def test_decoding_a_jpeg_at_a_reduced_size_changes_little() -> None:
    rng = np.random.default_rng(0)
    grain = rng.integers(-20, 20, (1500, 2000, 1))
    image = Image.fromarray(
        (np.asarray(draw_photograph(4, 2000, 1500)).astype(int) + grain).clip(0, 255).astype(np.uint8)
    )
    data = encode_image(image, quality=92)
    assert decode(data, 2 * 128).size == (500, 375)
    assert decode(data, 10_000).size == (2000, 1500)
    reduced, full = (decode_pixels(square_jpeg(decode(data, least), 128)) for least in (2 * 128, 10_000))
    assert np.sqrt(((reduced - full) ** 2).mean()) < 1.5


def test_metadata_is_removed() -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encode_image(draw_photograph(5), exif=exif, icc_profile=profile, comment=b"secret", dpi=(300, 300))
    written = square_jpeg(decode(data, 64), 64)
    assert set(Image.open(io.BytesIO(data)).info) >= {"exif", "icc_profile", "comment", "dpi"}
    assert set(Image.open(io.BytesIO(written)).info) == {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def large_png() -> bytes:
    """Return a PNG that declares 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


JPEG, PNG = encode_image(draw_photograph(6, 600, 400)), encode_image(draw_photograph(6), "PNG")
UNREADABLE = {
    "nothing": (b"", "(0 bytes)"),
    "text": (b"<html>Not found</html>", "(22 bytes)"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "truncated"),
    "a JPEG without its end": (JPEG[:-200], "truncated"),
    "half a PNG": (PNG[: len(PNG) // 2], "truncated"),
    "a damaged PNG": (PNG[:60] + bytes(200) + PNG[260:], "broken"),
    "a bomb": (large_png(), "DecompressionBombError"),
    "floating point": (encode_image(make_image("F", 1), "TIFF"), "floating-point pixels"),
}


@pytest.mark.parametrize("case", UNREADABLE)
@pytest.mark.parametrize("least", [16, 10_000])
def test_an_unreadable_image_is_refused_with_the_reason(case: str, least: int) -> None:
    data, message = UNREADABLE[case]
    with pytest.raises(ValueError) as raised:
        decode(data, least)
    assert message in str(raised.value)
    with pytest.raises(ValueError):
        perceptual_hash(data)


def hash_distance(one: bytes, other: bytes) -> int:
    words = hash_words([perceptual_hash(one), perceptual_hash(other)])
    assert words.shape == (2, HASH_BITS // 64)
    return int(np.bitwise_count(words[0] ^ words[1]).sum())


def test_the_hash_is_near_for_the_same_image_and_far_for_others() -> None:
    image = draw_photograph(7, 640, 480)
    original = encode_image(image, quality=95)
    turned = Image.Exif()
    turned[EXIF_ORIENTATION] = 6
    alike = {
        "quality": encode_image(image, quality=30),
        "size": encode_image(image.resize((200, 150), Image.Resampling.LANCZOS)),
        "grey": encode_image(image.convert("L")),
        "format": encode_image(image, "PNG"),
        "orientation": encode_image(image.transpose(Image.Transpose.ROTATE_90), exif=turned),
        "crop": encode_image(ImageOps.crop(image, 4)),
    }
    assert {kind: near for kind, data in alike.items() if (near := hash_distance(original, data)) > 60} == {}
    assert hash_distance(original, encode_image(mirror(image))) > 80  # a limit: see docs/prepare.md
    assert (
        min(
            hash_distance(original, encode_image(draw_photograph(number, 640, 480)))
            for number in range(20)
            if number != 7
        )
        > 80
    )
