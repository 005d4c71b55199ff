"""The server of `diffedit serve`: what it lets in, its jobs, and that it shows the mask that an edit has."""

import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner
from web_server import TOKEN, Server, allow_loopback, photo, pixels, png, until

from diffedit_cli import EditConfig, Masks, RemoveConfig, Session, edit_image, load_image, remove_object
from diffedit_cli.cli.app import app as command
from diffedit_cli.images.read import read_settings
from diffedit_cli.models import DiffusersDenoiser
from diffedit_cli.settings import build
from diffedit_cli.web import store, worker
from diffedit_cli.web.forms import FORMS, forms
from diffedit_cli.web.server import open_port

EXAMPLES = Path(__file__).parents[1] / "examples"
QUICK: dict[str, Any] = {"ref": "horse", "query": "zebra", "steps": 4, "mask_samples": 2, "seed": 3}


@pytest.fixture(scope="module")
def tiny(checkpoint: Path) -> DiffusersDenoiser:
    """A model of this module's own: the server hooks into its UNet."""
    from diffedit_cli import load_model

    return load_model(checkpoint, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def server(tiny: DiffusersDenoiser) -> Iterator[Server]:
    one = Server(tiny)
    one.start()
    yield one
    one.stop()


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch, no_network: None) -> None:
    allow_loopback(monkeypatch)


# the mask that is shown, and the edit


def test_an_edit_is_that_of_the_command_line(server: Server, tiny: DiffusersDenoiser) -> None:
    body = photo()
    job = server.make("edit", picture=server.open(body, "a photo.png"), settings=QUICK)
    result = edit_image(tiny, load_image(body), build(EditConfig, QUICK))
    assert (pixels(server.file(job, "picture.png")) == np.array(result.image)).all()
    assert (pixels(server.file(job, "mask.png")) == np.array(result.mask)).all()
    assert job["facts"]["changed_outside"] == 0
    stored = read_settings(server.file(job, "picture.png"))
    assert stored is not None
    assert stored == {**result.settings(), "input": "a photo.png"}


def test_the_mask_shown_is_the_mask_of_the_edit(server: Server) -> None:
    picture = server.open(photo())
    settings = {**QUICK, "mask_threshold": 0.4, "room": 0.3}
    found = server.make("find", picture=picture, settings=settings)
    shown = server.client.post("/api/mask", json={"picture": picture, "settings": settings})
    edited = server.make("edit", picture=picture, settings=settings)
    assert server.file(found, "mask.png") == shown.content == server.file(edited, "mask.png")


def test_room_is_in_the_mask_shown_and_not_in_the_one_of_diffedit_mask(server: Server) -> None:
    picture = server.open(photo())
    request = {"picture": picture, "settings": {**QUICK, "mask_threshold": 0.6, "room": 0.5}}
    server.make("find", **request)
    wide = pixels(server.client.post("/api/mask", json=request).content)
    saved = server.client.post("/api/mask", json={**request, "save": True}).content
    assert (wide >= pixels(saved)).all()
    assert (wide > pixels(saved)).any()
    stored = read_settings(saved)
    assert stored is not None
    assert stored["command"] == "mask"


def test_slider_moves_take_no_forward(server: Server, tiny: DiffusersDenoiser) -> None:
    picture = server.open(photo())
    server.make("find", picture=picture, settings=QUICK)
    before, seen = tiny.forwards, set[bytes]()
    for step in range(20):
        settings = {**QUICK, "mask_threshold": 0.1 + 0.04 * step}
        answer = server.client.post("/api/mask", json={"picture": picture, "settings": settings})
        assert answer.status_code == 200
        seen.add(answer.content)
    assert tiny.forwards == before
    assert len(seen) > 5


def test_a_mask_without_heat_is_refused_and_takes_no_forward(server: Server, tiny: DiffusersDenoiser) -> None:
    picture = server.open(photo())
    server.make("find", picture=picture, settings=QUICK)
    before = tiny.forwards
    settings = {**QUICK, "query": "cow"}
    answer = server.client.post("/api/mask", json={"picture": picture, "settings": settings})
    assert answer.status_code == 409
    assert answer.json() == {"error": "These settings need another search.", "hint": "Find the mask again."}
    assert tiny.forwards == before


