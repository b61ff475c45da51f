"""How long `tagi predict -i` takes beside a plain transformers script that asks the same model the same.

python benchmarks/startup.py OUT.json [PAIRS]

Both answer one input with SmolLM2-135M-Instruct on one thread, in turns, each in a process of its own. Processor time
(user and system) is compared, which a busy machine disturbs less than the clock; the ratio of medians is the result.
The model is converted before anything is measured.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

from tagi.backbones.gguf import converted, file_digest, find_gguf

NAME, TOKENS = "smollm2-135m-instruct", 16
INSTRUCTION, INPUT = "Write the sentence in the past tense.", "She walks to the station."
PLAIN = f"""
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = (kind.from_pretrained(sys.argv[1]) for kind in (AutoTokenizer, AutoModelForCausalLM))
chat = [{{"role": "user", "content": {f"{INSTRUCTION} {INPUT}"!r}}}]
ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**ids, max_new_tokens={TOKENS}, do_sample=False)[0, ids["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
"""


def processor_seconds(arguments: list[str]) -> float:
    """Seconds of processor time that a command takes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(arguments, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    file = find_gguf(NAME)
    assert file is not None
    folder = converted(NAME, file, file_digest(file))
    ours = [*("-m", "tagi", "predict", "-i", INSTRUCTION, INPUT), "--max-new-tokens", str(TOKENS)]
    commands = {"plain": ["-c", PLAIN, str(folder)], "predict": ours}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 5):
        for name, arguments in commands.items():
            seconds[name].append(round(processor_seconds([sys.executable, *arguments]), 2))
            print(name, seconds[name][-1], flush=True)
    medians = {name: statistics.median(own) for name, own in seconds.items()}
    record = {"seconds": seconds, "medians": medians, "ratio": round(medians["predict"] / medians["plain"], 3)}
    Path(sys.argv[1]).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
