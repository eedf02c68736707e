"""A plugin for lmms-eval: with LMMS_EVAL_PLUGINS=ddt.eval.lmms it knows the model `ddt_llama`."""
