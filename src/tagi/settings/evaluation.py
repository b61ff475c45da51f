"""How predictions are made and scored."""

from typing import Literal

from pydantic.dataclasses import dataclass

from tagi.settings.tables import Count, Table


@dataclass(frozen=True)
class EvaluationSettings(Table):
    """How predictions are made for scoring.

    Args:
        batch_size: Instances per batch.
        max_new_tokens: Limit of a generated answer.
        num_beams: Beams of the search. 1 is greedy decoding.
        metric: "exact": equality. "rouge": ROUGE-L and exact match as Tk-Instruct scores them. "rank": rank
            classification of the choices. "task": each task's own metric, or one that fits its references. By default
            "exact" for toy, "rank" for P3's evaluation sets, "task" for the everyday benchmark, for your own tasks and
            where a task names a metric, "rouge" for the others.
        choice_score: Score of a choice in rank classification: the sum or the mean of its tokens' log-probabilities.
        limit: At most so many instances per task.
    """

    batch_size: Count = 32
    max_new_tokens: Count = 128
    num_beams: Count = 1
    metric: Literal["exact", "rouge", "rank", "task"] | None = None
    choice_score: Literal["sum", "mean"] = "sum"
    limit: Count | None = None
