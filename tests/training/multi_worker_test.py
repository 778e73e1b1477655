"""Training on two machines, here two processes, ends at the weights of one device."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import tensorflow as tf

import multi_worker_process
from runs import PATH, tf_configs


def test_two_machines_equal_one_device(tmp_path):
    script = pathlib.Path(multi_worker_process.__file__)
    paths = os.pathsep.join([str(script.parent), *PATH.values()])
    processes = [
        subprocess.Popen(
            [sys.executable, script, tmp_path / f"{index}.npz"],
            env={**os.environ, "TF_CONFIG": tf_config, "PYTHONPATH": paths},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, tf_config in enumerate(tf_configs())
    ]
    one = multi_worker_process.results(tf.distribute.get_strategy())
    assert one.pop("read") == [*range(40)]
    shares = []
    for index, process in enumerate(processes):
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
        with np.load(tmp_path / f"{index}.npz") as two:
            shares.append(two["read"].tolist())
            assert set(two) - {"read"} == set(one)
            for name, value in one.items():
                np.testing.assert_allclose(two[name], value, atol=1e-5, err_msg=name)
    # Each machine reads its own half of the files.
    assert [len(share) for share in shares] == [20, 20]
    assert sorted(sum(shares, [])) == [*range(40)]
