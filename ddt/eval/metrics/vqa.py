"""Accuracy of VQAv2, OKVQA, VizWiz and GQA, as their official scripts compute it."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

# The official list; an apostrophe, a colon, $, %, & and # stay in the answer.
MARKS = tuple(';/[]"{}()=+\\_-><@`,?!')
_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(value) for value, word in enumerate(_COUNTED)} | {"none": "0"}
ARTICLES = frozenset(("a", "an", "the"))
COMMA_IN_NUMBER = re.compile(r"\d,\d")
# Officially (?!<=\d)(\.)(?!\d): the first group was meant as a look-behind and always holds, so a period goes
# whenever no digit follows. The flag passed as a count there (re.UNICODE, 32) limits it to 32 periods.
LOOSE_PERIOD = re.compile(r"\.(?!\d)")
MAX_PERIODS = 32

# Words that get their apostrophe back. Looked up after lower-casing, so the table has no capitals.
_RESTORED = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll
    how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't
    should've shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll
    that's there'd there're there's they'd they'll they're they've wasn't we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'll who's who've why'll why're why's won't
    would've wouldn't y'all you'd you'll you're you've 'twas
"""
# Double contractions of which one apostrophe may be missing, either one.
_DOUBLE = """
    couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've
    something'd've there'd've they'd've we'd've who'd've wouldn't've you'd've y'all'll
"""


def _contractions() -> dict[str, str]:
    table = {word.replace("'", ""): word for word in _RESTORED.split()}
    for word in _DOUBLE.split():
        first, second, third = word.split("'")
        table[f"{first}{second}'{third}"] = word
        table[f"{first}'{second}{third}"] = word
    # Irregular entries of the official table, its own slip ("somebodyd") included.
    table |= {"somebody'd": "somebodyd", "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at"}
    table |= dict.fromkeys(("yall'd've", "y'alld've", "y'all'dve"), "y'all'd've")
    return table


CONTRACTIONS = _contractions()


def _curly(text: str) -> str:
    return text.replace("'", "\u2019")


# VizWiz's copy of the table has curly apostrophes but for these, so a restored word equals no reference that
# has a straight one.
_STRAIGHT = ("aint", "arent", "cant", "couldve", "couldnt", "weve", "wheres", "whove")
_STRAIGHT_KEYS = {"couldn'tve": _curly("couldn't've"), "hadn'tve": _curly("hadn't've")}
VIZWIZ_CONTRACTIONS = {
    _curly(key): word if key in _STRAIGHT else _curly(word)
    for key, word in CONTRACTIONS.items()
    if key not in _STRAIGHT_KEYS
} | _STRAIGHT_KEYS


@lru_cache(maxsize=1 << 16)
def vqa_normalize(answer: str) -> str:
    """Full normalisation of an answer: punctuation, then lower case, number words, articles, contractions."""
    return _words(_punctuation(answer), CONTRACTIONS)


def _punctuation(answer: str) -> str:
    """Deletes a mark that touches a blank (or any mark, if a number has a comma), else turns it into a blank.

    Both conditions look at the original answer, not at the text changed so far.
    """
    text = answer
    has_number_comma = COMMA_IN_NUMBER.search(answer) is not None
    for mark in MARKS:
        if mark in text:
            touches_blank = mark + " " in answer or " " + mark in answer
            text = text.replace(mark, "" if touches_blank or has_number_comma else " ")
    return LOOSE_PERIOD.sub("", text, count=MAX_PERIODS)


def _words(text: str, contractions: Mapping[str, str]) -> str:
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(contractions.get(word, word) for word in words if word not in ARTICLES)


def _strip(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def vqa_accuracy(answers: Sequence[Mapping[str, Any]], prediction: str) -> float:
    """Accuracy of one prediction in percent: for each annotator min(1, matches among the others / 3),
    averaged.

    `answers` are the annotators' dicts with "answer" and a unique "answer_id". "The others" are the dicts
    that differ from the annotator's own, so without unique ids equal answers vanish together (official
    behaviour). Both sides are normalised only if the stripped answers are not all equal; otherwise the
    comparison is raw.
    """
    if not answers:
        raise ValueError("vqa_accuracy: no reference answers")
    cleaned = [_strip(item["answer"]) for item in answers]
    predicted = _strip(prediction)
    if len(set(cleaned)) > 1:
        cleaned = [vqa_normalize(answer) for answer in cleaned]
        predicted = vqa_normalize(predicted)
    annotators = [{**item, "answer": answer} for item, answer in zip(answers, cleaned, strict=True)]
    matching = [item for item in annotators if item["answer"] == predicted]
    total = sum(min(1.0, sum(item != own for item in matching) / 3) for own in annotators)
    return round(100 * total / len(annotators), 10)


def vizwiz_accuracy(answers: Sequence[str], prediction: str) -> float:
    """Accuracy of one prediction in percent, as VizWiz's own script has it: the prediction is normalised,
    always and with its own table of contractions, the references are compared as they are; an annotator is
    left out by place.
    """
    if not answers:
        raise ValueError("vizwiz_accuracy: no reference answers")
    said = _words(_punctuation(_strip(prediction)), VIZWIZ_CONTRACTIONS)
    hits = [answer == said for answer in answers]
    return 100 * sum(min(1.0, (sum(hits) - own) / 3) for own in hits) / len(hits)


def gqa_accuracy(
    questions: Mapping[str, Mapping[str, Any]], predictions: Sequence[Mapping[str, str]]
) -> float:
    """Percent of balanced questions whose prediction equals the answer exactly (GQA normalises nothing).

    `questions` maps an id to {"answer", "isBalanced", ...}; `predictions` hold {"questionId", "prediction"}.
    Raises ValueError if a balanced question has no prediction or no question is balanced.
    """
    by_id = {item["questionId"]: item["prediction"] for item in predictions}
    balanced = {key: question for key, question in questions.items() if question["isBalanced"]}
    if not balanced:
        raise ValueError("gqa_accuracy: no balanced question")
    missing = [key for key in balanced if key not in by_id]
    if missing:
        raise ValueError(f"gqa_accuracy: no prediction for {len(missing)} questions, first {missing[0]!r}")
    return 100.0 * sum(by_id[key] == question["answer"] for key, question in balanced.items()) / len(balanced)
