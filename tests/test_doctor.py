from collections.abc import Callable
from pathlib import Path

import pytest

from scalecli.doctor import (
    Finding,
    configs_finding,
    diagnose,
    diagnosis_table,
    hub_finding,
    hub_folder,
    is_placeholder,
    neuron_devices,
    neuron_finding,
    python_finding,
    torch_finding,
    torchvision_finding,
    xla_finding,
)


def versions(**known: str) -> Callable[[str], str | None]:
    return lambda name: known.get(name.replace("-", "_"))


def nothing(name: str) -> None:
    del name


@pytest.mark.parametrize("version", ["1.0", "1.0.0", "1.0.0.63423", "1.0rc1", "1.0+local"])
def test_public_versions_are_placeholders(version: str) -> None:
    assert is_placeholder(version)


@pytest.mark.parametrize("version", ["2.9.0.2.12", "1.13.1.1.18", "2.1.0", "1.01", "11.0", "0.5"])
def test_real_versions_are_not(version: str) -> None:
    assert not is_placeholder(version)


def test_devices_in_numeric_order_and_nothing_else(tmp_path: Path) -> None:
    for name in ("neuron10", "neuron2", "neuron0", "neuron", "neuron_x", "neuron1p", "xneuron3"):
        (tmp_path / name).touch()
    assert neuron_devices(tmp_path) == ["neuron0", "neuron2", "neuron10"]
    assert neuron_devices(tmp_path / "absent") == []


def test_placeholder_does_not_count_as_neuron(tmp_path: Path) -> None:
    (tmp_path / "neuron0").touch()
    found = neuron_finding(versions(torch_neuronx="1.0.0"), dev=tmp_path, which=nothing)
    assert found.status == "missing"
    assert "placeholder" in found.detail
    assert "no torch-neuronx" in found.detail
    assert found.fix == "pip uninstall torch-neuronx"


def test_neuron_states(tmp_path: Path) -> None:
    real = versions(torch_neuronx="2.9.0.2.12")
    assert neuron_finding(versions(), dev=tmp_path, which=nothing).status == "note"
    assert neuron_finding(real, dev=tmp_path, which=nothing).status == "note"
    (tmp_path / "neuron0").touch()
    bare = neuron_finding(versions(), dev=tmp_path, which=nothing)
    assert bare.status == "missing"
    assert "AWS" in bare.fix
    ready = neuron_finding(real, dev=tmp_path, which=lambda name: f"/bin/{name}")
    assert ready == Finding(
        "AWS Neuron", "ok", "neuron0; neuron-ls found; torch-neuronx 2.9.0.2.12"
    )


def test_python_range() -> None:
    assert python_finding((3, 9, 18)).status == "missing"
    assert python_finding((3, 10, 0)).status == "ok"
    assert python_finding((3, 13, 9)).status == "ok"
    assert python_finding((3, 14, 0)).status == "note"


def test_torch_that_cannot_be_imported() -> None:
    found = torch_finding(ImportError("no\nsuch symbol"))
    assert found.status == "missing"
    assert "no such symbol" in found.detail
    assert found.fix


def test_torchvision_pairs() -> None:
    module = object()
    assert torchvision_finding(versions(torch="2.9.0", torchvision="0.24.0"), module).status == "ok"
    wrong = torchvision_finding(versions(torch="2.10.1+cpu", torchvision="0.24.0"), module)
    assert wrong.fix == "pip install 'torchvision==0.25.*'"
    broken = torchvision_finding(
        versions(torch="2.9.0", torchvision="0.24.0"), RuntimeError("operator nms does not exist")
    )
    assert broken.status == "missing"
    assert "nms" in broken.detail


def test_xla_must_match_torch() -> None:
    assert xla_finding(versions(torch="2.9.0+cpu", torch_xla="2.9.0")).status == "ok"
    wrong = xla_finding(versions(torch="2.11.0", torch_xla="2.9.0"))
    assert (wrong.status, wrong.fix) == ("missing", "pip install 'scalecli[xla]'")
    assert "2.11.0" in wrong.detail
    absent = xla_finding(versions(torch="2.11.0"), machine="Linux-x86_64")
    assert absent.fix == "pip install 'scalecli[xla]'"
    assert xla_finding(versions(torch="2.9.0"), machine="Darwin-arm64").status == "note"


def test_hub_folder_follows_the_variables() -> None:
    assert hub_folder({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}) == Path("/a")
    assert hub_folder({"HF_HOME": "/b"}) == Path("/b/hub")
    assert hub_folder({}) == Path("~/.cache/huggingface/hub").expanduser()


def test_hub_counts_blobs_once(tmp_path: Path) -> None:
    assert hub_finding(tmp_path / "absent").status == "note"
    model = tmp_path / "models--a--b"
    (model / "blobs").mkdir(parents=True)
    (model / "snapshots").mkdir()
    (model / "blobs" / "x").write_bytes(b"0" * 3_000_000)
    (model / "snapshots" / "weights").symlink_to(model / "blobs" / "x")
    found = hub_finding(tmp_path)
    assert found.status == "ok"
    assert found.detail.startswith("1 model, 3 MB")


def test_configs(tmp_path: Path) -> None:
    assert configs_finding(tmp_path).status == "missing"
    (tmp_path / "a.yaml").touch()
    assert configs_finding(tmp_path).status == "ok"


def test_table_fits_80_columns() -> None:
    long = Finding("AWS Neuron", "missing", "word " * 60 + "x" * 200, "pip install " + "y" * 90)
    text = diagnosis_table([long, Finding("torch", "ok", "2.9.0")]).plain()
    assert max(map(len, text.splitlines())) <= 80
    assert "→ pip install" in text


def test_this_machine() -> None:
    findings = diagnose()
    subjects = [f.subject for f in findings]
    assert len(set(subjects)) == len(subjects)
    assert max(map(len, subjects)) <= 14
    by = {f.subject: f for f in findings}
    assert by["torch"].status == "ok"
    assert "cpu" in by["torch"].detail
    assert all(f.fix for f in findings if f.status == "missing")
    assert max(map(len, diagnosis_table(findings).plain().splitlines())) <= 80
