"""The machine at hand: what it is, how fast, which precision and which profile fit it."""

import functools
import os
import platform
import re
import resource
import subprocess
import sys
import timeit
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .pretrained import WeightsNotFound, find_weights, hub_reachable
from .profiles import GB, SMALL, T4, TINY, Profile, get_profile

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy", "pandas")
# Speed of products where `minutes` holds: tiny, two cores of a Xeon; small, two of an AMD EPYC
REFERENCE_GFLOPS = {"float32": 217.0, "bfloat16": 430.0}
LONGEST_MINUTES = 15
# GB that a GPU needs, as lessons.memory plans them (tests/test_memory.py); the first that fits is taken
NEEDED_GB = (
    (T4, 6.36), (T4.with_(eval_batch=25), 5.83), (SMALL, 5.38), (SMALL.with_(checkpointing=True, eval_batch=50), 3.09),
)  # fmt: skip
SPARE = 0.95  # of a card's memory; a screen or another notebook may hold the rest


def hardware() -> str:
    """The machine in words: GPU or processor, cores, memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else []
    cpu = names[0].strip() if names else platform.processor() or platform.machine()
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return f"{gpu}{cpu}, {os.cpu_count()} cores, {memory:.0f} GB"


def peak_memory_gb() -> float:
    """The largest resident memory this process has had, in GB (10^9 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


@functools.cache
def cpu_gflops(dtype: torch.dtype) -> float:
    """This CPU's matrix-product speed in `dtype`, measured for a few hundredths of a second."""
    a, b = torch.ones(512, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
    return 2 * 512 * 576 * 1536 / min(timeit.repeat(lambda: a @ b, repeat=11, number=1)) / 1e9


def gpu_record() -> dict[str, Any]:
    """The card in a record: its name, memory, compute capability, driver ("unknown" where nvidia-smi is missing)."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "unknown"
    return {
        "card": torch.cuda.get_device_name(),
        "memory_gb": round(torch.cuda.get_device_properties(0).total_memory / GB, 1),
        "capability": list(torch.cuda.get_device_capability()),
        "driver": driver,
        "cuda": torch.version.cuda,
    }


def estimated_minutes(profile: Profile) -> float:
    """How long `profile` should take on this CPU: half of it scaled by the speed of products, half the same anywhere.

    (While small decodes, products take a third of the time; while it scores and learns, most of it.)
    """
    return profile.minutes * (1 + REFERENCE_GFLOPS[profile.dtype] / cpu_gflops(resolve_dtype(profile))) / 2


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 by instructions of its own (AVX512-BF16, AMX, ARM's BF16)."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def resolve_dtype(profile: Profile) -> torch.dtype:
    """The precision of the frozen weights on this machine.

    A GPU before Ampere (a T4) only emulates bfloat16, so `is_bf16_supported` is no guide; a CPU without bfloat16
    instructions is slower in it. Which it has is looked up, not timed: a busy machine must not choose otherwise.
    """
    wanted = getattr(torch, profile.dtype)
    if wanted == torch.float32:
        return wanted
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    return torch.bfloat16 if cpu_has_bfloat16() else torch.float32


def detect() -> Profile:
    """The profile that fits this machine: `GRPO_PROFILE` if set, else by what is at hand. Says why in one line.

    A GPU gets the first of NEEDED_GB that fits and whose weights can be had, else tiny. Without one it is small, unless
    its weights cannot be had or it would take over a quarter of an hour; then tiny. Raises what `check_gpu` does.
    """
    check_gpu()
    if chosen := os.environ.get("GRPO_PROFILE"):
        profile, why = get_profile(chosen), "GRPO_PROFILE is set"
        if profile.dtype == "float16" and not torch.cuda.is_available():
            why += ", though this profile is made for a GPU and there is none; expect hours to days"
    else:
        profile, why = _for_gpu() if torch.cuda.is_available() else _for_cpu()
    print(f"profile {profile.name}: {why}")
    return profile


class UnusableGPU(RuntimeError):
    """This build of torch has no kernels for the GPU."""


def check_gpu() -> None:
    """Raise UnusableGPU, with the ways out, before CUDA says "no kernel image" in the middle of something."""
    if not torch.cuda.is_available():
        return
    major, minor = torch.cuda.get_device_capability()
    built = torch.cuda.get_arch_list()
    oldest = min((int(re.sub(r"\D", "", name)) for name in built if name.startswith("sm_")), default=0)
    if 10 * major + minor < oldest:
        what = f"{torch.cuda.get_device_name()} (compute capability {major}.{minor}, torch needs {oldest / 10:.1f})"
        remedy = "choose another accelerator, or set CUDA_VISIBLE_DEVICES to nothing for the CPU"
        raise UnusableGPU(f"this torch has no kernels for {what}; {remedy}")


def _for_gpu() -> tuple[Profile, str]:
    card, total = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory / GB
    told, missing = [f"found {card} with {total:.1f} GB"], set()
    for profile, needed in NEEDED_GB:
        if profile.name in missing:
            continue
        told.append(f"{profile.name!r} needs about {needed:.1f} ({profile.eval_batch} questions at a time)")
        if needed < SPARE * total:
            if not (error := _weights_missing(profile)):
                return profile, "; ".join(told)
            missing.add(profile.name)
            told[-1] = f"the weights of {profile.name!r} cannot be had: {error}"
    return TINY, "; ".join(told)


def _for_cpu() -> tuple[Profile, str]:
    minutes = estimated_minutes(SMALL)
    if minutes > LONGEST_MINUTES:
        return TINY, f"no GPU, and 'small' would take about {minutes:.0f} minutes here (GRPO_PROFILE=small chooses it)"
    if error := _weights_missing(SMALL):
        return TINY, f"no GPU, and the weights of 'small' cannot be had: {error}"
    return SMALL, f"no GPU, and 'small' should take about {minutes:.0f} minutes on this CPU"


def _weights_missing(profile: Profile) -> str:
    """Why the weights of `profile` cannot be had, or nothing. Small's are fetched here; the hub's, of 3 GB, are not."""
    try:
        if profile.model == SMALL.model or not hub_reachable():
            find_weights(profile.model, profile.revision)
    except WeightsNotFound as error:
        return str(error)
    return ""


def time_in_words(profile: Profile) -> str:
    """How long a run should take here. On a GPU, and for a GPU's profile without one, its first steps have to tell."""
    if torch.cuda.is_available():
        return "shown after the first steps; most of it is the cost of starting small operations, on any card"
    if profile.dtype not in REFERENCE_GFLOPS:
        return f"hours to days: {profile.name} is made for a GPU, and there is none; the first steps will show"
    return f"about {estimated_minutes(profile):.0f} minutes on this machine (an estimate)"


def versions() -> dict[str, str]:
    """Python's version and those of PACKAGES."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def describe() -> str:
    """Versions and hardware in two lines, for the head of a notebook."""
    return f"{' · '.join(map(' '.join, versions().items()))}\n{hardware()}"
