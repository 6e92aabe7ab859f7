"""Profiles: what each refuses, which one a machine gets, in which precision, and for how long."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from grpo_helpers import machine, models, profiles
from grpo_helpers.machine import detect
from grpo_helpers.pretrained import WeightsNotFound
from grpo_helpers.profiles import PROFILES, ROOT, SMALL, T4, TINY, get_profile, output_root

# --- which profile ----------------------------------------------------------


@pytest.mark.parametrize("name", ["huge", "Tiny", "tiny ", ""])
def test_unknown_profile_is_named_and_the_known_ones_listed(monkeypatch, name):
    known = rf"{re.escape(repr(name))}.*tiny, small, t4, t4_full, article.*GRPO_PROFILE"
    with pytest.raises(ValueError, match=known):
        get_profile(name)
    if name:
        monkeypatch.setenv("GRPO_PROFILE", name)
        with pytest.raises(ValueError, match=known):
            detect()


def have(monkeypatch, card=None, gb=0.0, capability=(7, 5), minutes=10, weights=True):
    """A machine with this card, or a CPU on which `small` takes so many minutes; offline it has those weights alone."""

    def find_weights(model, revision):
        assert weights is not True or model == SMALL.model, "3 GB are not fetched to choose a profile"
        if weights is not True and model not in weights:
            raise WeightsNotFound("not in the cache, not on the hub")

    monkeypatch.delenv("GRPO_PROFILE", raising=False)
    properties = SimpleNamespace(total_memory=gb * 1e9)
    for name, answer in {
        "is_available": card is not None,
        "get_device_name": card,
        "get_device_properties": properties,
        "get_device_capability": capability,
        "get_arch_list": ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"],  # of torch 2.13 for CUDA 13
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *args, answer=answer: answer)
    monkeypatch.setattr(machine, "estimated_minutes", lambda profile: minutes)
    monkeypatch.setattr(machine, "find_weights", find_weights)
    monkeypatch.setattr(machine, "hub_reachable", lambda: weights is True)


@pytest.mark.parametrize("name", PROFILES)
def test_environment_overrides_the_machine_and_says_so(monkeypatch, capsys, name):
    have(monkeypatch)
    monkeypatch.setenv("GRPO_PROFILE", name)
    assert detect() is PROFILES[name]
    told = capsys.readouterr().out
    assert told.startswith(f"profile {name}: GRPO_PROFILE is set") and told.count("\n") == 1
    assert ("made for a GPU" in told) == (name not in ("tiny", "small"))


A_T4 = {"card": "Tesla T4", "gb": 15.6}


# What notebook 04 shows as a table.
@pytest.mark.parametrize(
    ("has", "name", "eval_batch"),
    [
        pytest.param(A_T4, "t4", 50, id="T4, or the first of two"),
        pytest.param({"card": "NVIDIA L4", "gb": 23.7, "capability": (8, 9)}, "t4", 50, id="L4"),
        pytest.param({"card": "NVIDIA A100-SXM4-40GB", "gb": 42.4, "capability": (8, 0)}, "t4", 50, id="A100"),
        pytest.param({"card": "a card of 8 GB", "gb": 8.2, "capability": (8, 6)}, "t4", 50, id="8 GB"),
        pytest.param({"card": "a card of 6 GB", "gb": 6.2}, "t4", 25, id="6 GB"),
        pytest.param({"card": "a card of 4 GB", "gb": 4.1}, "small", 100, id="4 GB"),
        pytest.param({"card": "a card of 2 GB", "gb": 2.1}, "tiny", 100, id="2 GB"),
        pytest.param({"minutes": 10}, "small", 100, id="fast CPU, Apple"),
        pytest.param({"minutes": 16}, "tiny", 100, id="slow CPU"),
        pytest.param({"minutes": 10, "weights": []}, "tiny", 100, id="offline"),
        pytest.param(A_T4 | {"weights": []}, "tiny", 100, id="T4, offline"),
        pytest.param(A_T4 | {"weights": [SMALL.model]}, "small", 100, id="T4, offline, with small's weights"),
        pytest.param(A_T4 | {"weights": [T4.model]}, "t4", 50, id="T4, offline, with t4's weights"),
    ],
)
def test_machine_gets_the_profile_that_fits_and_is_told_why(monkeypatch, capsys, has, name, eval_batch):
    have(monkeypatch, **has)
    profile = detect()
    assert (profile.name, profile.eval_batch) == (name, eval_batch)
    told = capsys.readouterr().out
    assert told.startswith(f"profile {name}: ") and told.count("\n") == 1
    assert (f"found {has['card']} with {has['gb']:.1f} GB" if "card" in has else "no GPU") in told


@pytest.mark.parametrize("chosen", [None, "tiny"])
def test_card_without_kernels_is_named_with_the_ways_out(monkeypatch, chosen):
    have(monkeypatch, card="Tesla P100-PCIE-16GB", gb=17.1, capability=(6, 0))
    if chosen:
        monkeypatch.setenv("GRPO_PROFILE", chosen)
    ways_out = "Tesla P100.*6.0, it needs 7.5.*another accelerator.*CUDA_VISIBLE_DEVICES"
    for refuses in (detect, lambda: models.load_policy(TINY)):
        with pytest.raises(machine.UnusableGPU, match=ways_out):
            refuses()


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


@pytest.mark.parametrize(
    ("field", "value", "least"),
    [
        ("steps", 0, 1),
        ("num_generations", 1, 2),
        ("batch", 0, 1),
        ("accumulation", 0, 1),
    ],
)
def test_sizes_that_are_none_are_refused(field, value, least):
    with pytest.raises(ValueError, match=f"{field}={value}: .*at least {least}"):
        TINY.with_(**{field: value})


@given(batch=st.integers(1, 64), accumulation=st.integers(1, 8), group=st.integers(2, 64))
def test_sizes_that_do_not_divide_are_refused_with_every_group_and_the_nearest_batches_that_work(
    batch, accumulation, group
):
    assume(batch * accumulation % group)
    with pytest.raises(ValueError) as caught:
        TINY.with_(batch=batch, accumulation=accumulation, num_generations=group)
    message, advice = str(caught.value).split("Use ")
    for value in (f"batch={batch} ", f"accumulation={accumulation} ", f"num_generations={group}."):
        assert value in message
    groups, batches = ([int(n) for n in re.findall("[0-9]+", part)] for part in advice.rsplit("a batch of ", 1))
    assert groups == [n for n in range(2, batch * accumulation + 1) if batch * accumulation % n == 0]
    fit = {n for n in range(1, batch + 2 * group) if n * accumulation % group == 0}
    assert batches and fit >= set(batches)
    assert all(abs(n - batch) <= abs(other - batch) for n in batches for other in fit - set(batches))


def test_every_place_that_lists_the_profiles_lists_them_all():
    for place in ("README.md", "Makefile", "grpo_helpers/__main__.py"):
        text = (ROOT / place).read_text(encoding="utf-8")
        for name in PROFILES:
            assert re.search(rf"\b{name}\b", text), f"{place} does not name the profile {name}"


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


# --- precision and time ------------------------------------------------------


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
