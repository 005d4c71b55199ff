"""cli/defaults.py and the config command: files, variables, and what goes before what."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pictures import noise
from typer.main import get_command
from typer.testing import CliRunner

from diffedit_cli.cli import defaults
from diffedit_cli.cli.app import app
from diffedit_cli.cli.options import with_flags
from diffedit_cli.errors import SettingError
from diffedit_cli.settings import EditConfig, InterpolateConfig, TalkConfig, build, flatten, keys, option_name


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration, and an empty folder to work in; the path of the user's file."""
    monkeypatch.setattr(typer, "get_app_dir", lambda name: str(tmp_path / "home" / name))
    (tmp_path / "work" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "deep")
    return tmp_path / "home" / "diffedit" / "config.toml"


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"})


def heard(schema: type, *arguments: str) -> Any:
    """The config that a command with the flags of `schema` makes from flags and from what is configured."""
    found: list[Any] = []

    @with_flags(without=("prompts",), config=schema)
    def probe(*, config: Callable[..., Any]) -> None:
        found.append(config({"prompts": ["a", "b"]} if schema is InterpolateConfig else {}))

    single = typer.Typer()
    single.command()(probe)
    command = get_command(single)
    values = defaults.for_commands(command, defaults.read_config(os.environ).values)
    command.main(list(arguments), default_map=values, standalone_mode=False)
    return found[0]


def test_flag_before_variable_before_project_before_user_before_default(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert heard(EditConfig).steps is None
    defaults.set_value(user, "steps", "50")
    assert heard(EditConfig).steps == 50
    Path("../diffedit.toml").write_text("steps = 60\n")  # of a folder above
    assert heard(EditConfig).steps == 60
    Path("diffedit.toml").write_text("")  # the nearest one counts alone
    assert heard(EditConfig).steps == 50
    Path("diffedit.toml").write_text("steps = 70\n")
    assert heard(EditConfig).steps == 70
    monkeypatch.setenv("DIFFEDIT_STEPS", "80")
    assert heard(EditConfig).steps == 80
    assert heard(EditConfig, "--steps", "90").steps == 90
    assert heard(InterpolateConfig).steps == 80  # each command that has the setting


def test_values_of_every_type(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, text in {
        "mask_strength": "0.3, 0.6",
        "mask_fill_holes": "no",
        "guidance_norm": "pred",
        "guidance_interval": "0.2:0.8",
        "guidance_scale": "3",
        "query": 'a "zebra" \\ 🦓',
        "seed": "4",
    }.items():
        defaults.set_value(user, key, text)
    wanted: dict[str, Any] = {"mask_strength": [0.3, 0.6], "mask_fill_holes": False, "guidance_norm": "pred"}
    wanted |= {"guidance_interval": "0.2:0.8", "guidance_scale": 3, "query": 'a "zebra" \\ 🦓', "seed": 4}
    assert heard(EditConfig) == build(EditConfig, wanted)
    assert heard(InterpolateConfig).seed == (4,)
    monkeypatch.setenv("DIFFEDIT_MASK_STRENGTH", "0.5")
    monkeypatch.setenv("DIFFEDIT_MASK_FILL_HOLES", "TRUE")
    monkeypatch.setenv("DIFFEDIT_QUERY", "")  # as if it were not set
    wanted |= {"mask_strength": [0.5], "mask_fill_holes": True}
    assert heard(EditConfig) == build(EditConfig, wanted)
    assert heard(EditConfig, "--mask-strength", "0.1", "--no-mask-fill-holes") == build(
        EditConfig, wanted, {"mask_strength": [0.1], "mask_fill_holes": False}
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stesp = 3", ["no setting stesp", "Did you mean steps?"]),
        ("[mask]\nthreshold = 0.5", ["no setting mask"]),
        ("prompt = 'a horse'", ["no setting prompt"]),
        ("steps = '3'", ["steps cannot be '3'", "It takes a whole number"]),
        ("steps = true", ["steps cannot be True"]),
        ("steps = 0", ["steps 0 is out of range", "1 to 1000"]),
        ("seed = [1, 2]", ["seed"]),
        ("mask_strength = [0.5, 7]", ["mask_strength 7 is out of range"]),
        ("guidance_norm = 'loud'", ["guidance_norm cannot be loud", "pred"]),
        ("steps = = 2", ["not valid TOML", "line 1"]),
    ],
)
def test_a_wrong_file_is_refused_by_name(user: Path, text: str, words: list[str]) -> None:
    Path("diffedit.toml").write_text(text)
    result = run("edit", "no.png", "--query", "zebra")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "diffedit.toml" in result.stderr
    assert not [word for word in words if word not in result.stderr], result.stderr
    assert result.stdout == ""
    assert run("config", "path").exit_code == 0  # what helps to mend it still works


def test_wrong_variables_are_refused_by_name() -> None:
    with pytest.raises(SettingError, match=r"DIFFEDIT_STESP\. Did you mean DIFFEDIT_STEPS\?"):
        defaults.read_environment({"DIFFEDIT_STESP": "3"})
    with pytest.raises(SettingError, match=r"DIFFEDIT_STEPS cannot be 'many'"):
        defaults.read_environment({"DIFFEDIT_STEPS": "many"})
    with pytest.raises(SettingError, match=r"DIFFEDIT_QUERY .* is not valid text"):
        defaults.read_environment({"DIFFEDIT_QUERY": "caf\udce9"})  # as bytes that are not UTF-8 arrive
    assert defaults.read_environment({"PATH": "x", "OTHER_DIFFEDIT_STEPS": "y"}).values == {}


@pytest.mark.parametrize("name", ["DIFFEDIT_HOME", "DIFFEDIT_TEST", "DIFFEDIT_CACHE_DIR", "DIFFEDIT_PROMPTS"])
def test_a_variable_of_another_program_is_a_note(
    user: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    done = run("models", "list")
    assert done.exit_code == 0
    assert f"Note: The variable {name} is not a setting" in done.stderr
    assert run("models", "list", "--quiet").stderr == ""
    assert name in run("config", "show").stderr


@pytest.mark.parametrize("text", ["stesp = 3", "steps = = 2", "steps = 0", "x = " + "[" * 5000, "\xff\xfe"])
@pytest.mark.parametrize("words", [["--help"], ["edit", "-h"], ["edit", "--help-all"], ["models", "--help"]])
def test_every_help_works_with_a_wrong_configuration(
    user: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: list[str]
) -> None:
    Path("diffedit.toml").write_text(text, "latin-1")
    monkeypatch.setenv("DIFFEDIT_STESP", "3")
    done = run(*words)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("Examples:")
    assert run("models", "list").exit_code == 2


def test_a_help_shows_no_control_characters_of_a_configuration(user: Path) -> None:
    Path("diffedit.toml").write_text('device = "\\u001b[31m"')
    done = run("edit", "--help")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "\\x1b[31m" in done.stdout


def test_a_byte_order_mark_is_read(user: Path) -> None:
    Path("diffedit.toml").write_bytes(b"\xef\xbb\xbfsteps = 30\r\n# mine\r\n")
    assert heard(EditConfig).steps == 30
    defaults.set_value(Path("diffedit.toml"), "seed", "1")
    assert heard(EditConfig).seed == 1
    assert b"# mine\r\n" in Path("diffedit.toml").read_bytes()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"x = " + b"[" * 5000, "nested too deeply"),
        ("steps = 3".encode("utf-16"), "not UTF-8"),
        (b"#" * 1_000_001, "longer than 1,000,000 bytes"),
        (b"steps = " + b"9" * 5000, "not valid TOML"),
        (b'query = "a\\u0000b"', "is not valid text"),
        (b"steps = 1979-05-27", "steps cannot be datetime.date"),
    ],
)
def test_a_strange_file_is_one_sentence(user: Path, data: bytes, words: str) -> None:
    Path("diffedit.toml").write_bytes(data)
    done = run("models", "list")
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 400


