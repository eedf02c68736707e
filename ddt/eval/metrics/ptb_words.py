"""Word lists of the PTB tokenisation in `ptb.py`: words that keep their period, words that are cut in two."""

_ALWAYS = """
    adj adm adv al ala alex apr ariz assn assoc asst atty aug ave bhd bldg blvd brig bros calif capt cf
    cmdr co col colo conn corp cos cpl ct dec dept det dr ens esq est etc ext feb fla fri ft ga gen gov
    hon inc ind insp intl jan jos jr jul jun kan kans ky lt ltd maj mar md messrs mfg mich minn mlle mme
    mo mon mont mr mrs ms mt natl neb nev nov oct okla penn pfc ph plc pres prof pty pvt rd rep rev rt sen
    sep sept sgt sq sr st ste supt sys tel tenn thu thurs treas tue tues univ va vs vt wed wis wisc wm wyo
    ed.d ll.b ph.d
"""
# Keep the period wherever they stand, in any case.
ABBREVIATIONS = tuple(_ALWAYS.split())
# Keep it only with a capital: in lower case they are plain words ("he fell ill.").
CAPITAL_ABBREVIATIONS = ("ark", "del", "ill", "la", "mass", "miss", "ore", "pa", "tex", "wash")
# Keep it only before a number ("no. 5").
NUMBER_ABBREVIATIONS = ("art", "ca", "fig", "figs", "no", "nos", "op", "pp", "prop")
# Cut after so many letters.
CUT_WORDS = {"cannot": 3, "gonna": 3, "gotta": 3, "wanna": 3, "lemme": 3, "gimme": 3}
_OPENING = """
    A About According Additionally After An As At But He Her Here However If In It Last Many More Once One
    Other Our She Since So Some Such That The Their Then There These They This We What When While You
"""
# Before these a single letter gives its period up: it ended the sentence ("plan B. The").
SENTENCE_STARTS = tuple(_OPENING.split())
