"""Whatever a user hands in, the answer is work or one clear line, never a traceback.

Over two thousand generated inputs: config files, own tables, pictures, saved results, command
lines. They run in this process; what a command would compute is cut off where the work begins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import random
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from scalecli.core.config import configs_dir, load_yaml, make
from scalecli.core.errors import ScalecliError, UsageError
from scalecli.core.results import RowLog, load_results
from scalecli.localize.config import LocalizeConfig
from scalecli.localize.evaluation.config import EvalConfig
from scalecli.localize.images import ImageError, decode
from scalecli.localize.rows import LocalizeRow
from scalecli.spiral.owndata import load_table
from scalecli.spiral.rows import SweepRow
from scalecli.spiral.sweep import SweepConfig

CONFIGS = (SweepConfig, LocalizeConfig, EvalConfig)
shared_folder = settings(suppress_health_check=list(HealthCheck))


def clear(error: BaseException) -> None:
    """One line, not too long to read."""
    text = str(error)
    assert text
    assert "\n" not in text
    assert len(text) < 1000


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """One of some good files with bytes changed, lost, doubled or put in."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 6))):
        at, length = draw(st.integers(0, max(0, len(data) - 1))), draw(st.integers(1, 40))
        kind = draw(st.sampled_from(["cut", "set", "drop", "double", "insert"]))
        if kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + length]
        elif kind == "double":
            data[at:at] = data[at : at + length]
        else:
            new = draw(st.binary(min_size=1, max_size=8))
            data[at : at + (len(new) if kind == "set" else 0)] = new
    return bytes(data)


# Config files

SHIPPED = [path.read_bytes() for path in sorted(configs_dir().rglob("*.yaml"))]
ODD = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.text(max_size=20)
    | st.sampled_from([10**400, "9" * 5000, "1e400", "~", "=", "<<", "x" * 5000, -0.0])
)
NESTED = st.recursive(
    ODD, lambda x: st.lists(x, max_size=3) | st.dictionaries(ODD, x, max_size=3), max_leaves=8
)


@pytest.mark.parametrize("cls", CONFIGS, ids=lambda c: c.__name__)
@shared_folder
@given(data=st.data())
def test_any_value_of_any_key_is_a_config_or_one_line(
    tmp_path: Path, cls: type[Any], data: st.DataObject
) -> None:
    keys = [field.name for field in dataclasses.fields(cls)]
    mapping = data.draw(st.dictionaries(st.sampled_from(keys), NESTED, min_size=1, max_size=3))
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(mapping), encoding="utf-8")
    _make(cls, file)


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(content=damaged(SHIPPED) | st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@example(b"sizes: 0x" + b"f" * 5000)
@example(b"? [a, b]\n: 1")
@example(b"!!python/object/apply:os.system [true]")
@example(b"[" * 5000)
@example(b"{a: " * 5000)
@example(b"a: &a [*a]")
@example(b"sizes: &a {b: *a}")
@example(b"--- 1\n--- 2")
@example(b"!!map [1]")
@example(b"!!set {1, 2}")
@example(b"<<: 3")
def test_any_config_file_is_a_config_or_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    for cls in CONFIGS:
        _make(cls, file)


def _make(cls: type[Any], file: Path) -> None:
    try:
        make(cls, file=file)
    except UsageError as error:
        clear(error)


LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 12)
)


@pytest.mark.parametrize("text", [LAUGHS, MERGES, "sizes: [" + "1," * 100_001 + "]"])
def test_files_that_would_grow_without_end_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UsageError, match="more than 100,000 values"):
        load_yaml(tmp_path / "c.yaml")