def test_painted_areas_are_honoured(server: Server, tiny: DiffusersDenoiser) -> None:
    body = photo()
    picture, size = server.open(body), load_image(body).rgb.size
    add, subtract = Image.new("L", size), Image.new("L", size)
    add.paste(255, (0, 0, 12, size[1]))
    subtract.paste(255, (30, 0, *size))
    masks = {"add": server.area(picture, add), "subtract": server.area(picture, subtract)}
    server.make("find", picture=picture, settings=QUICK, masks=masks)
    request = {"picture": picture, "settings": QUICK, "masks": masks}
    mask = pixels(server.client.post("/api/mask", json=request).content)
    assert (mask[:, :12] == 255).all()
    assert (mask[:, 30:] == 0).all()
    job = server.make("edit", **request)
    result = edit_image(
        tiny, load_image(body), build(EditConfig, QUICK), mask=Masks(add=add, subtract=subtract)
    )
    assert (pixels(server.file(job, "picture.png")) == np.array(result.image)).all()
    assert (pixels(server.file(job, "mask.png")) == mask).all()


def test_an_area_of_ones_own_needs_no_search(server: Server, tiny: DiffusersDenoiser) -> None:
    body = photo()
    picture, own = server.open(body), Image.new("L", load_image(body).rgb.size)
    own.paste(255, (5, 5, 25, 25))
    request = {"picture": picture, "settings": QUICK, "masks": {"use": server.area(picture, own)}}
    before = tiny.forwards
    assert (pixels(server.client.post("/api/mask", json=request).content) == np.array(own)).all()
    assert tiny.forwards == before
    job = server.make("edit", **request)
    result = edit_image(tiny, load_image(body), build(EditConfig, QUICK), mask=own)
    assert (pixels(server.file(job, "picture.png")) == np.array(result.image)).all()
    assert "heat.png" not in job["facts"]["files"]


def test_a_removal_is_that_of_the_command_line(server: Server, tiny: DiffusersDenoiser) -> None:
    body, settings = photo(), {"steps": 4, "seed": 3}
    picture, own = server.open(body, "a photo.png"), Image.new("L", load_image(body).rgb.size)
    own.paste(255, (5, 5, 25, 25))
    masks = {"use": server.area(picture, own)}
    job = server.make("remove", picture=picture, settings=settings, masks=masks)
    result = remove_object(tiny, load_image(body), build(RemoveConfig, settings), mask=own)
    assert (pixels(server.file(job, "picture.png")) == np.array(result.image)).all()
    assert (pixels(server.file(job, "mask.png")) == np.array(own)).all()
    stored = read_settings(server.file(job, "picture.png"))
    assert stored == {**result.settings(), "input": "a photo.png"}
    assert job["facts"]["changed_outside"] == 0
    assert job["about"]["settings"] == settings  # what the page puts back


@pytest.mark.slow
def test_the_mask_shown_is_that_of_the_edit_with_an_automatic_zoom() -> None:
    from diffedit_cli import load_model

    model = load_model("embedded", device="cpu", dtype="float32")
    server = Server(model)
    server.start()
    try:
        picture = server.open(EXAMPLES / "horse_far.jpg", "horse_far.jpg")
        settings = {"ref": "horse", "query": "zebra", "seed": 0, "steps": 4}
        server.make("find", picture=picture, settings=settings)
        before = model.forwards
        for step in range(20):
            request = {"picture": picture, "settings": {**settings, "mask_threshold": 0.4 + 0.01 * step}}
            shown = server.client.post("/api/mask", json=request)
            assert shown.status_code == 200
        assert model.forwards == before
        job = server.make("edit", **request)
        assert job["facts"]["settings"]["zoom"] is True
        assert server.file(job, "mask.png") == shown.content
    finally:
        server.stop()


