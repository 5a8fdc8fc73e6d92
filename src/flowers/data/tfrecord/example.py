"""Serialise, parse and check `tf.train.Example`, the content of a record.

The message classes live in a descriptor pool of their own. TensorFlow and the `tfrecord` package
register the same names in protobuf's global pool and therefore cannot be imported together. This
module works beside either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from flowers.errors import BadRecord

_Field = descriptor_pb2.FieldDescriptorProto


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a data set: `image` is a JPEG file's bytes, `label` is None if the split has no labels."""

    id: str
    image: bytes
    label: int | None


def encode_example(record: Record) -> bytes:
    """Serialise a record as `tf.train.Example` in Kaggle's layout, without a `class` if it has no label."""
    example = _Example()
    example.features.feature["image"].bytes_list.value.append(record.image)
    example.features.feature["id"].bytes_list.value.append(record.id.encode())
    if record.label is not None:
        example.features.feature["class"].int64_list.value.append(record.label)
    return bytes(example.SerializeToString(deterministic=True))


def decode_example(payload: bytes, *, labelled: bool, where: str) -> Record:
    """Parse a serialised `tf.train.Example`.

    Args:
        payload: the record's bytes.
        labelled: whether a `class` is expected; if not, it is ignored.
        where: the record's location, for messages.

    Raises:
        BadRecord: the payload is not an Example, or a feature is missing, has another type, or does not hold exactly
            one value.
    """
    example = _Example()
    try:
        example.ParseFromString(payload)
    except DecodeError as error:
        raise BadRecord(
            f"{where}: expected a tf.train.Example, found {len(payload)} bytes that cannot be parsed ({error}). "
            "Write the shard again from its source."
        ) from None
    features = example.features.feature
    image = _only_value(features, "image", "bytes_list", where)
    identity = _only_value(features, "id", "bytes_list", where)
    label = _only_value(features, "class", "int64_list", where) if labelled else None
    return Record(id=_text(identity, where), image=image, label=label)


def check_label(record: Record, class_count: int, where: str) -> None:
    """Raise `BadRecord` if the record's label is not one of `class_count` classes. A missing label is allowed."""
    if record.label is not None and not 0 <= record.label < class_count:
        raise BadRecord(
            f"{where}: expected a class from 0 to {class_count - 1}, found {record.label} "
            f"(id {record.id}). If the data set has more classes, list them in its classes.txt, one per line."
        )


def decode_image(record: Record, where: str, out: NDArray[np.uint8]) -> None:
    """Decode the record's image into `out`, uint8 `[S, S, 3]`, RGB.

    Raises:
        BadRecord: the image is not a JPEG, is damaged, or has another size.
    """
    try:
        # Check the header first: a damaged one may declare gigabytes of pixels.
        height, width, _, _ = simplejpeg.decode_jpeg_header(record.image)
        if (height, width) == out.shape[:2]:
            simplejpeg.decode_jpeg(record.image, colorspace="RGB", buffer=out)
            return
    except ValueError as error:
        raise BadRecord(
            f"{where}: expected a JPEG as the image of id {record.id}, found "
            f"{len(record.image)} bytes that cannot be decoded ({str(error).strip()}). Write the shard again."
        ) from None
    raise BadRecord(
        f"{where}: expected an image of {out.shape[1]}x{out.shape[0]} pixels as "
        f"the directory says, found {width}x{height} (id {record.id}). Write the shard again."
    )


def _only_value(features: Any, name: str, kind: str, where: str) -> Any:
    if name not in features:
        raise BadRecord(
            f"{where}: expected a feature '{name}', found only {sorted(features)}. "
            "Write the shard again with image, class and id (see docs/data.md)."
        )
    values = getattr(features[name], kind).value
    if len(values) != 1:
        raise BadRecord(
            f"{where}: expected one value in the {kind} of feature '{name}', found {len(values)} "
            f"(its kind is {features[name].WhichOneof('kind')}). Write the shard again."
        )
    return values[0]


def _text(identity: bytes, where: str) -> str:
    try:
        return identity.decode()
    except UnicodeDecodeError:
        raise BadRecord(
            f"{where}: expected an id in UTF-8, found the bytes {identity!r}. Write the shard again."
        ) from None


def _example_class() -> Any:
    """Build the class of `tf.train.Example` as tensorflow/core/example/{feature,example}.proto define it."""
    file = descriptor_pb2.FileDescriptorProto(name="flowers/example.proto", package="flowers", syntax="proto3")

    def message(name: str) -> Any:
        return file.message_type.add(name=name)

    def field(
        owner: Any, name: str, number: int, kind: Any, type_name: str | None = None, repeated: bool = False
    ) -> Any:
        label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
        return owner.field.add(name=name, number=number, type=kind, type_name=type_name, label=label)

    field(message("BytesList"), "value", 1, _Field.TYPE_BYTES, repeated=True)
    field(message("FloatList"), "value", 1, _Field.TYPE_FLOAT, repeated=True)
    field(message("Int64List"), "value", 1, _Field.TYPE_INT64, repeated=True)
    feature = message("Feature")
    feature.oneof_decl.add(name="kind")
    for number, kind in enumerate(("bytes", "float", "int64"), start=1):
        type_name = f".flowers.{kind.capitalize()}List"
        field(feature, f"{kind}_list", number, _Field.TYPE_MESSAGE, type_name).oneof_index = 0
    features = message("Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    field(entry, "key", 1, _Field.TYPE_STRING)
    field(entry, "value", 2, _Field.TYPE_MESSAGE, ".flowers.Feature")
    field(features, "feature", 1, _Field.TYPE_MESSAGE, ".flowers.Features.FeatureEntry", repeated=True)
    field(message("Example"), "features", 1, _Field.TYPE_MESSAGE, ".flowers.Features")

    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("flowers.Example"))


_Example = _example_class()
