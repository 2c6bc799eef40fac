# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What a recipe and a command line may say: the latter wins, and what is hostile, misspelt or secret is refused."""

import pytest
from trl import ModelConfig, ScriptArguments

from hf_cong import ConGConfig
from hf_cong.arguments import BuildArguments, GenerateArguments, PublishArguments, SearchArguments
from hf_cong.cli import main
from hf_cong.recipes import check_command_line, parse

TRAIN = (ScriptArguments, ConGConfig, ModelConfig)
ON_CPU = ["--use_cpu", "true", "--bf16", "false"]


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return str(path)


def test_the_command_line_wins(tmp_path):
    recipe = write(tmp_path, "chosen: a\noutput_dir: b\ndrop_truncated: false\n")
    (args,) = parse((BuildArguments,), ["--config", recipe, "--output_dir", "c"], prog="hf-cong build")
    assert args == BuildArguments(chosen="a", output_dir="c", drop_truncated=False)
    (args,) = parse((BuildArguments,), ["--output_dir=c", f"--config={recipe}"], prog="hf-cong build")
    assert args == BuildArguments(chosen="a", output_dir="c", drop_truncated=False)
    for flag in ("--config", "--config="):
        with pytest.raises((ValueError, FileNotFoundError), match="recipe"):
            parse((BuildArguments,), ["--output_dir=c", flag], prog="hf-cong build")


# What looks like a token, put together here so that no scanner finds one in this file.
TOKENS = {
    "Hugging Face": "hf" + "_" + "aB3" * 12,
    "GitHub": "ghp" + "_" + "c4D" * 12,
    "OpenAI": "sk" + "-proj-" + "e5F" * 12,
}
HOSTILE = {
    "misspelt": ("learning_rat: 1.0\noutput_dir: x\n", r"unknown key `learning_rat`\. .*`learning_rate`"),
    "of an older TRL": ("warmup_ratio: 0.1\noutput_dir: x\n", r"unknown key `warmup_ratio`\. .*`warmup_steps`"),
    "environment": ("env: {HF_ENDPOINT: evil}\noutput_dir: x\n", "sets `env`"),
    "remote code": ("trust_remote_code: true\noutput_dir: x\n", "sets `trust_remote_code`"),
    "remote code, nested": ("weak_model_init_kwargs: {trust_remote_code: true}\noutput_dir: x\n", "trust_remote_code"),
    "a server": ("engine: http://evil/v1\noutput_dir: x\n", "sets `engine`: a server gets your prompts"),
    "a server as the model": ("model: http://evil/v1\noutput_dir: x\n", "sets `model` to a URL: a server gets your"),
    "remote code, as JSON": ("weak_model_init_kwargs: '{\"trust_remote_code\": true}'\n", "sets `trust_remote_code`"),
    "remote code, as JSON in YAML": ("model_init_kwargs: {a: ' [{\"use_kernels\": 1}]'}\n", "sets `use_kernels`"),
    "deep JSON": (f"weak_model_init_kwargs: '{'[' * 90_000}'\n", "JSON that is nested too deeply"),
    "remote code, upper case": ("model_init_kwargs: {Trust_Remote_Code: true}\n", "sets `Trust_Remote_Code`"),
    "compiled code": ("attn_implementation: evil/kernel\n", "sets `attn_implementation` .*compiled code"),
    "any compiled code": ("model_init_kwargs: {allow_all_kernels: true}\n", "sets `allow_all_kernels`"),
    "pickles": ("weak_model_init_kwargs: {use_safetensors: false}\n", "safetensors only"),
    "made public": ("hub_private_repo: false\n", "to False: only your own hand makes something public"),
    "made public by a text": ("hub_private_repo: 'no'\n", "to 'no': only your own hand"),
    "a token": ("hub_token: secret\noutput_dir: x\n", "sets `hub_token`: tokens do not belong"),
    "a token, nested": ("model_init_kwargs: {a: [{HF_TOKEN: secret}]}\n", "sets `HF_TOKEN`: tokens do not belong"),
    "a token in a value": (f"run_name: a-{TOKENS['Hugging Face']}-b\n", "holds a Hugging Face token: tokens do not"),
    "a token in a comment": (f"# {TOKENS['GitHub']}\noutput_dir: x\n", "holds a GitHub token"),
    "a token with escapes": (f'alpha: "\\x68{TOKENS["Hugging Face"][1:]}"\n', "holds a Hugging Face token"),
    "a token as a key": (f"{TOKENS['OpenAI']}: x\n", "holds an OpenAI .* key"),
    "a token in what is broken": (f"output_dir: [{TOKENS['OpenAI']}\n", "holds an OpenAI .* key"),
    "a token in a private place": ("sft_kwargs: {hub_token: secret}\n", "sets `hub_token`"),
    "what a terminal obeys": ('"\\e[2J\\e]0;x\\a": 1\n', r"unknown key `\\x1b\[2J\\x1b\]0;x\\x07`"),
    "a long key": (f"{'k' * 500}: 1\n", "unknown key `k{80}`"),
    "merged in": ("<<: {trust_remote_code: true}\noutput_dir: x\n", "the merge key `<<`"),
    "merged in, nested": ("model_init_kwargs: {a: {<<: [{b: 1}]}}\n", "the merge key `<<`"),
    "a token with a hyphen": ("model_init_kwargs: {' Hub-Token': secret}\n", "sets ` Hub-Token`: tokens do not"),
    "a number without end": (f"seed: {'9' * 5000}\n", r"recipe\.yaml is not plain YAML: Exceeds the limit"),
    "a hexadecimal number without end": (f"seed: 0x{'f' * 9000}\n", r"recipe\.yaml is not plain YAML: Exceeds the"),
    "a long value of another type": (f"alpha: {'x' * 90_000}\noutput_dir: x\n", "invalid float value: 'xxx"),
    "a character of no text": ("run_name: a\0b\noutput_dir: x\n", r"recipe\.yaml is not plain YAML: unacceptable"),
    "no date": ("run_name: 2001-99-99\n", r"recipe\.yaml is not plain YAML: month must be"),
    "many keys": ("".join(f"key{number}: 1\n" for number in range(9_000)), "unknown key `key0`"),
    "another type": ("output_dir: !!binary aGFsbG8=\n", "`output_dir` is b'hallo'; it must be str"),
    "python": ("output_dir: !!python/object/apply:os.system ['true']\n", "not plain YAML"),
    "an alias bomb": ("a: &a [1]\noutput_dir: *a\n", "alias"),
    "a repeated key": ("output_dir: x\noutput_dir: y\n", "`output_dir` more than once"),
    "a repeated key, nested": ("model_init_kwargs: {a: {b: 1, b: 2}}\n", "`b` more than once"),
    "a list": ("- output_dir\n", "must hold one mapping"),
    "nothing": ("", "must hold one mapping"),
    "broken": ("output_dir: [\n", "not plain YAML"),
    "deep": ("output_dir: " + "[" * 5000 + "\n", "not plain YAML"),
    "huge": ("# " + "x" * 100_001 + "\n", "bytes"),
}


