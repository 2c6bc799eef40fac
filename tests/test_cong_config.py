# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from trl import SFTConfig, TrlParser

from hf_cong import ConGConfig
from hf_cong.checkpoints import content_key, settings_identity


def test_defaults_are_those_of_the_paper(tmp_path):
    args = ConGConfig(output_dir=str(tmp_path))
    assert (args.alpha, args.plausibility_threshold) == (0.4, 0.1)
    assert (args.sft_learning_rate, args.sft_num_train_epochs) == (1e-5, 2.0)
    assert (args.beta, args.learning_rate, args.num_train_epochs) == (0.5, 6e-7, 1.0)
    assert (args.lr_scheduler_type, args.warmup_steps) == ("cosine", 0.1)
    assert (args.temperature, args.top_p, args.top_k) == (0.8, 0.95, 0)
    assert (args.max_new_tokens, args.max_length) == (2048, 2048)
    assert args.precompute_ref_log_probs


def test_a_newcomer_without_a_gpu_gets_float32(tmp_path):
    """TRL's own default is bf16 whatever the machine, which transformers refuses on a CPU."""
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    assert ConGConfig(output_dir=str(tmp_path)).bf16 is False
    with pytest.raises(ValueError, match="bf16"):
        ConGConfig(output_dir=str(tmp_path), bf16=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", -0.1),
        ("alpha", 1.5),
        ("plausibility_threshold", 1.0),
        ("plausibility_threshold", -0.1),
        ("max_new_tokens", 0),
        ("generation_batch_size", 0),
        ("temperature", 0.0),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("sft_learning_rate", -1e-5),
        ("sft_num_train_epochs", -1),
        ("alpha", float("nan")),
        ("temperature", float("inf")),
        ("sft_learning_rate", float("nan")),
        ("sft_learning_rate", float("inf")),
    ],
)
def test_values_out_of_range_are_refused_by_name(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must .*got {value}"):
        ConGConfig(output_dir=str(tmp_path), **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("alpha", "0.4"), ("sft_learning_rate", "1e-5"), ("max_new_tokens", 8.5), ("top_k", "5"), ("top_p", None)],
)
def test_what_is_no_number_is_refused_by_name(tmp_path, name, value):
    with pytest.raises(TypeError, match=f"`{name}` must be an? .*got {value!r}"):
        ConGConfig(output_dir=str(tmp_path), **{name: value})


def test_whole_numbers_are_numbers(tmp_path):
    args = ConGConfig(output_dir=str(tmp_path), alpha=1, temperature=1, sft_num_train_epochs=2)
    assert (args.alpha, args.temperature, args.sft_num_train_epochs) == (1, 1, 2)


def test_hub_token_is_refused_and_not_repeated(tmp_path):
    with pytest.raises(ValueError, match="hf auth login") as error:
        ConGConfig(output_dir=str(tmp_path), hub_token="hf_planted")
    assert "hf_planted" not in str(error.value)


