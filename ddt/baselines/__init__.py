"""Image tokenizers to compare the DDT tokenizer with, behind the same interface."""