def test_the_mask_with_room_of_a_session_is_that_of_its_edit(tiny: DiffusersDenoiser) -> None:
    config = build(EditConfig, {**QUICK, "room": 0.4})
    session = Session(tiny, load_image(photo()))
    with_room, without = session.mask(config, room=True), session.mask(config)
    (edited,) = session.edit(config)
    assert with_room.mask.tobytes() == edited.mask.tobytes() != without.mask.tobytes()


# every command that makes a picture


def test_generate(server: Server) -> None:
    job = server.make("generate", settings={"prompt": "a horse", "steps": 2, "seed": 1})
    assert pixels(server.file(job, "picture.png")).shape == (32, 32, 3)
    stored = read_settings(server.file(job, "picture.png"))
    assert stored is not None
    assert (stored["command"], stored["seed"]) == ("generate", 1)


def test_compare_takes_comma_lists(server: Server) -> None:
    lists = {"ref": "horse", "query": "zebra", "steps": "2,3", "mask_samples": "2", "seed": "1"}
    job = server.make("compare", picture=server.open(photo()), settings=lists)
    assert [tile["label"] for tile in job["facts"]["tiles"]] == ["steps 2", "steps 3"]
    assert pixels(server.file(job, "picture.png")).shape[1] > 500


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_the_film_of_an_edit(server: Server, suffix: str, tmp_path: Path) -> None:
    from diffedit_cli.images.video import read_film_settings

    film = {"frames": 3, "fps": 6}
    job = server.make("edit", picture=server.open(photo()), settings=QUICK, film=film, format=suffix)
    (tmp_path / f"film{suffix}").write_bytes(server.file(job, f"film{suffix}"))
    stored = read_film_settings(tmp_path / f"film{suffix}")
    assert stored is not None
    assert (stored["command"], stored["fps"], stored["frames"]) == ("edit", 6, 3)


def test_the_film_between_texts(server: Server) -> None:
    settings = {"prompts": ["a horse", "a zebra"], "frames": 3, "steps": 2, "seed": [4]}
    job = server.make("interpolate", settings=settings, format=".gif")
    with Image.open(io.BytesIO(server.file(job, "film.gif"))) as film:
        assert film.n_frames == 3  # type: ignore[attr-defined]


def test_a_downloaded_result_is_made_again_by_rerun(server: Server, checkpoint: Path, tmp_path: Path) -> None:
    body = photo()
    (tmp_path / "horse.png").write_bytes(body)
    job = server.make("edit", picture=server.open(body, "horse.png"), settings=QUICK)
    (tmp_path / "zebra.png").write_bytes(server.file(job, "picture.png"))
    arguments = ["rerun", str(tmp_path / "zebra.png"), "--model", str(checkpoint), "--device", "cpu"]
    result = CliRunner().invoke(command, [*arguments, "--dtype", "float32"])
    assert result.exit_code == 0, result.output
    again = pixels((tmp_path / "zebra-rerun.png").read_bytes())
    assert (again == pixels(server.file(job, "picture.png"))).all()