AT_ONCE = """
import sys
from pathlib import Path
from diffedit_cli.cli import defaults
import filelock, tomlkit, diffedit_cli.images.write
print(flush=True)
sys.stdin.readline()
for key in sys.argv[2:]:
    defaults.set_value(Path(sys.argv[1]), key, "0.5")
"""


def test_settings_that_are_set_at_once_are_all_kept(tmp_path: Path) -> None:
    names = [key for key, kind, *_ in keys(EditConfig) if float in (kind, *get_args(kind))]
    file = tmp_path / "config.toml"
    file.write_text("# mine\n")
    parts = [names[i::4] for i in range(4)]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, str(file), *part],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for part in parts
    ]
    for process in runs:
        assert process.stdout is not None
        process.stdout.readline()  # it is ready
    for process in runs:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in runs:
        process.communicate(timeout=100)
    assert [process.returncode for process in runs] == [0] * 4
    assert {*defaults.read_file(file).values} == {*names}
    assert file.read_text().startswith("# mine\n")
    assert [*tmp_path.iterdir()] == [file]


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    link = tmp_path / "config.toml"
    link.symlink_to(Path("dotfiles") / "diffedit.toml")
    for steps in ("3", "4"):  # first into nothing
        defaults.set_value(link, "steps", steps)
    assert link.is_symlink()
    assert (tmp_path / "dotfiles" / "diffedit.toml").read_text() == "steps = 4\n"