@pytest.mark.parametrize(
    "planted",
    [
        {"output_dir": "runs/{}"},
        {"run_name": "{}"},
        {"logging_steps": 5, "project": "of-{}"},
        {"hub_model_id": "org/{}"},
        {"report_to": ["{}"]},
        {"model_init_kwargs": {"token": "{}"}},
        {"weak_model_init_kwargs": {"revision": "main", "use_auth_token": "{}"}},
        {"weak_model_init_kwargs": '{{"token": "{}"}}'},
        {"sft_kwargs": {"run_name": "{}"}},
        {"sft_kwargs": {"model_init_kwargs": {"token": "{}"}}},
        {"weak_model_name_or_path": "https://user:{}@huggingface.co/org/weak"},
        {"lr_scheduler_kwargs": {"note": ["{}"]}},
    ],
)
@pytest.mark.parametrize("secret", ["hf_" + "aB3d" * 9, "alice-writes"], ids=["token", "own"])
def test_tokens_are_refused_wherever_they_stand(tmp_path, planted, secret):
    def plant(value):
        if isinstance(value, dict):
            return {name: plant(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [plant(inner) for inner in value]
        return value.format(secret) if isinstance(value, str) else value

    field = next(reversed(planted))
    planted = plant(planted)
    with pytest.raises(ValueError, match=f"`{field}` holds a.* token.*hf auth login") as error:
        ConGConfig(**{"output_dir": str(tmp_path), **planted})
    assert secret not in str(error.value)
    later = ConGConfig(output_dir=str(tmp_path))
    setattr(later, field, planted[field] if not isinstance(planted[field], str) else {"token": secret})
    with pytest.raises(ValueError, match=f"`{field}` holds a.* token"):
        later.check_secrets()


def test_what_any_text_may_be_is_refused_as_a_token(tmp_path):
    with pytest.raises(ValueError, match="`weak_model_init_kwargs` holds a token") as error:
        ConGConfig(output_dir=str(tmp_path), weak_model_init_kwargs={"token": "opaque"})
    assert "opaque" not in str(error.value)
    # The token of the login, which is not named.
    assert ConGConfig(output_dir=str(tmp_path), model_init_kwargs={"token": True}).model_init_kwargs["token"] is True


@pytest.mark.parametrize(
    ("sft_kwargs", "message"),
    [
        ({"packign": True}, "unknown key `packign`.*`packing`"),
        ({"learning_rate": 1e-4}, "use `sft_learning_rate`"),
        ({"output_dir": "x"}, "cannot set `output_dir`"),
        ({"hub_token": "x"}, "hf auth login"),
        ({"bf16": True}, "both stages share it"),
    ],
)
def test_sft_kwargs_are_checked(tmp_path, sft_kwargs, message):
    with pytest.raises(ValueError, match=message):
        ConGConfig(output_dir=str(tmp_path), sft_kwargs=sft_kwargs)


def test_every_field_is_on_the_command_line(tmp_path):
    parser = TrlParser([ConGConfig])
    line = ["--output_dir", str(tmp_path), "--alpha", "0.3", "--max_new_tokens", "64", "--sft_num_train_epochs", "0"]
    line += ["--sft_kwargs", '{"max_steps": 3}', "--weak_model_init_kwargs", '{"revision": "main"}']
    (args,) = parser.parse_args_and_config(line)
    assert (args.alpha, args.max_new_tokens, args.sft_num_train_epochs) == (0.3, 64, 0)
    assert (args.sft_kwargs, args.weak_model_init_kwargs) == ({"max_steps": 3}, {"revision": "main"})
    parser.format_help()  # a bare "%" in a help text would raise


def test_stage_one_shares_the_run_and_keeps_its_own_settings(tmp_path):
    args = ConGConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=3,
        learning_rate=1e-3,
        max_steps=7,
        beta=0.9,
        seed=5,
        max_length=77,
        save_strategy="best",
        metric_for_best_model="rewards/margins",
        eval_strategy="steps",
        sft_kwargs={"weight_decay": 0.5},
    )
    sft = SFTConfig(output_dir=str(tmp_path), **args.sft_settings())
    assert (sft.per_device_train_batch_size, sft.seed, sft.max_length, sft.weight_decay) == (3, 5, 77, 0.5)
    assert (sft.learning_rate, sft.num_train_epochs, sft.max_steps) == (1e-5, 2.0, -1)
    assert (sft.loss_type, sft.report_to, sft.save_strategy) == ("nll", [], "no")
    assert (sft.lr_scheduler_type, sft.warmup_steps) == ("cosine", 0.1)


def test_identity_is_of_what_changes_the_weights(tmp_path):
    def key(**settings):
        return content_key(settings_identity(ConGConfig(output_dir=str(tmp_path), **settings).to_dict()))

    assert key() == key(logging_steps=3, save_steps=7, generation_batch_size=2, run_name="x", report_to="none")
    changes = [{"beta": 0.1}, {"alpha": 0.3}, {"seed": 1}, {"weight_decay": 0.1}, {"gradient_accumulation_steps": 2}]
    assert len({key(), *(key(**change) for change in changes)}) == 1 + len(changes)


def test_a_set_has_one_key_in_every_process():
    assert content_key({"a", "b", "c"}) == content_key({"c", "a", "b"}) == content_key(frozenset("abc"))
    assert content_key({"a", "b"}) != content_key({"a", "c"})
