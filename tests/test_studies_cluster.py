"""A study on a Dask cluster, one of whose workers is killed."""

import os
import signal
import threading
import time

import pytest
from small_text_models import SIZES, parallel_corpus

import builders
import functional_models as fm
from functional_models.studies import compare as comparison

SPEC = builders.TransformerSpec(kind="encoder_decoder", **{**SIZES, "hidden_dim": 6})


def run(folder, **options):
    return fm.compare(
        {"pre": SPEC, "post": SPEC.replace(norm_placement="post")},
        parallel_corpus(),
        recipe=fm.Recipe(steps=30, report_every=3, batch_size=5),
        folder=folder,
        tokenizer="byte",
        progress=False,
        **options,
    )


@pytest.mark.slow  # processes that import TensorFlow
def test_a_killed_worker_of_a_cluster_changes_nothing(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="needs `pip install distributed`")
    monkeypatch.setattr(comparison, "_write", lambda *given: None)  # figures are slow
    here = run(tmp_path / "here")
    killed = []

    def kill_one(client):
        """Kill a worker whose run has begun and has no outcome yet."""
        while not killed:
            time.sleep(0.05)
            for place in (tmp_path / "cluster" / "runs").glob("*"):
                if (place / "checkpoint.npz").exists() and not (place / "run.json").exists():
                    pid = int((place / ".run.lock").read_text().split('"pid": ')[1].split(",")[0])
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    break

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        killer = threading.Thread(target=kill_one, args=(client,), daemon=True)
        killer.start()
        apart = run(tmp_path / "cluster", executor=client.get_executor())
        killer.join(1)
    assert len(killed) == 1
    for setting in ("pre", "post"):
        assert apart.values(setting, "loss") == here.values(setting, "loss")
