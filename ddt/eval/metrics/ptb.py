"""Penn Treebank tokenisation of captions as coco-caption does it (Stanford tokenizer 3.4.1, lower case,
preserved lines, then its list of punctuation dropped), in Python.

Written against the behaviour of the Java program, not from its source: each line is cut at blanks and at
every position the longest of the patterns below wins. `tests/eval/test_metrics_ptb.py` compares the two
wherever Java and pycocoevalcap are installed.
"""

import re
from functools import lru_cache

from ddt.eval.metrics.ptb_words import (
    ABBREVIATIONS,
    CAPITAL_ABBREVIATIONS,
    CUT_WORDS,
    NUMBER_ABBREVIATIONS,
    SENTENCE_STARTS,
)

# The official list has bracket names in upper case while the tokens are lower-cased, so brackets survive.
DROPPED = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)
# Symbols that the tokenizer knows and keeps as tokens of their own, beyond ASCII.
_SYMBOLS = (
    "\u00a1-\u00a9\u00ab\u00ac\u00ae-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u00d7\u00f7\u037e\u0387\u0964\u0965\u0e3f"
    "\u2010\u2011\u2013-\u2023\u2026\u2030-\u203b\u203e-\u2042\u2044\u2070\u2074-\u208e\u20a0\u20a4\u20ac"
    "\u2100\u2101\u2103-\u2106\u2108\u2109\u2114\u2116-\u2118\u211e-\u2123\u2125\u2127\u2129\u212e\u2140-\u2144"
    "\u214a-\u214f\u2153-\u215e\u2190-\u2426\u2440-\u244a\u2460-\u2bff\u3001\u3002\u3012\u30fb\uff01-\uff0f"
    "\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0\uffe1\uffe5\uffe6"
)
_MARKS = "\u02c2-\u036f\u0483-\u0487\u0591-\u05bd\u064b-\u065e\u0670"
_MARKS += "\u0901-\u0903\u093c\u093e-\u094d\u0e31\u0e34-\u0e3a\u0e47-\u0e4e"
_LETTER = rf"(?:[^\W\d_{_SYMBOLS}]|[{_MARKS}])"
_ALNUM = rf"(?:[^\W_{_SYMBOLS}]|[{_MARKS}])"
# Neither letter, digit, known symbol nor ASCII: the Java program drops it, and it ends a token like a blank.
_UNKNOWN = re.compile(rf"[^!-~\w{_SYMBOLS}{_MARKS}]|[\U00010000-\U0010ffff]")
_QUOTES = {
    "\u2018": "`", "\u201b": "`", "\u2039": "`", "\u2019": "'", "\u203a": "'",
    "\u201c": "``", "\u00ab": "``", "\u201d": "''", "\u00bb": "''",
}  # fmt: skip
_APOSTROPHE = "['\u2019]"
_HYPHEN = "[-\u2010\u2011\u058a]"
_NBSP = "\u00a0"

_WORD = rf"{_ALNUM}+(?:_{_ALNUM}+)*"
_HOST = r"(?:[^\s\"`'<>|.!?(){},\-_$/:;@&=]+\.)+"
_PATH = r"(?:/[^\s\"<>|()]+[^\s\"<>|.!?(){},\-])?"
_GROUP = r"\d{2,4}[- \u00a0]"


def _any_case(words: tuple[str, ...]) -> str:
    return "(?i:" + "|".join(sorted(map(re.escape, words), key=len, reverse=True)) + ")"


_CAPITAL = "|".join(f"{word.capitalize()}|{word.upper()}" for word in CAPITAL_ABBREVIATIONS)

