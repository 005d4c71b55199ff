"""T5's tokenizer from a file of SentencePiece, against the tokenizer of the same pieces."""

import struct
from pathlib import Path

import pytest
from flow_models import CHROMA_SCHEDULER, T5_WINDOW, chroma_parts, save_flow, t5_tokenizer

from diffedit_cli.errors import ModelError
from diffedit_cli.models import load_model, spiece

TEXTS = ["a zebra, in the park.", "", "ZEBRA 7", "a" * 60]


def field(number: int, value: bytes) -> bytes:
    """A field of bytes of Protocol Buffers; its length in up to two bytes."""
    length = len(value)
    size = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
    return bytes([number << 3 | 2]) + size + value


def message() -> bytes:
    """The pieces of t5_tokenizer, as SentencePiece writes them, among fields that say nothing here."""
    pieces = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2)]
    pieces += [(piece, -1.0, 1) for piece in ["\N{LOWER ONE EIGHTH BLOCK}", *"abcdefghijklmnopqrstuvwxyz ,."]]
    own = [
        field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([3 << 3, kind]))
        for text, score, kind in pieces
    ]
    trainer = field(2, b"\x18\x01" + field(1, b"x" * 200))
    normaliser = field(3, field(1, b"identity"))
    return b"".join([*own, trainer, normaliser])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / spiece.FILE).write_bytes(message())
    (tmp_path / "tokenizer_config.json").write_text('{"extra_ids": 2}')
    return tmp_path


def test_texts_become_the_same_tokens(folder: Path) -> None:
    ours, wanted = spiece.t5_tokenizer(folder), t5_tokenizer()
    assert ours(TEXTS).input_ids == wanted(TEXTS).input_ids
    assert len(ours) == len(wanted) + 2
    assert (ours.pad_token_id, ours.eos_token_id, ours.unk_token_id) == (0, 1, 2)


def test_the_bytes_are_those_of_protocol_buffers(folder: Path) -> None:
    pytest.importorskip("google.protobuf")
    from transformers.utils import sentencepiece_model_pb2_new as pb

    whole = pb.ModelProto()
    whole.ParseFromString(message())
    assert [piece.piece for piece in whole.pieces][:4] == [
        "<pad>",
        "</s>",
        "<unk>",
        "\N{LOWER ONE EIGHTH BLOCK}",
    ]
    whole.normalizer_spec.precompiled_charsmap = b"\x00" * 300
    found = dict(spiece.fields(whole.SerializeToString()))
    assert dict(spiece.fields(found[3]))[2] == b"\x00" * 300


@pytest.mark.parametrize("spoilt", [message()[:-3], b"\x0b", b"\xff" * 20, b"\x0a\x02\x08"])
def test_a_spoilt_file_is_refused_in_one_sentence(tmp_path: Path, spoilt: bytes) -> None:
    folder = save_flow(tmp_path, chroma_parts(), CHROMA_SCHEDULER)
    (folder / "tokenizer/tokenizer.json").unlink()
    (folder / "tokenizer" / spiece.FILE).write_bytes(spoilt)
    with pytest.raises(ModelError, match="tokenizer") as caught:
        load_model(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_may_have_nothing_else(tmp_path: Path) -> None:
    folder = save_flow(tmp_path, chroma_parts(), CHROMA_SCHEDULER)
    whole = load_model(folder, device="cpu")
    (folder / "tokenizer/tokenizer.json").unlink()
    (folder / "tokenizer" / spiece.FILE).write_bytes(message())
    (folder / "tokenizer/tokenizer_config.json").write_text('{"extra_ids": 0}')
    ours = load_model(folder, device="cpu")
    texts = whole.embed(TEXTS[:3]), ours.embed(TEXTS[:3])
    assert ours.tokenizers[0].model_max_length == 512
    assert (texts[0].tokens - texts[1].tokens[:, :T5_WINDOW]).abs().max() < 1e-6
