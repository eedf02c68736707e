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
    APOSTROPHE_WORDS,
    CAPITAL_ABBREVIATIONS,
    CUT_WORDS,
    EXTENSIONS,
    FOREIGN,
    LOWER_ABBREVIATIONS,
    MARKS,
    NUMBER_ABBREVIATIONS,
    SENTENCE_STARTS,
    SYMBOLS,
)

# The official list has bracket names in upper case while the tokens are lower-cased, so brackets survive.
DROPPED = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)
_LETTER = rf"(?:[^\W\d_{SYMBOLS}]|[{MARKS}])"
_ALNUM = rf"(?:[^\W_{SYMBOLS}]|[{MARKS}])"
# Neither known letter, digit, symbol nor ASCII: the Java program drops it, and it ends a token like a blank.
_UNKNOWN = re.compile(rf"[^!-~\w{SYMBOLS}{MARKS}]|[{FOREIGN}\U00010000-\U0010ffff]")
_QUOTES = {
    "\u2018": "`", "\u201b": "`", "\u2039": "`", "\u2019": "'", "\u203a": "'",
    "\u201c": "``", "\u00ab": "``", "\u201d": "''", "\u00bb": "''",
}  # fmt: skip
_APOSTROPHE = "['\u2019]"
_HYPHEN = "[-\u2010\u2011\u058a]"
_NBSP = "\u00a0"
_BLANK = r"[ \u00a0\n]"

_WORD = rf"{_ALNUM}+(?:_{_ALNUM}+)*"
_HOST = r"(?:[^\s\"`'<>|.!?(){},\-_$/:;@&=]+\.)+"
_PATH = r"(?:/[^\s\"<>|()]+[^\s\"<>|.!?(){},\-])?"
_GROUP = r"[0-9]{2,4}[- \u00a0]"
_NAME = r"[A-Za-z][A-Za-z0-9_:.\-]*"  # of mark-up


def _any_case(words: tuple[str, ...]) -> str:
    return "(?i:" + "|".join(sorted(map(re.escape, words), key=len, reverse=True)) + ")"


_CAPITAL = "|".join(f"{word.capitalize()}|{word.upper()}" for word in CAPITAL_ABBREVIATIONS)
_LOWER = "|".join(f"{word}|{word.capitalize()}" for word in LOWER_ABBREVIATIONS)
_STRAIGHT, *_EITHER = APOSTROPHE_WORDS
_BY_APOSTROPHE = f"(?i:{_STRAIGHT}|{'|'.join(_EITHER).replace(chr(39), _APOSTROPHE)})"
_STARTS = "|".join(map(re.escape, SENTENCE_STARTS))

