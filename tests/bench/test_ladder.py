"""Ladders as files: the shipped ones load, damaged ones say what is wrong."""

from pathlib import Path

import pytest

from scalecli.bench import ladder
from scalecli.bench.config import BenchConfig, RungConfig, check, with_preset
from scalecli.core.config import configs_dir, from_mapping
from scalecli.core.errors import UsageError

SHIPPED = sorted((configs_dir() / "bench").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_ladders_load(path: Path) -> None:
    loaded = ladder.load(path)
    assert loaded.rungs
    for rung in loaded.rungs:
        check(BenchConfig(), rung.config)


def test_the_articles_figures() -> None:
    rungs = {r.name: r for r in ladder.load("article").rungs}
    assert {n: (r.article_samples_per_s, r.article_speedup) for n, r in rungs.items()} == {
        "baseline": (251.98, 1.0),
        "loader process": (253.56, 1.01),
        "batch size": (265.68, 1.05),
        "PyTorch AMP": (196.64, 0.78),
        "XLA bf16": (394.51, 1.57),
        "batches per execution": (1027.39, 4.08),
        "openxla": (None, None),
        "Neuron auto-cast bf16": (None, None),
        "Neuron fp8": (940.36, 3.73),
        "compiler options": (1093.25, 4.34),
    }
    for rung in rungs.values():
        if rung.article_samples_per_s and rung.article_speedup:
            assert rung.article_samples_per_s / 251.98 == pytest.approx(
                rung.article_speedup, abs=0.006
            )


def test_rungs_keep_what_they_stand_on() -> None:
    top = ladder.load("article").rungs[-1].config
    assert top == RungConfig(
        batch_size=8,
        num_workers=1,
        bf16=True,
        batches_per_execution=10,
        model_type="transformer",
        optlevel="3",
        target="inf2",
    )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"rung": []}, "unknown key 'rung'; did you mean 'rungs'"),
        ({"rungs": []}, "at least one rung"),
        ({"rungs": [{"name": "a", "batch": 3}]}, "unknown key 'batch'"),
        ({"rungs": [{"name": "a", "config": {"batch_siz": 3}}]}, "did you mean 'batch_size'"),
        ({"rungs": [{"name": "a", "config": {"batch_size": 0}}]}, "too small"),
        ({"rungs": [{"name": "a", "config": {"num_workers": -1}}]}, "too small"),
        ({"rungs": [{"name": "a", "config": {"auto_cast": "matmul"}}]}, "did you mean 'matmult'"),
        ({"rungs": [{"name": "a"}, {"name": "a"}]}, "'a' is taken"),
        ({"rungs": [{"name": "a", "after": "b"}]}, "no earlier rung"),
        ({"rungs": ["a"]}, "expected keys and values"),
        ({"rungs": [{}]}, "missing: --name"),
    ],
)
def test_damaged_ladders_are_refused(data: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ladder.parse(data, name="x", where="x.yaml")


@pytest.mark.parametrize(
    "values",
    [{"amp": True, "bf16": True}, {"auto_cast_type": "bf16"}, {"env": {"A=B": "1"}}],
)
def test_contradicting_settings_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="--"):
        from_mapping(RungConfig, values)


def test_an_execution_must_fit_the_steps() -> None:
    with pytest.raises(UsageError, match="above --steps"):
        check(BenchConfig(steps=5), RungConfig(batches_per_execution=10))
    check(BenchConfig(steps=5, seconds=1), RungConfig(batches_per_execution=10))
    with pytest.raises(UsageError, match="--max-warmup"):
        check(BenchConfig(max_warmup=20), RungConfig(batches_per_execution=10))


def test_presets_yield_to_given_values() -> None:
    assert with_preset(BenchConfig(), "cpu").preset == "tiny"
    article = with_preset(BenchConfig(image_size=32), "neuron")
    assert (article.model, article.image_size) == ("vit_base_patch16_224", 32)
    # The depth of the tiny preset is its own model's.
    assert with_preset(BenchConfig(), "cpu").depth == 1
    assert with_preset(BenchConfig(model="resnet18"), "cpu").depth is None


def test_xla_on_the_host_is_a_small_machine_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PJRT_DEVICE", raising=False)
    assert with_preset(BenchConfig(), "xla").preset == "tiny"
    monkeypatch.setenv("PJRT_DEVICE", "TPU")
    assert with_preset(BenchConfig(), "xla").preset == "article"


def test_two_files_that_extend_each_other_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, other in (("one", "two"), ("two", "one")):
        text = f"extends: {other}.yaml\nrungs: [{{name: baseline, config: {{}}}}]\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(UsageError, match="`extends` leads back to"):
        ladder.load(tmp_path / "one.yaml")
