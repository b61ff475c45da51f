"""Time to a refined adapter: what generating and refining take beside answering one input, in one run.

python benchmarks/refinement.py                       # the built-in toy generator
python benchmarks/refinement.py smollm2 --steps 60
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

from tagi import AdapterGenerator, Refinement
from tagi.data.toy.family import toy_tasks

EXAMPLES = 3


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns and its seconds."""
    begun = time.perf_counter()
    return call(), time.perf_counter() - begun


def main(generator: str, steps: int) -> None:
    """Print the seconds of every part, and each as a multiple of one answer."""
    task = toy_tasks("unseen", instances_per_task=EXAMPLES + 1)[3]
    *shown, asked = [(one.input, one.outputs[0]) for one in task.instances]
    made, loading = timed(lambda: AdapterGenerator.from_pretrained(generator))
    adapter, generating = timed(lambda: made.adapt(task.instruction))
    adapter.predict(asked[0])  # what is prepared once
    _, answering = timed(lambda: adapter.predict(asked[0]))
    _, refining = timed(lambda: adapter.refine(shown, Refinement(steps)))
    rows = {
        "load the generator": loading,
        "generate": generating,
        f"refine, {steps} steps": refining,
        "answer": answering,
    }
    for name, seconds in rows.items():
        print(f"{name:22} {seconds:8.2f} s {seconds / answering:8.1f} answers")
    print(f"a step                 {refining / steps:8.3f} s {refining / steps / answering:8.2f} answers")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generator", nargs="?", default="toy")
    parser.add_argument("--steps", type=int, default=60)
    main(**vars(parser.parse_args()))