WRONG_VALUES = {
    "alpha: [1]": r"`alpha` is \[1\]; it must be float",
    "alpha: {a: 1}": "`alpha` is {'a': 1}; it must be float",
    "alpha: true": "`alpha` is True; it must be float",
    "temperature:": "`temperature` is null; it must be float",
    "output_dir:": "`output_dir` is null; it must be str",
    "policy: 7": "`policy` is 7; it must be str",
    "reference: [a]": r"`reference` is \['a'\]; it must be str \| None",
    "seed: 0.5": "`seed` is 0.5; it must be int",
    "dtype: float99": "`dtype` is 'float99'; it must be one of auto, bfloat16, float16, float32",
    "invalid_prompts: keep": "`invalid_prompts` is 'keep'; it must be one of raise, drop",
}


@pytest.mark.parametrize("text", WRONG_VALUES)
def test_a_value_of_another_type_is_named(tmp_path, text):
    recipe = write(tmp_path, "prompts: a\n" + text + "\n")
    with pytest.raises(ValueError, match=rf"recipe\.yaml: {WRONG_VALUES[text]}.* Correct the value"):
        parse((GenerateArguments,), ["--config", recipe], prog="hf-cong generate")


def test_text_that_is_no_number_is_one_line_and_status_2(tmp_path, capsys):
    recipe = write(tmp_path, f"alpha: abc\noutput_dir: {tmp_path}\n")
    number = ["--alpha", "0.3", *ON_CPU]
    for argv in (["--config", recipe], ["--output_dir", "x", "--alpha", "abc"]):
        assert main(["train", *argv, *ON_CPU]) == 2
        error = capsys.readouterr().err
        assert "--alpha: invalid float value: 'abc'. See `hf-cong train --help`." in error and error.count("\n") == 1
    _, config, _ = parse(TRAIN, ["--config", recipe, *number], prog="hf-cong train")
    assert config.alpha == 0.3
    assert main(["build", "--chosen", "x"]) == 2
    assert "arguments are required: --output_dir" in capsys.readouterr().err


def test_values_that_are_right_pass(tmp_path):
    text = "prompts: a\noutput_dir: b\npolicy: c\nreference: null\nalpha: 1\ntop_p: 9e-1\nseed: 3\ndtype: bfloat16\n"
    (args,) = parse((GenerateArguments,), ["--config", write(tmp_path, text)], prog="hf-cong generate")
    assert (args.reference, args.alpha, args.top_p, args.seed, args.dtype) == (None, 1, 0.9, 3, "bfloat16")


