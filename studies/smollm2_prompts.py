"""SmolLM2-135M-Instruct as it is, asked in two ways: the definition in the user's message, or as the system's.

    python studies/smollm2_prompts.py NATURAL_INSTRUCTIONS [INPUTS_PER_TASK]

Prints ROUGE-L and exact match on the unseen tasks; inputs are cut at 256 tokens, answers end at 32.
"""

import sys

import torch

from tagi.backbones.causal import CausalBackbone
from tagi.backbones.load import load_backbone
from tagi.data.task import Instance, Task
from tagi.evaluation.scoring.free_form import rouge_scores
from tagi.evaluation.scoring.statistics import means
from tagi.stages.recipes import load_recipe
from tagi.stages.tasks import load_tasks

_INPUT, _ANSWER, _BATCH = 256, 32, 16


def messages(task: Task, text: str, way: str) -> list[dict[str, str]]:
    """A chat that holds the definition and the input."""
    told = task.instruction.strip()
    if way == "user":
        return [{"role": "user", "content": f"{told}\n\n{text}"}]
    return [{"role": "system", "content": told}, {"role": "user", "content": text}]


def answers(
    backbone: CausalBackbone, asked: list[tuple[Task, Instance]], way: str
) -> list[tuple[str, tuple[str, ...]]]:
    """Greedy answers to a batch."""
    tokenizer, rows = backbone.tokenizer, []
    for task, instance in asked:
        text = tokenizer.decode(tokenizer(instance.input.strip(), add_special_tokens=False)["input_ids"][:_INPUT])
        prompt = tokenizer.apply_chat_template(messages(task, text, way), tokenize=False, add_generation_prompt=True)
        rows.append(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (length - len(row)) + [True] * len(row) for row in rows])
    found = tokenizer.batch_decode(backbone.generate(ids, mask, max_new_tokens=_ANSWER), skip_special_tokens=True)
    return [(answer.strip(), instance.outputs) for (task, instance), answer in zip(asked, found, strict=True)]


def main() -> None:
    """Both ways on the same inputs."""
    backbone = load_backbone("smollm2-135m-instruct", CausalBackbone, dtype=torch.bfloat16)
    tasks = load_tasks(load_recipe("smollm2", [f"data.path={sys.argv[1]}"]), "test").tasks
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    asked = sorted(
        ((task, one) for task in tasks for one in task.instances[:count]),
        key=lambda pair: len(pair[0].instruction) + len(pair[1].input),
    )
    for way in ("user", "system"):
        rows = [row for at in range(0, len(asked), _BATCH) for row in answers(backbone, asked[at : at + _BATCH], way)]
        overall = means(rouge_scores(rows))
        print(way, len(rows), {name: round(value, 1) for name, value in overall.items()}, flush=True)


if __name__ == "__main__":
    main()
