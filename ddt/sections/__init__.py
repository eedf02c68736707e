"""The sections of params.yaml, each a frozen class: what is decided for a stage, and where and how fast."""
