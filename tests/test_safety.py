"""What this series promises about safety, read from its code: package, data scripts, notebooks and their solutions."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat

from grpo_helpers import data
from grpo_helpers.profiles import PROFILES, ROOT

SOLUTION = re.compile(r"```python\n(.*?)```", re.DOTALL)
COMMIT = re.compile(r"[0-9a-f]{40}")
VERSION = re.compile(r"\d+(\.\d+)+")
TOKENS = r"\b(?:hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|AKIA[A-Z0-9]{16}|sk-[A-Za-z0-9_-]{30,})"
SECRET = re.compile(TOKENS + r"|BEGIN [A-Z ]*PRIVATE KEY")
RISKY = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".npz", ".h5", ".joblib"}
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_NAMES = {"eval", "exec", "compile", "__import__"}
UNSAFE_CALLS = {"torch.load", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}
FETCHERS = {"from_pretrained", "snapshot_download", "hf_hub_download", "load_dataset"}
ALLOWED = {
    "12_rewards_beyond_exact_match.ipynb, s2-limit, 0": ["calls exec"],  # the sandbox, isolated and limited before
    "12_rewards_beyond_exact_match.ipynb, s2-task, 0": ["calls exec"],  # formulas made of our own solutions
    "data/runs/record/small_functions.py": ["calls eval"],  # formulas of its own tables
}
SECRETS_WANTED = {"getpass", "userdata", "notebook_login", "interpreter_login", "UserSecretsClient"}


def findings(source: str) -> Iterator[str]:
    """What in this source would run foreign code, fetch what may change, or ask for a secret."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            yield from (f"imports {n}" for n in names if n.partition(".")[0] in UNSAFE_MODULES | SECRETS_WANTED)
        elif isinstance(node, ast.Name) and node.id in SECRETS_WANTED:
            yield f"asks for a secret: {node.id}"
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            last = name.rpartition(".")[2]
            options = {k.arg: k.value for k in node.keywords}
            if name in UNSAFE_NAMES | UNSAFE_CALLS or last in {"read_pickle", "to_pickle"}:
                yield f"calls {name}"
            first = node.args[0] if node.args else None
            repository = isinstance(first, ast.Constant) and re.fullmatch(r"[\w.-]+/[\w.-]+", str(first.value))
            if last in FETCHERS and repository and "revision" not in options:
                yield f"{first.value} without a revision in a call of {name}"
            for option in ("trust_remote_code", "allow_pickle", "shell"):
                if option in options and not (isinstance(options[option], ast.Constant) and not options[option].value):
                    yield f"{option} in a call of {name}"


def test_no_foreign_code_is_run_and_no_secret_is_asked_for():
    files = [*(ROOT / "grpo_helpers").rglob("*.py"), *(ROOT / "data").rglob("*.py")]
    pieces = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files}
    for path in (ROOT / "notebooks").glob("[01]*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            code = [cell.source] if cell.cell_type == "code" else SOLUTION.findall(cell.source)
            pieces |= {f"{path.name}, {cell.id}, {i}": piece for i, piece in enumerate(code)}
    assert len(pieces) > 200 and any("grpo_helpers/" in name for name in pieces)
    assert {name: found for name, text in pieces.items() if (found := list(findings(text)))} == ALLOWED


BAD = """
import pickle; import dill as d; from joblib import load; pd.read_pickle('x'); table.to_pickle('x')
eval('1'); exec(code); __import__('os'); torch.load('x.pt'); np.load('x', allow_pickle=True); yaml.load(text)
AutoModel.from_pretrained('a', trust_remote_code=True); load(trust_remote_code=flag)
AutoModel.from_pretrained('a/b'); subprocess.run('ls', shell=True); os.system('ls')
from google.colab import userdata; import getpass; notebook_login()
"""
GOOD = """
model.eval(); re.compile('a'); f('a/b', trust_remote_code=False)
np.load('x.npy'); load_dataset('a/b', revision=r)
"""


def test_each_unsafe_thing_would_be_found_and_what_only_looks_so_passes():
    bad, good = (text.replace("\n", ";").strip(";").split(";") for text in (BAD, GOOD))
    assert [line for line in bad if not list(findings(line.strip()))] == []
    assert [line for line in good if list(findings(line.strip()))] == []


def test_whatever_comes_from_a_hub_is_pinned_to_a_commit_and_from_pypi_to_a_version():
    for profile in PROFILES.values():
        local = Path(profile.model).is_dir()
        pinned = VERSION if profile.model.startswith("pypi:") else COMMIT
        assert local or pinned.fullmatch(profile.revision or ""), f"{profile.name}: {profile.revision}"
    assert COMMIT.fullmatch(data.GSM8K_REVISION)


def test_telemetry_is_off_as_soon_as_the_package_is_there(monkeypatch):
    for name in ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY", "DO_NOT_TRACK", "CI"):
        monkeypatch.delenv(name, raising=False)
    code = "import grpo_helpers\nfrom huggingface_hub import constants\nprint(constants.HF_HUB_DISABLE_TELEMETRY)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_no_file_of_the_repository_holds_a_secret_or_weights_that_could_run_code():
    assert SECRET.search("token = hf_" + "a1B2" * 9) and SECRET.search("-----BEGIN RSA " + "PRIVATE KEY-----")
    assert not SECRET.search("hf_hub_download hf_xet sk-learn")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert any(path.suffix == ".safetensors" for path in files)
    assert not [path for path in files if path.suffix in RISKY]
    assert not [path for path in files if SECRET.search(path.read_bytes().decode("utf-8", "ignore"))]
