"""Read photographs as the records that `prepare.py folder` would write of them."""

from __future__ import annotations

import posixpath
from pathlib import Path

from upath import UPath

from flowers.data.storage.remote import open_path
from flowers.data.tfrecord.example import Record, encode_example
from flowers.data.tfrecord.reader import ShardReader
from flowers.errors import BadRecord, InputError
from flowers.preparation.images import decode, square_jpeg
from flowers.preparation.listing import list_files
from flowers.preparation.source import IMAGE_SUFFIXES


class PhotographReader(ShardReader):
    """Reads image files as payloads of records, without labels. A record's id is its path relative to the source.

    Args:
        source: a directory, whose image files and those below it are read; or one image file. A path or a URL.
        size: the side of the images, in pixels.

    Raises:
        InputError: there is no such directory or file, it has no images, or a folder cannot be listed.
    """

    def __init__(self, source: str, size: int) -> None:
        super().__init__([])
        self.directory, self.paths = _list_images(source)
        self.size = size

    @property
    def is_remote(self) -> bool:
        """Return whether the photographs are behind a URL."""
        return not isinstance(self.directory, Path)

    def __len__(self) -> int:
        return len(self.paths)

    def where(self, number: int) -> str:
        """Return the path of a photograph."""
        return str(self.directory / self.paths[number])

    def state(self) -> str:
        """Return a string that changes when the list of photographs changes."""
        return repr((str(self.directory), self.paths, self.size))

    def read(self, number: int, *, check: bool = True) -> bytes:
        """Return the payload of photograph `number`, 0 to `len(self) - 1`. There is no CRC to check.

        Raises:
            BadRecord: the photograph cannot be read.
        """
        path = self.paths[number]
        try:
            image = decode((self.directory / path).read_bytes(), self.size)
        except (OSError, ValueError) as error:
            raise BadRecord(
                f"{self.where(number)}: expected an image, found this: {error}. Remove the file, or set "
                "data.on_bad_record=skip."
            ) from None
        return encode_example(Record(path, square_jpeg(image, self.size), None))


def _list_images(source: str) -> tuple[UPath, list[str]]:
    """Return a directory, and the paths of its image files relative to it, in order."""
    place = UPath(open_path(source, "photographs"))
    try:
        if place.is_file():
            return place.parent, [place.name]
        if not place.is_dir():
            raise InputError(
                f"photographs={source}: no such directory or file. Set it to a directory of photographs, or to one."
            )
        paths = sorted(path for path in list_files(place).sizes if _is_image(path))
    except OSError as error:
        raise InputError(
            f"photographs={error.filename or source}: expected to read it, found this: {error.strerror or error}. "
            "Grant yourself access (chmod -R u+rX), or remove it."
        ) from None
    if not paths:
        raise InputError(
            f"photographs={source}: expected image files ({', '.join(sorted(IMAGE_SUFFIXES))}), found none. Convert "
            "other formats first."
        )
    return place, paths


def _is_image(path: str) -> bool:
    hidden = any(part.startswith(".") for part in Path(path).parts)
    return not hidden and posixpath.splitext(path)[1].lower() in IMAGE_SUFFIXES
