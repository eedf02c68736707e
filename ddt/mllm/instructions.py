"""What users ask about a picture, in the manner of InstructBLIP (arXiv 2305.06500, appendix E).

One of each list is drawn for every training sample, so that the model learns the task, not a phrase.
"""

from __future__ import annotations

SHORT_CAPTION = (
    "A short image caption:",
    "A short image description:",
    "Write a short description for the image.",
    "Briefly describe the content of the image.",
)

LONG_CAPTION = (
    "Describe the image in detail.",
    "Provide a detailed description of the image.",
)

QUESTION = (
    "{question}",
    "Question: {question}",
    "Question: {question} Short answer:",
)
