"""What only the stages together tell, before the first of them works."""

from __future__ import annotations

from ddt.data.takedown import Takedown
from ddt.data.text import check_first_records
from ddt.params import Params
from pipelines.engine.language_checks import naming
from pipelines.engine.selection.captions import CaptionFilters
from pipelines.finetune import usable_mix
from pipelines.pretrain import text_files


def check_own_data(params: Params) -> None:
    """ValueError where files of text or a takedown list hold none, or tuning asks for data that no setting
    names.
    """
    CaptionFilters(params.select)
    if params.select.takedown is not None:
        Takedown.read(params.select.takedown, "select.takedown")
    for path in text_files(params.pretrain):
        with naming("pretrain.text_source: "):
            check_first_records(path)
    found = {
        "edit": True,  # only the data tell
        "vqa": True,
        "chat": params.ingest.conversations is not None,
        "class_to_image": params.pretrain.class_conditional,
    }
    usable_mix(params.finetune.mix, found)