def test_anchors_that_do_not_grow_are_welcome(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("sizes: &s [1, 2]\nother: *s\nthird: {<<: {a: 1}, b: 2}\n")
    assert load_yaml(tmp_path / "c.yaml") == {
        "sizes": [1, 2], "other": [1, 2], "third": {"a": 1, "b": 2},
    }  # fmt: skip


# Own tables

CELL = st.sampled_from(
    ["1", "0", "-2.5", "", "nan", "inf", "a", "yes", "1e999", '"', ",", "é", "2020-01-01", "true"]
)
GOOD_CSV = b"a,b,y\n" + b"".join(b"%d,%s,%s\n" % (i, b"pq"[i % 2 :][:1], b"uv"[i % 2 :][:1])
                                 for i in range(40))  # fmt: skip


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(
    content=damaged([GOOD_CSV])
    | st.binary(max_size=200)
    | st.lists(st.lists(CELL, min_size=1, max_size=4).map(",".join), max_size=60).map(
        lambda lines: "\n".join(["a,b,y", *lines]).encode()
    ),
    suffix=st.sampled_from([".csv", ".csv", ".parquet", ".txt"]),
    missing=st.sampled_from(["error", "drop"]),
)
@example(b"a,y\n" + b"1,u\n2,v\n" * 30 + b"\xff\xfe,u\n", ".csv", "error")
@example(b"y,y\n" + b"1,u\n2,v\n" * 30, ".csv", "error")
@example(b"a,b,y\n" + b"1,,u\n2,,v\n" * 30, ".csv", "drop")
@example(b"a,y\n" + b"9" * 500 + b",u\n2,v\n" * 30, ".csv", "error")
def test_any_table_is_a_table_or_one_line(
    tmp_path: Path, content: bytes, suffix: str, missing: str
) -> None:
    file = tmp_path / f"table{suffix}"
    file.write_bytes(content)
    load_table.cache_clear()
    try:
        table = load_table(file, "y", missing=missing)
    except UsageError as error:
        clear(error)
    else:
        assert len(table.x_ND) == len(table.y_N)


# Pictures


@functools.cache
def _pictures() -> list[bytes]:
    chance = random.Random(0)
    noise = Image.frombytes("RGB", (24, 17), chance.randbytes(24 * 17 * 3))
    modes = [
        (noise, "JPEG"), (noise, "PNG"), (noise, "WEBP"), (noise, "BMP"), (noise, "PPM"),
        (noise.convert("P"), "GIF"), (noise.convert("P"), "PNG"), (noise, "TIFF"),
        (noise.convert("CMYK"), "JPEG"), (noise.convert("RGBA"), "PNG"),
        (noise.convert("I;16"), "PNG"), (noise.convert("1"), "TIFF"), (noise.convert("F"), "TIFF"),
    ]  # fmt: skip
    files = []
    for image, form in modes:
        buffer = io.BytesIO()
        image.save(buffer, form)
        files.append(buffer.getvalue())
    return files


@pytest.mark.filterwarnings("ignore")  # Pillow speaks of odd metadata in files that it can read
@settings(max_examples=500, suppress_health_check=list(HealthCheck))
@given(content=st.deferred(lambda: damaged(_pictures())) | st.binary(max_size=64))
def test_any_bytes_are_a_picture_or_one_line(content: bytes) -> None:
    try:
        photo = decode(content)
    except ImageError as error:
        clear(error)
    else:
        assert photo.image.mode == "RGB"


# Saved results and row logs

ROW = dataclasses.asdict(SweepRow("knn1", 100, 0, "all", 0.5, 0.1, 0.9, 0.1, 0.1, 50))
GOOD_RESULTS = json.dumps(
    {"schema": 1, "kind": "spiral sweep", "command": ["scalecli"], "config": {"seed": 1},
     "versions": {}, "started": "", "finished": "", "summary": {}, "rows": [ROW, ROW]}
).encode()  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_results_file_is_results_or_one_line(tmp_path: Path, data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        content = data.draw(damaged([GOOD_RESULTS]))
    else:
        whole = json.loads(GOOD_RESULTS)
        inside = data.draw(st.sampled_from([whole, whole["rows"][0]]))
        inside[data.draw(st.sampled_from(sorted(inside)))] = data.draw(JSON)
        content = json.dumps(whole).encode()
    (tmp_path / "results.json").write_bytes(content)
    for row in (SweepRow, LocalizeRow):
        try:
            load_results(tmp_path, row, kind="spiral sweep")
        except UsageError as error:
            clear(error)


@pytest.mark.parametrize(
    "summary",
    [{"theory": {"knn1": 3}}, {"panels": {"a": 1}}, {"test_rows": "x"}, {"panels": [{"model": 1}]}],
)
def test_results_that_cannot_be_drawn_are_one_line(tmp_path: Path, summary: Any) -> None:
    whole = json.loads(GOOD_RESULTS) | {"summary": summary}
    (tmp_path / "results.json").write_text(json.dumps(whole))
    code, stderr = run(["spiral", "plot", str(tmp_path)])
    assert code == 2
    assert stderr.startswith(f"error: {tmp_path}: its results cannot be drawn")


GOOD_LOG = b'{"key": "a", "rows": [{"x": 1}]}\n{"key": "b", "rows": []}\n'


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(content=damaged([GOOD_LOG]) | st.binary(max_size=80))
@example(b'{"key": ["a"], "rows": []}\n')
@example(b"[" * 100_000 + b"\n")
@example(b'{"key": "a", "rows": ' + b"9" * 5000 + b"}\n")
@example(b'{"key": "a", "rows": "ab"}\n')
def test_any_row_log_is_read_as_far_as_it_is_whole(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    log = RowLog(path)
    log.append("new", [{"x": 2}])
    log.close()
    again = RowLog(path)
    again.close()
    assert again.done == log.done
    assert again.done["new"] == [{"x": 2}]


# Command lines


class Began(ScalecliError):
    """The command line was good: work would begin here."""


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    import scalecli.cli.run
    import scalecli.localize.load

    def began(*_words: object, **_flags: object) -> Any:
        raise Began("began")

    monkeypatch.chdir(tmp_path)  # an empty folder, where no word names a file
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(scalecli.cli.run, "open_run", began)
    monkeypatch.setattr(scalecli.localize.load, "load_encoder", began)
    yield
    signal.signal(signal.SIGTERM, before)


def run(words: list[str]) -> tuple[int, str]:
    """Exit code and stderr of a command line, in this process."""
    from scalecli.cli.main import main

    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["scalecli", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as end:
                code = end.code
    finally:
        sys.argv = before
    assert isinstance(code, int)
    return code, err.getvalue()


FLAGS = [
    "--sizes", "--models", "--seeds", "--seed", "--eval", "--test-points", "--label-noise",
    "--target-error", "--engine", "--address", "--workers", "--data", "--target", "--missing",
    "--config", "--set", "--out", "--resume", "--overwrite", "--json", "--quiet", "--no-such",
    "-q", "-c", "-o", "--n", "--images", "--prompt", "--method", "--size", "--alpha", "--cmap",
    "--threshold", "--batch", "--threads", "--dataset", "--protocol", "--limit", "--model",
    "--device", "--offline", "--version", "--", "-", "--help",
]  # fmt: skip
VALUES = st.text(max_size=12) | st.sampled_from(
    ["1", "0", "-1", "1e9", "nan", "a,b", "", "knn1", "gird", "ray", "auto", "/no", ".", "~nobody",
     "seed=1", "problem.manifold.turns=[1", "x=" + "[" * 3000, "shapes", "voc:/", "9" * 400,
     "\udcff", "\x00", "spiral/demo", "photo.jpg", "otsu", "HxW", "0x0", "gem"]
)  # fmt: skip
FIRST = st.sampled_from(
    [["spiral"], ["spiral", "sweep"], ["spiral", "show"], ["spiral", "fit"], ["spiral", "why-k1"],
     ["spiral", "plot"], ["localize"], ["localize", "plot"], ["localize-eval"],
     ["localize-eval", "plot"], ["no-such"], []]
)  # fmt: skip


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(
    first=FIRST,
    rest=st.lists(
        st.tuples(st.sampled_from(FLAGS), VALUES).map(list) | VALUES.map(lambda v: [v]),
        max_size=5,
    ),
)
def test_any_command_line_runs_or_is_one_line(
    no_work: None, first: list[str], rest: list[list[str]]
) -> None:
    code, stderr = run([*first, *(word for part in rest for word in part)])
    assert code in (0, 1, 2)
    assert "Traceback" not in stderr
    assert "--debug for the traceback" not in stderr, stderr
    if code:
        assert stderr.count("\n") == 1, stderr
        assert stderr.startswith("error: ")


# The network


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_words: object, **_flags: object) -> Any:
        raise AssertionError("the network was used")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.parametrize(
    ("words", "works"),
    [
        (["spiral", "fit", "knn1", "--n", "50", "--test-points", "200"], True),
        (["localize", "photo.png", "a dog", "--model", "embedded", "--offline"], True),
        (["localize", "photo.png", "a dog", "--model", "ViT-B-32/openai", "--offline"], False),
        (["localize", "photo.png", "a dog", "--model", "hf-hub:a/b", "--offline"], False),
    ],
)
def test_nothing_needs_the_network_offline(
    no_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], works: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "photo.png").write_bytes(_pictures()[1])
    code, stderr = run([*words, "--out", str(tmp_path / "out")])
    assert code == 0 if works else code in (1, 2), stderr
    assert "the network was used" not in stderr
    assert "--debug for the traceback" not in stderr
