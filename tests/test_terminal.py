"""cli/terminal.py and cli/streams.py: what is printed where, whatever the text and wherever it goes."""

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from diffedit_cli.cli import terminal
from diffedit_cli.cli.app import app
from diffedit_cli.cli.terminal import Terminal, plain_errors, printable
from diffedit_cli.errors import DiffeditError, ImageError
from diffedit_cli.settings import TalkConfig

DIFFEDIT = [str(Path(sys.executable).parent / "diffedit")]
EVIL = "\x1b]0;owned\x07\x1b[31m\x9b2J\u202egnp.exe\u2028\r\b:horse:[/b][red]"
SAFE = r"\x1b]0;owned\x07\x1b[31m\x9b2J\u202egnp.exe\u2028\r\x08:horse:[/b][red]"


def run(*words: str) -> Any:
    return CliRunner().invoke(app, words, env={"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"})


def process(*words: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "dumb", **options.pop("env", {})}
    return subprocess.run(
        [*DIFFEDIT, *words], stderr=subprocess.PIPE, text=True, timeout=100, env=environment, **options
    )


@given(st.text(st.characters() | st.sampled_from("\x1b\x07\r\n\u202e")))
def test_what_is_printed_controls_nothing(text: str) -> None:
    shown = printable(text)
    assert not {"\x1b", "\x9b", "\r", "\n", "\b", "\u202e"} & {*shown}
    shown.encode()  # has no surrogate
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text


def test_no_text_reaches_the_terminal_raw(capsys: pytest.CaptureFixture[str]) -> None:
    for output in (None, "-"):
        there = Terminal(TalkConfig(verbose=True), output)
        there.say(EVIL)
        there.warn(EVIL)
        there.answer({}, [EVIL])
        there.result({}, [EVIL])
        with there.status(EVIL):
            pass
        try:
            raise ImageError(EVIL[:9], EVIL)
        except ImageError as error:
            there.fail(error, EVIL)
    out, err = capsys.readouterr()
    assert not {*"\x1b\x9b\r\b\u202e\u2028"} & {*out, *err}
    assert out == 2 * f"{SAFE}\n"
    assert rf"Error: {SAFE}: \x1b]0;owned {SAFE}" in err
    assert "Traceback" in err


def test_info_shows_a_strangers_text_as_it_is_stored(tmp_path: Path) -> None:
    notes = PngInfo()
    notes.add_itxt("diffedit", json.dumps({"diffedit": "0.4.0", "query": EVIL, "\x1b[2J": "\ud800"}))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=notes)
    shown, plain = (run("info", str(tmp_path / "a.png"), *flags) for flags in (["--json"], []))
    assert SAFE in plain.stdout
    assert not {*"\x1b\x9b\r\b\u202e"} & {*plain.stdout, *shown.stdout}
    assert json.loads(shown.stdout)["settings"]["query"] == EVIL


@pytest.mark.parametrize("words", [[EVIL], ["edit", f"--{EVIL}"], ["info", "a", EVIL], [f"--{EVIL}"]])
def test_a_wrong_command_line_is_repeated_safely(words: list[str]) -> None:
    done = run(*words)
    assert done.exit_code in (1, 2)
    assert r"\x1b" in done.stderr
    assert not {*"\x1b\x9b\r\b\u202e"} & {*done.stderr}


# ------------------------------------------------------------------------------------------------- streams


def full() -> Any:
    return open("/dev/full", "w")


@pytest.mark.parametrize(
    "words", [["config", "path"], ["config", "path", "--json"], ["--help"], ["--version"]]
)
def test_a_full_stdout_is_one_sentence(words: list[str]) -> None:
    with full() as stdout:
        done = process(*words, stdout=stdout)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize("words", [["config", "path", "--json"], ["--help"]])
def test_a_closed_stdout_is_one_sentence(words: list[str]) -> None:
    done = process(*words, stdout=subprocess.DEVNULL, preexec_fn=lambda: os.close(1))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_a_closed_stdin_is_one_sentence(tmp_path: Path) -> None:
    words = ["edit", "-", "--ref", "horse", "--query", "zebra"]
    done = process(*words, stdout=subprocess.PIPE, cwd=tmp_path, preexec_fn=lambda: os.close(0))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: stdin cannot be")
    assert done.stderr.count("\n") == 1


