"""Generate an adapter from an instruction, answer with it, write it to a folder and read it back."""

import sys
from pathlib import Path

from tagi import AdapterGenerator, TaskAdapter


def main(folder: Path, generator: str = "toy") -> None:
    """Answer three inputs and save the adapter under `folder`."""
    made = AdapterGenerator.from_pretrained(generator)
    adapter = made.adapt("take the tool and the animal and make each one plural .")
    print(adapter.predict("cat river king pen soup"))
    print(adapter.predict(["cat river king pen soup", "hen hill nail queen tea"]))

    adapter.save_pretrained(folder / "adapter")
    again = TaskAdapter.from_pretrained(folder / "adapter", made)
    print(again.alone().predict("hen hill nail queen tea"))  # the generated LoRA without the instruction


if __name__ == "__main__":
    main(Path(sys.argv[1]))
