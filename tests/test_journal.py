# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import errno
import json
import os
import resource
import signal

import pytest

from hf_cong.journal import (
    Journal,
    check_identity,
    check_manifest,
    read_journal,
    read_manifest,
    replacing,
    write_manifest,
)

IDENTITY = {"seed": 0, "temperature": 0.8, "prompts": "00ff"}


def _journal_of(path, records):
    with Journal(path, IDENTITY) as journal:
        for record in records:
            journal.append([record])
    return path.read_bytes()


# Each of these has broken a line-based format somewhere.
ODD_STRINGS = [
    "",
    "\ud800",  # a lone surrogate has no UTF-8
    "\x00",
    "a\nb\r\nc",
    "\u2028\u2029\x85\x0b\x0c",  # line ends to `str.splitlines`, not to JSON Lines
    "🙂👩‍👩‍👧‍👦",
    "\u202eabc\u202c שלום",  # right to left
    '"\\"{}[]',
    "e\u0301 \u00e9",  # not to be normalised
    "\ufeff",
    "x" * 1_000_000,
]


@pytest.mark.parametrize("text", ODD_STRINGS, ids=range(len(ODD_STRINGS)))
def test_strings_survive(tmp_path, text):
    _journal_of(tmp_path / "j", [{"completion": text}])
    assert read_journal(tmp_path / "j")[1] == [{"completion": text}]


def test_same_records_give_same_bytes(tmp_path):
    records = [{"prompt_id": str(i), "x": 0.1 * i} for i in range(5)]
    assert _journal_of(tmp_path / "a", records) == _journal_of(tmp_path / "b", records)
    assert _journal_of(tmp_path / "c", records[::-1]) != _journal_of(tmp_path / "d", records)


def test_a_cut_at_any_byte_loses_only_the_last_record(tmp_path):
    records = [{"n": i, "text": "é" * i} for i in range(4)]
    whole = _journal_of(tmp_path / "whole", records)
    for cut in range(len(whole)):
        path = tmp_path / "torn"
        path.write_bytes(whole[:cut])
        expected = max(whole[:cut].count(b"\n") - 1, 0)
        assert read_journal(path)[1] == records[:expected]
        assert path.stat().st_size == cut  # reading repairs nothing
        with Journal(path, IDENTITY) as journal:
            assert journal.records == records[:expected]
            journal.append(records[expected:])
        assert path.read_bytes() == whole


@pytest.mark.parametrize("tail", [b"\x00" * 100, b"{}x\n", b"[1]\n", b"\xff\xfe\n", b'{"n": 1', b"\n"])
def test_a_malformed_last_line_is_owed_again(tmp_path, tail):
    whole = _journal_of(tmp_path / "j", [{"n": 0}])
    (tmp_path / "j").write_bytes(whole + tail)
    with Journal(tmp_path / "j", IDENTITY) as journal:
        assert journal.records == [{"n": 0}]
    assert (tmp_path / "j").read_bytes() == whole


def test_a_malformed_line_before_the_last_is_named(tmp_path):
    path = tmp_path / "j"
    lines = _journal_of(path, [{"n": 0}, {"n": 1}]).split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b'{"n":', *lines[2:]]))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="line 2 is damaged"):
        Journal(path, IDENTITY)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", ['{"prompt": "the user\'s own file"}\n', "hello world", "hello world\n", "a\nb\n", "[1]", "\n", "\0\0"]
)
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, content):
    path = tmp_path / "j"
    path.write_text(content)
    for open_it in (lambda: Journal(path, IDENTITY), lambda: read_journal(path)):
        with pytest.raises(ValueError, match="/j is not a journal"):
            open_it()
    assert path.read_text() == content


def test_a_journal_without_records_belongs_to_no_run(tmp_path):
    Journal(tmp_path / "j", {**IDENTITY, "seed": 1}, {"model": "a"}).close()
    Journal(tmp_path / "j", IDENTITY, {"model": "b"}).close()
    assert read_journal(tmp_path / "j") == ({"identity": IDENTITY, "provenance": {"model": "b"}}, [])


@pytest.mark.parametrize("field", IDENTITY)
def test_another_run_is_refused_by_field_and_values(tmp_path, field):
    _journal_of(tmp_path / "j", [{"n": 0}])
    with pytest.raises(ValueError, match=f"`{field}` {IDENTITY[field]!r} there, 'other' here"):
        Journal(tmp_path / "j", {**IDENTITY, field: "other"})


