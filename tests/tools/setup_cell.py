# @title Set-up
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = ""  # written here by `make publish`
in_cloud = "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ
notebook = Path(globals().get("__vsc_ipynb_file__", "notebook.ipynb")).absolute()  # VS Code tells where it is
places = [*notebook.parents, Path.cwd(), *Path.cwd().parents]
if in_cloud:
    places += [*sorted(Path.cwd().iterdir()), *sorted(Path("/content/drive/MyDrive").glob("*"))]
root = next((p for p in places if (p / "grpo_helpers" / "hosted.py").is_file()), None)
if root is None and in_cloud and REPOSITORY:
    root = Path.cwd() / REPOSITORY.rpartition("/")[2]
    git = subprocess.run(["git", "clone", "--depth=1", REPOSITORY, root], capture_output=True, text=True)
    if git.returncode:
        raise RuntimeError(f"Is this notebook allowed to use the Internet? git could not clone.\n{git.stderr}")
if root is None:
    upload = "publish its repository with `make publish`, upload that folder beside it, or mount a Drive that has it"
    local = "open it inside a copy of its repository, where `make lab` starts Jupyter"
    raise ModuleNotFoundError(f"This notebook needs the module grpo_helpers: {upload if in_cloud else local}.")
if str(root) not in sys.path:
    sys.path.insert(0, str(root))

from grpo_helpers import hosted  # noqa: E402

hosted.prepare()
