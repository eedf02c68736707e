"""The Python tokeniser: alignment, known oddities, and the Java program where java and pycocoevalcap are
there.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from ddt.eval.metrics import ptb_tokenize

ODD = {
    "A dog (big) [x] {y}": "a dog -lrb- big -rrb- -lsb- x -rsb- -lcb- y -rcb-",
    "What?! Really?": "what ?! really",
    "Mr. Smith's U.S. flag isn't 5 p.m.": "mr. smith 's u.s. flag is n't 5 p.m.",
    "I cannot, 'tis gonna cost £3.50 or €4": "i can not 't is gon na cost # 3.50 or $ 4",
    "a 😀 cat ★ on 50% of 1,000 t-shirts": "a cat ★ on 50 % of 1,000 t-shirts",
    "wait...what--now": "wait what now",
    "rock'n'roll, o'clock, y'all": "rock 'n' roll o'clock y' all",
    "don’t say “it’s 10 o’clock” ’til ’90": "do n't say it 's 10 o’clock ’til ’90",
    "a 3.5-inch, 1,000-seat A+B hall, a:b": "a 3.5-inch 1,000-seat a+b hall a b",
    "##tag @@x dog.,cat the no. 5 Inc.": "## tag @@ x dog. cat the no. 5 inc.",
    "black/white/red/blue, t-shirt/jeans, café/bar": "black/white/red / blue t-shirt/jeans café / bar",
    "a 5'10\" man from the '90s": "a 5 10 man from the '90s",
    "plan B. The size s. One": "plan b the size s one",
    "hors-d'oeuvre, a=3, I'next": "hors-d'oeuvre a = 3 i next",
    "1 1/2 cups": "1\u00a01/2 cups",
    "x²³ and Ⅳ, 10⁻³": "x ²³ and 10 ⁻³",
    "anti- or pro- or pre-": "anti- or pro- or pre",
    "<(^^)> (-_-) :{ =_=": "< -lrb-^^-rrb- > -lrb--_--rrb- :{ =_=",
    "a \\* b \\/ c": "a \\* b \\ / c",
    "'emergency 'tisn": "'em ergency 't isn",
    "cap'n of li'l ev'ry li’l": "cap'n of li'l ev'ry li l",
    "see 0001.png, Pty. PTY. Az. az.": "see 0001.png pty. pty az. az",
    "size S. Mr. A": "size s mr. a",
    "j'dance a@b.com, <a b=1> <a b>": "j dance a@b.com, < a b = 1 > <a\u00a0b>",
    "؟ نعم، தமிழ்": "؟ نعم ، தமிழ்",
    "smile :-) #tag @user a@b.com http://x.com/a": "smile :--rrb- #tag @user a@b.com http://x.com/a",
}


@pytest.mark.parametrize("caption", ODD)
def test_oddities(caption):
    assert ptb_tokenize([caption]) == [ODD[caption]]


def test_one_result_for_each_caption_whatever_it_holds():
    captions = ["a\rb", "c\nd", "e\u2028f", "g\x0bh\x0ci", "", "j"]
    assert ptb_tokenize(captions) == ["a b", "c d", "e f", "g h i", "", "j"]


def test_the_first_word_of_the_next_caption_decides_about_a_last_period():
    captions = ["A sign says no.", "5 men", "size S.", "", "The dog", "size S.", "Men", "No. ", "5"]
    tokens = ["a sign says no.", "5 men", "size s", "", "the dog", "size s.", "men", "no", "5"]
    assert ptb_tokenize(captions) == tokens
    assert ptb_tokenize(captions[:1]) == ["a sign says no"]


@pytest.mark.skipif(
    shutil.which("java") is None or importlib.util.find_spec("pycocoevalcap") is None,
    reason="needs java and pycocoevalcap (extra `eval`)",
)
def test_agrees_with_the_java_program():
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    golden = json.loads((Path(__file__).parent / "goldens" / "ptb_tokenizer.json").read_text())
    captions = [case["input"] for case in golden["cases"]] + list(ODD)
    official = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(captions)})
    assert ptb_tokenize(captions) == [official[i][0] for i in range(len(captions))]
