"""POPE (object hallucination by yes/no questions), as the official evaluate.py scores it."""

from collections.abc import Sequence

NEGATIVE = frozenset(("No", "not", "no"))


def pope_parse(text: str) -> str:
    """ "yes" or "no". Only the words No, not and no before the first period make a "no".

    So "NO", "none", "isn't", "no!" and the empty answer count as yes: official behaviour.
    """
    sentence = text.split(".", 1)[0].replace(",", "")
    return "no" if NEGATIVE.intersection(sentence.split(" ")) else "yes"


def pope(answers: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Accuracy, precision, recall, F1 (positive class yes) and the ratio of answers read as yes.

    `answers` are raw model answers in the order of `labels` ("yes"/"no"). A ratio whose denominator is zero
    is 0.0 (the official script stops there with ZeroDivisionError). Raises ValueError on unequal lengths.
    """
    if len(answers) != len(labels):
        raise ValueError(f"pope: {len(answers)} answers for {len(labels)} labels")
    unknown = [label for label in labels if label not in ("yes", "no")]
    if unknown:
        raise ValueError(f"pope: label {unknown[0]!r} is neither yes nor no")
    pairs = [
        (pope_parse(answer) == "yes", label == "yes") for answer, label in zip(answers, labels, strict=True)
    ]
    true_yes = sum(predicted and wanted for predicted, wanted in pairs)
    said_yes = sum(predicted for predicted, _ in pairs)
    are_yes = sum(wanted for _, wanted in pairs)
    precision = _ratio(true_yes, said_yes)
    recall = _ratio(true_yes, are_yes)
    return {
        "accuracy": _ratio(sum(predicted == wanted for predicted, wanted in pairs), len(pairs)),
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * precision * recall, precision + recall),
        "yes_ratio": _ratio(said_yes, len(pairs)),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