def test_a_recipe_that_is_not_utf_8_is_named(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes("chosen: é\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"recipe\.yaml is not UTF-8"):
        parse((BuildArguments,), ["--config", str(tmp_path / "recipe.yaml")], prog="hf-cong build")


@pytest.mark.parametrize("text, message", HOSTILE.values(), ids=HOSTILE)
def test_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as refusal:
        parse(TRAIN, ["--config", write(tmp_path, text), *ON_CPU], prog="hf-cong train")
    shown = str(refusal.value)
    assert shown.isprintable() and len(shown) < 600  # one line, nothing that a terminal obeys
    assert "secret" not in shown and not any(token in shown for token in TOKENS.values())


def test_what_publishes_overwrites_and_opens_by_hand_only(tmp_path):
    argv = ["--repo_id", "org/name", "--source", "runs/x"]
    for text, message in (
        ("private: false\n", "sets `private` to False: only your own hand makes something public"),
        ("private: 0\n", "`private` to 0: only your own hand"),
        ("replace: true\n", "sets `replace`: it overwrites what others pushed"),
        ("replace: false\n", "sets `replace`"),
    ):
        with pytest.raises(ValueError, match=message):
            parse((PublishArguments,), ["--config", write(tmp_path, text), *argv], prog="hf-cong publish")
    recipe = write(tmp_path, "private: true\n")
    (args,) = parse((PublishArguments,), ["--config", recipe, *argv], prog="hf-cong publish")
    assert args.private and not args.replace
    by_hand = ["--private", "false", "--replace", "true"]
    (args,) = parse((PublishArguments,), ["--config", recipe, *argv, *by_hand], prog="hf-cong publish")
    assert not args.private and args.replace


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--run_name", "{}"],
        ["train", "--run_name=a-{}"],
        ["train", "--config", "{}.yaml"],
        ["train", "--learning_rate", "{}"],
        ["check-pair", "a", "b", "{}"],
        ["demo", "--seeds", "{}"],
        ["{}"],
    ],
    ids=" ".join,
)
def test_a_token_on_the_command_line_is_refused_and_not_shown(capsys, argv, token):
    assert main([arg.format(token) for arg in argv]) == 2
    shown = "".join(capsys.readouterr())
    assert "tokens do not belong there" in shown and shown.count("\n") == 1 and token not in shown


@pytest.mark.parametrize(
    "argv",
    [
        ["--hub_token", "secret"],
        ["--hub-token=secret"],
        ["--token", "secret"],
        ["--model_init_kwargs", '{"token": "secret"}'],
        ["--systems", '{"a": {"Api_Key" : "secret"}}'],
    ],
    ids=" ".join,
)
def test_a_key_for_a_token_on_the_command_line_is_refused(capsys, argv):
    assert main(["train", *argv]) == 2
    shown = "".join(capsys.readouterr())
    assert "The command line sets `" in shown and "tokens do not belong there" in shown and "secret" not in shown


def test_what_only_sounds_like_a_token_passes(tmp_path):
    text = "tokenizer: hf_cong\npolicy: sk-learn/token-model\nmodel: org/ghp_small\nprompts: a\noutput_dir: b\n"
    argv = ["--config", write(tmp_path, text), "--max_new_tokens", "8"]
    check_command_line(argv)
    (args,) = parse((SearchArguments,), argv, prog="hf-cong search")
    assert (args.tokenizer, args.policy) == ("hf_cong", "sk-learn/token-model")


def test_unknown_flags_name_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"unknown key `temprature`\. .*`temperature`"):
        parse(
            (GenerateArguments,),
            ["--prompts", "a", "--output_dir", "b", "--policy", "c", "--temprature", "1"],
            prog="x",
        )
    with pytest.raises(FileNotFoundError, match="no recipe"):
        parse((BuildArguments,), ["--config", str(tmp_path / "none.yaml")], prog="x")


def test_a_refusal_is_one_line_and_status_2(tmp_path, capsys):
    assert main(["train", "--config", write(tmp_path, "alpah: 1\n")]) == 2
    error = capsys.readouterr().err
    assert "unknown key `alpah`" in error and "`alpha`" in error and error.count("\n") == 1
    assert main(["nonsense"]) == 2 and "Commands: demo, " in capsys.readouterr().err
    assert main(["train", "--use_cpu", "true", "--output_dir", str(tmp_path)]) == 2
    assert "`model_name_or_path` is required" in capsys.readouterr().err
    assert main(["--help"]) == 0 and "demo" in capsys.readouterr().out
    with pytest.raises(ValueError):
        main(["train", "--debug", "--config", write(tmp_path, "alpah: 1\n")])
