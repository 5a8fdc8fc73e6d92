"""Read batches with tf.data: parallel reads, a shuffle buffer of undecoded records, a parallel map, all at AUTOTUNE."""

from __future__ import annotations

import functools
import os
from typing import Any

# Otherwise TensorFlow fills standard error. oneDNN is not used in this work: no result changed without it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import numpy as np
import tensorflow as tf

from benchmarks.loader.work import (
    BRIGHTNESS,
    CONTRAST,
    CROP_RATIO,
    CROP_SCALE,
    JITTER,
    SHUFFLED,
    Batches,
    Task,
    Work,
)

FEATURES = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "class": tf.io.FixedLenFeature([], tf.int64),
    "id": tf.io.FixedLenFeature([], tf.string),
}
# Gives the same pixels as simplejpeg and OpenCV, and takes no more time than TensorFlow's default.
DCT = "INTEGER_ACCURATE"


def batches(work: Work) -> Batches:
    """Yield endless batches of ids and images, uint8 `[B, S, S, 3]`."""
    tf.config.set_visible_devices([], "GPU")  # TensorFlow would reserve all of its memory
    tf.random.set_seed(work.seed)
    options = tf.data.Options()
    options.deterministic = False
    dataset = (
        tf.data.TFRecordDataset([str(path) for path in work.shards()], num_parallel_reads=tf.data.AUTOTUNE)
        .shuffle(SHUFFLED)
        .repeat()
        .map(functools.partial(_load, task=work.task, size=work.image_size), tf.data.AUTOTUNE, deterministic=False)
        .batch(work.batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(options)
    )
    for image, _, identity in dataset:
        yield identity.numpy().tolist(), np.asarray(image)  # not image.numpy(), which copies


def _load(serialized: Any, task: Task, size: int) -> tuple[Any, Any, Any]:
    example = tf.io.parse_single_example(serialized, FEATURES)
    if task == "full":
        image = _augment(example["image"], size)
    else:
        image = tf.io.decode_jpeg(example["image"], channels=3, dct_method=DCT)
    if task == "flip":
        image = tf.image.random_flip_left_right(image)
    return tf.ensure_shape(image, [size, size, 3]), example["class"], example["id"]


def _augment(jpeg: Any, size: int) -> Any:
    """Apply the training transform in the cheapest order: only the crop is decoded, and it is flipped as uint8."""
    begin, extent, _ = tf.image.sample_distorted_bounding_box(
        image_size=[size, size, 3],
        bounding_boxes=[[[0.0, 0.0, 1.0, 1.0]]],
        min_object_covered=0.0,
        area_range=CROP_SCALE,
        aspect_ratio_range=CROP_RATIO,
    )
    window = tf.concat([begin[:2], extent[:2]], axis=0)
    crop = tf.image.random_flip_left_right(tf.io.decode_and_crop_jpeg(jpeg, window, channels=3, dct_method=DCT))
    image = tf.image.resize(crop, [size, size])  # bilinear, float32
    return tf.cond(tf.random.uniform([]) < JITTER, lambda: _jitter(image), lambda: tf.cast(image, tf.uint8))


def _jitter(image: Any) -> Any:
    """Change brightness and contrast as Albumentations does: by one multiplication and one addition."""
    contrast = 1 + tf.random.uniform([], -CONTRAST, CONTRAST)
    brightness = 255 * tf.random.uniform([], -BRIGHTNESS, BRIGHTNESS)
    return tf.saturate_cast(image * contrast + brightness, tf.uint8)
