"""The official numbers as pure functions: no weights, no files, no network.

Every function follows the published evaluation code of its benchmark, oddities included, because a score is
comparable with a published one only if it is computed the same way. Where that code has a trap (an odd
regular expression, a division by zero, an order that matters) the function's docstring names it.
"""

from ddt.eval.metrics.caption import cider
from ddt.eval.metrics.fid import frechet_distance, frechet_influence, inception_score
from ddt.eval.metrics.geneval import geneval_evaluate, geneval_relations, geneval_summary
from ddt.eval.metrics.image import image_l1, lpips_from_features, psnr, psnr_pooled, ssim
from ddt.eval.metrics.mme import mme, mme_parse
from ddt.eval.metrics.perplexity import perplexity, token_nll
from ddt.eval.metrics.pope import pope, pope_parse
from ddt.eval.metrics.ptb import ptb_tokenize
from ddt.eval.metrics.seed import seed_letter, seed_rank
from ddt.eval.metrics.t2i import t2i_blip_vqa, t2i_position, t2i_spatial, t2i_three_in_one
from ddt.eval.metrics.vqa import gqa_accuracy, vizwiz_accuracy, vqa_accuracy, vqa_normalize

__all__ = [
    "cider",
    "frechet_distance",
    "frechet_influence",
    "geneval_evaluate",
    "geneval_relations",
    "geneval_summary",
    "gqa_accuracy",
    "image_l1",
    "inception_score",
    "lpips_from_features",
    "mme",
    "mme_parse",
    "perplexity",
    "pope",
    "pope_parse",
    "psnr",
    "psnr_pooled",
    "ptb_tokenize",
    "seed_letter",
    "seed_rank",
    "ssim",
    "t2i_blip_vqa",
    "t2i_position",
    "t2i_spatial",
    "t2i_three_in_one",
    "token_nll",
    "vizwiz_accuracy",
    "vqa_accuracy",
    "vqa_normalize",
]
