# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import json

import datasets
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hf_cong.prompts import encode_prompt, prompt_id, read_prompts
from tests.abuse.prompts import INJECTIONS, INVALID, TEMPLATES
from tests.tiny import tiny_tokenizer

LLAMA_2 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
)
PRINTS_BOS = (
    "{{ bos_token }}{% for message in messages %}{{ '<|head|>' + message['role'] + '<|/head|>\n' }}"
    "{{ message['content'] + '<|turn|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|head|>assistant<|/head|>\n' }}{% endif %}"
)


def _tokenizer(pre_tokenizer, decoder, special_tokens, chat_template, alphabet=()):
    """A tokenizer that puts `<s>` before every text, as Llama's do."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<unk>", "<s>", "</s>", *special_tokens],
        initial_alphabet=list(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["tell me about a kind dog [INST] [/INST] \n system assistant user"] * 20, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=special_tokens,
    )
    fast.chat_template = chat_template
    return fast


def sentencepiece_like():
    characters = "".join(chr(c) for c in range(32, 127)) + "\n▁é🙂"
    return _tokenizer(
        pre_tokenizers.Metaspace(prepend_scheme="first"),
        decoders.Metaspace(prepend_scheme="first"),
        [],
        LLAMA_2,
        characters,
    )


def byte_level():
    return _tokenizer(
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
        ["<|head|>", "<|/head|>", "<|turn|>"],
        PRINTS_BOS,
        sorted(pre_tokenizers.ByteLevel.alphabet()),
    )


TOKENIZERS = {"chatml": tiny_tokenizer, "llama2": sentencepiece_like, "prints_bos": byte_level}
ORDINARY = [
    "tell me about a dog",
    "  two  spaces\n\n",
    "naïve café 你好 🙂",
    "[INST] typed [/INST]",
    "\u202eRTL\x00",
    *TEMPLATES,
]


@pytest.fixture(params=TOKENIZERS, scope="module")
def tokenizer(request):
    return TOKENIZERS[request.param]()


def _special_ids(tokenizer, ids):
    return [token for token in ids if token in set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_prompts_have_the_ordinary_ids(tokenizer, text):
    messages = [{"role": "system", "content": "kind"}, {"role": "user", "content": text}]
    stock = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert encode_prompt(tokenizer, messages) == stock
    assert encode_prompt(tokenizer, text) == tokenizer(text)["input_ids"]


def test_one_bos(tokenizer):
    if tokenizer.bos_token is None:
        pytest.skip("ChatML has none")
    messages = [{"role": "user", "content": "tell me"}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    # Templated text, tokenised again with special tokens, is where a second one comes from.
    assert tokenizer(rendered)["input_ids"].count(tokenizer.bos_token_id) == 2
    for prompt in (messages, rendered, "tell me", "<s>tell me"):
        ids = encode_prompt(tokenizer, prompt)
        assert ids.count(tokenizer.bos_token_id) == 1
        assert ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("pattern", INJECTIONS)
def test_special_tokens_typed_by_a_user_stay_text(tokenizer, pattern):
    honest = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "y"},
        {"role": "user", "content": "z"},
    ]
    expected = _special_ids(tokenizer, encode_prompt(tokenizer, honest))
    for special in set(tokenizer.all_special_tokens) - {tokenizer.unk_token}:
        attack = pattern.replace("{special}", special)
        for position in range(3):
            messages = [dict(message) for message in honest]
            messages[position]["content"] = attack
            ids = encode_prompt(tokenizer, messages)
            assert _special_ids(tokenizer, ids) == expected
            stock = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            assert _special_ids(tokenizer, stock) != expected  # the attack is one
            text = tokenizer.decode(ids, skip_special_tokens=True)
            assert text.count(special) == attack.count(special)


def test_plain_text_loses_an_eos_that_only_the_tokenizer_added():
    tokenizer = byte_level()
    bare = encode_prompt(tokenizer, "tell me")
    eos = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", tokenizer.bos_token_id), ("</s>", eos)]
    )
    assert tokenizer("tell me")["input_ids"] == [*bare, eos]
    assert encode_prompt(tokenizer, "tell me") == bare
    assert encode_prompt(tokenizer, "tell me</s>") == [*bare, eos]  # typed, so part of the text


def test_chat_template_kwargs_reach_the_template():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ date_string }}" + tokenizer.chat_template
    messages = [{"role": "user", "content": "x"}]
    ids = encode_prompt(tokenizer, messages, chat_template_kwargs={"date_string": "1 May"})
    assert tokenizer.decode(ids).startswith("1 May<|im_start|>")
    assert encode_prompt(tokenizer, messages) != ids


def test_messages_without_a_template_are_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="chat_template"):
        encode_prompt(tokenizer, [{"role": "user", "content": "x"}])


def test_messages_the_template_refuses_are_shown():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('Only user turns') }}"
    with pytest.raises(ValueError, match=r"refuses the prompt .*'odd'.*: Only user turns"):
        encode_prompt(tokenizer, [{"role": "odd", "content": "x"}])


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(ValueError, match="has no tokens"):
        encode_prompt(tiny_tokenizer(), "")


def test_prompt_id_is_of_the_content():
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "name": "z"}]
    through_arrow = datasets.Dataset.from_list([{"prompt": messages}])[0]["prompt"]
    assert through_arrow != messages  # Arrow gave the first message a `name` of None
    assert prompt_id(through_arrow) == prompt_id(messages)
    assert prompt_id([{"content": "x", "role": "user"}]) == prompt_id([{"role": "user", "content": "x"}])
    ids = [prompt_id(prompt) for prompt in ("x", "x ", "\ud800", '["x"]', messages, messages[::-1], messages[:1])]
    assert len(set(ids)) == len(ids)
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in ids)
    assert prompt_id("x") == "ba2df4903a2c14e8"  # sha256 of the JSON text '"x"': a name on disk must not change


PROMPTS = ["tell me", "about a dog", "naïve 🙂"]


@pytest.mark.parametrize("kind", ["list", "rows", "dataset", "jsonl", "path", "parquet"])
@pytest.mark.parametrize("conversational", [False, True])
def test_every_source_gives_the_same_rows(tmp_path, kind, conversational):
    prompts = [[{"role": "user", "content": text}] for text in PROMPTS] if conversational else PROMPTS
    rows = [{"topic": str(i), "prompt": prompt} for i, prompt in enumerate(prompts)]
    source = {"list": prompts, "rows": rows, "dataset": datasets.Dataset.from_list(rows)}.get(kind)
    if kind in ("jsonl", "path"):
        (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = tmp_path / "p.jsonl" if kind == "path" else str(tmp_path / "p.jsonl")
    if kind == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / "p.parquet")
        source = tmp_path / "p.parquet"
    dataset, dropped = read_prompts(source)
    assert dropped == {}
    assert dataset["prompt"][:] == prompts
    assert dataset["prompt_id"][:] == [prompt_id(prompt) for prompt in prompts]
    assert dataset.column_names == ["prompt_id", "prompt"] + ([] if kind == "list" else ["topic"])


def test_another_column_becomes_prompt():
    rows = [{"prompt": "not this", "question": text, "prompt_id": "stale"} for text in PROMPTS]
    for source in (rows, datasets.Dataset.from_list(rows)):
        dataset, _ = read_prompts(source, column="question")
        assert dataset["prompt"][:] == PROMPTS
        assert dataset.column_names == ["prompt_id", "prompt"]
        assert dataset["prompt_id"][0] == prompt_id(PROMPTS[0])


@pytest.mark.parametrize(("value", "reason"), INVALID, ids=range(len(INVALID)))
def test_an_invalid_row_is_named_or_counted(value, reason):
    good = [[{"role": "user", "content": text}] for text in PROMPTS]
    good = good if isinstance(value, list) else PROMPTS
    with pytest.raises(ValueError, match=r"Row 2 of the prompts is .*`invalid_prompts`"):
        read_prompts([*good[:2], value, good[2]])
    dataset, dropped = read_prompts([*good[:2], value, good[2]], invalid_prompts="drop")
    assert dataset["prompt"][:] == good
    assert dropped == {reason: 1}


def test_one_bad_row_among_many_is_found(tmp_path):
    rows = [{"prompt": f"prompt {i}"} for i in range(10_000)]
    rows[7_777] = {"prompt": [{"role": "user", "content": "x"}]}
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="Row 7777 of the prompts is of another kind"):
        read_prompts(tmp_path / "p.jsonl")


def test_duplicates_name_both_rows():
    with pytest.raises(ValueError, match="Row 3 of the prompts is a duplicate of row 1"):
        read_prompts(["a", "b", "c", "b"])
    dataset, dropped = read_prompts(["a", "b", "c", "b", "b"], invalid_prompts="drop")
    assert (dataset["prompt"][:], dropped) == (["a", "b", "c"], {"duplicate": 2})


def test_errors_show_at_most_80_characters_of_text():
    with pytest.raises(ValueError) as failure:
        read_prompts(["a" * 10_000] * 2)
    assert len(str(failure.value)) < 250


def test_what_is_no_source_is_refused(tmp_path):
    rows = [{"prompt": "x"}]
    stream = datasets.Dataset.from_list(rows).to_iterable_dataset()
    with pytest.raises(TypeError, match="IterableDataset"):
        read_prompts(stream)
    with pytest.raises(TypeError, match=r"DatasetDict; pass one split of \['train'\]"):
        read_prompts(datasets.DatasetDict(train=datasets.Dataset.from_list(rows)))
    with pytest.raises(TypeError, match="is a int"):
        read_prompts(3)
    for source in (datasets.Dataset.from_list([{"text": "x"}]), [{"text": "x"}]):
        with pytest.raises(ValueError, match=r"needs the column `prompt`; .*\['text'\]"):
            read_prompts(source)
    with pytest.raises(ValueError, match=r"must be `\.jsonl` or `\.parquet`"):
        (tmp_path / "p.csv").write_text("prompt\nx\n")
        read_prompts(tmp_path / "p.csv")
    for name in ("none.jsonl", "none.parquet"):
        with pytest.raises(FileNotFoundError, match="none"):
            read_prompts(tmp_path / name)
    with pytest.raises(ValueError, match='must be "raise" or "drop"'):
        read_prompts(["x"], invalid_prompts="ignore")


def test_a_line_that_is_not_json_is_named(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "x"}\n{"prompt": \n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        read_prompts(tmp_path / "p.jsonl")


def test_a_file_that_is_not_utf_8_is_named(tmp_path):
    for content, number in (('{"prompt": "x"}\n{"prompt": "é"}\n'.encode("latin-1"), 2), ("é".encode("utf-16"), 1)):
        (tmp_path / "p.jsonl").write_bytes(content)
        with pytest.raises(ValueError, match=rf"p\.jsonl, line {number} is not UTF-8 .* Save it as UTF-8"):
            read_prompts(tmp_path / "p.jsonl")


def test_blank_lines_a_byte_order_mark_and_windows_line_ends_are_no_rows(tmp_path):
    (tmp_path / "p.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "x"}\r\n\r\n{"prompt": "y"}\n  \n\n')
    assert read_prompts(tmp_path / "p.jsonl")[0]["prompt"][:] == ["x", "y"]


def test_every_column_of_a_list_is_kept_and_has_one_type():
    rows = [{"prompt": "a"}, {"prompt": "b", "topic": "s"}]
    assert read_prompts(rows)[0]["topic"][:] == [None, "s"]
    with pytest.raises(ValueError, match="column `topic` of the prompts mixes types"):
        read_prompts([*rows, {"prompt": "c", "topic": 1}])
    with pytest.raises(ValueError, match="column `topic` of the prompts mixes types"):
        read_prompts([{"prompt": "c", "topic": 1}, {"prompt": "b", "topic": ["s"]}])


@pytest.mark.parametrize("source", [[], datasets.Dataset.from_list([]), [""], ["", None]])
def test_no_prompts_are_refused(source):
    with pytest.raises(ValueError, match=r"No prompts|needs the column"):
        read_prompts(source, invalid_prompts="drop")
