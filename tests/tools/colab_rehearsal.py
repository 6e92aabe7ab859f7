"""Colab rehearsed without Colab: its versions, an empty folder, a stand-in `google.colab`. `make colab`

A fresh environment gets what Colab has of all that the series touches (colab_runtime.txt, beside this file). There each
notebook is opened as a badge opens it: alone, in a folder that holds nothing else, matplotlib loaded before the first
cell. Its set-up cell clones the repository (this working tree, published under an invented name) and installs the
pins; then its first cells run. The environment has to end as promised: pins in place, torch, numpy and pillow
untouched, torchao gone.

Colab's torch is a build for CUDA, several GB. Without `--colab-torch` the torch of requirements.txt stands in for it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from grpo_helpers import hosted  # noqa: E402
from tests.tools import publish  # noqa: E402

REPO = "example/grpo-notebooks"
GPU_BUILDS = ("torch==", "torchvision==", "torchcodec==")
LOADED_FIRST = "import google.colab, matplotlib, numpy, PIL"  # what a Colab kernel has loaded when it starts
ALREADY_SET_UP = 20  # seconds a set-up cell may take where everything is installed


def run(*command: str | Path, **options) -> str:
    """The command's output; its own error message if it fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def versions(python: Path) -> dict[str, str]:
    """Package → version of everything in that environment."""
    listed = json.loads(run(python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"))
    return {p["name"].lower().replace("-", "_"): p["version"] for p in listed}


def make_environment(python: str, folder: Path, colab_torch: bool) -> tuple[Path, dict[str, str]]:
    """A virtual environment with Colab's versions, or the one made there before: its Python, and what it began with."""
    own, began = folder / "bin" / "python", folder / "began.json"
    if began.exists():
        return own, json.loads(began.read_text())
    run(python, "-m", "venv", folder)
    lines = (ROOT / "tests" / "tools" / "colab_runtime.txt").read_text(encoding="utf-8").splitlines()
    others = [v for v in lines if "==" in v and not v.startswith(GPU_BUILDS)]
    torch = [v for v in lines if v.startswith(GPU_BUILDS)]
    if not colab_torch:
        torch = [f"torch=={hosted.requirements()['torch'][1]}"]
    pip = (own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, *torch)
    run(*pip, "--no-deps", *others)
    began.write_text(json.dumps(versions(own)))
    return own, versions(own)


def make_repository(folder: Path) -> None:
    """The working tree as a published repository with one commit, at `folder`."""
    files = run("git", "-C", ROOT, "ls-files", "-co", "--exclude-standard").splitlines()
    for file in files:
        if (ROOT / file).is_file():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, folder / file)
    publish.publish(folder, REPO)
    run("git", "init", "--quiet", "--initial-branch=main", folder)
    git = ("git", f"--git-dir={folder / '.git'}", f"--work-tree={folder}")
    run(*git, "add", "--all")
    run(*git, "-c", "user.name=rehearsal", "-c", "user.email=rehearsal@example.com", "commit", "--quiet", "-m", "all")


def make_colab(folder: Path, python: Path, repository: Path) -> dict[str, str]:
    """Stand-ins for what is Colab's own; the variables that a kernel started there sees."""
    startup = folder / "ipython" / "profile_default" / "startup"
    kernel = folder / "jupyter" / "kernels" / "colab"
    for place in (folder / "google" / "colab", startup, kernel):
        place.mkdir(parents=True)
    (folder / "google" / "colab" / "__init__.py").touch()
    (startup / "00-colab.py").write_text(LOADED_FIRST)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "colab", "language": "python"}))
    os.environ["JUPYTER_PATH"] = str(folder / "jupyter")
    return {k: v for k, v in os.environ.items() if not k.startswith(("VIRTUAL_ENV", "PYTHON"))} | {
        "PYTHONPATH": str(folder),
        "IPYTHONDIR": str(folder / "ipython"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # the kernel's debugger would warn of frozen modules
        "GRPO_PROFILE": "tiny",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{repository.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": publish.address_of(REPO),
    }


def open_notebook(path: Path, cells: int, content: Path, env: dict[str, str]) -> list[float]:
    """Run the set-up cell twice, then the `cells` code cells after it; seconds that each set-up took."""
    notebook = nbformat.read(path, as_version=4)
    setup, *others = [cell for cell in notebook.cells if cell.cell_type == "code"]
    notebook.cells = [setup, nbformat.v4.new_code_cell(setup.source), *others[:cells]]
    client = NotebookClient(notebook, timeout=1800, kernel_name="colab", resources={"metadata": {"path": str(content)}})
    client.execute(env=env)
    seconds = []
    for cell in notebook.cells[:2]:
        times = cell.metadata.execution
        start, end = (datetime.fromisoformat(times[f"iopub.status.{state}"]) for state in ("busy", "idle"))
        seconds.append((end - start).total_seconds())
    said = "".join(o.get("text", "") for o in setup.outputs)
    if "installing" in said:
        print(said.strip())
    return seconds


def check_environment(before: dict[str, str], after: dict[str, str], conflicts: list[str]) -> None:
    """Pins in place, what is Colab's own untouched, torchao gone, no conflict in what the series uses."""
    kept = (*hosted.KEPT, "matplotlib", "packaging")  # the last two: imported before pip comes, and new enough
    for package in kept:
        assert after[package] == before[package], f"{package} was exchanged: {before[package]} → {after[package]}"
    for package, (_, pin) in hosted.requirements().items():
        if package not in kept:
            assert after[package] == pin, f"{package} is {after.get(package)}, not {pin}"
    assert hosted.UNWANTED in before and hosted.UNWANTED not in after
    ours = [c for c in conflicts if c.split()[0].lower().replace("-", "_") in hosted.requirements()]
    assert not ours, ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the interpreter to rehearse on; Colab has 3.13")
    parser.add_argument(
        "--environment", type=Path, help="where to make it and find it again; default: made and deleted"
    )
    parser.add_argument("--colab-torch", action="store_true", help="take Colab's torch, several GB, in its CUDA build")
    parser.add_argument("--cells", type=int, default=6, help="code cells run in each notebook after its set-up cell")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="colab-") as name:
        folder = Path(name)
        python, before = make_environment(
            args.python, (args.environment or folder / "env").absolute(), args.colab_torch
        )
        make_repository(folder / "published")
        env = make_colab(folder / "colab", python, folder / "published")
        for i, path in enumerate(sorted((folder / "published" / "notebooks").glob("[01]*.ipynb"))):
            content = folder / "content" / str(i)
            content.mkdir(parents=True)
            start = time.perf_counter()
            first, second = open_notebook(path, args.cells, content, env)
            took = time.perf_counter() - start
            print(f"{path.name}: set-up {first:.1f} s, again {second:.1f} s, {took:.0f} s with {args.cells} cells more")
            assert second < ALREADY_SET_UP and (i == 0 or first < ALREADY_SET_UP), "set-up is slow where all is there"
        after = versions(python)
        done = subprocess.run([python, "-m", "pip", "check"], capture_output=True, text=True)
        conflicts = done.stdout.splitlines() if done.returncode else []
        check_environment(before, after, conflicts)
        changed = {p: f"{before.get(p, 'none')} → {v}" for p, v in after.items() if before.get(p) != v}
        print("changed:", ", ".join(f"{p} {v}" for p, v in changed.items()))
        print("pip check:", "; ".join(conflicts) or "no conflicts")


if __name__ == "__main__":
    main()
