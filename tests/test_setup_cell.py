"""The set-up cell wherever a notebook is opened, in a real process each: plain Jupyter, VS Code, Colab, Kaggle.

Colab is a stand-in here: an empty `google.colab`, folders that say which versions are installed, a pip that only
notes what it was told and changes those folders, and git led from the published address to a local repository.
`make colab` does the same with the real pip and the real packages.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from grpo_helpers import hosted
from grpo_helpers.profiles import ROOT

from .tools.publish import setup_cell

ADDRESS = "https://github.com/ada/grpo-notebooks"
PINS = {name: pin for name, (_, pin) in hosted.requirements().items()}
LINES = (ROOT / "tests" / "tools" / "colab_runtime.txt").read_text().splitlines()
RUNTIME = {name.replace("-", "_"): version for name, sep, version in (line.partition("==") for line in LINES) if sep}
COLAB = {name: version for name, version in RUNTIME.items() if name in (*PINS, *hosted.KEPT, "torchao", "pyarrow")}

PIP = """
import json, os, pathlib, shutil, sys
site, arguments = pathlib.Path(os.environ["FAKE_SITE"]), sys.argv[1:]
held = []
if "-c" in arguments:
    held = pathlib.Path(arguments[arguments.index("-c") + 1]).read_text().split()
with open(site / "pip.jsonl", "a") as log:
    log.write(json.dumps({"arguments": arguments, "held": held}) + "\\\\n")
if os.environ.get("FAKE_PIP_FAILS"):
    sys.exit("no route to any index")
names = [a for a in arguments[1:] if "==" in a] if arguments[0] == "install" else [arguments[-3]]
for name, _, version in (a.partition("==") for a in names):
    for old in site.glob(f"{name}-*.dist-info"):
        shutil.rmtree(old)
    if version:
        new = site / f"{name}-{version}.dist-info"
        new.mkdir()
        (new / "METADATA").write_text(f"Name: {name}\\\\nVersion: {version}\\\\n")
