"""Settings of evaluation."""

from typing import Literal

from pydantic.dataclasses import dataclass

from tagi.settings.tables import Count, Table


@dataclass(frozen=True)
class EvaluationSettings(Table):
    """How answers are generated and scored.

    Args:
        batch_size: Number of instances per batch.
        max_new_tokens: Maximum length of an answer in tokens.
        num_beams: Number of beams. 1 is greedy decoding.
        metric: "exact": equality. "rouge": Tk-Instruct's ROUGE-L and exact match. "rank": rank classification of the
            choices. "task": each task's metric, or one that fits its references. By default "exact" for the toy tasks,
            "rank" for P3's evaluation sets, "task" for the everyday benchmark, your own tasks and tasks that name a
            metric, and "rouge" otherwise.
        choice_score: Score of a choice in rank classification: "sum" or "mean" of its tokens' log-probabilities.
        limit: Maximum number of instances per task.
    """

    batch_size: Count = 32
    max_new_tokens: Count = 128
    num_beams: Count = 1
    metric: Literal["exact", "rouge", "rank", "task"] | None = None
    choice_score: Literal["sum", "mean"] = "sum"
    limit: Count | None = None
