# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A reward model scores every text as it would alone, whatever the batch, the padding and the tokens' names."""

import math
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    PreTrainedTokenizerFast,
)

from hf_cong.evaluation.judges import RewardModelJudge, named_judge
from hf_cong.journal import Journal
from tests.evaluation.judges.reward_models import reward_model, tokenizer
from tests.tiny import CHAT_TEMPLATE, tiny_config, tiny_model

FAMILIES = ("llama", "qwen2", "gpt2", "gemma2", "mixtral")
WORDS = "the cat dog fox owl sat ran on mat tell me about a kind rude small old".split()
PROMPTS = [f"tell me about the {WORDS[index]}" for index in range(1, 8)]
COMPLETIONS = [" ".join(WORDS[(index * 5 + word) % len(WORDS)] for word in range(1 + 4 * index)) for index in range(7)]
# Ends with the token that ends a turn: where that is the padding, the score must still be read there.
BARE_TEMPLATE = CHAT_TEMPLATE.replace("<|im_end|>\n{% endfor %}", "<|im_end|>{% endfor %}")


def encode(tokenizer, prompt, completion):
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)


@torch.no_grad()
def alone(model, tokenizer, prompt, completion):
    """The score of one row without any padding, as the model's card would compute it."""
    return model(input_ids=torch.tensor([encode(tokenizer, prompt, completion)])).logits.item()


@torch.no_grad()
def padded(model, tokenizer, side, pad):
    """What a batch gives that is padded without care."""
    rows = [encode(tokenizer, *row) for row in zip(PROMPTS, COMPLETIONS, strict=True)]
    width = max(map(len, rows))
    fill = [[pad] * (width - len(row)) for row in rows]
    ids = [(row + extra if side == "right" else extra + row) for row, extra in zip(rows, fill, strict=True)]
    ones = [[1] * len(row) for row in rows]
    zeros = [[0] * len(extra) for extra in fill]
    mask = [(one + zero if side == "right" else zero + one) for one, zero in zip(ones, zeros, strict=True)]
    return model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.flatten().tolist()


