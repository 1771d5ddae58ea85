"""Tasks for EleutherAI's lm-eval whose items are generated here, so that nothing is downloaded.

A YAML file for each task, in lm-eval's format; `lm_eval --include_path src/evaluation/lm_eval_tasks` reads them too.
"""
