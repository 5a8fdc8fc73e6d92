"""Examples survive encoding and decoding, and a bad one is reported with the feature that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import descriptor_pool
from hypothesis import given
from hypothesis import strategies as st

from flowers.data.tfrecord import example
from flowers.data.tfrecord.example import Record, decode_example, encode_example
from flowers.errors import BadRecord

GOLDEN = Path(__file__).parents[3] / "golden"


@given(identity=st.text(max_size=12), image=st.binary(max_size=100), label=st.none() | st.integers(-(2**63), 2**63 - 1))
def test_an_encoded_record_decodes_to_itself(identity: str, image: bytes, label: int | None) -> None:
    record = Record(identity, image, label)
    assert decode_example(encode_example(record), labelled=label is not None, where="here") == record


@pytest.mark.parametrize("missing", ["image", "class", "id"])
def test_a_missing_feature_is_reported(missing: str) -> None:
    message = example._Example.FromString(encode_example(Record("a", b"jpeg", 1)))
    del message.features.feature[missing]
    with pytest.raises(BadRecord, match=rf"shard: record 3: expected .*'{missing}', found"):
        decode_example(message.SerializeToString(), labelled=True, where="shard: record 3")


def test_a_feature_of_another_type_is_reported() -> None:
    message = example._Example.FromString(encode_example(Record("a", b"jpeg", 1)))
    message.features.feature["class"].float_list.value.append(1.0)
    with pytest.raises(BadRecord, match=r"'class'.*float_list"):
        decode_example(message.SerializeToString(), labelled=True, where="here")


def test_bytes_that_are_no_example_are_refused() -> None:
    with pytest.raises(BadRecord, match=r"tf\.train\.Example.* 3 bytes"):
        decode_example(b"\xff\xff\xff", labelled=True, where="here")


def test_our_messages_stay_out_of_protobufs_default_pool() -> None:
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("flowers.Example")
