"""Colab and Kaggle made ready: the pinned packages installed beside the runtime's own, one GPU chosen.

Every notebook's set-up cell calls `prepare` before anything else is imported, so this file needs nothing but the
standard library and, in Colab and on Kaggle, `packaging`, which both have. On other machines nothing is installed.
"""

import importlib
import os
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KEPT = ("torch", "numpy", "pillow")  # built for the runtime's GPU, or loaded before its first cell runs
UNWANTED = "torchao"  # unused here, and PEFT refuses the one in Colab: "Found an incompatible version of torchao"


def requirements() -> dict[str, tuple[Any, str]]:
    """Package → (versions that do, pinned version) of what the series imports: pyproject.toml, requirements.txt."""
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    needed = [Requirement(line) for line in project["dependencies"]]
    return {package.name: (package.specifier, pins[package.name]) for package in needed}


def installed(package: str) -> str | None:
    """The version on disk, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def pip(*arguments: str) -> None:
    """Run pip quietly; a RuntimeError tells how it ended."""
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        hint = "is the notebook allowed to use the Internet (on Kaggle: its settings)?"
        raise RuntimeError(f"pip {' '.join(arguments)} failed; {hint}\n{done.stderr[-2000:]}")


def install() -> None:
    """Bring the pinned versions, leave the runtime's own as they are, remove what breaks PEFT; says what it did.

    Left alone are `KEPT`, and whatever is imported already and new enough: an imported package can only be
    replaced by a restart, and if one must be, a RuntimeError says so.
    """
    wanted = requirements()
    have = {package: version for package in (*wanted, *KEPT) if (version := installed(package))}
    old = [p for p in wanted if p in have and not wanted[p][0].contains(have[p], prereleases=True)]
    held = {p: v for p, v in have.items() if p in KEPT or (p in sys.modules and p not in old)}
    missing = [f"{p}=={pin}" for p, (_, pin) in wanted.items() if p not in held and have.get(p) != pin]
    if installed(UNWANTED):
        pip("uninstall", "--yes", UNWANTED)
    if missing:
        print("installing", ", ".join(missing), "...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            constraints = Path(folder, "constraints.txt")
            constraints.write_text("".join(f"{p}=={v}\n" for p, v in held.items()))
            pip("install", "-c", str(constraints), *missing)
        importlib.invalidate_caches()
    # pandas loads pyarrow, and datasets needs a newer one than Colab's
    loaded = {p: getattr(sys.modules.get(p), "__version__", None) for p in (*wanted, "pyarrow")}
    if late := [p for p, version in loaded.items() if version not in (None, installed(p))]:
        raise RuntimeError(
            f"{', '.join(late)}: imported before this cell, in a version that was replaced. Restart the session "
            "(in Colab: Runtime, Restart session) and begin with this cell; nothing is installed twice."
        )
    own = [f"{p} {v}" for p, v in held.items() if p not in wanted or v != wanted[p][1]]
    print("kept:", ", ".join(own))
    if old := [f"{p} {wanted[p][0]}" for p in old if p in held]:
        print("not what the series is tested with:", ", ".join(old))


def count_gpus() -> int:
    """NVIDIA GPUs in this machine, without loading torch."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listing.splitlines())


def use_one_gpu() -> None:
    """Of several GPUs show this process the first: one process trains on one, and TRL refuses to see more.

    Nothing is changed where a launcher or the user has chosen (LOCAL_RANK, CUDA_VISIBLE_DEVICES). If torch is imported
    already, and may have seen them all, it is a RuntimeError.
    """
    if "CUDA_VISIBLE_DEVICES" in os.environ or "LOCAL_RANK" in os.environ or (gpus := count_gpus()) < 2:
        return
    if "torch" in sys.modules:
        raise RuntimeError(f"{gpus} GPUs, and torch is imported already: restart the session and begin with this cell")
    os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    print(f"{gpus} GPUs: this notebook uses the first (CUDA_VISIBLE_DEVICES=0); 09_scaling_out.ipynb is about more")


def prepare() -> None:
    """Make this process ready for the series: one GPU, and in Colab or on Kaggle the packages.

    Programs that a notebook starts are to find this package too, so its folder is put on PYTHONPATH. What cannot be
    done, and Windows itself, where parts of the series cannot work, is a RuntimeError.
    """
    if sys.platform == "win32":
        raise RuntimeError("Windows itself is not supported: open this notebook inside WSL, or in Colab")
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != str(ROOT)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *others])
    use_one_gpu()
    if "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        install()