def test_all_streams_closed_ends_quietly(tmp_path: Path) -> None:
    def close() -> None:
        os.closerange(0, 3)

    image = tmp_path / "in.png"
    Image.new("RGB", (32, 32)).save(image)
    before = image.read_bytes()
    done = subprocess.run([*DIFFEDIT, "info", "in.png"], cwd=tmp_path, preexec_fn=close, timeout=100)
    assert done.returncode == 1  # the answer could not be given
    assert image.read_bytes() == before


def test_messages_that_nobody_can_read_fail_nothing() -> None:
    with full() as stderr:
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": stderr, "timeout": 100}
        good = subprocess.run([*DIFFEDIT, "config", "path"], env={**os.environ, "DIFFEDIT_X": "1"}, **options)
        bad = subprocess.run([*DIFFEDIT, "config", "set", "stesp", "3"], **options)
    assert (good.returncode, bad.returncode) == (0, 2)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_what_an_encoding_lacks_is_replaced(tmp_path: Path, encoding: str) -> None:
    folder = tmp_path / "ä…🦓"
    folder.mkdir()
    for words in (["config", "path"], ["config", "show"], ["edit", "--help-all"], ["info", "🦓.png"]):
        done = subprocess.run(
            [*DIFFEDIT, *words],
            cwd=folder,
            env={**os.environ, "PYTHONIOENCODING": f"{encoding}:strict", "DIFFEDIT_QUERY": "🦓"},
            capture_output=True,
            timeout=100,
        )
        assert done.returncode == (1 if "info" in words else 0), done.stderr
        assert b"Traceback" not in done.stderr
        assert b"bug in diffedit" not in done.stderr


@pytest.mark.parametrize(
    "words", [["edit", "{}.png", "--query", "zebra"], ["generate", "{}"], ["info", "{}"]]
)
def test_arguments_that_are_not_utf_8_are_one_sentence(tmp_path: Path, words: list[str]) -> None:
    given = [word.encode().replace(b"{}", b"caf\xe9") for word in words]
    done = subprocess.run(
        [*(part.encode() for part in DIFFEDIT), *given], cwd=tmp_path, capture_output=True, timeout=100
    )
    assert done.returncode in (1, 2)
    assert done.stderr.startswith(b"Error: ")
    assert done.stderr.count(b"\n") == 1
    assert b"fault" not in done.stderr


def test_no_picture_goes_to_a_terminal(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "in.png")
    ours, theirs = pty.openpty()
    words = ["edit", "in.png", "--ref", "horse", "--query", "zebra", "-o", "-", "--model", "none/there"]
    done = process(*words, stdout=theirs, cwd=tmp_path)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: A terminal cannot show the picture.")


# ------------------------------------------------------------------------------------------------ progress


def reported(monkeypatch: pytest.MonkeyPatch, talk: TalkConfig, output: str | None = None) -> None:
    """Ten minutes of work in a mask of 4 and a decoding of 8 steps, a report each 50 seconds."""
    clock = iter(range(0, 10_000, 50))
    monkeypatch.setattr("diffedit_cli.cli.terminal.time.monotonic", lambda: next(clock))
    with Terminal(talk, output).progress({"mask": 4, "decode": 8}) as report:
        for stage, total in {"mask": 4, "decode": 8}.items():
            for done in range(1, total + 1):
                report(stage, done, total)


def test_without_a_terminal_progress_is_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    reported(monkeypatch, TalkConfig())
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "Finding the mask: 1/4, about 9 min left."
    assert lines[4] == "Drawing the change: 1/8, about 6 min left."
    assert lines[-1] == "Drawing the change: 7/8, about 50 s left."
    assert len(lines) == 11
    assert "\x1b" not in err


