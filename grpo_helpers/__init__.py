"""The helper module of the GRPO notebook series. Importing it loads nothing heavy.

The core, in the order of a question's way; read it so:

profiles     Profile and the recipes: all that differs between machines
prompts      SYSTEM_PROMPT, XML_COT_FORMAT, build_messages; answers and numbers read back
data         word_problems, get_gsm8k_questions: the questions, in the trainer's columns
machine      what this machine is, its precision and speed, the profile that fits: detect()
models       load_policy, lora_config
rewards      the five reward functions and count_xml
mistakes     the calculations that a reply states, and those of them that are false
callbacks    progress, a clean stop, DoctorCallback
training     grpo_config, make_trainer, train with safe resume
records      history(): a training as a table; what is recorded in data/runs
evaluation   predictions, strict and flexible accuracy, before beside after, what was learned; also during training
statistics   intervals and the paired test
plotting     the figures

Beside it:

lessons      what only some notebooks need: rewards attacked and validated, prompts and groups measured, memory planned,
             runs diagnosed (the doctor), compared in grids and tried, several processes, two replies side by side
fast         a faster engine: TRL's numbers without its repeated work

Plumbing:

run          the main job, `python -m grpo_helpers`
ledger       what a training on a GPU takes: seconds and memory of each phase, steps lost to overflow
pretrained   where a model's weights are: a folder, a package, the hub
adapters     a trained adapter found, loaded, described in a model card, pushed
checks       checks for the exercises
hosted       Colab and Kaggle made ready, one GPU of several
checkpoints  the checkpoints of a run: found, and known to be whole
files        files written whole or not at all
"""

import os

# TRL and others report each trainer unless told not to before they are imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
