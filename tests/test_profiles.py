"""Profiles: what each refuses, which one a machine gets, in which precision, and for how long."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from grpo_helpers import machine, models, profiles
from grpo_helpers.__main__ import LIST
from grpo_helpers.machine import detect
from grpo_helpers.pretrained import WeightsNotFound
from grpo_helpers.profiles import PROFILES, ROOT, SMALL, T4, TINY, get_profile, output_root


@pytest.mark.parametrize("name", ["huge", "tiny "])
def test_unknown_profile_is_named_and_the_known_ones_listed(monkeypatch, name):
    monkeypatch.setenv("GRPO_PROFILE", name)
    told = f"{name!r}.*tiny, small, small_long, t4, t4_full, article.*GRPO_PROFILE"
    for choose in (lambda: get_profile(name), detect):
        with pytest.raises(ValueError, match=told):
            choose()


def have(monkeypatch, card=None, gb=0.0, capability=(7, 5), minutes=10, weights=True):
    """A machine with this card, or a CPU on which `small` takes so many minutes; offline it has those weights alone."""

    def find_weights(model, revision):
        assert weights is not True or model == SMALL.model, "3 GB are not fetched to choose a profile"
        if weights is not True and model not in weights:
            raise WeightsNotFound("not in the cache, not on the hub")

    monkeypatch.delenv("GRPO_PROFILE", raising=False)
    properties = SimpleNamespace(total_memory=gb * 1e9)
    for name, answer in {
        "is_available": card is not None, "get_device_name": card,
        "get_device_properties": properties, "get_device_capability": capability,
        "get_arch_list": ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"],  # of torch 2.13 for CUDA 13
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *args, answer=answer: answer)
    monkeypatch.setattr(machine, "estimated_minutes", lambda profile: minutes)
    monkeypatch.setattr(machine, "find_weights", find_weights)
    monkeypatch.setattr(machine, "hub_reachable", lambda: weights is True)


@pytest.mark.parametrize(("name", "for_a_gpu"), [("small", False), ("t4", True)])
def test_environment_overrides_the_machine_and_says_so(monkeypatch, capsys, name, for_a_gpu):
    have(monkeypatch)
    monkeypatch.setenv("GRPO_PROFILE", name)
    assert detect() is PROFILES[name]
    told = capsys.readouterr().out
    assert told.startswith(f"profile {name}: GRPO_PROFILE is set") and ("made for a GPU" in told) == for_a_gpu


A_T4 = {"card": "Tesla T4", "gb": 15.6}


# What notebook 04 shows as a table.
@pytest.mark.parametrize(
    ("has", "name", "eval_batch"),
    [
        pytest.param(A_T4, "t4", 50, id="T4, or the first of two"),
        pytest.param({"card": "NVIDIA A100-SXM4-40GB", "gb": 42.4, "capability": (8, 0)}, "t4", 50, id="A100"),
        pytest.param({"card": "a card of 8 GB", "gb": 8.2, "capability": (8, 6)}, "t4", 50, id="8 GB"),
        pytest.param({"card": "a card of 6 GB", "gb": 6.2}, "t4", 25, id="6 GB"),
        pytest.param({"card": "a card of 4 GB", "gb": 4.1}, "small", 50, id="4 GB"),
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


@pytest.mark.parametrize("chosen", ["", "tiny"])
def test_card_without_kernels_is_named_with_the_ways_out(monkeypatch, chosen):
    have(monkeypatch, card="Tesla P100-PCIE-16GB", gb=17.1, capability=(6, 0))
    monkeypatch.setenv("GRPO_PROFILE", chosen)
    ways_out = "Tesla P100.*6.0, torch needs 7.5.*another accelerator.*CUDA_VISIBLE_DEVICES"
    for refuses in (detect, lambda: models.load_policy(TINY)):
        with pytest.raises(machine.UnusableGPU, match=ways_out):
            refuses()


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_presets_form_whole_groups_and_show_what_they_do(profile):
    assert profile.prompts_per_step * profile.num_generations == profile.batch * profile.accumulation
    shown, model = str(profile), profile.model.removeprefix(f"{ROOT}/")
    parts = (profile.name, model, profile.task, f"{profile.steps} steps", f"{profile.eval_questions} held-out")
    assert all(part in shown for part in parts) and str(ROOT) not in shown
    for text in (LIST, *((ROOT / place).read_text(encoding="utf-8") for place in ("README.md", "Makefile"))):
        assert re.search(rf"\b{profile.name}\b", text), f"{text[:60]} ... lists them all"


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("num_generations", 1), ("batch", 0)])
def test_sizes_that_are_none_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field}={value}: .*at least {value + 1}"):
        TINY.with_(**{field: value})


@pytest.mark.parametrize("change", [{"dtype": "bf16"}, {"eval_temperatures": ()}])
def test_settings_that_no_run_could_end_with_are_refused(change):
    with pytest.raises(ValueError, match=f"^{[*change][0]}="):
        TINY.with_(**change)


def test_sizes_that_do_not_divide_are_refused_with_every_group_and_the_nearest_batches_that_work():
    with pytest.raises(ValueError, match=r"batch=9 .*num_generations=4.*2, 3, 6, 9, 18.*a batch of .*8.*10"):
        TINY.with_(batch=9, accumulation=2, num_generations=4)


def test_drive_is_mounted_only_when_it_is_asked_for(monkeypatch, tmp_path):
    mounted, drive = [], SimpleNamespace(mount=lambda place: mounted.append(place))
    monkeypatch.setattr(profiles, "DRIVE", tmp_path / "drive")
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(drive=drive))
    monkeypatch.delenv("GRPO_OUTPUT", raising=False)
    assert output_root() == ROOT / "outputs" and output_root(Path("x")) == Path("x")
    monkeypatch.setenv("GRPO_OUTPUT", str(tmp_path / "elsewhere"))
    assert output_root() == tmp_path / "elsewhere" and mounted == []
    monkeypatch.setenv("GRPO_OUTPUT", str(tmp_path / "drive" / "MyDrive" / "grpo"))
    assert output_root() == tmp_path / "drive" / "MyDrive" / "grpo"
    assert mounted == [str(tmp_path / "drive")]
    (tmp_path / "drive" / "MyDrive").mkdir(parents=True)
    output_root()
    assert len(mounted) == 1, "a mounted Drive is not mounted again"


def test_drive_outside_colab_is_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", None)
    monkeypatch.setenv("GRPO_OUTPUT", "/content/drive/MyDrive/grpo")
    with pytest.raises(OSError, match="GRPO_OUTPUT=/content/drive/MyDrive/grpo .*not Colab; choose another"):
        output_root()


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
    ("kind", "instruction", "has"),
    [
        ("x86_64", "", False), ("x86_64", "avx512_bf16", True),
        ("AMD64", "amx_tile", True), ("arm64", "mkldnn_bf16", True),
    ],
)  # fmt: skip
def test_bfloat16_instructions_of_a_processor(monkeypatch, kind, instruction, has):
    monkeypatch.setattr(machine.platform, "machine", lambda: kind)
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name == instruction)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    known = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: instruction == "mkldnn_bf16")
    monkeypatch.setattr(machine.torch, "ops", SimpleNamespace(mkldnn=known))
    assert machine.cpu_has_bfloat16() is has
