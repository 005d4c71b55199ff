"""catalogue.py and pull: what there is, what one checkpoint is, and fetching from a hub on this machine."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import put
from flow_models import SCHNELL_SCHEDULER, flux_parts, save_flow
from huggingface_hub import constants
from safetensors.torch import save_file

from diffedit_cli.errors import ModelError
from diffedit_cli.models import catalogue, describe, load_model, pull
from diffedit_cli.models.catalogue import cached_models
from diffedit_cli.models.presets import PRESETS
from diffedit_cli.models.sources import find_checkpoint
from diffedit_cli.models.t5_words import words_in

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SOCKETS = socket.getaddrinfo, socket.create_connection  # as they are before the tests forbid them


@dataclass
class Hub:
    """A hub that holds one repository, someone/tiny; `asked` are the paths of all requests."""

    folder: Path
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a request, as the hub gives them."""
        self.asked.append(path)
        path = path.split("?")[0]
        if "someone/gated" in path:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if "someone/tiny" not in path:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if "/v9" in path:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files = {
            str(file.relative_to(self.folder)): file for file in self.folder.rglob("*") if file.is_file()
        }
        if path.startswith("/api/") and "/tree/" in path:
            sizes = [dict(type="file", path=n, size=f.stat().st_size, oid=COMMIT) for n, f in files.items()]
            return 200, {}, json.dumps(sizes).encode()
        if path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in files]
            return 200, {}, json.dumps(dict(id="someone/tiny", sha=COMMIT, siblings=siblings)).encode()
        name = path.split(f"/resolve/{COMMIT}/")[-1]
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        body = files[name].read_bytes()
        etag = f'"{len(body):040d}{len(name)}"'
        return 200, {"ETag": etag, "X-Repo-Commit": COMMIT}, body