def test_places_hold_in_every_folder(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    here = Path.cwd()
    (here / "mine").mkdir()
    (here / "sd15").mkdir()
    (here / "a.safetensors").touch()
    for given, stored in {
        "./mine": str(here / "mine"),
        "mine": str(here / "mine"),
        "../deep/mine": str(here / "mine"),
        "org/name": "org/name",
        "sd15": "sd15",
        "embedded": "embedded",
        "~/models/x": "/home/anna/models/x",
    }.items():
        assert defaults.set_value(user, "model", given) == stored, given
    added = defaults.set_value(user, "lora", "a.safetensors:0.8,~/b.safetensors")
    assert added == [f"{here}/a.safetensors:0.8", "/home/anna/b.safetensors"]
    assert defaults.read_environment({"DIFFEDIT_MODEL": "~/x"}).values == {"model": "/home/anna/x"}
    Path("../diffedit.toml").write_text(
        "model = './mine'\nlora = ['~/a.safetensors', '../b.safetensors:0.5']"
    )
    assert defaults.read_config({}).values == {
        "model": str(here.parent / "mine"),
        "lora": ["/home/anna/a.safetensors", str(here.parent.parent / "b.safetensors:0.5")],
    }


def test_a_default_model_is_kept_as_an_absolute_place(user: Path, checkpoint: Path) -> None:
    (Path.cwd() / "mine").symlink_to(checkpoint)
    done = run("models", "default", "./mine")
    assert done.stdout == f"{Path.cwd() / 'mine'}  ({user})\n"
    assert defaults.read_config({}).values == {"model": str(Path.cwd() / "mine")}


def test_without_a_home_nothing_is_written_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    done = run("config", "set", "steps", "3")
    assert done.exit_code == 2
    assert "no home folder" in done.stderr
    assert [*tmp_path.iterdir()] == []
    assert run("models", "list").exit_code == 0
    assert run("config", "set", "steps", "3", "--project").exit_code == 0
    assert (tmp_path / "diffedit.toml").read_text() == "steps = 3\n"


def test_no_working_folder_is_one_sentence(user: Path) -> None:
    Path.cwd().rmdir()
    done = run("models", "list")
    assert done.exit_code == 2
    assert "working folder no longer exists" in done.stderr


def test_a_switch_that_is_kept_can_be_overridden(user: Path) -> None:
    for key, schema in {"json": TalkConfig, "mask_invert": EditConfig, "loop": InterpolateConfig}.items():
        defaults.set_value(user, key, "true")
        assert flatten(heard(schema))[key] is True
        assert flatten(heard(schema, "--no-" + key.replace("_", "-")))[key] is False


def test_show_path_and_set(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "defaults" in run("config", "show").stdout
    project = Path("diffedit.toml").resolve()
    assert json.loads(run("config", "path", "--json").stdout) == {
        "user": {"path": str(user), "exists": False},
        "project": {"path": str(project), "exists": False},
    }
    assert run("config", "set", "mask-threshold", "0.3").exit_code == 0
    answer = run("config", "set", "model", "org/name", "--project", "--json")
    assert json.loads(answer.stdout) == {"key": "model", "value": "org/name", "path": str(project)}
    monkeypatch.setenv("DIFFEDIT_STEPS", "7")
    assert json.loads(run("config", "show", "--json").stdout)["settings"] == {
        "mask_threshold": {"value": 0.3, "from": str(user)},
        "model": {"value": "org/name", "from": str(project)},
        "steps": {"value": 7, "from": "DIFFEDIT_STEPS"},
    }
    assert f"model = org/name  ({project})" in run("config", "show").stdout
    assert "[default: 0.3]" in run("mask", "--help").stdout.replace("\n", " ")


def test_set_leaves_the_other_lines_alone(user: Path) -> None:
    user.parent.mkdir(parents=True)
    user.write_text("# mine\nsteps = 3 # few\n\nsize = 256\n")
    defaults.set_value(user, "steps", "4")
    defaults.set_value(user, "seed", "1")
    assert user.read_text() == "# mine\nsteps = 4 # few\n\nsize = 256\nseed = 1\n"
    user.write_text("mask_strength = [\n  0.3,\n]\n")
    defaults.set_value(user, "mask_strength", "0.5")
    assert user.read_text() == "mask_strength = [0.5]\n"
    for key, text in (("steps", "0"), ("stesp", "3"), ("prompts", "a")):
        with pytest.raises(SettingError):
            defaults.set_value(user, key, text)
    assert user.read_text() == "mask_strength = [0.5]\n"
    assert [path.name for path in user.parent.iterdir()] == ["config.toml"]


def test_every_configured_talk_setting_reaches_a_command(user: Path) -> None:
    defaults.set_value(user, "json", "true")
    assert heard(TalkConfig).json is True
    assert json.loads(run("models", "list").stdout)["models"]  # a command of a group


def test_in_comma_lists_a_kept_setting_is_one_value(user: Path) -> None:
    found: list[dict[str, Any]] = []

    @with_flags(comma_lists="lists", lists=EditConfig)
    def probe(*, lists: Callable[..., dict[str, list[Any]]]) -> None:
        found.append(lists())

    single = typer.Typer()
    single.command()(probe)
    command = get_command(single)
    kept = {"query": "a horse, grey", "mask_strength": [0.3, 0.5], "mask_fill_holes": False, "steps": 9}
    command.main([], default_map=defaults.for_commands(command, kept), standalone_mode=False)
    assert found == [
        {"query": ["a horse, grey"], "mask_strength": [(0.3, 0.5)], "mask_fill_holes": [False], "steps": [9]}
    ]


@pytest.fixture
def planned(user: Path) -> Callable[..., Any]:
    """What an edit with these flags would do."""
    noise(40, 30).save("photo.png")
    return lambda *flags: run("edit", "photo.png", "--ref", "a", "--query", "b", *flags, "--dry-run")


@pytest.mark.parametrize(
    ("key", "value", "flags"),
    [
        ("reuse", "2", ["--inversion-rounds", "1"]),
        ("inversion", "ddim", ["--solver", "lcm"]),
        ("guidance_scale", "7.5", ["--guidance-norm", "diff"]),
        ("mask_invert", "true", ["--per-object"]),
        ("backend", "openvino", ["--compile"]),
    ],
)
def test_a_kept_setting_gives_way_to_a_flag_that_it_does_not_go_with(
    user: Path, planned: Callable[..., Any], key: str, value: str, flags: list[str]
) -> None:
    defaults.set_value(user, key, value)
    done = planned(*flags)
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count(f"Note: {option_name(key)}, set in {user}, is left out: ") == 1
    both = [*flags, option_name(key), *([] if value == "true" else [value])]
    done = planned(*both)
    assert done.exit_code == 2
    assert "is set" not in done.stderr


def test_of_two_kept_settings_the_stronger_one_counts(
    user: Path, planned: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    user.parent.mkdir(parents=True)
    user.write_text("reuse = 2\ninversion_rounds = 1\n")
    done = planned()
    assert done.exit_code == 2
    assert f"--reuse is set in {user}. --inversion-rounds is set in {user}.\n" in done.stderr
    user.write_text("reuse = 2\n")
    Path("diffedit.toml").write_text("inversion_rounds = 1\n")
    assert f"--reuse, set in {user}, is left out" in planned().stderr
    monkeypatch.setenv("DIFFEDIT_REUSE", "3")
    assert f"--inversion-rounds, set in {Path.cwd() / 'diffedit.toml'}, is left out" in planned().stderr
    lists = ["--inversion-rounds", "0,1", "--dry-run"]
    done = run("compare", "photo.png", "--ref", "a", "--query", "b", *lists)
    assert done.exit_code == 0
    assert "--reuse, set by DIFFEDIT_REUSE, is left out" in done.stderr


@pytest.mark.parametrize(
    ("text", "flags", "words"),
    [
        ("inversion = 'flowedit'", [], "needs a flow-matching model. Use Stable Diffusion 3"),
        ("inversion = 'noise'", ["--animate", "film.gif"], "A film cannot be made with --inversion noise."),
        ("model = './nothere'", [], "There is no model"),
        ("device = 'cuda:77'", [], "There is no device cuda:77"),
    ],
)
def test_an_error_says_where_a_value_that_was_not_given_comes_from(
    user: Path, planned: Callable[..., Any], text: str, flags: list[str], words: str
) -> None:
    Path("diffedit.toml").write_text(text)
    done = planned(*flags)
    assert done.exit_code in (1, 2)
    assert words in done.stderr
    assert f"--{text.split()[0]} is set in {Path.cwd() / 'diffedit.toml'}." in done.stderr
    told = json.loads(run("edit", "photo.png", "--query", "b", *flags, "--dry-run", "--json").stdout)
    assert "is set in" in told["hint"]


def test_an_error_names_the_flag_that_stands_for_several_settings(planned: Callable[..., Any]) -> None:
    done = planned("--paper", "--solver", "lcm")
    assert done.exit_code == 2
    assert "--inversion ddim cannot be used with --solver lcm" in done.stderr
    assert done.stderr.endswith("--inversion is set by --paper.\n")


def test_settings_that_do_not_go_together_are_not_kept(user: Path) -> None:
    assert run("config", "set", "reuse", "2").exit_code == 0
    done = run("config", "set", "inversion-rounds", "1")
    assert done.exit_code == 2
    assert f"--reuse above 1 cannot be used with --inversion-rounds. {user} has reuse = 2" in done.stderr
    assert user.read_text() == "reuse = 2\n"
    assert run("config", "set", "mask_strength", "0.5").exit_code == 0
    assert run("config", "set", "reuse", "1").exit_code == 0
    assert run("config", "set", "inversion_rounds", "1").exit_code == 0