# errors


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"kind": "edit", "settings": {"ref": "a", "query": "a"}}, "are the same"),
        ({"kind": "edit", "settings": {"ref": "a"}}, "There is no query."),
        ({"kind": "edit", "settings": {**QUICK, "steps": 0}}, "--steps 0 is out of range."),
        ({"kind": "edit", "settings": {**QUICK, "stops": 5}}, "There is no setting stops."),
        ({"kind": "edit", "settings": {**QUICK, "steps": "many"}}, "--steps cannot be 'many'."),
        ({"kind": "edit", "settings": {**QUICK, "room": float("nan")}}, "out of range"),
        ({"kind": "edit", "settings": ["steps"]}, "settings cannot be"),
        ({"kind": "edit", "settings": QUICK, "masks": {"add": "no"}}, "no longer has this painted area"),
        ({"kind": "edit", "settings": QUICK, "film": {"frames": 9000}, "format": ".gif"}, "too long"),
        ({"kind": "edit", "settings": QUICK, "format": "../x.mp4"}, "is not a film format"),
        ({"kind": "edit", "settings": {**QUICK, "inversion": "noise"}, "format": ".gif"}, "A film cannot"),
        ({"kind": "remove", "settings": {}}, "It is not clear what to remove."),
        ({"kind": "remove", "settings": {"ref": "a", "mask_invert": True}}, "--mask-invert cannot be used"),
        ({"kind": "remove", "settings": QUICK}, "There is no setting query."),
        ({"kind": "find", "settings": {"ref": "a", "query": "a"}}, "are the same"),
        ({"kind": "generate", "settings": {}}, "There is no prompt."),
        ({"kind": "compare", "settings": {"ref": "a", "query": "b"}}, "nothing to compare"),
        ({"kind": "compare", "settings": {"stops": "a,b"}}, "There is no setting stops."),
        ({"kind": "interpolate", "settings": {"prompts": ["a"]}}, "two prompts"),
        ({"kind": "format_disk"}, "There is no job"),
    ],
)
def test_what_cannot_be_done_is_refused_before_it_is_queued(
    server: Server, body: dict[str, Any], says: str
) -> None:
    picture = {} if body["kind"] in ("generate", "interpolate") else {"picture": server.open(photo())}
    answer = server.client.post("/api/jobs", content=json.dumps({"tab": "t", **picture, **body}))
    assert answer.status_code in (400, 404)
    assert says in answer.json()["error"]
    assert answer.json()["hint"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_request_that_is_no_json_object_is_refused(server: Server, body: bytes) -> None:
    answer = server.client.post("/api/jobs", content=body)
    assert (answer.status_code, answer.json()["error"]) == (400, "The request is not a JSON object.")


def test_a_file_that_is_no_picture_is_refused(server: Server) -> None:
    answer = server.client.post("/api/pictures", content=b"GIF89a, or not")
    assert answer.status_code == 400
    assert "damaged" in answer.json()["error"]


def test_a_job_that_fails_says_why_and_the_next_one_is_done(server: Server) -> None:
    dull = server.open(png(Image.new("RGB", (40, 40), "grey")))
    no_words = {**QUICK, "ref": "horse", "query": "Horse"}  # one text to the model
    job = server.end(server.add("edit", picture=dull, settings=no_words))
    assert job["state"] == "failed"
    assert "are the same" in job["error"]
    assert job["hint"]
    server.make("edit", picture=dull, settings=QUICK)


# jobs


def test_a_job_is_stopped_within_a_second(server: Server, tiny: DiffusersDenoiser) -> None:
    job = server.add("edit", picture=server.open(photo()), settings={**QUICK, "steps": 1000})
    until(lambda: server.state(job)["stage"] == "invert")
    begin, before = time.monotonic(), tiny.forwards
    server.client.delete(f"/api/jobs/{job['id']}")
    assert server.end(job)["state"] == "stopped"
    assert time.monotonic() - begin < 1
    assert tiny.forwards - before < 700
    assert server.client.get(f"/api/results/{job['id']}/picture.png").status_code == 404
    server.make("generate", settings={"prompt": "a horse", "steps": 2})


def test_progress_says_the_step_the_share_the_time_left_and_shows_the_picture(server: Server) -> None:
    job = server.add("edit", picture=server.open(photo()), settings={**QUICK, "steps": 60})
    until(lambda: server.state(job)["previews"] > 0)
    state = server.state(job)
    assert state["stage"] == "decode"
    assert 0 < state["done"] < state["total"] == 48
    assert 0 < state["fraction"] < 1
    assert state["seconds_left"] > 0
    preview = server.client.get(f"/api/jobs/{job['id']}/preview.jpg")
    assert pixels(preview.content).shape == (32, 48, 3) or pixels(preview.content).ndim == 3
    fractions = []
    while (state := server.state(job))["state"] == "running":
        fractions.append(state["fraction"])
    assert fractions == sorted(fractions)


def test_a_slider_is_answered_while_an_edit_runs(server: Server) -> None:
    picture = server.open(photo())
    server.make("find", picture=picture, settings=QUICK)
    job = server.add("edit", picture=picture, settings={**QUICK, "steps": 1000})
    until(lambda: server.state(job)["stage"] in ("invert", "decode"))
    answer = server.client.post("/api/mask", json={"picture": picture, "settings": QUICK})
    assert answer.status_code == 200
    assert server.state(job)["state"] == "running"
    server.client.delete(f"/api/jobs/{job['id']}")
    server.end(job)


def test_an_edit_is_not_changed_by_what_is_asked_while_it_runs(server: Server) -> None:
    picture, settings = server.open(photo()), {**QUICK, "steps": 60}
    alone = server.file(server.make("edit", picture=picture, settings=settings), "picture.png")
    job = server.add("edit", picture=picture, settings=settings)
    while server.state(job)["state"] in ("waiting", "running"):
        server.client.post("/api/mask", json={"picture": picture, "settings": {**settings, "room": 0.3}})
    assert server.file(job, "picture.png") == alone


@pytest.mark.slow
def test_fifty_jobs_of_five_tabs(server: Server) -> None:
    pictures = [server.open(photo(seed), f"photo-{seed}.png") for seed in range(5)]
    alone: dict[tuple[int, int], bytes] = {}
    added: list[tuple[int, int, dict[str, Any]]] = []

    def queue(tab: int) -> None:
        with httpx.Client(base_url=server.url, headers=server.client.headers, timeout=60) as client:
            for seed in range(10):
                settings = {**QUICK, "steps": 2, "seed": seed}
                body = {"kind": "edit", "tab": f"tab-{tab}", "picture": pictures[tab], "settings": settings}
                answer = client.post("/api/jobs", json=body)
                assert answer.status_code == 202 or answer.json()["hint"], answer.text
                if answer.status_code == 202:
                    added.append((tab, seed, answer.json()))

    threads = [threading.Thread(target=queue, args=[tab]) for tab in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(added) == 50
    for tab, seed, job in added:
        done = server.end(job, f"tab-{tab}")
        assert done["state"] == "done", done
        stored = read_settings(server.file(job, "picture.png"))
        assert stored is not None
        assert (stored["input"], stored["seed"]) == (f"photo-{tab}.png", seed)
        alone[tab, seed] = server.file(job, "picture.png")
    for tab, seed in ((0, 0), (4, 9)):
        config = build(EditConfig, {**QUICK, "steps": 2, "seed": seed})
        result = edit_image(server.model, load_image(photo(tab)), config)
        assert (pixels(alone[tab, seed]) == np.array(result.image)).all()
    assert {job["about"]["picture"] for job in jobs_of(server, "tab-2")} == {pictures[2]}


def jobs_of(server: Server, tab: str) -> list[dict[str, Any]]:
    return server.client.get("/api/jobs", params={"tab": tab}).json()["jobs"]


def test_more_jobs_than_can_wait_are_refused_with_a_reason(server: Server) -> None:
    first = server.add("edit", picture=server.open(photo()), settings={**QUICK, "steps": 1000})
    request = {"kind": "generate", "tab": "many", "settings": {"prompt": "a horse", "steps": 1}}
    answers = [server.client.post("/api/jobs", json=request) for _ in range(worker.MOST_WAITING + 5)]
    refused = [answer for answer in answers if answer.status_code != 202]
    assert {answer.status_code for answer in refused} == {503}
    assert "jobs are waiting already" in refused[0].json()["error"]
    for job in jobs_of(server, "many"):
        server.client.delete(f"/api/jobs/{job['id']}")
    server.client.delete(f"/api/jobs/{first['id']}")
    assert server.end(first)["state"] == "stopped"
    assert {job["state"] for job in jobs_of(server, "many")} <= {"stopped", "done"}


# memory


def test_the_latest_pictures_are_kept(server: Server) -> None:
    ids = [server.open(photo(seed)) for seed in range(store.MOST_PICTURES + 1)]
    answer = server.client.get(f"/api/pictures/{ids[0]}")
    assert answer.status_code == 404
    assert answer.json()["error"] == "The server no longer has this picture: it keeps the latest 8."
    assert server.client.get(f"/api/pictures/{ids[1]}").status_code == 200


def test_what_is_kept_is_bounded_in_count_and_in_weight() -> None:
    latest: store.Latest[str] = store.Latest(3, 10)
    for key, weight in (("a", 2), ("b", 2), ("c", 2)):
        latest.add(key, key.upper(), weight)
    assert latest.get("a") == "A"  # used: b is now the oldest
    latest.add("d", "D", 2)
    assert [latest.get(key) for key in "abcd"] == ["A", None, "C", "D"]
    latest.add("e", "E", 9)
    assert [latest.get(key) for key in "acde"] == [None, None, None, "E"]
    latest.add("f", "F", 99)
    assert latest.get("f") == "F"


def test_maps_of_many_seeds_are_let_go(tiny: DiffusersDenoiser) -> None:
    shown = store.Store().add_picture(photo(), "photo.png")
    for seed in range(store.MOST_MAPS + 3):
        session = shown.session_on(tiny)
        session.mask(build(EditConfig, {**QUICK, "seed": seed, "mask_samples": 1}))
        assert store.maps_in(session) <= store.MOST_MAPS + 1


# safety


def test_a_foreign_host_is_refused(server: Server) -> None:
    for host in ("evil", "evil.example:80", "127.0.0.1.evil.example", "[::1]", ""):
        for path in ("/", "/api/about", "/static/main.js"):
            assert server.client.get(path, headers={"Host": host}).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_site_is_refused(server: Server, headers: dict[str, str]) -> None:
    for method, path in (
        ("POST", "/api/pictures"),
        ("POST", "/api/jobs"),
        ("POST", "/api/mask"),
        ("DELETE", "/api/jobs/1"),
    ):
        answer = server.client.request(method, path, headers=headers, content=photo())
        assert (answer.status_code, answer.json()["error"]) == (403, "This request comes from another site.")


@pytest.mark.parametrize("token", [None, "", "Bearer", f"Bearer {TOKEN}x", "Bearer \xff", TOKEN.upper()])
def test_without_the_token_nothing_is_told(server: Server, token: str | None) -> None:
    headers = {} if token is None else {"Authorization": token.encode("latin-1")}
    for method, path in (("GET", "/api/about"), ("GET", "/api/jobs"), ("POST", "/api/pictures")):
        answer = httpx.request(method, server.url + path, headers=headers)
        assert answer.status_code == 403
        assert "does not know this page" in answer.json()["error"]


def test_a_body_of_more_than_40_mb_is_refused(server: Server) -> None:
    assert server.client.post("/api/pictures", content=bytes(41 * 2**20)).status_code == 413

    def pieces() -> Iterator[bytes]:  # whose length is not said before
        for _ in range(41):
            yield bytes(2**20)

    with suppress(httpx.WriteError):  # the server may close the connection meanwhile
        assert server.client.post("/api/pictures", content=pieces()).status_code == 413
    assert server.client.get("/api/about").status_code == 200


@pytest.mark.parametrize("length", ["-1", "1e9", "99999999999999999999", "x"])
def test_a_length_that_is_no_length_is_refused(server: Server, length: str) -> None:
    head = f"POST /api/pictures HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    with socket.create_connection(server.listener.getsockname()) as one:
        one.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode())
        assert one.recv(99).split()[1] in (b"400", b"413")


HOSTILE = [
    *(f"/static/{path}" for path in ("..%2fapp.py", "%2e%2e/app.py", "..\\app.py", "/etc/passwd", "", ".")),
    *(f"/api/results/{path}" for path in ("..%2f..%2fetc/passwd", "x/..%2fx.png", "%00/x.png", "x/")),
    *(f"/api/pictures/{path}" for path in ("..%2f..", "%2fetc%2fpasswd", "x" * 5000, "%ff", "0")),
    *(f"/api/jobs/{path}/preview.jpg" for path in ("..%2f", "x", "%00", "__class__")),
    "/..%2f..%2fetc/passwd", "/.git/config", "//etc/passwd", "/api", "/api/", "/docs", "/openapi.json",
]  # fmt: skip


def test_hostile_requests_are_refused(server: Server) -> None:
    refused = 0
    for path in HOSTILE:
        for method in ("GET", "POST", "DELETE"):
            answer = server.client.request(method, path)
            assert answer.status_code in (403, 404, 405), (method, path, answer.status_code)
            assert b"root:" not in answer.content
            refused += 1
    assert refused >= 75
    for method in ("PUT", "PATCH", "OPTIONS", "TRACE"):
        assert server.client.request(method, "/api/jobs").status_code == 405
    assert server.client.get("/api/about").status_code == 200


def test_names_from_the_client_are_labels_only(server: Server) -> None:
    for name, kept in (
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\a\\b.png", "b.png"),
        ("%F0%9F%A6%93.png", "\N{ZEBRA FACE}.png"),
        ("a%0d%0ab.png", "ab.png"),
        ("", "picture.png"),
        ("x" * 900 + ".png", "x" * 116 + ".png"),
    ):
        answer = server.client.post("/api/pictures", content=photo(), headers={"X-Name": name})
        assert answer.json()["name"] == kept


def test_every_answer_says_what_a_page_may_do(server: Server) -> None:
    for path, status in (("/", 200), ("/api/about", 200), ("/nothing", 404), ("/static/style.css", 200)):
        answer = server.client.get(path)
        assert answer.status_code == status
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_the_page_asks_nobody_but_its_server() -> None:
    for file in (Path(store.__file__).parent / "static").iterdir():
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text.replace("`http", "")
        assert "https:" not in text
        assert "innerHTML" not in text
        assert "eval(" not in text


def test_the_port_is_open_on_the_loopback_address_only() -> None:
    with open_port(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


# settings


def test_the_forms_have_every_setting_of_the_schema() -> None:
    from diffedit_cli.settings import keys

    made = forms({"steps": 40, "mask_strength": [0.4]})
    for name, schema in FORMS.items():
        assert [field["key"] for field in made["fields"][name]] == [key for key, *_ in keys(schema)]
    edit = {field["key"]: field for field in made["fields"]["edit"]}
    assert edit["steps"]["default"] == 40  # configured
    assert edit["mask_strength"]["default"] == [0.4]
    assert edit["zoom"]["type"] == "switch"
    assert edit["zoom"]["may_be_empty"]
    assert edit["guidance_method"]["choices"] == ["auto", "cfg", "apg", "cfg++", "adaptive", "embedded"]
    assert json.loads(json.dumps(made)) == made


def test_the_defaults_of_a_form_are_settings_that_can_be_run(server: Server) -> None:
    fields = server.client.get("/api/about").json()["fields"]["edit"]
    settings = {field["key"]: field["default"] for field in fields if field["default"] is not None}
    build(EditConfig, settings)


# the command


@pytest.mark.slow
def test_the_command_serves_the_page_before_the_model_is_loaded_and_ends_with_ctrl_c() -> None:
    call = [sys.executable, "-c", "from diffedit_cli.cli import main; main()", "serve", "--port", "0"]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        link, _, token = process.stdout.readline().strip().partition("#token=")
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.get(link).status_code == 200
        about = httpx.get(f"{link}api/about", headers=headers, timeout=60).json()
        assert about["name"] == "embedded"
        until(lambda: httpx.get(f"{link}api/about?brief", headers=headers, timeout=60).json()["model"], 120)
        process.send_signal(2)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors == "Interrupted; nothing half-written was left.\n"


def test_a_model_that_is_not_there_ends_the_command() -> None:
    result = CliRunner().invoke(command, ["serve", "--port", "0", "-m", "no/such", "--offline"])
    assert result.exit_code == 1
    assert "no/such" in result.stderr
    assert "Traceback" not in result.output


def test_a_port_that_is_taken_is_refused_before_the_model_is_loaded() -> None:
    with open_port(0) as taken:
        result = CliRunner().invoke(command, ["serve", "--port", str(taken.getsockname()[1])])
    assert result.exit_code == 2
    assert "cannot be used" in result.stderr


def test_without_its_packages_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffedit_cli.cli.serve.find_spec", lambda name: None)
    result = CliRunner().invoke(command, ["serve"])
    assert result.exit_code == 1
    assert "pip install 'diffedit-cli[web]'" in result.stderr