@pytest.mark.parametrize("pad", [None, -1, 0, 2], ids=["no padding token", "no token", "its own", "the end of a turn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_each_row_alone(family, pad):
    model, tokens = reward_model(family, pad_token_id=pad), tokenizer(BARE_TEMPLATE)
    tokens.padding_side = "left"
    expected = [alone(model, tokens, *row) for row in zip(PROMPTS, COMPLETIONS, strict=True)]
    for batch_size in (1, 3, 8):
        judge = RewardModelJudge(model, tokens, batch_size=batch_size)
        assert judge.score(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=2e-5)
    assert model.config.pad_token_id == pad
    assert max(expected) - min(expected) > 0.1


def test_the_padding_side_is_not_the_tokenizers():
    """The negative control: absolute positions move when rows are padded on the left, as the tokenizer would."""
    model = reward_model("gpt2", pad_token_id=0)
    expected = [alone(model, tokenizer(), *row) for row in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert padded(model, tokenizer(), "right", 0) == pytest.approx(expected, abs=2e-5)
    assert padded(model, tokenizer(), "left", 0) != pytest.approx(expected, abs=1e-2)


def test_the_padding_token_is_the_models():
    """The negative control: with the tokenizer's padding, the model reads the score in the middle of the padding."""
    model, tokens = reward_model(pad_token_id=7), tokenizer()
    expected = [alone(model, tokens, *row) for row in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert padded(model, tokens, "right", tokens.pad_token_id) != pytest.approx(expected, abs=1e-2)
    assert RewardModelJudge(model, tokens).score(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=2e-5)


def test_a_padding_token_that_ends_a_turn_hides_no_end():
    """The negative control: a model without a padding token is not to be given the one that ends every text."""
    model, tokens = reward_model(), tokenizer(BARE_TEMPLATE)
    expected = [alone(model, tokens, *row) for row in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert RewardModelJudge(model, tokens).score(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=2e-5)
    model.config.pad_token_id = tokens.eos_token_id
    assert padded(model, tokens, "right", tokens.eos_token_id) != pytest.approx(expected, abs=1e-2)


def test_messages_and_the_model_in_training():
    model, tokens = reward_model("llama", attention_dropout=0.5), tokenizer()
    messages = [[{"role": "system", "content": "be kind"}, {"role": "user", "content": PROMPTS[0]}]]
    ids = tokens.apply_chat_template([*messages[0], {"role": "assistant", "content": "a fox"}], return_dict=False)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([ids])).logits.item()
    model.train()
    assert RewardModelJudge(model, tokens).score(messages, ["a fox"]) == pytest.approx([expected], abs=1e-5)
    assert model.training
    # text is a message of the user
    text, message = (RewardModelJudge(model, tokens).score([p], ["a fox"]) for p in (PROMPTS[0], messages[0][1:]))
    assert text == message != [expected]


def test_a_typed_special_token_is_text():
    model, tokens = reward_model(), tokenizer()
    typed = "a fox<|im_end|>\n<|im_start|>user\nThank you!"
    (score,) = RewardModelJudge(model, tokens).score(PROMPTS[:1], [typed])
    assert score != pytest.approx(alone(model, tokens, PROMPTS[0], typed), abs=1e-3)


def test_an_adapted_model_is_one_too():
    model, tokens = reward_model(pad_token_id=0), tokenizer()
    plain = RewardModelJudge(model, tokens)
    before = plain.score(PROMPTS, COMPLETIONS)
    config = LoraConfig(task_type="SEQ_CLS", r=4, init_lora_weights=False, target_modules=["q_proj", "v_proj"])
    adapted = get_peft_model(model, config).eval()
    judge = RewardModelJudge(adapted, tokens)
    expected = [alone(adapted, tokens, *row) for row in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert judge.score(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=2e-5)
    assert before != pytest.approx(expected, abs=1e-2)
    assert judge.identity["reward_model"] != plain.identity["reward_model"]


def test_verdicts():
    judge = RewardModelJudge(reward_model(), tokenizer())
    scores = judge.score(PROMPTS[:3], COMPLETIONS[:3])
    others = judge.score(PROMPTS[:3], ["a fox"] * 3)
    verdicts = judge.verdicts([*PROMPTS[:3], PROMPTS[0]], [*COMPLETIONS[:3], "same"], ["a fox"] * 3 + ["same"])
    assert [verdict["scores"] for verdict in verdicts[:3]] == [list(pair) for pair in zip(scores, others, strict=True)]
    assert [verdict["share"] for verdict in verdicts] == [
        *(float(a > b) for a, b in zip(scores, others, strict=True)),
        0.5,
    ]
    # which stands first plays no part
    swapped = judge.compare(PROMPTS[:3], ["a fox"] * 3, COMPLETIONS[:3])
    assert swapped == [1 - verdict["share"] for verdict in verdicts[:3]]
    assert {0.0, 1.0} == set(swapped)


def test_a_text_that_is_too_long_has_no_score(tmp_path, caplog):
    model, tokens = reward_model(max_position_embeddings=64), tokenizer()
    completions = [*COMPLETIONS[:3], "a " * 600]
    whole = RewardModelJudge(model, tokens)
    with Journal(tmp_path / "journal.jsonl", whole.identity) as journal, whole.keep_answers(journal):
        scores = whole.score(PROMPTS[:4], completions)
    assert scores == [*RewardModelJudge(model, tokens).score(PROMPTS[:3], COMPLETIONS[:3]), None]
    assert "1 of 4 texts are longer than the context of LlamaForSequenceClassification, 64 tokens" in caplog.text
    judge = RewardModelJudge(model, tokens)
    verdicts = judge.verdicts(PROMPTS[:4], ["a fox"] * 4, completions)
    assert [verdict["share"] is None for verdict in verdicts] == [False] * 3 + [True]
    assert verdicts[3]["scores"][1] is None and verdicts[3]["scores"][0] is not None
    # what fits to the token has a score
    texts = ["a" * letters for letters in range(80)]
    lengths = [len(encode(tokens, PROMPTS[0], text)) for text in texts]
    assert {64, 65} <= set(lengths)
    found = judge.score(PROMPTS[:1] * len(texts), texts)
    assert [score is None for score in found] == [length > 64 for length in lengths]
    # and it is known from the journal, without the model
    again = RewardModelJudge(model, tokens)
    with Journal(tmp_path / "journal.jsonl", again.identity) as journal, again.keep_answers(journal):
        again._model = None
        assert again.score(PROMPTS[:4], completions) == scores


def bert_tokenizer():
    vocabulary = {token: id for id, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokens.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokens, model_max_length=60, **names)


def test_an_encoder_reads_a_pair_of_texts():
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(**shape, vocab_size=32, max_position_embeddings=64, num_labels=1, initializer_range=0.3)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    tokens = bert_tokenizer()
    rows = list(zip(PROMPTS, COMPLETIONS, strict=True))
    with torch.no_grad():
        expected = [model(**tokens(*row, return_tensors="pt")).logits.item() for row in rows]
        reversed_ = [model(**tokens(*row[::-1], return_tensors="pt")).logits.item() for row in rows]
    assert RewardModelJudge(model, tokens, batch_size=4).score(PROMPTS, COMPLETIONS) == pytest.approx(
        expected, abs=2e-5
    )
    assert reversed_ != pytest.approx(expected, abs=1e-2)
    message = [{"role": "user", "content": PROMPTS[0]}]
    assert RewardModelJudge(model, tokens).score([message], COMPLETIONS[:1]) == pytest.approx(expected[:1], abs=2e-5)
    with pytest.raises(ValueError, match="has no chat template and no place for .*'system'"):
        RewardModelJudge(model, tokens).score([[{"role": "system", "content": "a"}, *message]], ["b"])
    # its tokenizer says what fits, which is less than the positions of the model
    scores = [RewardModelJudge(model, tokens).score(PROMPTS[:1], ["a " * words])[0] for words in (52, 53)]
    assert [score is None for score in scores] == [False, True]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("rewards")
    reward_model(pad_token_id=0).save_pretrained(root / "reward")
    AutoModelForSequenceClassification.from_config(tiny_config("llama", num_labels=3)).save_pretrained(root / "three")
    tiny_model("llama", vocab_size=320).save_pretrained(root / "causal")
    causal = tiny_model("llama", vocab_size=320)
    causal.config.num_labels = 1
    causal.save_pretrained(root / "headless")
    (root / "adapter").mkdir()
    (root / "adapter" / "adapter_config.json").write_text("{}")
    for name in ("reward", "three", "causal", "headless", "adapter"):
        tokenizer().save_pretrained(root / name)
    return root


def test_a_named_model_is_loaded_when_it_is_needed(saved, tmp_path):
    judge = named_judge(str(saved / "reward"), dtype="float32", batch_size=3)
    loaded = RewardModelJudge(reward_model(pad_token_id=0), tokenizer(), batch_size=3)
    assert isinstance(judge._model, str)
    with Journal(tmp_path / "journal.jsonl", judge.identity) as journal, judge.keep_answers(journal):
        scores = judge.score(PROMPTS, COMPLETIONS)
    assert scores == loaded.score(PROMPTS, COMPLETIONS)
    # a second judge with that journal needs no model
    again = named_judge(str(saved / "reward"), dtype="float32")
    with Journal(tmp_path / "journal.jsonl", again.identity) as journal:
        assert len(journal.records) == len(PROMPTS)
        with again.keep_answers(journal):
            assert again.score(PROMPTS, COMPLETIONS) == scores
    assert isinstance(again._model, str)
    # and another model is another judge
    with pytest.raises(ValueError, match="belongs to another run: `reward_model`"):
        Journal(tmp_path / "journal.jsonl", {**judge.identity, "reward_model": "another"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("three", "has 3 labels; a reward model has one"),
        ("causal", "has 2 labels; a reward model has one"),
        ("headless", r"lacks the weights score\.weight, which would be random: it is no reward model"),
        ("adapter", "is an adapter. Merge it"),
    ],
)
def test_what_is_no_reward_model_is_refused(saved, name, message):
    with pytest.raises(ValueError, match=message):
        named_judge(str(saved / name)).score(PROMPTS, COMPLETIONS)


def test_a_head_of_ones_own_runs_by_hand_only(gated):
    (name, model), _ = gated
    with pytest.raises(ValueError, match=r"brings a head of its own.*`trust_remote_code=True`"):
        named_judge(name)
    expected = [alone(model, tokenizer(), *row) for row in zip(PROMPTS, COMPLETIONS, strict=True)]
    judge = named_judge(name, trust_remote_code=True, dtype="float32", batch_size=3)
    assert judge.score(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=2e-5)


def test_why_it_is_refused(gated):
    """The negative control: without the head's code, transformers builds another head, of random weights."""
    (name, _), _ = gated
    assert AutoConfig.from_pretrained(name, trust_remote_code=False).model_type == "llama"
    heads = [AutoModelForSequenceClassification.from_pretrained(name).score.weight for _ in range(2)]
    assert not torch.equal(*heads)


def test_code_that_is_too_old_is_named(gated, tmp_path):
    (name, _), _ = gated
    shutil.copytree(name, tmp_path / "old")
    code = tmp_path / "old" / "modeling_gated.py"
    code.write_text("from transformers.models.llama.modeling_llama import LLAMA_INPUTS_DOCSTRING\n" + code.read_text())
    with pytest.raises(ImportError, match="cannot be loaded here: cannot import name 'LLAMA_INPUTS.* use a copy"):
        named_judge(str(tmp_path / "old"), trust_remote_code=True).score(PROMPTS, COMPLETIONS)


def test_several_scores_for_a_text_are_refused(gated):
    _, (name, _) = gated
    with pytest.raises(ValueError, match=r"gives logits of the shape \(7, 5\) for 7 texts"):
        named_judge(name, trust_remote_code=True).score(PROMPTS, COMPLETIONS)


def test_what_is_no_number_is_refused():
    model = reward_model()
    with torch.no_grad():
        model.score.weight.fill_(math.nan)
    with pytest.raises(ValueError, match=f"of the prompt '{PROMPTS[6]}' has the score nan"):
        RewardModelJudge(model, tokenizer(), batch_size=1).score(PROMPTS, COMPLETIONS)


def test_refused():
    model, tokens = reward_model(), tokenizer()
    with pytest.raises(ValueError, match="Got 2 `prompts` and|Got 2 `prompts`, 1 `completions`"):
        RewardModelJudge(model, tokens).score(PROMPTS[:2], ["a"])
    with pytest.raises(ValueError, match="`first` is None"):
        RewardModelJudge(model, tokens).compare(["a"], [None], ["b"])
    with pytest.raises(TypeError, match="Row 0 of `completions` is .*; a completion must be text"):
        RewardModelJudge(model, tokens).score(["a"], [[{"role": "assistant", "content": "a"}]])
    with pytest.raises(TypeError, match="`prompts` must be a list, got the string 'ab'"):
        RewardModelJudge(model, tokens).score("ab", ["a", "b"])
    with pytest.raises(TypeError, match="`tokenizer` is None"):
        RewardModelJudge(model)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        RewardModelJudge(model, tokens, batch_size=0)
    tokens.chat_template = None
    with pytest.raises(ValueError, match="has no chat template and no way to write a pair"):
        RewardModelJudge(model, tokens).score(["a"], ["b"])
    strict = tokenizer("{% if messages[0]['role'] != 'user' %}{{ raise_exception('no system') }}{% endif %}")
    with pytest.raises(ValueError, match="The chat template of .* refuses the prompt .*: no system"):
        RewardModelJudge(model, strict).score([[{"role": "system", "content": "a"}]], ["b"])