def test_check_identity_compares_only_what_is_expected():
    check_identity({"seed": 0}, IDENTITY, "j")
    with pytest.raises(ValueError, match="`engine` None there, 'x' here"):
        check_identity({"engine": "x"}, IDENTITY, "j")
    nested = {"engine": {"alpha": 0.4, "policy": "a" * 100}}
    check_identity(nested, {**nested, "more": 1}, "j")
    with pytest.raises(ValueError, match=r"run: `engine.alpha` 0.5 there, 0.4 here\."):
        check_identity(nested, {"engine": {**nested["engine"], "alpha": 0.5}}, "j")
    with pytest.raises(ValueError, match=r"run: `engine.tau` 1 there, None here\."):
        check_identity(nested, {"engine": {**nested["engine"], "tau": 1}}, "j")
    with pytest.raises(ValueError, match="`engine.policy` None there, 'a{79} here"):
        check_identity(nested, {"engine": {"alpha": 0.4}}, "j")


def test_provenance_is_stored_and_not_compared(tmp_path):
    with Journal(tmp_path / "j", IDENTITY, {"model": "a"}) as journal:
        journal.append([{"n": 0}])
    Journal(tmp_path / "j", IDENTITY, {"model": "b"}).close()
    assert read_journal(tmp_path / "j")[0] == {"identity": IDENTITY, "provenance": {"model": "a"}}


def test_a_second_writer_is_refused_until_the_first_closes(tmp_path):
    # The lock belongs to the opened file, not to the process, so one process can play both writers.
    with Journal(tmp_path / "j", IDENTITY) as first:
        with pytest.raises(BlockingIOError, match="being written by another process"):
            Journal(tmp_path / "j", IDENTITY)
        first.append([{"n": 0}])
    with Journal(tmp_path / "j", IDENTITY) as second:
        assert second.records == [{"n": 0}]


def test_a_full_disk_leaves_a_valid_journal(tmp_path):
    """`RLIMIT_FSIZE` makes the kernel cut a write short and then fail it, as a full disk does."""
    records = [{"n": i, "text": "x" * 300} for i in range(4)]
    path = tmp_path / "j"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Journal(path, IDENTITY) as journal:
        journal.append(records[:2])
        before = path.read_bytes()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
            with pytest.raises(OSError) as failure:
                journal.append(records[2:])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)
        assert failure.value.errno in (errno.EFBIG, errno.ENOSPC)
        assert path.read_bytes() == before
        assert journal.records == records[:2]
        journal.append(records[2:])
    assert read_journal(path)[1] == records


def test_records_that_json_cannot_carry_are_refused_before_writing(tmp_path):
    with Journal(tmp_path / "j", IDENTITY) as journal:
        before = (tmp_path / "j").read_bytes()
        with pytest.raises(ValueError, match="JSON"):
            journal.append([{"n": 0}, {"n": float("nan")}])
        assert (tmp_path / "j").read_bytes() == before


def test_replacing_moves_on_success_and_leaves_nothing_on_failure(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["f"]


def test_a_manifest_vouches_for_its_files(tmp_path):
    (tmp_path / "data").write_bytes(b"1")
    written = write_manifest(tmp_path / "manifest.json", {"seed": 0}, files=("data",))
    assert read_manifest(tmp_path / "manifest.json") == written == json.loads((tmp_path / "manifest.json").read_text())
    assert {"python", "torch", "transformers", "datasets"} <= set(written["versions"])
    (tmp_path / "data").write_bytes(b"2")
    with pytest.raises(ValueError, match="not the file"):
        read_manifest(tmp_path / "manifest.json")
    (tmp_path / "data").unlink()
    with pytest.raises(ValueError, match="missing"):
        read_manifest(tmp_path / "manifest.json")
    with pytest.raises(FileNotFoundError, match="has not ended"):
        read_manifest(tmp_path / "elsewhere.json")


@pytest.mark.parametrize("content", ["", "{}", '{"files": ["data"]}', "[]", '{"files": {"data": "12', "\xe9"])
def test_a_damaged_manifest_is_named(tmp_path, content):
    path = tmp_path / "manifest.json"
    path.write_text(content)
    for read in (read_manifest, lambda path: check_manifest(path, ("data",))):
        with pytest.raises(ValueError, match=r"manifest\.json is damaged .* Delete it and repeat the command"):
            read(path)


def test_a_manifest_of_other_files_is_kept(tmp_path):
    path = tmp_path / "manifest.json"
    check_manifest(path, ("data",))  # there is none yet
    (tmp_path / "data").write_bytes(b"1")
    write_manifest(path, {}, files=("data",))
    check_manifest(path, ("data",))
    with pytest.raises(ValueError, match=r"holds data, .* other would take the place .* another `output_dir`"):
        check_manifest(path, ("other",))


def test_a_closed_journal_writes_to_no_other_file(tmp_path):
    with Journal(tmp_path / "journal.jsonl", IDENTITY) as journal:
        journal.append([{"n": 1}])
    with open(tmp_path / "other", "wb") as other:  # gets the number that the journal had
        other.write(b"other")
        other.flush()
        with pytest.raises(OSError, match="Bad file descriptor"):
            journal.append([{"n": 2}])
    assert (tmp_path / "other").read_bytes() == b"other"
    assert read_journal(tmp_path / "journal.jsonl")[1] == [{"n": 1}]
