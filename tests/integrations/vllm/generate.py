"""One run of the real engine in a process of its own: `generate.py SETTINGS_JSON ANSWER_FILE`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

PROMPTS = (
    "Write a Python function that reverses a string.",
    "What is a hash table?",
    "What is 17 times 23? Explain.",
    "Name three rivers in Europe.",
)

if __name__ == "__main__":  # the engine's processes import this file again
    os.environ.update({"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"})
    from vllm import LLM, SamplingParams

    settings = json.loads(sys.argv[1])
    engine = LLM(
        dtype="float32",
        max_model_len=512,
        max_num_seqs=4,
        gpu_memory_utilization=0.2,  # of the CPU's memory
        enforce_eager=True,
        disable_log_stats=False,
        **settings,
    )
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    greedy = SamplingParams(temperature=0, max_tokens=48)
    # One after another, and then together: batches of one and of four.
    answers = [answer for some in (*([chat] for chat in chats[:2]), chats) for answer in engine.chat(some, greedy)]
    counters = {
        metric.name.removeprefix("vllm:spec_decode_"): getattr(metric, "value", getattr(metric, "values", None))
        for metric in engine.get_metrics()
        if "spec_decode" in metric.name
    }
    tokens = [list(answer.outputs[0].token_ids) for answer in answers]
    Path(sys.argv[2]).write_text(json.dumps({"tokens": tokens, "counters": counters}), encoding="utf-8")
