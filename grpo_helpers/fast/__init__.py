"""A faster engine: TRL's numbers without its repeated work. `shared_prompts` has it train; it always evaluates."""