@pytest.mark.parametrize(("talk", "output"), [(TalkConfig(quiet=True), None), (TalkConfig(json=True), "-")])
def test_no_progress_for_who_wants_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], talk: TalkConfig, output: str | None
) -> None:
    reported(monkeypatch, talk, output)
    assert capsys.readouterr() == ("", "")


def test_fast_work_gives_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Terminal(TalkConfig()).progress({"mask": 4}) as report:
        for done in range(1, 5):
            report("mask", done, 4)
    assert capsys.readouterr() == ("", "")


def test_slow_loading_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "LONG_LOAD", 0.01)
    with Terminal(TalkConfig()).status("Loading a[/b]"):
        for _ in range(500):
            if err := capsys.readouterr().err:
                break
            time.sleep(0.01)
    assert err == "Loading a[/b] ...\n"


def test_a_terminal_sees_a_bar_and_no_markup() -> None:
    script = (
        "from diffedit_cli.cli.terminal import Terminal; from diffedit_cli.settings import TalkConfig\n"
        "t = Terminal(TalkConfig())\n"
        "with t.status('Loading [/b]:horse:'): pass\n"
        "with t.progress({'mask': 2}) as report: report('mask', 1, 2)\n"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", script], stderr=theirs, env=environment, check=True, timeout=100)
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 65536):
            seen += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert b"Loading [/b]:horse:" in seen
    assert b"Finding the mask" in seen
    assert b"1/2" in seen


# ------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "Memory ran out"),
        (RuntimeError("could not create a primitive"), "Memory ran out"),
        (RuntimeError("unable to mmap 3 bytes from file: Cannot allocate memory (12)"), "Memory ran out"),
        (RuntimeError("can't start new thread"), "Memory ran out"),
        (ImportError("libx.so: failed to map segment from shared object"), "Memory ran out"),
        (OSError(28, "No space left on device"), "The output cannot be written: No space left on device."),
        (PermissionError(13, "Permission denied", "a/b.png"), "a/b.png: Permission denied."),
        (OSError(9, "Bad file descriptor"), "input or output is closed"),
        (UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"), "not UTF-8"),
        (ModuleNotFoundError("No module named 'av'", name="av"), "The package av is missing."),
        (TypeError("a\nb"), "This is a bug in diffedit (TypeError: a)."),
    ],
)
def test_an_error_that_nobody_foresaw_is_one_sentence(
    capsys: pytest.CaptureFixture[str], error: Exception, words: str
) -> None:
    with pytest.raises(typer.Exit) as end, plain_errors(TalkConfig()):
        raise error
    assert end.value.exit_code == 1
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_the_json_of_an_error_holds_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(TalkConfig(json=True)).fail(DiffeditError(EVIL, EVIL), EVIL)
    out, _ = capsys.readouterr()
    assert json.loads(out) == {"input": EVIL, "error": EVIL, "hint": EVIL}
    assert out.isascii()
    assert "\x1b" not in out


# --------------------------------------------------------------------------------------- the waiting policy


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "1000 None"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "None PASSIVE"),
        ({"GOMP_SPINCOUNT": "5"}, "5 None"),
    ],
)
def test_the_command_sets_how_threads_wait_and_the_library_does_not(
    given: dict[str, str], wanted: str
) -> None:
    code = (
        "import os, diffedit_cli\n"
        "diffedit_cli.load_model\n"
        "before = dict(os.environ)\n"
        "from diffedit_cli import cli\n"
        "assert dict(os.environ) == before\n"
        "cli.set_waiting_policy()\n"
        "print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))"
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**kept, **given}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == wanted


def test_the_command_sets_the_waiting_policy_before_torch_is_loaded() -> None:
    from diffedit_cli.cli import SPIN_COUNT

    code = (
        "import sys\n"
        "from diffedit_cli import cli\n"
        "sys.addaudithook(lambda event, values: event == 'import' and values[0] == 'torch' and\n"
        "    print('GOMP', __import__('os').environ.get('GOMP_SPINCOUNT'), file=sys.stderr))\n"
        "cli.main()"
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code, "models", "list"], env=kept, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[0] == f"GOMP {SPIN_COUNT}"
