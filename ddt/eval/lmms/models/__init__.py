"""What lmms-eval reads of a plugin: the name of each model, and its class in the module of that name."""

AVAILABLE_MODELS = {"ddt_llama": "DDTLlamaModel"}
