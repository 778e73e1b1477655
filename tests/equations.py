"""The paper's equations, computed from Keras sub-models without this package.

Segments are cut with `keras.Model(tensor, tensor)`, so that the tests compare two
independent implementations.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf


def cut(model, start, end):
    """The sub-model between the outputs of two layers (None: input, or output)."""
    source = model.input if start is None else model.get_layer(start).output
    target = model.output if end is None else model.get_layer(end).output
    return keras.Model(source, target)


def hybrid_forward(teacher, student, points, adapters, images, sizes=None, prefixes=None):
    """Predictions of the paths (student-first, teacher-first, plain).

    Args:
        points: Pairs (teacher layer, student layer), the joint last.
        adapters: Those of the student-first path, then of the teacher-first path, as
            (kernel (1, 1, C, D), bias (D,)) or (kernel, bias, prefix tokens (P, D)).
        sizes: Pairs (teacher's, student's) of (height, width) at `points`, where they
            differ.
        prefixes: Pairs (teacher's, student's) at `points` of the number of prefix
            tokens, or None for a map.
    """
    adapters = iter(adapters)

    def adapt(x, i, owner, following):
        kernel, bias, *prefix = next(adapters)
        before, after = (prefixes[i][o] if prefixes else None for o in (owner, following))
        if before is not None:
            height, width = sizes[i][owner]
            starts = range(before, before + height * width, width)
            x = tf.stack([x[:, n : n + width] for n in starts], axis=1)
        x = tf.cast(x, kernel.dtype)
        x = tf.einsum("bhwc,cd->bhwd", x, kernel[0, 0]) + bias
        if sizes is not None:
            x = tf.cast(tf.image.resize(x, sizes[i][following]), x.dtype)
        if after is not None:
            x = tf.concat(tf.unstack(x, axis=1), axis=1)
        if after:
            x = tf.concat(
                [tf.stack([tf.convert_to_tensor(prefix[0])] * x.shape[0]), x], axis=1
            )
        return x

    def path(owners):
        x, before = images, (None, None)
        for i, (owner, point) in enumerate(zip(owners, points)):
            network = (teacher, student)[owner]
            segment = cut(network, before[owner], point[owner])
            x = segment(x, training=owner == 1)
            following = owners[i + 1] if i + 1 < len(owners) else 1
            if following != owner:
                x = adapt(x, i, owner, following)
            before = point
        return cut(student, points[-1][1], None)(x, training=True)

    alternate = [i % 2 for i in range(len(points))]
    return (
        path([1 - owner for owner in alternate]),
        path(alternate),
        student(images, training=True),
    )


def losses_and_gradients(forward, loss, labels, variables, alpha=None):
    """(alpha, [L1, L2, L3], gradients) by Eq. 1 and 2.

    The gradient is combined from the gradients of the three losses, as in Eq. 2.
    """
    with tf.GradientTape(persistent=True) as tape:
        l1, l2, l3 = [loss(labels, y) for y in forward()]
    if alpha is None:
        alpha = 2 * float(l3) / (float(l1) + float(l2))
    parts = [
        tape.gradient(loss, variables, unconnected_gradients="zero")
        for loss in (l1, l2, l3)
    ]
    gradients = [alpha * (g1 + g2) + g3 for g1, g2, g3 in zip(*parts)]
    return alpha, [float(l1), float(l2), float(l3)], gradients


def assert_step_follows(model, loss, images, labels, alpha, losses, gradients):
    """Checks a step of SGD with a learning rate of 1, which subtracts the gradient."""
    before = [v.numpy() for v in model.trainable_variables]
    model.compile(keras.optimizers.SGD(1.0), loss=loss, run_eagerly=True)
    logs = model.train_on_batch(images, labels, return_dict=True)
    assert logs["balance"] == pytest.approx(alpha, rel=1e-5)
    names = "student_first_loss", "teacher_first_loss", "student_loss"
    assert [logs[name] for name in names] == pytest.approx(losses, rel=1e-5)
    for variable, old, gradient in zip(model.trainable_variables, before, gradients):
        np.testing.assert_allclose(
            old - variable.numpy(), gradient, atol=1e-6, err_msg=variable.path
        )
