"""Small real models that judge the scenes world: a byte-level BPE, a CLIP and a LLaVA-class captioner.

`train.make` trains them from nothing; their weights live in `ddt/scenes/weights/{bpe,clip,captioner}` and
load through the same `from_pretrained` calls as `openai/clip-vit-large-patch14` or a ShareGPT-4V checkpoint.
"""
