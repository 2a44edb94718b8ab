"""The commands on a real local Ray, joined by its address: the rows of one local process."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scalecli.core.engine import EngineConfig, run_tasks
from tests.cli.test_durability import SWEEP, call, finished_cells, rows, start, until

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray with two cores, started for this file."""
    assert list(run_tasks(abs, [-1], engine=EngineConfig(engine="ray", workers=2))) == [(-1, 1)]
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def same_on_ray(tmp_path: Path, cluster: str, words: list[str], code: int = 0) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    alone = call(*words, "--workers", "1", "--out", here)
    assert alone.returncode == code, alone.stderr
    spread = call(*words, "--engine", "ray", "--address", cluster, "--out", there)
    assert spread.returncode == code, spread.stderr
    assert rows(there) == rows(here)
    assert rows(here)


def test_sweep(tmp_path: Path, cluster: str) -> None:
    same_on_ray(tmp_path, cluster, SWEEP)


def test_localize_a_folder(tmp_path: Path, cluster: str, small_clip: str) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        noise = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((80, 60)).save(pictures / f"{number}.png")
    (pictures / "3.png").write_text("no picture")
    words = ["localize", str(pictures), "--prompt", "a dog", "--model", small_clip, "--offline"]
    words += ["--method", "maskclip"]
    same_on_ray(tmp_path, cluster, words, code=1)


def test_localize_eval(tmp_path: Path, cluster: str, small_clip: str) -> None:
    words = [
        "localize-eval", "--dataset", "shapes", "--model", small_clip,
        "--method", "maskclip,patch-text",
        "--limit", "3", "--offline",
    ]  # fmt: skip
    same_on_ray(tmp_path, cluster, words)


@pytest.mark.slow
def test_a_machine_that_leaves_the_cluster_costs_nothing_but_time(tmp_path: Path) -> None:
    """Two nodes (of one machine) with a core each; one goes while the sweep runs."""
    from ray.cluster_utils import Cluster

    sweep = shlex.split(
        "spiral sweep --sizes 50k --models knn1,forest --seeds 6 --test-points 50000"
    )
    here, there = tmp_path / "here", tmp_path / "there"
    assert call(*sweep, "--workers", "1", "--out", here).returncode == 0
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = nodes.add_node(num_cpus=1)
        run = start(*sweep, "--engine", "ray", "--address", nodes.address, "--out", there)
        until(lambda: finished_cells(there) >= 2)
        nodes.remove_node(second, allow_graceful=False)
        assert run.poll() is None  # it was still at work
        _, stderr = run.communicate(timeout=240)
        assert run.returncode == 0, stderr
    finally:
        nodes.shutdown()
    assert rows(there) == rows(here)
