"""The machine at hand: what it is, how fast, which precision and which profile fit it."""

from __future__ import annotations

import functools
import os
import platform
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch

from .pretrained import WeightsNotFound, find_weights
from .profiles import SMALL, T4, TINY, Profile, get_profile

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy", "pandas")
# Speed of products where `minutes` holds: tiny, two cores of a Xeon; small, two of an AMD EPYC; a T4, an estimate
REFERENCE_GFLOPS = {"float32": 217.0, "bfloat16": 430.0, "float16": 20_000.0}
LONGEST_MINUTES = 15


def hardware() -> str:
    """The machine in words: GPU or processor, cores, memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [x.split(":")[1].strip() for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0] if names else cpu
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
    a @ b
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * 512 * 576 * 1536 / best / 1e9


def estimated_minutes(profile: Profile) -> float:
    """How long `profile` should take here: half of it scaled by the speed of products, half of it the same anywhere.

    (While small decodes, products take a third of the time; while it scores and learns, most of it.)
    """
    if torch.cuda.is_available():
        return profile.minutes
    return profile.minutes * (1 + REFERENCE_GFLOPS[profile.dtype] / cpu_gflops(resolve_dtype(profile))) / 2


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 by instructions of its own (AVX512-BF16, AMX, ARM's BF16)."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def resolve_dtype(profile: Profile) -> torch.dtype:
    """The precision of the frozen weights on this machine.

    A GPU before Ampere (a T4) only emulates bfloat16, so `is_bf16_supported`
    is no guide; a CPU without bfloat16 instructions is slower in it. Which it
    has is looked up, not timed: a busy machine must not choose otherwise.
    """
    wanted = getattr(torch, profile.dtype)
    if wanted == torch.float32:
        return wanted
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    return torch.bfloat16 if cpu_has_bfloat16() else torch.float32


def detect(verbose: bool = True) -> Profile:
    """The profile that fits this machine: `GRPO_PROFILE` if set, else by what is at hand.

    CUDA → t4. Otherwise small, unless its weights cannot be had or it would
    take over a quarter of an hour here; then tiny. Says why in one line.
    """
    chosen = os.environ.get("GRPO_PROFILE")
    if chosen:
        profile, why = get_profile(chosen), "GRPO_PROFILE is set"
    else:
        profile, why = _detect()
    if verbose:
        print(f"profile {profile.name}: {why}")
    return profile


def _detect() -> tuple[Profile, str]:
    if torch.cuda.is_available():
        return T4, f"found {torch.cuda.get_device_name()}"
    minutes = estimated_minutes(SMALL)
    if minutes > LONGEST_MINUTES:
        return (
            TINY,
            f"no GPU, and 'small' would take about {minutes:.0f} minutes on this CPU"
            " (GRPO_PROFILE=small if you do not mind)",
        )
    try:
        find_weights(SMALL.model, SMALL.revision)
    except WeightsNotFound as error:
        return TINY, f"no GPU, and the weights of 'small' cannot be had: {error}"
    return SMALL, f"no GPU, and 'small' should take about {minutes:.0f} minutes on this CPU"


def versions() -> dict[str, str]:
    """Python's version and those of PACKAGES."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def describe() -> str:
    """Versions and hardware in two lines, for the head of a notebook."""
    return f"{' · '.join(map(' '.join, versions().items()))}\n{hardware()}"