# The longest match wins, the first of equal ones. A group marks a token that is shorter than what was
# matched.
_PATTERNS = [
    # words before n't, 's, 'll ...
    rf"({_LETTER}+)(?<![nN])[nN]{_APOSTROPHE}[tT]",
    rf"({_LETTER}+){_APOSTROPHE}(?i:s|m|d|ll|re|ve)",
    rf"[nN](?:{_APOSTROPHE}|`)[tT](?!{_LETTER})",
    rf"({_LETTER}+)[nN]`[tT](?!{_LETTER})",
    r"('[tT])(?i:is|was)",
    rf"([yY]{_APOSTROPHE}){_LETTER}",
    rf"[dljDLJ]{_APOSTROPHE}",
    # mark-up, addresses
    rf"<{_NAME}(?: +{_NAME}(?: *= *(?:'[^'\n]*'|\"[^\"\n]*\"))?)* */?>",
    rf"</{_NAME} *>",
    r"<[!?][A-Za-z\-][^>\n]*>",
    r"https?://[^\s\"<>|()]+[^\s\"<>|.!?(){},\-]",
    rf"www\.(?:[^\s\"<>|.!?(){{}},]+\.)*[^\s\"<>|.!?(){{}},/']+{_PATH}",
    rf"{_HOST}(?i:com|net|org|edu)(?!{_ALNUM}){_PATH}",
    r"<?[a-zA-Z0-9][^\s\"<>|(){}\u00a0@]*@(?:[^\s\"<>|(){}.\u00a0]+\.)*[^\s\"<>|(){}.\u00a0]+>?",
    r"@[A-Za-z_]\w*",
    rf"#{_LETTER}+",
    r"&(?i:amp|lt|gt|quot|apos|nbsp);",
    r"&#\d+;",
    # abbreviations and acronyms
    rf"{_any_case(ABBREVIATIONS)}\.",
    rf"(?:{_CAPITAL}|{_LOWER})\.",
    rf"({_any_case(NUMBER_ABBREVIATIONS)}\.){_BLANK}?\d",
    rf"[A-Za-z](?:\.[A-Za-z])*\.(?:{_HYPHEN}{_WORD})*",
    rf"([A-Za-z])\.{_BLANK}+(?:{_STARTS})(?={_BLANK}|$)",
    rf"(?:{_WORD}{_HYPHEN})+[A-Za-z](?:\.[A-Za-z])+\.",
    r"[A-Z]+(?:[&+][A-Z]+)+",
    r"(?i:c\+\+|[cf]#)",
    # words: plain, hyphenated, dotted ("hello.world"), slashed, with an inner apostrophe
    rf"{_WORD}(?:{_HYPHEN}(?:[dloDLO]{_APOSTROPHE})?{_WORD})*",
    rf"{_ALNUM}(?:{_ALNUM}|[.,])*(?:{_HYPHEN}{_WORD})+",
    rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)+(?:{_HYPHEN}{_WORD})*",
    rf"({_WORD}(?:[-.]{_WORD})*\.)[,;:]",
    rf"{_ALNUM}+(?:\.{_ALNUM}+)*\.{_any_case(EXTENSIONS)}(?!{_ALNUM})",
    r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}",
    rf"[dlnoA-HJ-XZ]{_APOSTROPHE}{_LETTER}{{2,}}",
    rf"{_LETTER}+[aeiouyAEIOUY]{_APOSTROPHE}[aeiouA-Z]{_LETTER}*",
    _BY_APOSTROPHE,
    r"(?i:anti|pro)-",
    r"[\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+)",
    # numbers, dates, fractions, telephone numbers
    r"[-+]?[.,:]?\d+(?:[.,:]\d+)*",
    rf"(?:\d{{1,4}}[- \u00a0])?\d{{1,4}}/\d{{1,4}}(?:{_HYPHEN}{_WORD})*",
    r"\d{1,2}/\d{1,2}/\d{2,4}",
    r"\d{1,4}/\d{1,2}/\d{1,2}",
    r"\([0-9]{2,3}\)[ \u00a0]?[0-9]{3,4}[- \u00a0]?[0-9]{3,5}",
    rf"\+{{0,2}}(?:{_GROUP})?{_GROUP}[0-9]{{3,4}}[- \u00a0]?[0-9]{{3,5}}",
    # words that open with an apostrophe
    rf"{_APOSTROPHE}(?i:em|till?|cause)",
    r"'(?i:s|m|d|ll|re|ve)(?![A-Za-z])",
    r"\u2019(?i:s|m|d|ll|re|ve)",
    rf"{_APOSTROPHE}[nN](?:{_APOSTROPHE}|(?!{_ALNUM}))",
    rf"{_APOSTROPHE}\d0[sS]",
    rf"{_APOSTROPHE}\d\d(?![\w'\u2019\"])",
    # faces
    rf"[<>]?[:;=][-o*']?[()DPdpO\\@|\[\]{{](?!{_ALNUM}|[.,]\d)",
    r"[-^x=~<>']_[-^x=~<>']|\([-^x=~<>'][_.]?[-^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)",
    # money and marks
    r"[A-Z]{1,2}\$",
    r"--+|\.\.\.+|[?!]+|``|''|##+|@@+|\*\*+|(?:\\\*)+|__+|<<|>>",
    r"(?:\. ){2,}\.",
    r"[\u2018\u2019\u201b\u201c\u201d]+",
    r"\S",
]
_MATCHERS = [re.compile(pattern).match for pattern in _PATTERNS]
# Most tokens of a caption are plain words between blanks, for which only the word lists matter.
_PLAIN = re.compile(r"[A-Za-z]+(?=[ \n]|$)")
# Ends for which the caption after counts, and as much of that as does.
_LOOKS_ON = re.compile(rf"(?:{_any_case(NUMBER_ABBREVIATIONS)}|(?<!\w)[A-Za-z])\.[ \u00a0]*$")
_OPENING = re.compile(r"[ \u00a0]*[^ \u00a0]*[ \u00a0]?")

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
    vanish, currency signs become $ or #. The program reads all captions as one text: where one ends with
    "no." or a single letter and a period, the next one's first word decides whether the period stays.
    """
    tokenized: list[str] = []
    following = ""  # how the text goes on after the caption
    for caption in reversed(captions):
        line = _UNKNOWN.sub(" ", caption.replace("\u00ad", ""))
        tokenized.append(_tokenize(line, following if following and _LOOKS_ON.search(line) else ""))
        following = "\n" + (_opening(line) if line.strip() else line + following)
    return tokenized[::-1]


def _opening(line: str) -> str:
    found = _OPENING.match(line)
    assert found is not None
    return found.group()


@lru_cache(maxsize=1 << 15)
def _tokenize(line: str, following: str) -> str:
    """Tokens of a line of known characters, `following` being what comes after it."""
    text = line + following
    tokens: list[str] = []
    position = 0
    while position < len(line):
        if text[position] == " ":
            position += 1
            continue
        plain = _PLAIN.match(text, position)
        if plain and plain.group().lower() not in CUT_WORDS:
            tokens.append(plain.group().lower())
            position = plain.end()
            continue
        end = _token_end(text, position)
        tokens += _spelled(text[position:end])
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