@pytest.fixture
def hub(checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, and the client pointed at it."""
    here = Hub(checkpoint)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            status, headers, body = here.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(socket, "getaddrinfo", SOCKETS[0])
    monkeypatch.setattr(socket, "create_connection", SOCKETS[1])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield here
    server.shutdown()
    server.server_close()


def test_a_fetched_checkpoint_needs_no_network_any_more(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pull("someone/tiny").path
    assert (path / "unet/diffusion_pytorch_model.safetensors").is_file()
    assert hub.asked
    hub.asked.clear()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert load_model("someone/tiny", device="cpu").size == 32
    assert pull("someone/tiny").path == path
    assert hub.asked == []


def test_only_what_is_needed_is_fetched(hub: Hub, tmp_path: Path, build: Callable[..., Path]) -> None:
    hub.folder = build()
    (hub.folder / "model.ckpt").write_bytes(b"a pickle")
    (hub.folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    (hub.folder / "unet/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"another variant")
    (hub.folder / "README.md").write_text("---\nlanguage: en\nlicense: openrail\n---\n# Tiny\n")
    path = pull("someone/tiny").path
    fetched = {file.name for file in path.rglob("*") if file.is_file()}
    assert "diffusion_pytorch_model.safetensors" in fetched
    assert not {name for name in fetched if name.endswith((".ckpt", ".bin")) or "fp16" in name}
    assert describe("someone/tiny")["licence"] == "openrail"
    assert {entry.name: entry.licence for entry in catalogue()}["someone/tiny"] == "openrail"


def test_beside_files_the_tokenizers_alone_are_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.folder = save_flow(tmp_path / "flux", flux_parts(), SCHNELL_SCHEDULER)
    (hub.folder / "model_index.json").write_text("{}")
    name = "someone/tiny"
    path = find_checkpoint(name, revision=None, variant=None, offline=False, needs="words").path
    assert not [*path.rglob("*.safetensors")]
    assert words_in(name, path) == path / "tokenizer_2"
    with pytest.raises(ModelError, match="Only a part of someone/tiny"):
        find_checkpoint(name, revision=None, variant=None, offline=True, needs="rest")


@pytest.mark.parametrize(
    ("name", "revision", "words", "hint"),
    [
        ("someone/gone", None, "The Hub has no someone/gone", "withdrawn"),
        ("someone/gated", None, "someone/gated requires you to accept its licence", "hf auth login"),
        ("someone/tiny", "v9", "someone/tiny has no revision v9", "--revision"),
    ],
)
def test_what_the_hub_refuses_is_said(
    hub: Hub, name: str, revision: str | None, words: str, hint: str
) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        pull(name, revision=revision)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:9", "foo.bar", "ftp://foo.bar", "https://", "http://[::", ""]
)
def test_a_hub_that_cannot_be_reached_is_reported_at_once(
    hub: Hub,
    endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Of a preset, whose commit is known, the client would ask for the files again and again."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    for name in ("sd15", "someone/tiny"):
        start = time.perf_counter()
        with pytest.raises(ModelError, match=f"{name}|{PRESETS['sd15'].repository}") as caught:
            pull(name)
        assert time.perf_counter() - start < 3
        assert "could not be fetched" in str(caught.value)
        assert "HF_ENDPOINT" in caught.value.hint
    assert caplog.text == capfd.readouterr().err == ""


def test_what_diffusers_fetched_is_found(cache: Path, checkpoint: Path) -> None:
    """It leaves README.md out, and the hub's list of files names it."""
    put(cache, checkpoint, "someone/tiny")
    repo = cache / "models--someone--tiny"
    folder = repo / "snapshots" / COMMIT
    names = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
    entries = {name: {"size": 1, "blob_id": "0" * 40} for name in [*names, "README.md", ".gitattributes"]}
    (repo / "trees").mkdir()
    (repo / "trees" / f"{COMMIT}.json").write_text(json.dumps({"format_version": 1, "files": entries}))
    assert describe("someone/tiny")["kind"] == "Stable Diffusion 1.x"
    assert load_model("someone/tiny", device="cpu", offline=True).origin["revision"] == COMMIT


@pytest.mark.parametrize(
    "gone", ["diffusion_pytorch_model.safetensors", "vocab.json", "scheduler_config.json", "config.json"]
)
def test_an_interrupted_download_is_told_and_finished(
    hub: Hub, cache: Path, checkpoint: Path, gone: str
) -> None:
    tokenizer = "tokenizer.json" if gone == "vocab.json" else ""
    put(cache, checkpoint, "someone/tiny")
    for file in [*(cache / "models--someone--tiny/snapshots").rglob("*")]:
        if file.name in (gone, tokenizer):
            file.unlink()
    with pytest.raises(ModelError, match=f"Only a part of someone/tiny is in the Hub's cache: .*{gone}"):
        load_model("someone/tiny", device="cpu", offline=True)
    assert load_model("someone/tiny", device="cpu").size == 32
    assert load_model("someone/tiny", device="cpu", offline=True).size == 32


def test_parts_without_the_variant_are_fetched_in_plain_form(hub: Hub, build: Callable[..., Path]) -> None:
    hub.folder = build()
    file = hub.folder / "unet/diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".fp16.safetensors"))
    path = pull("someone/tiny", variant="fp16").path
    assert (path / "vae/diffusion_pytorch_model.safetensors").is_file()
    assert load_model("someone/tiny", device="cpu", variant="fp16", offline=True).size == 32


def test_a_repository_without_the_weights_is_refused_before_fetching(
    hub: Hub, build: Callable[..., Path], cache: Path
) -> None:
    hub.folder = build()
    with pytest.raises(ModelError, match=r"has no unet/.*\.fp16\.safetensors") as caught:
        pull("someone/tiny", variant="fp16")
    assert caught.value.hint == "Leave --variant out."
    for file in [*hub.folder.rglob("*.safetensors")]:
        file.rename(file.with_suffix(".bin"))
    with pytest.raises(ModelError, match=r"has no unet/.*\.safetensors") as caught:
        pull("someone/tiny")
    assert "Pickles" in caught.value.hint
    assert not [path for path in hub.asked if "/resolve/" in path]


def test_offline_is_honoured(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="not in the Hub's cache"):
        load_model("someone/tiny", offline=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="not in the Hub's cache"):
        pull("someone/tiny")
    assert hub.asked == []


def test_a_checkpoint_in_one_file_of_a_repository(
    hub: Hub, build: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.folder = build()
    save_file({"lora_unet.down": torch.ones(2)}, hub.folder / "sdxl_lightning_4step.safetensors")
    preset = replace(PRESETS["sdxl-lightning"], repository="someone/tiny", revision=COMMIT)
    monkeypatch.setitem(PRESETS, "sdxl-lightning", preset)
    assert describe("sdxl-lightning")["is_here"] is False
    source = pull("sdxl-lightning")
    assert (source.path.name, source.revision) == (preset.file, COMMIT)
    assert {path.name for path in cache.rglob("*.safetensors")} == {preset.file}
    hub.asked.clear()
    assert pull("sdxl-lightning") == source
    assert hub.asked == []
    with pytest.raises(ModelError, match="sdxl-lightning is a LoRA"):
        load_model("sdxl-lightning", device="cpu", offline=True)


def test_cached_models_are_found(cache: Path, checkpoint: Path) -> None:
    assert cached_models() == []
    put(cache, checkpoint, "someone/tiny")
    put(cache, checkpoint, "else/text-only", leave_out="unet")
    put(cache, checkpoint, "else/half-fetched", leave_out="diffusion_pytorch_model.safetensors")
    [(name, size)] = cached_models()
    assert name == "someone/tiny"
    assert size > 100_000


def test_the_catalogue_says_what_is_here(cache: Path, checkpoint: Path) -> None:
    here = {entry.name: entry.is_here for entry in catalogue()}
    assert here == {"embedded": True, **dict.fromkeys(PRESETS, False)}
    preset = PRESETS["sd15"]
    put(cache, checkpoint, preset.repository, commit=preset.revision)
    put(cache, checkpoint, "someone/tiny")
    entries = {entry.name: entry for entry in catalogue()}
    assert list(entries) == ["embedded", *PRESETS, "someone/tiny"]
    assert entries["sd15"].is_here
    assert 100_000 < entries["sd15"].bytes < preset.bytes  # what is really there
    assert entries["sdxl"].bytes == 2 * PRESETS["sdxl"].parameters


def test_a_checkpoint_is_described(
    cache: Path, checkpoint: Path, build_xl: Callable[..., Path], build: Callable[..., Path]
) -> None:
    model, facts = load_model(checkpoint, device="cpu"), describe(str(checkpoint))
    counts = {
        part: sum(p.numel() for p in network.parameters())
        for part, network in (
            ("unet", model.unet),
            ("vae", model.vae),
            ("text_encoder", model.text_encoders[0]),
        )
    }
    assert {part: network["parameters"] for part, network in facts["networks"].items()} == counts
    assert facts["parameters"] == sum(counts.values())
    assert (facts["kind"], facts["predicts"], facts["side"]) == ("Stable Diffusion 1.x", "epsilon", 32)
    assert facts["networks"]["unet"]["dtype"] == "F32"
    assert describe(str(build_xl()))["kind"] == "Stable Diffusion XL"
    assert describe(str(build(prediction_type="v_prediction")))["predicts"] == "v_prediction"
    assert describe("embedded")["licence"] == "GPL-2.0-or-later"  # as its model card says
    table = describe("sdxl")
    assert not table["is_here"]
    assert table["revision"] == PRESETS["sdxl"].revision
    with pytest.raises(ModelError, match="There is no model"):
        describe("nothing")
