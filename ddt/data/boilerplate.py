"""Captions that say nothing of the picture: names of files, lone numbers and links, what web pages put below
every picture. A caption that says anything else beside that is none.
"""

from __future__ import annotations

import re

# Each takes a whole caption, without case, with its runs of blanks as one.
_FORMS = (
    r"[\W\d_]*",  # no letter: numbers, dates, prices
    r"\S+\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg)",
    r"(?:https?://|www\.)\S+",
    r"(?:img|dsc|dscn|dscf|dcim|pict|gopr|pxl|screen ?shot|scan|attachment)[\W\d_]*",
    r"(?:an? |the |my |our |new )?(?:images?|pictures?|pics?|photos?|photographs?|posts?|logos?|icons?|"
    r"avatars?|banners?|thumb(?:nail)?s?|wallpapers?|default|placeholder|untitled|unnamed|no title|"
    r"no caption|blank|null|none|n/?a)(?: (?:no|nr|number|of))?[\W\d_]*",
    r"(?:an? |the )?(?:image|picture|photo|video|post) of the (?:day|week|month)",
    r"(?:my|our) (?:new|latest|last) (?:post|photo|picture|upload)",
    r"(?:stock|profile|cover|product|user|file|main|header) (?:image|photo|picture|photograph)s?[\W\d_]*",
    r"(?:hd |free |best )*wallpapers?(?: hd| free| 4k)*",
    r"(?:no |missing )(?:image|photo|picture)(?: available| found)?",
    r"(?:image|photo|picture) (?:is )?(?:not|un)(?: ?available| found)",
    r"(?:click|tap|press)(?: here| on (?:the )?(?:image|picture|photo))?(?: to | for )?.{0,30}",
    r"(?:see|read|view|show|learn|find out|discover)(?: the)? (?:more|description|details|full size|larger)"
    r"(?: .{0,20})?",
    r"(?:download|buy|shop|order|subscribe|sign up|log ?in|register)(?: now| here| today| free)?",
    r"(?:free|fast|worldwide) (?:shipping|delivery|download)(?: .{0,25})?",
    r"(?:add to (?:cart|basket|wish ?list)|share (?:this|on \w+)|pin it|follow us.{0,20}|loading)",
    r"(?:copyright|all rights reserved|©).{0,40}",
)
_BOILERPLATE = re.compile("|".join(f"(?:{form})" for form in _FORMS))


def is_boilerplate(caption: str) -> bool:
    """Whether a caption is nothing but such text; an empty one is."""
    text = " ".join(caption.casefold().split()).strip(" .!…:-")
    return _BOILERPLATE.fullmatch(text) is not None
