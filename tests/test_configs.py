"""Every shipped config file loads, and the defaults file equals the code."""

import pytest

from scalecli.core.config import configs_dir, from_mapping, load_yaml, make, to_dict
from scalecli.spiral.sweep import SweepConfig

SPIRAL = sorted((configs_dir() / "spiral").glob("*.yaml"))


@pytest.mark.parametrize("path", SPIRAL, ids=lambda p: p.stem)
def test_spiral_configs_load(path) -> None:  # type: ignore[no-untyped-def]
    assert make(SweepConfig, file=path).sizes


def test_default_file_holds_every_default() -> None:
    data = load_yaml(configs_dir() / "spiral" / "default.yaml")
    assert data == to_dict(SweepConfig())
    assert from_mapping(SweepConfig, data) == SweepConfig()