"""
END = """
import json, os, sys
print(json.dumps({"path": sys.path, "env": dict(os.environ), "torch": "torch" in sys.modules}))
"""


def run_cell(folder: Path, source: str, before: str = "", times: int = 1, **env: str) -> tuple[dict, str, str]:
    """The cell in a fresh process started in `folder`: (what it left behind, what it printed, its error)."""
    cell = f"exec(compile({source!r}, 'cell', 'exec'), globals())\n" * times
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CUDA", "KAGGLE", "LOCAL_RANK", "HF_", "GIT_"))}
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys\nsys.path.pop(0)\n{textwrap.dedent(before)}\n{cell}{END}"],
        cwd=folder,
        env=clean | env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode:
        return {}, done.stdout, re.split(r"\n(?=\w+Error: )", done.stderr.strip())[-1]
    *printed, left = done.stdout.splitlines()
    return json.loads(left), "\n".join(printed), ""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A small copy of the repository: what the set-up cell reads of it."""
    root = tmp_path / "copy"
    (root / "notebooks").mkdir(parents=True)
    (root / "grpo_helpers").mkdir()
    for file in ("grpo_helpers/__init__.py", "grpo_helpers/hosted.py", "pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / file, root / file)
    return root


@pytest.fixture
def colab(tmp_path: Path, copy: Path) -> dict[str, str]:
    """Variables that make a process see Colab's versions, the fake pip and, at `ADDRESS`, a local repository."""
    site = tmp_path / "site"
    for package in ("pip", "google/colab"):
        (site / package).mkdir(parents=True)
    (site / "google" / "colab" / "__init__.py").touch()
    (site / "pip" / "__init__.py").touch()
    (site / "pip" / "__main__.py").write_text(PIP.replace("\\\\", "\\"))
    for name, version in COLAB.items():
        (site / f"{name}-{version}.dist-info").mkdir()
        (site / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    git = ("git", f"--git-dir={copy / '.git'}", f"--work-tree={copy}")
    subprocess.run(["git", "init", "--quiet", str(copy)], check=True)
    subprocess.run([*git, "add", "--all"], check=True)
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    subprocess.run([*git, *identity, "commit", "--quiet", "-m", "all"], check=True)
    return {
        "PYTHONPATH": str(site),
        "FAKE_SITE": str(site),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{copy.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": ADDRESS,
    }


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """The folder that a notebook is opened in, empty."""
    folder = tmp_path / "content"
    folder.mkdir()
    return folder


def pip_calls(env: dict[str, str]) -> list[dict]:
    log = Path(env["FAKE_SITE"], "pip.jsonl")
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def versions_in(env: dict[str, str]) -> dict[str, str]:
    return dict(p.name.removesuffix(".dist-info").rsplit("-", 1) for p in Path(env["FAKE_SITE"]).glob("*.dist-info"))


# ---- on one's own machine


def test_windows_itself_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(RuntimeError, match="WSL"):
        hosted.prepare()


@pytest.mark.parametrize("address", ["", ADDRESS])
@pytest.mark.parametrize("start", [".", "notebooks", "notebooks/mine/deeper"])
def test_jupyter_started_anywhere_in_a_copy_finds_it_and_says_nothing(copy, start, address):
    (copy / start).mkdir(parents=True, exist_ok=True)
    left, printed, error = run_cell(copy / start, setup_cell(address), times=2)
    assert (error, printed) == ("", "")
    assert left["path"][0] == str(copy) and left["path"].count(str(copy)) == 1
    assert left["env"]["PYTHONPATH"].split(os.pathsep).count(str(copy)) == 1
    assert not left["torch"], "the set-up cell loads nothing heavy"


def test_telemetry_is_off_before_anything_is_imported_unless_the_reader_chose(copy):
    assert run_cell(copy, setup_cell(""))[0]["env"]["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert run_cell(copy, setup_cell(""), HF_HUB_DISABLE_TELEMETRY="0")[0]["env"]["HF_HUB_DISABLE_TELEMETRY"] == "0"


def test_vs_code_whose_workspace_lies_elsewhere_knows_its_notebook(copy, content):
    before = f"__vsc_ipynb_file__ = {str(copy / 'notebooks' / '01_grpo_concepts.ipynb')!r}"
    left, _, error = run_cell(content, setup_cell(""), before)
    assert error == "" and left["path"][0] == str(copy)


def test_vs_code_with_the_workspace_as_working_folder(copy, content):
    before = f"__vsc_ipynb_file__ = {str(content / 'moved.ipynb')!r}"
    left, _, error = run_cell(copy, setup_cell(""), before)
    assert error == "" and left["path"][0] == str(copy)


@pytest.mark.parametrize("address", ["", ADDRESS])
def test_a_notebook_without_its_repository_says_what_to_do_and_clones_nothing(content, colab, address):
    _, _, error = run_cell(content, setup_cell(address), **colab)
    assert error.startswith("ModuleNotFoundError: This notebook needs the module grpo_helpers: open it inside a copy")
    assert not list(content.iterdir())


# ---- Colab


def test_colab_without_an_address_says_what_to_do_and_clones_nothing(content, colab):
    _, _, error = run_cell(content, setup_cell(""), "import google.colab", **colab)
    assert error.startswith("ModuleNotFoundError: ") and error.endswith(".") and error.count(". ") == 0
    assert all(way in error for way in ("make publish", "upload", "Drive"))
    assert not list(content.iterdir()) and not pip_calls(colab)


def test_colab_clones_installs_the_pins_and_leaves_its_own(content, colab):
    left, printed, error = run_cell(content, setup_cell(ADDRESS), "import google.colab", **colab)
    assert error == ""
    assert left["path"][0] == str(content / "grpo-notebooks")
    removed, brought = pip_calls(colab)
    assert removed["arguments"][:3] == ["uninstall", "--yes", "torchao"]
    asked = {a for a in brought["arguments"] if "==" in a}
    assert asked == {f"{n}=={v}" for n, v in PINS.items() if n not in hosted.KEPT and COLAB.get(n) != v}
    assert {"trl==1.16.0", "datasets==5.2.0", "pandas==3.1.1"} <= asked
    assert brought["held"] == [f"{n}=={COLAB[n]}" for n in hosted.KEPT], "pip is forbidden to exchange these"
    now = versions_in(colab)
    assert "torchao" not in now
    assert now == {n: v for n, v in (COLAB | PINS).items() if n != "torchao"} | {n: COLAB[n] for n in hosted.KEPT}
    assert "installing" in printed and "kept: torch 2.11.0, numpy 2.1.3, pillow 11.3.0" in printed
    assert not left["torch"]


def test_colab_twice_in_a_session_and_in_the_next_one_installs_once(content, colab):
    _, printed, _ = run_cell(content, setup_cell(ADDRESS), "import google.colab", times=2, **colab)
    assert len(pip_calls(colab)) == 2  # torchao out, pins in
    assert printed.splitlines()[-1] == "kept: torch 2.11.0, numpy 2.1.3, pillow 11.3.0"
    left, printed, error = run_cell(content, setup_cell(ADDRESS), "import google.colab", **colab)
    assert (error, len(pip_calls(colab))) == ("", 2) and "installing" not in printed
    assert left["path"].count(str(content / "grpo-notebooks")) == 1


@pytest.mark.parametrize("address", ["", ADDRESS])
def test_colab_takes_an_uploaded_folder_before_it_clones(content, colab, copy, address):
    shutil.copytree(copy, content / "my-upload")
    left, _, error = run_cell(content, setup_cell(address), "import google.colab", **colab)
    assert error == "" and left["path"][0] == str(content / "my-upload")
    assert len(pip_calls(colab)) == 2


def test_colab_finds_the_folder_on_a_mounted_drive(content, colab, copy, tmp_path):
    drive = tmp_path / "drive"
    shutil.copytree(copy, drive / "any name")
    source = setup_cell("").replace("/content/drive/MyDrive", str(drive))
    left, _, error = run_cell(content, source, "import google.colab", **colab)
    assert error == "" and left["path"][0] == str(drive / "any name")


def loaded(name: str, version: str) -> str:
    """Code that makes `name` look imported in `version`."""
    lines = (
        "import sys, types",
        "m = types.ModuleType('')",
        f"m.__version__ = {version!r}",
        f"sys.modules[{name!r}] = m",
    )
    return "\n".join(lines)


def test_what_colab_loaded_itself_stays_if_it_is_new_enough(content, colab):
    before = "import google.colab\n" + loaded("matplotlib", COLAB["matplotlib"])
    _, printed, error = run_cell(content, setup_cell(ADDRESS), before, **colab)
    assert error == "" and f"matplotlib {COLAB['matplotlib']}" in printed
    brought = pip_calls(colab)[1]
    assert f"matplotlib=={COLAB['matplotlib']}" in brought["held"]
    assert not any(a.startswith("matplotlib==") for a in brought["arguments"])


def test_an_import_before_the_set_up_cell_that_cannot_stay_asks_for_one_restart(content, colab):
    before = "import google.colab\n" + loaded("datasets", COLAB["datasets"])
    for times in (1, 2):  # running the cell again without the restart must not pretend that all is well
        _, _, error = run_cell(content, setup_cell(ADDRESS), before, times=times, **colab)
        assert error.startswith("RuntimeError: datasets: imported before this cell") and "Restart the session" in error
    _, _, error = run_cell(content, setup_cell(ADDRESS), "import google.colab", **colab)  # the restart
    assert error == "" and len(pip_calls(colab)) == 2


def test_a_torch_older_than_tested_is_named_and_kept(content, colab):
    site = Path(colab["FAKE_SITE"])
    shutil.rmtree(site / f"torch-{COLAB['torch']}.dist-info")
    (site / "torch-2.6.0+cu124.dist-info").mkdir()
    (site / "torch-2.6.0+cu124.dist-info" / "METADATA").write_text("Name: torch\nVersion: 2.6.0+cu124\n")
    _, printed, error = run_cell(content, setup_cell(ADDRESS), "import google.colab", **colab)
    assert error == "" and "older than what the series is tested with: torch (at least 2.10)" in printed
    assert versions_in(colab)["torch"] == "2.6.0+cu124"


def test_failures_name_their_remedy(content, colab):
    _, _, error = run_cell(content, setup_cell(ADDRESS), "import google.colab", FAKE_PIP_FAILS="1", **colab)
    assert error.startswith("RuntimeError: pip ") and "no route to any index" in error
    assert "Kaggle: its settings" in error
    shutil.rmtree(content / "grpo-notebooks")
    gone = colab | {"GIT_CONFIG_KEY_0": f"url.{(content / 'nowhere').as_uri()}.insteadOf"}
    _, _, error = run_cell(content, setup_cell(ADDRESS), "import google.colab", **gone)
    assert error.startswith("RuntimeError: Is this notebook allowed to use the Internet? git could not clone.")
    assert "nowhere" in error and not (content / "grpo-notebooks").exists()


# ---- Kaggle, and any machine with several GPUs


def with_gpus(folder: Path, count: int) -> dict[str, str]:
    """Variables under which `nvidia-smi -L` lists `count` GPUs."""
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir(exist_ok=True)
    program.write_text("#!/bin/sh\n" + "".join(f"echo 'GPU {i}: Tesla T4 (UUID: GPU-{i})'\n" for i in range(count)))
    program.chmod(0o755)
    return {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}


def test_kaggle_with_two_gpus_installs_and_shows_one(content, colab, tmp_path):
    env = colab | with_gpus(tmp_path, 2) | {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}
    left, printed, error = run_cell(content, setup_cell(ADDRESS), times=2, **env)
    assert error == "" and left["env"]["CUDA_VISIBLE_DEVICES"] == "0"
    assert printed.count("2 GPUs: this notebook uses the first") == 1
    assert len(pip_calls(colab)) == 2 and left["path"][0] == str(content / "grpo-notebooks")


def test_one_gpu_or_a_choice_already_made_is_left_alone(copy, tmp_path):
    one = with_gpus(tmp_path, 1)
    left, printed, _ = run_cell(copy, setup_cell(""), **one)
    assert "CUDA_VISIBLE_DEVICES" not in left["env"] and printed == ""
    two = with_gpus(tmp_path, 2)
    left, printed, _ = run_cell(copy, setup_cell(""), CUDA_VISIBLE_DEVICES="1", **two)
    assert left["env"]["CUDA_VISIBLE_DEVICES"] == "1" and printed == ""
    left, printed, _ = run_cell(copy, setup_cell(""), LOCAL_RANK="1", **two)
    assert "CUDA_VISIBLE_DEVICES" not in left["env"] and printed == ""


def test_two_gpus_on_a_workstation_are_one_too_and_too_late_is_said(copy, tmp_path):
    two = with_gpus(tmp_path, 2)
    assert run_cell(copy, setup_cell(""), **two)[0]["env"]["CUDA_VISIBLE_DEVICES"] == "0"
    _, _, error = run_cell(copy, setup_cell(""), loaded("torch", "2.13.0"), **two)
    assert error.startswith("RuntimeError: 2 GPUs, and torch is imported already: restart")


# ---- parts


@pytest.mark.parametrize(
    ("version", "least", "enough"),
    [("2.11.0+cu128", "2.10", True), ("2.9.1", "2.10", False), ("3.10.0", "3.9", True), ("1.0", "1.0", True)]
    + [("2.1.3", "2.0", True), ("5.0.0rc1", "5.13", False), ("0.8", "0.8.1", False), ("4.67.3", "4.66", True)],
)
def test_versions_compare_as_numbers(version, least, enough):
    assert hosted.at_least(version, least) is enough


def test_every_dependency_has_a_pin_that_it_admits():
    assert set(PINS) >= {"torch", "trl", "transformers", "peft", "datasets", "gguf"}
    assert "jupyterlab" not in PINS, "what runs the notebooks is the runtime's own"
    for name, (least, pin) in hosted.requirements().items():
        assert hosted.at_least(pin, least), name
