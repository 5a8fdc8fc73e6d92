"""Write the golden shard, and record what TensorFlow reads from it. Run once with tensorflow-cpu 2.21.

python tests/golden/write.py
"""

import hashlib
import json
from pathlib import Path

import tensorflow as tf

SIZE = 48
HERE = Path(__file__).parent


def draw_pattern(number: int) -> tf.Tensor:
    """Return a smooth pattern with an edge in it, a different one for each number."""
    rows, columns = tf.meshgrid(tf.range(SIZE), tf.range(SIZE), indexing="ij")
    channels = [rows * (number + 1), columns * 3 + 40 * number, (rows - columns) ** 2]
    return tf.cast(tf.stack(channels, axis=-1) % 256, tf.uint8)


def example(number: int) -> bytes:
    features = {
        "image": tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[tf.io.encode_jpeg(draw_pattern(number)).numpy()])
        ),
        "class": tf.train.Feature(int64_list=tf.train.Int64List(value=[number * 20])),
        "id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[f"{number:09x}".encode()])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def main() -> None:
    path = HERE / f"00-{SIZE}x{SIZE}-6.tfrec"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(6):
            writer.write(example(number))
    expected = []
    for payload in tf.data.TFRecordDataset(str(path)):
        parsed = tf.train.Example.FromString(payload.numpy()).features.feature
        image = parsed["image"].bytes_list.value[0]
        pixels = tf.io.decode_jpeg(image, channels=3, dct_method="INTEGER_ACCURATE").numpy()
        expected.append(
            {
                "id": parsed["id"].bytes_list.value[0].decode(),
                "label": parsed["class"].int64_list.value[0],
                "payload_sha256": hashlib.sha256(payload.numpy()).hexdigest(),
                "image_sha256": hashlib.sha256(image).hexdigest(),
                "pixels_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
            }
        )
    (HERE / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")


if __name__ == "__main__":
    main()
