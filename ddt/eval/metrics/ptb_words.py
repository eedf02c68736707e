"""Word and character lists of the PTB tokenisation in `ptb.py`, as the Java program was seen to have them.

Every word of up to four letters was tried, and every character of the basic plane.
"""

_ALWAYS = """
    adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bhd bldg blvd brig bros calif
    capt cf cie cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc
    ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky lieut
    lt ltd maj mar md messrs mich minn mlle mme mo mon mont mr mrs ms msgr mt natl neb nev nov oct okla
    penn pfc ph plc ppte ppty pres prof profs ptes ptys pvt rd rep reps rev rt sen sens sep sept seq sfc
    sgt spc sq sr st ste supt supts sys tel tenn thu thurs treas tue tues univ va vs vt wed wis wisc wm
    wyo ed.d ll.b ph.d
"""
# Keep the period wherever they stand, in any case.
ABBREVIATIONS = tuple(_ALWAYS.split())
# Keep it only with a capital: in lower case they are plain words ("he fell ill.").
CAPITAL_ABBREVIATIONS = ("ark", "az", "del", "ill", "la", "mass", "miss", "ore", "pa", "tex", "wash")
# Keep it in lower case or with one capital, not all in capitals.
LOWER_ABBREVIATIONS = ("mfg", "mtg", "ppte", "ppty", "pte", "ptes", "pty", "ptys")
# Keep it only before a number ("no. 5").
NUMBER_ABBREVIATIONS = ("art", "ca", "fig", "figs", "no", "nos", "op", "pp", "prop")
# Keep their apostrophe; the first only a straight one.
APOSTROPHE_WORDS = (
    "li'l",
    "c'est",
    "c'mon",
    "cap'n",
    "dunkin'",
    "e'er",
    "ev'ry",
    "nat'l",
    "o'o",
    "ol'",
    "s'mores",
    "somethin'",
)
_EXTENSIONS = """
    bat bmp c cgi class cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt
    ps py sql tar txt wav x xml zip
"""
# Ends of a file's name.
EXTENSIONS = tuple(_EXTENSIONS.split())
# Cut after so many letters.
CUT_WORDS = {"cannot": 3, "gonna": 3, "gotta": 3, "wanna": 3, "lemme": 3, "gimme": 3}
_OPENING = """
    A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Mr.
    Ms. Now Once One Other Our She Since So Some Such That The Their Then There These They This We What When
    While Yet You
"""
# Before these a single letter gives its period up: it ended the sentence ("plan B. The").
SENTENCE_STARTS = tuple(_OPENING.split())

# From here on: what stands in a class of a regular expression.
# Symbols beyond ASCII that it knows and keeps as tokens of their own.
SYMBOLS = (
    "\u00a1-\u00a9\u00ab\u00ac\u00ae-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u00d7\u00f7\u037e\u0387\u0589\u05be\u05c0"
    "\u05c3\u05c6\u05f3-\u0603\u0606-\u060c\u0614\u061b\u061e\u061f\u066a\u066d\u06d4\u0700-\u070d\u07f6-\u07f8"
    "\u0964\u0965\u0e3f\u0e4f\u1fbd\u2010\u2011\u2013-\u2023\u2026\u2030-\u203b\u203e-\u2042\u2044\u2070"
    "\u2074-\u207e\u2080-\u208e\u20a0\u20a4\u20ac\u2100\u2101\u2103-\u2106\u2108\u2109\u2114\u2116-\u2118"
    "\u211e-\u2123\u2125\u2127\u2129\u212e\u213a\u213b\u2140-\u2144\u214a-\u214d\u214f\u2153-\u215e"
    "\u2190-\u2bff\u3001\u3002\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40"
    "\uff5b-\uff65\uffe0\uffe1\uffe5\uffe6"
)
# Marks and other characters that it takes for parts of words.
MARKS = (
    "\u02c2-\u036f\u0375\u0378\u0379\u0384\u0385\u03f6\u0483-\u0487\u055a-\u055f\u0591-\u05bd\u05bf\u05c1\u05c2"
    "\u05c4\u05c5\u05c7\u0615-\u061a\u064b-\u065e\u0670\u06d6-\u06e4\u06e7-\u06ed\u06fd\u06fe\u070f\u0711"
    "\u0730-\u074c\u07a6-\u07b0\u07eb-\u07f3\u0900-\u0903\u093c\u093e-\u094e\u0951-\u0955\u0962\u0963"
    "\u0981-\u0983\u09bc\u09be-\u09cd\u09d7\u09e2\u09e3\u0a01-\u0a03\u0a3c-\u0a4f\u0a81-\u0a83\u0abc\u0abe-\u0acf"
    "\u0b82\u0bbe-\u0bcd\u0c01-\u0c03\u0c3e-\u0c56\u0d3e-\u0d48\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1"
    "\u0eb4-\u0ebc\u0ec8-\u0ecd\u1885\u1886\u207f\u214e"
)
# Letters, digits and numerals (of younger Unicode, most of them) that it does not know.
FOREIGN = (
    "\u037f\u0528-\u052f\u0560\u0588\u05ef\u0860-\u0887\u0889-\u088e\u08a1\u08ad-\u08c9\u0978\u0980\u09f4-\u09f9"
    "\u09fc\u0af9\u0b72-\u0b77\u0bf0-\u0bf2\u0c34\u0c5a-\u0c5d\u0c78-\u0c7e\u0c80\u0cdd\u0d04\u0d54-\u0d56"
    "\u0d58-\u0d5f\u0d70-\u0d78\u0de6-\u0def\u0e86\u0e89\u0e8c\u0e8e-\u0e93\u0e98\u0ea0\u0ea8\u0ea9\u0eac"
    "\u0f2a-\u0f33\u1369-\u137c\u13f5-\u13fd\u16ee-\u16f8\u170d\u171f\u17f0-\u17f9\u1878\u191d\u191e\u19b0-\u19c0"
    "\u19c8\u19c9\u19da\u1b4c\u1c80-\u1cbf\u1cf2\u1cf3\u1cfa\u2150-\u2152\u215f-\u2182\u2185-\u2189\u2c2f\u2c5f"
    "\u2cfd\u3007\u3021-\u3029\u3038-\u303a\u312e\u312f\u3192-\u3195\u31bb-\u31bf\u3220-\u3229\u3248-\u324f"
    "\u3251-\u325f\u3280-\u3289\u32b1-\u32bf\u4db6-\u4dbf\u9fcd-\u9fff\ua698-\ua69d\ua6e6-\ua6ef\ua78f"
    "\ua794-\ua79f\ua7ab-\ua7f7\ua830-\ua835\ua8fd\ua8fe\ua9e0-\ua9e4\ua9e6-\ua9fe\uaa7e\uaa7f\uab30-\uab5a"
    "\uab5c-\uab69\uab70-\uabbf"
)
