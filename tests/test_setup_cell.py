"""The set-up cell wherever a notebook is opened, in a real process each: plain Jupyter, VS Code, Colab, Kaggle.

Colab is a stand-in: an empty `google.colab`, folders that say which versions are installed, a pip that notes what it
was told and changes those folders, and git led from the published address to a local repository. `make colab` takes
the real pip and packages.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import packaging
import pytest

from grpo_helpers import hosted
from grpo_helpers.profiles import ROOT

from .tools.publish import setup_cell

ADDRESS = "https://github.com/ada/grpo-notebooks"
PINS = {name: pin for name, (_, pin) in hosted.requirements().items()}
LINES = (ROOT / "tests" / "tools" / "colab_runtime.txt").read_text().splitlines()
RUNTIME = dict(line.replace("-", "_").split("==") for line in LINES if "==" in line)
COLAB = {name: version for name, version in RUNTIME.items() if name in (*PINS, *hosted.KEPT, "torchao", "pyarrow")}
COLAB["packaging"] = packaging.__version__  # the real one, which the set-up cell imports
KEPT = {name: COLAB[name] for name in hosted.KEPT}

PIP = r"""
import json, os, pathlib, shutil, sys
site, arguments = pathlib.Path(os.environ["FAKE_SITE"]), sys.argv[1:]
held = pathlib.Path(arguments[arguments.index("-c") + 1]).read_text().split() if "-c" in arguments else []
with open(site / "pip.jsonl", "a") as log:
    log.write(json.dumps({"arguments": arguments, "held": held}) + "\n")
if os.environ.get("FAKE_PIP_FAILS"):
    sys.exit("no route to any index")