# The longest match wins, the first of equal ones. A group marks a token that is shorter than what was
# matched.
_PATTERNS = [
    # words before n't, 's, 'll ...
    rf"({_LETTER}+)(?<![nN])[nN]{_APOSTROPHE}[tT]",
    rf"({_LETTER}+){_APOSTROPHE}(?i:s|m|d|ll|re|ve)(?!{_LETTER})",
    rf"[nN](?:{_APOSTROPHE}|`)[tT](?!{_LETTER})",
    rf"({_LETTER}+)[nN]`[tT](?!{_LETTER})",
    rf"('[tT])(?i:is|was)(?!{_LETTER})",
    rf"([yY]{_APOSTROPHE}){_LETTER}",
    rf"[dljDLJ]{_APOSTROPHE}",
    # mark-up, addresses
    r"</?[A-Za-z!?][^<>]*>",
    r"https?://[^\s\"<>|()]+[^\s\"<>|.!?(){},\-]",
    rf"www\.(?:[^\s\"<>|.!?(){{}},]+\.)*[^\s\"<>|.!?(){{}},/']+{_PATH}",
    rf"{_HOST}(?i:com|net|org|edu)(?!{_ALNUM}){_PATH}",
    r"<?[a-zA-Z0-9][^\s\"<>|(){}\u00a0@]*@(?:[^\s\"<>|(){}.,!?;:\u00a0]+\.)*[^\s\"<>|(){}.,!?;:\u00a0]+>?",
    r"@[A-Za-z_]\w*",
    rf"#{_LETTER}+",
    r"&(?i:amp|lt|gt|quot|apos|nbsp);",
    r"&#\d+;",
    # abbreviations and acronyms
    rf"{_any_case(ABBREVIATIONS)}\.",
    rf"(?:{_CAPITAL})\.",
    rf"({_any_case(NUMBER_ABBREVIATIONS)}\.) ?\d",
    rf"[A-Za-z](?:\.[A-Za-z])*\.(?:{_HYPHEN}{_WORD})*",
    rf"([A-Za-z])\.[ \u00a0]+(?:{'|'.join(SENTENCE_STARTS)})(?=[ \u00a0]|$)",
    rf"(?:{_WORD}{_HYPHEN})+[A-Za-z](?:\.[A-Za-z])+\.",
    r"[A-Z]+(?:[&+][A-Z]+)+",
    r"(?i:c\+\+|[cf]#)",
    # words: plain, hyphenated, dotted ("hello.world"), slashed, with an inner apostrophe
    rf"{_WORD}(?:{_HYPHEN}(?:[dloDLO]{_APOSTROPHE})?{_WORD})*",
    rf"{_ALNUM}(?:{_ALNUM}|[.,])*(?:{_HYPHEN}{_WORD})+",
    rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)+(?:{_HYPHEN}{_WORD})*",
    rf"({_WORD}(?:[-.]{_WORD})*\.)[,;:]",
    r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}",
    rf"[dlnoA-HJ-XZ]{_APOSTROPHE}{_LETTER}{{2,}}",
    rf"{_LETTER}+[aeiouyAEIOUY]{_APOSTROPHE}[aeiouA-Z]{_LETTER}*",
    rf"(?i:dunkin{_APOSTROPHE}|somethin{_APOSTROPHE}|ol{_APOSTROPHE}|nat{_APOSTROPHE}l|c{_APOSTROPHE}mon|c{_APOSTROPHE}est|e{_APOSTROPHE}er|s{_APOSTROPHE}mores)",
    # numbers, dates, fractions, telephone numbers
    r"[-+]?[.,:]?\d+(?:[.,:]\d+)*",
    rf"(?:\d{{1,4}}[- \u00a0])?\d{{1,4}}/\d{{1,4}}(?:{_HYPHEN}{_WORD})*",
    r"\d{1,2}/\d{1,2}/\d{2,4}",
    r"\d{1,4}/\d{1,2}/\d{1,2}",
    r"\(\d{2,3}\)[ \u00a0]?\d{3,4}[- \u00a0]?\d{3,5}",
    rf"\+{{0,2}}(?:{_GROUP})?{_GROUP}\d{{3,4}}[- \u00a0]?\d{{3,5}}",
    # words that open with an apostrophe
    rf"{_APOSTROPHE}(?i:em|til|till|cause)(?!{_ALNUM})",
    r"'(?i:s|m|d|ll|re|ve)(?![A-Za-z])",
    r"\u2019(?i:s|m|d|ll|re|ve)",
    rf"{_APOSTROPHE}[nN](?:{_APOSTROPHE}|(?!{_ALNUM}))",
    rf"{_APOSTROPHE}\d0[sS]",
    rf"{_APOSTROPHE}\d\d(?![\w'\u2019\"])",
    # faces
    rf"[<>]?[:;=][-o*']?[()DPdpO\\@|\[\]](?!{_ALNUM}|[.,]\d)",
    r"\(\^_\^\)|\^_\^|-_-|>_<",
    # money and marks
    r"[A-Z]{1,2}\$",
    r"--+|\.\.\.+|[?!]+|``|''|##+|@@+|\*\*+|__+|<<|>>|\\/",
    r"(?:\. ){2,}\.",
    r"[\u2018\u2019\u201b\u201c\u201d]+",
    r"\S",
]
_MATCHERS = [re.compile(pattern).match for pattern in _PATTERNS]
# Most tokens of a caption are plain words between blanks, for which only the word lists matter.
_PLAIN = re.compile(r"[A-Za-z]+(?= |$)")

