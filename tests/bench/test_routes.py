"""Detection, environments and refusals of every route, without their hardware."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from scalecli.bench.config import RungConfig
from scalecli.bench.peaks import instance_type, peak_tflops
from scalecli.bench.routes import BY_DEVICE, ROUTES, choose
from scalecli.bench.routes.base import Probe, release
from scalecli.bench.routes.neuron import (
    ARCHITECTURE,
    find_device,
    is_placeholder,
    parse_neuron_ls,
)
from scalecli.core.errors import UsageError

# Fields as in AWS's "Neuron LS User Guide", `neuron-ls -j`: an Inferentia2 of two cores, and a
# Trainium2 whose eight physical cores make four logical ones.
LISTED = json.dumps(
    [
        {
            "neuron_device": 0,
            "bdf": "0000:00:1f.0",
            "cpu_affinity": "0-3",
            "numa_node": "-1",
            "connected_to": None,
            "nc_count": 2,
            "memory_size": 34359738368,
            "neuroncore_ids": [0, 1],
            "neuron_processes": [
                {"pid": 4711, "command": "python train.py", "neuron_runtime_version": "2.0.0"}
            ],
        }
    ]
)
GROUPED = json.dumps(
    [
        {
            "neuron_device": index,
            "bdf": "cc:00.0",
            "cpu_affinity": "48-95,144-191",
            "numa_node": "1",
            "connected_to": [12, 3, 4, 1],
            "nc_count": 4,
            "logical_neuroncore_config": 2,
            "memory_size": 103079215104,
            "neuroncore_ids": [4 * index + i for i in range(4)],
            "neuron_processes": [],
        }
        for index in range(2)
    ]
)


def probe(root: Path, **versions: str) -> Probe:
    def output(command: Sequence[str]) -> str | None:
        return LISTED if command == ["neuron-ls", "-j"] else None

    return Probe(root, {k.replace("_", "-"): v for k, v in versions.items()}.get, output)


@pytest.fixture
def inf2(tmp_path: Path) -> Path:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "neuron0").touch()
    (tmp_path / ARCHITECTURE).mkdir(parents=True)
    (tmp_path / ARCHITECTURE / "device_name").write_text("Inferentia2\n")
    (tmp_path / ARCHITECTURE / "instance_type").write_text("Inf2\n")
    return tmp_path


def test_neuron_ls_output() -> None:
    (device,) = parse_neuron_ls(LISTED)
    assert (device.index, device.cores, device.memory_bytes) == (0, 2, 32 * 2**30)
    assert device.busy_pids == (4711,)
    assert device.logical_core_config == 1
    assert [d.logical_core_config for d in parse_neuron_ls(GROUPED)] == [2, 2]
    assert parse_neuron_ls("[]") == ()


def test_neuron_ls_is_found_off_the_path_and_names_grouped_cores(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "neuron0").touch()
    (tmp_path / ARCHITECTURE).mkdir(parents=True)
    (tmp_path / ARCHITECTURE / "device_name").write_text("Trainium2\n")

    def output(command: Sequence[str]) -> str | None:
        return GROUPED if command[0] == "/opt/aws/neuron/bin/neuron-ls" else None

    name, _ = find_device(Probe(tmp_path, lambda _: None, output))
    assert name == "Trainium2, 8 cores (LNC 2)"
    assert peak_tflops(name, "bfloat16 weights") == pytest.approx(2 * 667 / 8)
    assert peak_tflops("Trainium2, 8 cores", "bfloat16 weights") == pytest.approx(667 / 8)


def test_the_instance_type_is_read_from_the_firmware(tmp_path: Path) -> None:
    assert instance_type(tmp_path) is None
    place = tmp_path / "sys/devices/virtual/dmi/id"
    place.mkdir(parents=True)
    (place / "product_name").write_text("inf2.xlarge\n")
    assert instance_type(tmp_path) == "inf2.xlarge"
    (place / "product_name").write_text("Standard PC (i440FX + PIIX, 1996)\n")
    assert instance_type(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{}", "3", "[3]", '[{"neuron_device": 0}]'])
def test_other_output_is_no_device(text: str) -> None:
    with pytest.raises(ValueError, match=r"neuron-ls|Expecting"):
        parse_neuron_ls(text)


def test_placeholder_versions() -> None:
    assert is_placeholder("1.0")
    assert is_placeholder("1.0.0")
    assert not is_placeholder("1.13.1.1.8.0")
    assert not is_placeholder("2.9.0.2.11.1234+abc")
    assert release("2.9.0+cu128") == (2, 9, 0)


def test_placeholder_packages_do_not_count(inf2: Path) -> None:
    with pytest.raises(UsageError, match="empty placeholder") as caught:
        choose("neuron", probe(inf2, torch_neuronx="1.0"))
    assert "\n" not in str(caught.value)
    assert choose("auto", probe(inf2, torch_neuronx="1.0"))[1] != "neuron"


def test_no_neuron_device_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no /dev/neuron0; torch-neuronx is not installed"):
        choose("neuron", probe(tmp_path))


@pytest.mark.parametrize(
    ("version", "name"), [("2.9.0.2.11.0", "neuron"), ("2.13.0", "native-neuron")]
)
def test_the_package_decides_the_neuron_route(inf2: Path, version: str, name: str) -> None:
    route, device, detail = choose("auto", probe(inf2, torch_neuronx=version))
    assert (route.name, device) == (name, "neuron")
    assert detail.startswith("Inferentia2, Inf2, 2 cores")


def test_a_mismatched_pair_names_the_fix(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"pip install torch==2\.9\.0"):
        choose("xla", probe(tmp_path, torch="2.10.0", torch_xla="2.9.0"))
    with pytest.raises(UsageError, match="not installed"):
        choose("xla", probe(tmp_path, torch="2.9.0"))
    assert choose("xla", probe(tmp_path, torch="2.9.1+cpu", torch_xla="2.9.0"))[0].name == "xla"


def test_cpu_is_always_there(tmp_path: Path) -> None:
    assert choose("cpu", probe(tmp_path))[0].name == "plain"
    assert {name for names in BY_DEVICE.values() for name in names} == set(ROUTES)


@pytest.mark.parametrize(
    ("route", "rung", "expected"),
    [
        ("plain", RungConfig(bf16=True, env={"A": "1"}), {"A": "1"}),
        ("xla", RungConfig(bf16=True), {"PJRT_DEVICE": "CPU", "XLA_USE_BF16": "1"}),
        ("xla", RungConfig(env={"PJRT_DEVICE": "TPU"}), {"PJRT_DEVICE": "TPU"}),
        (
            "neuron",
            RungConfig(bf16=True, nproc=2, model_type="transformer", optlevel="3", target="inf2"),
            {
                "PJRT_DEVICE": "NEURON",
                "XLA_USE_BF16": "1",
                "NEURON_RT_NUM_CORES": "2",
                "NEURON_CC_FLAGS": "--target=inf2 --model-type=transformer --optlevel=3",
            },
        ),
        (
            "neuron",
            RungConfig(amp=True, auto_cast="none", env={"NEURON_RT_NUM_CORES": "4"}),
            {
                "PJRT_DEVICE": "NEURON",
                "NEURON_RT_NUM_CORES": "4",
                "NEURON_CC_FLAGS": "--auto-cast=none",
            },
        ),
        ("native-neuron", RungConfig(target="trn2"), {"NEURON_CC_FLAGS": "--target=trn2"}),
    ],
)
def test_environments(
    route: str, rung: RungConfig, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PJRT_DEVICE", "NEURON_CC_FLAGS", "NEURON_RT_VISIBLE_CORES"):
        monkeypatch.delenv(name, raising=False)
    assert ROUTES[route].environment(rung, "neuron") == expected


def test_flags_of_the_surroundings_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURON_CC_FLAGS", "--verbose=1")
    found = ROUTES["neuron"].environment(RungConfig(optlevel="2"), "neuron")
    assert found["NEURON_CC_FLAGS"] == "--verbose=1 --optlevel=2"


@pytest.mark.parametrize(
    ("route", "rung", "says"),
    [
        ("plain", RungConfig(batches_per_execution=10), "not applicable"),
        ("plain", RungConfig(optlevel="3"), "neuronx-cc"),
        ("plain", RungConfig(compile="openxla"), "no such backend"),
        ("xla", RungConfig(auto_cast="all"), "neuronx-cc"),
        ("xla", RungConfig(nproc=2), "size 1"),
        ("neuron", RungConfig(compile="openxla"), "not supported by Neuron"),
        ("native-neuron", RungConfig(batches_per_execution=10), "no equivalent"),
    ],
)
def test_refusals(route: str, rung: RungConfig, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PJRT_DEVICE", raising=False)
    reason = ROUTES[route].unsupported(rung, "cpu")
    assert reason is not None
    assert says in reason
    assert ROUTES[route].unsupported(RungConfig(), "cpu") is None


def test_asking_a_compiler_to_cast_nothing_is_no_setting() -> None:
    rung = RungConfig(amp=True, auto_cast="none")
    assert ROUTES["plain"].unsupported(rung, "cpu") is None
    assert ROUTES["xla"].unsupported(rung, "xla") is None


def test_what_remains_without_foreign_settings() -> None:
    rung = RungConfig(bf16=True, batches_per_execution=10, optlevel="3", num_workers=2)
    assert ROUTES["plain"].without_foreign(rung) == RungConfig(bf16=True, num_workers=2)
    assert ROUTES["xla"].without_foreign(rung) == replace(rung, optlevel=None)
    assert ROUTES["neuron"].without_foreign(rung) == rung


def test_inductor_needs_a_compiler_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    reason = ROUTES["plain"].unsupported(RungConfig(compile="inductor"), "cpu")
    assert reason is not None
    assert "C++ compiler" in reason
    assert ROUTES["plain"].unsupported(RungConfig(compile="inductor"), "cuda") is None


def test_compile_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PJRT_DEVICE", raising=False)
    assert ROUTES["xla"].cache(tmp_path, "xla") == {}  # its CPU client cannot read it back
    monkeypatch.setenv("PJRT_DEVICE", "TPU")
    found = {name: list(route.cache(tmp_path, "")) for name, route in ROUTES.items()}
    assert found == {
        "native-neuron": ["NEURON_COMPILE_CACHE_URL"],
        "neuron": ["NEURON_COMPILE_CACHE_URL"],
        "xla": ["XLA_PERSISTENT_CACHE_PATH"],
        "plain": ["TORCHINDUCTOR_CACHE_DIR"],
    }


def test_the_launcher_side_imports_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, scalecli.bench.launch, scalecli.bench.ladder, scalecli.bench.routes as r;"
        "r.choose('cpu'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
