"""The helper module of the GRPO notebook series. Importing it loads nothing heavy.

question → messages → completions → parsed answer → rewards → advantages → update → history → plots, evaluation

profiles     Profile, the four recipes, detect()
prompts      SYSTEM_PROMPT, XML_COT_FORMAT, build_messages; answers and numbers read back
data         word_problems, get_gsm8k_questions: the questions, in the trainer's columns
models       find_weights, load_policy, lora_config
rewards      the five reward functions and count_xml
sampling     completions without repeated work
trainer      TRL's GRPOTrainer with each prompt run once
training     grpo_config, make_trainer, train with safe resume, history
evaluation   predictions, strict and flexible accuracy, Wilson intervals, paired test
plotting     every figure
run          the main job, `python -m grpo_helpers`
files        files written whole or not at all
"""

__version__ = "0.1.0"