# Tokens whose curly quotes become plain: quotes alone and endings; "o\u2019clock" keeps its own.
_PLAIN_QUOTED = re.compile(r"[\u2018\u2019\u201b\u201c\u201d]+|n?\u2019(?:s|m|d|t|ll|re|ve)")
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'", "&nbsp;": ""}
_REPLACED = {
    "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", '"': "''", "\u2026": "...",
    "\u2010": "-", "\u2011": "-",
    "\u2013": "--", "\u2014": "--", "\u2015": "--", "\u00a3": "#", "\u20ac": "$", "\u00a4": "$",
    "\u20a0": "$",
    "\u00a2": "cents", "\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3",
    **_QUOTES, **_ENTITIES,
}  # fmt: skip


def ptb_tokenize(captions: list[str]) -> list[str]:
    """Tokenised captions, one for each, tokens separated by blanks.

    A line or control character inside a caption counts as a blank (officially it splits the line and shifts
    every later caption). Brackets survive as -lrb- and so on, "?!" as one token, other emoji than old symbols
    vanish, currency signs become $ or #.
    """
    return [_tokenize(caption) for caption in captions]


@lru_cache(maxsize=1 << 15)
def _tokenize(caption: str) -> str:
    line = _UNKNOWN.sub(" ", caption.replace("\u00ad", ""))
    tokens: list[str] = []
    position = 0
    while position < len(line):
        if line[position] == " ":
            position += 1
            continue
        plain = _PLAIN.match(line, position)
        if plain and plain.group().lower() not in CUT_WORDS:
            tokens.append(plain.group().lower())
            position = plain.end()
            continue
        end = _token_end(line, position)
        tokens += _spelled(line[position:end])
        position = end
    return " ".join(token for token in tokens if token and token not in DROPPED)


def _token_end(line: str, position: int) -> int:
    longest, end = 0, position + 1
    for match in _MATCHERS:
        found = match(line, position)
        if found and found.end() > longest:
            longest = found.end()
            end = found.end(1) if found.lastindex else found.end()
    return end


def _spelled(token: str) -> list[str]:
    """A token as the Java program prints it: bracket names, plain quotes and dashes, lower case."""
    lower = token.lower()
    if lower in CUT_WORDS:
        cut = CUT_WORDS[lower]
        return [lower[:cut], lower[cut:]]
    if lower in _REPLACED:
        return [_REPLACED[lower]]
    if 2 < len(token) < 5 and not token.strip("-"):
        return ["--"]
    if token.startswith("...") or token.startswith(". ."):
        return ["..."]
    if _PLAIN_QUOTED.fullmatch(lower):
        for mark, plain in _QUOTES.items():
            lower = lower.replace(mark, plain)
    return [lower.replace("(", "-lrb-").replace(")", "-rrb-").replace(" ", _NBSP)]