for name, _, version in (a.partition("==") for a in arguments if "==" in a or a == "torchao"):
    for old in site.glob(f"{name}-*.dist-info"):
        shutil.rmtree(old)
    if version:
        new = site / f"{name}-{version}.dist-info"
        new.mkdir()
        (new / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
"""
END = """
import json, os, sys
print(json.dumps({"path": sys.path, "env": dict(os.environ), "torch": "torch" in sys.modules}))
"""


def run_cell(folder: Path, address: str, before: str = "", times: int = 1, **env: str) -> tuple[dict, str, str]:
    """The cell in a fresh process started in `folder`: (what it left behind, what it printed, its error)."""
    source = setup_cell(address).replace("/content/drive/MyDrive", str(folder.parent / "drive"))
    cell = f"exec(compile({source!r}, 'cell', 'exec'), globals())\n" * times
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CUDA", "KAGGLE", "LOCAL_RANK", "HF_", "GIT_"))}
    command = [sys.executable, "-S", "-c", f"import sys\nsys.path.pop(0)\n{before}\n{cell}{END}"]
    done = subprocess.run(command, cwd=folder, env=clean | env, capture_output=True, text=True, timeout=120)
    if done.returncode:
        return {}, done.stdout, re.split(r"\n(?=\w+Error: )", done.stderr.strip())[-1]
    *printed, left = done.stdout.splitlines()
    return json.loads(left), "\n".join(printed), ""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A small copy of the repository: what the set-up cell reads of it."""
    root = tmp_path / "copy"
    (root / "notebooks" / "mine").mkdir(parents=True)
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
        (site / package / "__init__.py").touch()
    (site / "pip" / "__main__.py").write_text(PIP)
    (site / "packaging").symlink_to(Path(packaging.__file__).parent)
    env = {"PYTHONPATH": str(site), "FAKE_SITE": str(site)}
    subprocess.run([sys.executable, site / "pip", *map("==".join, COLAB.items())], env=env, check=True)
    (site / "pip.jsonl").unlink()
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    for command in (["init"], ["add", "--all"], [*identity, "commit", "-m", "all"]):
        subprocess.run(["git", f"--git-dir={copy / '.git'}", f"--work-tree={copy}", *command], check=True)
    env |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_VALUE_0": ADDRESS}
    return env | {"GIT_CONFIG_KEY_0": f"url.{copy.as_uri()}.insteadOf"}


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """The folder that a notebook is opened in, empty."""
    (tmp_path / "content").mkdir()
    return tmp_path / "content"


def pip_calls(env: dict[str, str]) -> list[dict]:
    log = Path(env["FAKE_SITE"], "pip.jsonl")
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def versions_in(env: dict[str, str]) -> dict[str, str]:
    return dict(p.name.removesuffix(".dist-info").rsplit("-", 1) for p in Path(env["FAKE_SITE"]).glob("*.dist-info"))


def test_windows_itself_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(RuntimeError, match="WSL"):
        hosted.prepare()


@pytest.mark.parametrize(("start", "address"), [(".", ""), ("notebooks", ADDRESS), ("notebooks/mine", "")])
def test_jupyter_started_anywhere_in_a_copy_finds_it_and_says_nothing(copy, start, address):
    left, printed, error = run_cell(copy / start, address, times=2)
    assert (error, printed) == ("", "")
    assert left["path"][0] == str(copy) and left["path"].count(str(copy)) == 1
    assert left["env"]["PYTHONPATH"].split(os.pathsep).count(str(copy)) == 1
    assert not left["torch"], "the set-up cell loads nothing heavy"


def test_vs_code_knows_its_notebook_and_may_stand_in_another_folder(copy, content):
    for start, notebook in ((content, copy / "notebooks" / "01.ipynb"), (copy, content / "moved.ipynb")):
        left, _, error = run_cell(start, "", f"__vsc_ipynb_file__ = {str(notebook)!r}")
        assert error == "" and left["path"][0] == str(copy)


@pytest.mark.parametrize(
    "address, before, remedy", [(ADDRESS, "", "make lab"), ("", "import google.colab", "make publish")]
)
def test_without_its_repository_a_notebook_names_the_remedy_and_makes_nothing(content, colab, address, before, remedy):
    _, _, error = run_cell(content, address, before, **colab)
    assert error.startswith("ModuleNotFoundError: ") and remedy in error
    assert not list(content.iterdir()) and not pip_calls(colab)


def test_colab_clones_installs_the_pins_once_and_leaves_its_own(content, colab):
    left, printed, error = run_cell(content, ADDRESS, "import google.colab", times=2, **colab)
    assert error == "" and not left["torch"]
    assert left["path"][0] == str(content / "grpo-notebooks")
    removed, brought = pip_calls(colab)
    assert removed["arguments"][:3] == ["uninstall", "--yes", "torchao"]
    asked = {a for a in brought["arguments"] if "==" in a}
    assert asked == {f"{n}=={v}" for n, v in PINS.items() if n not in KEPT and COLAB.get(n) != v}
    assert {f"{n}=={v}" for n, v in KEPT.items()} <= set(brought["held"]), "pip is forbidden to exchange these"
    after = {n: v for n, v in (COLAB | PINS | KEPT).items() if n != "torchao"}
    assert versions_in(colab) == after
    assert all(f"{n} {v}" in printed.splitlines()[-1] for n, v in KEPT.items())
    assert printed.count("installing") == 1
    left, printed, error = run_cell(content, ADDRESS, "import google.colab", **colab)  # the next session
    assert (error, len(pip_calls(colab))) == ("", 2) and "installing" not in printed
    assert left["path"].count(str(content / "grpo-notebooks")) == 1


@pytest.mark.parametrize(("place", "address"), [("content/my-upload", ADDRESS), ("drive/any name", "")])
def test_colab_takes_an_uploaded_folder_or_one_on_drive_before_it_clones(content, colab, copy, address, place):
    shutil.copytree(copy, content.parent / place)
    left, _, error = run_cell(content, address, "import google.colab", **colab)
    assert error == "" and left["path"][0] == str(content.parent / place)
    assert len(pip_calls(colab)) == 2


def loaded(name: str) -> str:
    """Code that makes `name` look imported in Colab's version."""
    return f"import sys, types\nsys.modules[{name!r}] = types.SimpleNamespace(__version__={COLAB[name]!r})"


def test_what_colab_loaded_itself_stays_if_it_is_new_enough(content, colab):
    _, printed, error = run_cell(content, ADDRESS, f"import google.colab\n{loaded('matplotlib')}", **colab)
    assert error == "" and f"matplotlib {COLAB['matplotlib']}" in printed
    brought = pip_calls(colab)[1]
    assert f"matplotlib=={COLAB['matplotlib']}" in brought["held"]
    assert not any(a.startswith("matplotlib==") for a in brought["arguments"])


def test_an_import_before_the_set_up_cell_that_cannot_stay_asks_for_one_restart(content, colab):
    before = f"import google.colab\n{loaded('datasets')}"
    for times in (1, 2):  # running the cell again without the restart must not pretend that all is well
        _, _, error = run_cell(content, ADDRESS, before, times=times, **colab)
        assert error.startswith("RuntimeError: datasets: imported before this cell") and "Restart the session" in error
    _, _, error = run_cell(content, ADDRESS, "import google.colab", **colab)  # the restart
    assert error == "" and len(pip_calls(colab)) == 2


def test_a_torch_older_than_tested_is_named_and_kept(content, colab):
    subprocess.run([sys.executable, "-m", "pip", "torch==2.6.0+cu124"], env=colab, check=True)
    _, printed, error = run_cell(content, ADDRESS, "import google.colab", **colab)
    assert error == "" and "not what the series is tested with: torch >=2.10" in printed
    assert versions_in(colab)["torch"] == "2.6.0+cu124"


def test_offline_the_remedy_is_named(content, colab):
    _, _, error = run_cell(content, ADDRESS, "import google.colab", FAKE_PIP_FAILS="1", **colab)
    assert error.startswith("RuntimeError: pip ") and "no route to any index" in error and "Internet" in error
    shutil.rmtree(content / "grpo-notebooks")
    gone = colab | {"GIT_CONFIG_KEY_0": f"url.{(content / 'nowhere').as_uri()}.insteadOf"}
    _, _, error = run_cell(content, ADDRESS, "import google.colab", **gone)
    assert error.startswith("RuntimeError: ") and "Internet" in error and "nowhere" in error
    assert not (content / "grpo-notebooks").exists()


def with_gpus(folder: Path, count: int) -> dict[str, str]:
    """Variables under which `nvidia-smi -L` lists `count` GPUs."""
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir(exist_ok=True)
    program.write_text("#!/bin/sh\n" + "".join(f"echo 'GPU {i}: Tesla T4 (UUID: GPU-{i})'\n" for i in range(count)))
    program.chmod(0o755)
    return {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}


def test_kaggle_with_two_gpus_installs_and_shows_one(content, colab, tmp_path):
    env = colab | with_gpus(tmp_path, 2) | {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}
    left, printed, error = run_cell(content, ADDRESS, times=2, **env)
    assert error == "" and left["env"]["CUDA_VISIBLE_DEVICES"] == "0"
    assert printed.count("2 GPUs: ") == 1
    assert len(pip_calls(colab)) == 2 and left["path"][0] == str(content / "grpo-notebooks")


@pytest.mark.parametrize(
    "count, chosen, visible",
    [(1, {}, None), (2, {}, "0"), (2, {"CUDA_VISIBLE_DEVICES": "1"}, "1"), (2, {"LOCAL_RANK": "1"}, None)],
)
def test_of_several_gpus_the_first_is_taken_unless_one_was_chosen(copy, tmp_path, count, chosen, visible):
    left, printed, _ = run_cell(copy, "", **with_gpus(tmp_path, count), **chosen)
    assert left["env"].get("CUDA_VISIBLE_DEVICES") == visible and bool(printed) == (visible == "0")


def test_too_late_to_choose_a_gpu_asks_for_a_restart(copy, tmp_path):
    _, _, error = run_cell(copy, "", loaded("torch"), **with_gpus(tmp_path, 2))
    assert error.startswith("RuntimeError: 2 GPUs") and "restart" in error


def test_every_dependency_has_a_pin_that_it_admits():
    assert set(PINS) >= {"torch", "trl", "transformers", "peft", "datasets", "gguf"}
    assert "jupyterlab" not in PINS, "what runs the notebooks is the runtime's own"
    assert all(pin in admitted for admitted, pin in hosted.requirements().values())
    assert "5.22.0" not in hosted.requirements()["transformers"][0], "activation_checkpointing came with 5.23"
