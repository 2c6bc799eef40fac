# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""
lm-eval's own command, with our models: `python -m hf_cong.evaluation.lm run --model cong ...`.

Releases of lm-eval that read the entry point `lm_eval.models` know the models without this. What it adds is a
directory of results for every set of model arguments, where lm-eval makes one of `pretrained` alone.
"""

import argparse
from pathlib import Path

from lm_eval._cli import HarnessCLI
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.utils import setup_logging, simple_parse_args_string

from ...checkpoints import content_key
from . import ConGLM, SearchLM  # noqa: F401  importing them registers them


def main() -> None:
    """Runs lm-eval on the arguments of the command line."""
    setup_logging()
    cli = HarnessCLI()
    args = cli.parse_args()
    if args.command == "run":
        _separate_results(args)
    cli.execute(args)


def _separate_results(args: argparse.Namespace) -> None:
    """Sets `output_path` to a file in a directory of the model's own, if the model is one of ours."""
    given = {name: value for name, value in vars(args).items() if value or value == 0}
    settings = {**(EvaluatorConfig.load_yaml_config(args.config) if args.config else {}), **given}
    if settings.get("model") not in ("cong", "cong_search") or not settings.get("output_path"):
        return
    model_args = settings.get("model_args") or {}
    if isinstance(model_args, str):
        model_args = simple_parse_args_string(model_args)
    path = results_path(Path(settings["output_path"]), model_args)
    path.parent.mkdir(parents=True, exist_ok=True)  # lm-eval would find out when all is evaluated, and only warn
    args.output_path = str(path)


def results_path(output_path: Path, model_args: dict) -> Path:
    """
    Where the results of a model go. lm-eval adds the time to the name of the file.

    Args:
        output_path (`Path`): A directory, or a `.json` file.
        model_args (`dict`): Arguments of the model, all of which are in the name.

    Returns:
        `Path`: a `.json` file.
    """
    numbers = [
        f"{name}-{model_args[name]}" for name in ("alpha", "beta", "plausibility_threshold") if name in model_args
    ]
    model = Path(str(model_args.get("pretrained", "model"))).name
    name = "_".join([model, *numbers, content_key(model_args)[:8]])
    if output_path.suffix == ".json":
        return output_path.with_name(f"{output_path.stem}_{name}.json")
    return output_path / name / "results.json"


if __name__ == "__main__":
    main()
