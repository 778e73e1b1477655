import pickle

import numpy as np
import pytest

from keras_hybrid.data.classification import npz

IMAGES, LABELS = np.zeros((4, 8, 8, 3), "uint8"), np.array([0, 1, 2, 1])


def write(path, **changes):
    arrays = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS}
    arrays = {**arrays, **changes}
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def test_load_reads_four_arrays(tmp_path):
    column = LABELS.reshape(-1, 1).astype("uint8")  # as Keras loads CIFAR-10
    path = write(tmp_path / "data.npz", y_train=column)
    (x_train, y_train), (x_test, y_test) = npz.load(path)
    assert x_train.shape == x_test.shape == (4, 8, 8, 3)
    assert y_train.tolist() == y_test.tolist() == [0, 1, 2, 1]
    assert y_train.dtype == np.int32


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 1)])
def test_grey_images_are_converted_to_rgb(shape, tmp_path):
    grey = np.arange(256, dtype="uint8").reshape(shape)
    path = write(tmp_path / "grey.npz", x_train=grey, x_test=grey)
    (x_train, _), _ = npz.load(path)
    assert x_train.shape == (4, 8, 8, 3)
    for channel in range(3):
        np.testing.assert_array_equal(x_train[..., channel], grey.reshape(4, 8, 8))


WRONG = {
    "missing array": ({"y_test": None}, "It lacks y_test"),
    "float images": ({"x_test": IMAGES / 255}, "`x_test` .* must be uint8 .*float64"),
    "four channels": ({"x_train": np.zeros((4, 8, 8, 4), "uint8")}, "`x_train` .* shape"),
    "different lengths": ({"y_train": LABELS[:3]}, "equally long.*4 images and 3 labels"),
    "no images": ({"x_test": IMAGES[:0], "y_test": LABELS[:0]}, "not empty"),
    "one-hot labels": ({"y_train": np.eye(4)}, "`y_train` .* must be integers"),
    "negative label": ({"y_test": LABELS - 1}, r"y_test\[0\]=-1"),
    "label not in training": (
        {"y_test": np.array([0, 1, 3, 1])},
        r"0\.\.2.*y_test\[2\]=3",
    ),
    "missing label": ({"y_train": LABELS * 2}, r"y_train\[2\]=4"),
    "one class": ({"y_train": LABELS * 0}, "at least two classes. Received: 4 labels"),
    "different image sizes": (
        {"x_test": np.zeros((4, 9, 9, 3), "uint8")},
        "of the same size",
    ),
    "array of objects": ({"y_test": np.array([{}] * 4, dtype=object)}, "plain arrays"),
}


@pytest.mark.parametrize("case", WRONG)
def test_invalid_arrays_are_rejected(case, tmp_path):
    changes, message = WRONG[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        npz.load(write(tmp_path / "wrong.npz", **changes))


class Exploit:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_pickles_are_not_executed(tmp_path):
    (tmp_path / "data.npz").write_bytes(pickle.dumps(Exploit()))
    with pytest.raises(ValueError, match="must be an .npz file"):
        npz.load(tmp_path / "data.npz")


def test_a_truncated_file_is_rejected(tmp_path):
    path = write(tmp_path / "data.npz")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="must be an .npz file"):
        npz.load(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("start", [30, 200, -900])
def test_a_damaged_file_is_rejected(save, start, tmp_path):
    path = tmp_path / "data.npz"
    noise = np.random.default_rng(0).integers(0, 256, IMAGES.shape, "uint8")
    save(path, x_train=noise, y_train=LABELS, x_test=noise, y_test=LABELS)
    data = bytearray(path.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    with pytest.raises(ValueError, match="must be an .npz file"):
        npz.load(path)
