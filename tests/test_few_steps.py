"""Models of few steps: how they are recognised, what they run with; diffusers' schedulers and pipelines."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Build, save_parts, tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae
from diffusers.pipelines.latent_consistency_models.pipeline_latent_consistency_text2img import (
    LatentConsistencyModelPipeline,
)
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_tcd import TCDScheduler
from oracles import Oracle, sd_schedule, text
from pictures import noise as picture
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel
from typer.testing import CliRunner

from diffedit_cli.api import edit_image
from diffedit_cli.cli.app import app
from diffedit_cli.core.ddim import decode, renoise
from diffedit_cli.core.guidance import Guidance
from diffedit_cli.core.schedules import draw_noise, level_noise, make_steps
from diffedit_cli.core.text2image import interpolate
from diffedit_cli.core.types import Steps
from diffedit_cli.errors import ModelError, SettingError
from diffedit_cli.images.read import load_image, read_settings
from diffedit_cli.models import few_steps, load_model, own_defaults
from diffedit_cli.models.few_steps import recognise
from diffedit_cli.settings import EditConfig, GuidanceConfig, InterpolateConfig, filled_in

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
PLAIN = GuidanceConfig(scale=1)
TURBO = {
    "steps": 4,
    "solver": "ddim",
    "timestep_spacing": "trailing",
    "inversion": "noise",
    "guidance_scale": 1,
}
LCM = TURBO | {"solver": "lcm", "timestep_spacing": "lcm"}
DMD = TURBO | {"solver": "lcm"}
OF_NUMPY = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # diffusers' own
EULER = {  # scheduler_config.json of stabilityai/sd-turbo, without what no scheduler reads
    "_class_name": "EulerDiscreteScheduler",
    **SD,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}


# ------------------------------------------------------------------------------------------ recognition


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("stabilityai/sd-turbo", TURBO),
        ("sd_xl_turbo_1.0_fp16.safetensors", TURBO),
        ("dreamshaperXL_v21TurboDPMSDE.safetensors", TURBO),
        ("models/sdxl_lightning_8step.safetensors", TURBO | {"steps": 8}),
        ("juggernautXL_v9Rdphoto2Lightning", TURBO),
        ("realisticVisionV60B1_v51HyperVAE", TURBO),
        ("SimianLuo/LCM_Dreamshaper_v7", LCM),
        ("dreamshaper_8LCM", LCM),
        ("dmd2_sdxl_4step", DMD),
        ("hyperrealism_v2", None),
        ("turbocharged", None),
        ("stabilityai/stable-diffusion-xl-base-1.0", None),
        ("turbo/plain", None),  # the folder above says nothing
    ],
)
def test_a_name_tells(name: str, wanted: dict[str, Any] | None) -> None:
    found = recognise(name)
    assert (found and found.defaults) == wanted


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("lcm-lora-sdv1-5.safetensors", LCM),
        ("lcm-lora-sdxl/pytorch_lora_weights.safetensors", LCM),
        ("dmd2_sdxl_4step_lora_fp16.safetensors", DMD),
        ("sdxl_lightning_2step_lora.safetensors", TURBO | {"steps": 2}),
        ("Hyper-SD15-8steps-lora.safetensors", TURBO | {"steps": 8}),
        ("Hyper-SDXL-1step-lora.safetensors", LCM),
        ("TCD-SDXL-LoRA.safetensors", LCM | {"solver": "ddim"}),
        ("sd_xl_turbo_lora_v1.safetensors", TURBO),
        ("lightning_over_hills.safetensors", None),
        ("hyper_detail.safetensors", None),
        ("turbo_cars.safetensors", None),
    ],
)
def test_the_name_of_a_lora_tells(file: str, wanted: dict[str, Any] | None) -> None:
    found = recognise("sd15", ["details.safetensors", file, "paper.safetensors"])
    assert (found and found.defaults) == wanted


def test_what_keeps_its_guidance_keeps_the_usual_scale() -> None:
    found = recognise("sd15", ["Hyper-SD15-8steps-CFG-lora.safetensors"])
    assert found
    assert "guidance_scale" not in found.defaults
    assert found.defaults["steps"] == 8


def test_the_scheduler_tells_where_no_name_does() -> None:
    def family(**config: Any) -> str:
        found = recognise("folder", scheduler=config)
        return found.family if found else ""

    assert family(**EULER) == "Turbo"
    assert family(**EULER | {"_class_name": "EulerAncestralDiscreteScheduler"}) == "Turbo"
    assert family(**EULER | {"timestep_spacing": "leading"}) == ""
    assert family(**EULER | {"rescale_betas_zero_snr": True}) == ""
    assert family(**EULER | {"prediction_type": "v_prediction"}) == ""
    assert family(**EULER | {"_class_name": "DDIMScheduler"}) == ""
    assert family(_class_name="LCMScheduler") == "LCM"
    assert family(_class_name="TCDScheduler") == "TCD"


def test_a_network_that_predicts_the_picture_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "sdxl_lightning_1step_x0")
    with pytest.raises(ModelError, match="predicts the picture itself") as caught:
        load_model(folder)
    assert "2, 4 or 8" in caught.value.hint


def test_presets_are_known_before_they_are_here(cache: Path) -> None:
    for name in ("sd-turbo", "sdxl-turbo", "sdxl-lightning"):
        assert own_defaults(name) == TURBO
    assert own_defaults("sd15") == {}
    assert few_steps("sd15") is None


# --------------------------------------------------------------------------------------------- settings


def test_a_models_steps_stand_where_no_setting_is_given() -> None:
    config = filled_in(EditConfig(query="zebra"), LCM)
    assert (config.steps, config.solver, config.timestep_spacing) == (4, "lcm", "lcm")
    assert (config.inversion, config.guidance.scale, config.ratio) == ("noise", 1, 0.8)
    own = dict(steps=9, solver="dpm++", timestep_spacing="leading", inversion="ddim")
    config = filled_in(EditConfig(query="zebra", guidance=GuidanceConfig(scale=2), **own), LCM)
    assert {key: getattr(config, key) for key in own} == own
    assert config.guidance.scale == 2
    assert filled_in(EditConfig(solver="lcm"), {}).inversion == "noise"


def test_settings_that_do_not_go_with_fresh_noise_are_refused() -> None:
    for inversion in ("ddim", "negative-prompt"):
        with pytest.raises(SettingError, match=f"--inversion {inversion} cannot be used with --solver lcm"):
            filled_in(EditConfig(inversion=inversion), LCM)
    with pytest.raises(SettingError, match=r"The model's own is --solver lcm\."):
        filled_in(EditConfig(inversion="ddim"), LCM)
    with pytest.raises(SettingError, match="--chain cannot be used with --solver lcm"):
        filled_in(InterpolateConfig(prompts=("a", "b"), chain=0.5), LCM)
    with pytest.raises(SettingError, match=r"--solver lcm cannot be used with --guidance-method cfg\+\+"):
        EditConfig(solver="lcm", guidance=GuidanceConfig(method="cfg++"))


# ------------------------------------------------------------------------------------- against diffusers


def wavy(x: Tensor, alphas: Tensor, text: Tensor) -> Tensor:
    return (3 * x).sin() * (1 + text)


def smooth(x: Tensor, abar: Tensor, text: Tensor) -> Tensor:
    """What a perfect network says where pictures are N(text, 4)."""
    return (1 - abar) ** 0.5 * (x - abar**0.5 * text) / (4 * abar + 1 - abar)


@OF_NUMPY
@pytest.mark.parametrize("cls", [LCMScheduler, TCDScheduler])
@pytest.mark.parametrize("count", [1, 2, 4, 8, 50])
def test_the_timesteps_of_lcm(cls: Any, count: int) -> None:
    theirs = cls(**SD)
    theirs.set_timesteps(count)
    assert make_steps(sd_schedule(), count, spacing="lcm").timesteps.tolist() == theirs.timesteps.tolist()


@OF_NUMPY
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_the_timesteps_of_turbo_and_lightning(count: int) -> None:
    theirs = EulerDiscreteScheduler(**SD, timestep_spacing="trailing", steps_offset=1)
    theirs.set_timesteps(count)
    steps = make_steps(sd_schedule(), count, spacing="trailing")
    assert steps.timesteps.tolist() == theirs.timesteps.int().tolist()
    assert steps.level(-1) == (1, 0)
    assert make_steps(sd_schedule(), 4, spacing="trailing").timesteps.tolist() == [
        999,
        749,
        499,
        249,
    ]  # DMD2's


@OF_NUMPY
@pytest.mark.parametrize("count", [1, 4])
def test_euler_on_a_file_whose_scheduler_says_leading(count: int) -> None:
    """x in Euler's space is x / alpha. Only the timesteps come from the setting."""
    theirs = EulerDiscreteScheduler(**SD, timestep_spacing="trailing", steps_offset=1)
    theirs.set_timesteps(count)
    steps, start = make_steps(sd_schedule(), count, spacing="trailing"), draw_noise((3, 4, 5), [1, 2])
    oracle = Oracle(wavy, sd_schedule())
    *_, ours = decode(oracle, start, steps, text(1), text(0), Guidance(PLAIN, steps))
    x = start / float(steps.alphas[0])
    for t in theirs.timesteps:
        x = theirs.step(wavy(theirs.scale_model_input(x, t), t, torch.ones(1)), t, x).prev_sample
    assert torch.allclose(ours, x, atol=1e-4 * float(x.abs().max()))


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_solver_lcm_is_diffusers_lcm_scheduler(count: int) -> None:
    theirs, generator = LCMScheduler(**SD), torch.Generator().manual_seed(5)
    theirs.set_timesteps(count)
    steps = make_steps(sd_schedule(), count, solver="lcm", spacing="lcm")
    wanted = draw_noise((3, 4, 5), [1, 2])
    fresh = [wanted, *(torch.randn(wanted.shape, generator=generator) for _ in range(count - 1))]
    generator.manual_seed(5)
    run = decode(
        Oracle(smooth, sd_schedule()),
        wanted,
        steps,
        text(1),
        text(0),
        Guidance(PLAIN, steps),
        fresh=torch.stack(fresh),
    )
    for t, ours in zip(theirs.timesteps, run, strict=True):
        said = smooth(wanted, theirs.alphas_cumprod[t], torch.ones(1))
        wanted = theirs.step(said, t, wanted, generator=generator).prev_sample
        assert torch.allclose(ours, wanted, atol=1e-4)


def test_the_background_is_the_source_at_every_level() -> None:
    steps = make_steps(sd_schedule(), 4, 0.8, "lcm", "lcm")
    x0, fresh = draw_noise((3, 4, 5), [7, 8], 3), level_noise((3, 4, 5), [1, 2], steps)
    source, mask = renoise(x0, fresh, steps), torch.zeros(2, 1, 4, 5)
    mask[..., 2:, :] = 1
    run = list(
        decode(
            Oracle(wavy, sd_schedule()),
            source.latents[0],
            steps,
            text(1),
            text(0),
            Guidance(PLAIN, steps),
            mask,
            source,
            fresh=fresh,
        )
    )
    assert len(run) == 3
    pairs = zip(run, source.latents[1:], strict=True)
    assert all(torch.equal(a[..., :2, :], b[..., :2, :]) for a, b in pairs)
    assert torch.equal(run[-1][..., :2, :], x0[..., :2, :])
    assert (run[-1] - x0)[..., 2:, :].abs().max() > 0.1


def test_a_perfect_model_draws_what_surrounds_the_mask() -> None:
    """Where every picture is x0, drawn and noised latents are one at every level: the same fresh noise."""
    x0 = draw_noise((3, 4, 5), [7, 8], 3).double()
    steps = make_steps(sd_schedule(), 4, 0.8, "lcm", "lcm")
    fresh = level_noise((3, 4, 5), [1, 2], steps).double()
    oracle = Oracle(lambda x, abar, _: (x - abar**0.5 * x0) / (1 - abar) ** 0.5, sd_schedule())
    source = renoise(x0, fresh, steps)
    run = decode(oracle, source.latents[0], steps, text(1), text(0), Guidance(PLAIN, steps), fresh=fresh)
    for ours, level in zip(run, source.latents[1:], strict=True):
        assert torch.allclose(ours, level, atol=1e-10)


def test_the_noise_of_a_level_depends_on_seed_and_level_alone() -> None:
    def noise(seeds: list[int], count: int) -> Tensor:
        return level_noise(
            (2, 3, 4), seeds, Steps(torch.arange(count), torch.ones(count + 1), torch.ones(count + 1), "lcm")
        )

    whole = noise([1, 2], 4)
    assert torch.equal(whole[:, 1:], noise([2], 4))
    assert torch.equal(whole[:2], noise([1, 2], 2))
    assert torch.equal(whole[0], draw_noise((2, 3, 4), [1, 2]))
    assert len({row.sum().item() for row in whole.flatten(0, 1)}) == 8
    steps = make_steps(sd_schedule(), 2, solver="lcm")
    run = decode(Oracle(wavy), whole[0], steps, text(1), text(0), Guidance(PLAIN, steps))
    with pytest.raises(ValueError, match="fresh noise"):
        next(run)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_full_latent_consistency_model_is_told_its_scale(tmp_path: Path) -> None:
    """Against diffusers' pipeline, whose default guidance is told to the UNet."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    parts = {
        "unet": tiny_unet(time_cond_proj_dim=8),
        "vae": tiny_vae(),
        "text_encoder": tiny_text_encoder(CLIPTextModel, tokenizer),
        "tokenizer": tokenizer,
    }
    torch.nn.init.normal_(parts["unet"].time_embedding.cond_proj.weight)
    folder = save_parts(tmp_path / "plain", parts, {})
    model = load_model(folder, device="cpu", dtype="float32")
    assert model.own_defaults == LCM
    theirs = LatentConsistencyModelPipeline(
        **{name: part.eval() if hasattr(part, "eval") else part for name, part in parts.items()},
        scheduler=LCMScheduler(**SD),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    theirs.set_progress_bar_config(disable=True)
    noise = draw_noise((4, 16, 16), [3])
    wanted = theirs("a horse", latents=noise, num_inference_steps=1, output_type="latent").images
    steps, said = make_steps(model.schedule, 1, 1.0, "lcm", "lcm"), model.embed(["a horse"])
    fresh = level_noise((4, 16, 16), [3], steps)
    (ours,) = decode(model, noise, steps, said, said, Guidance(PLAIN, steps), fresh=fresh)
    assert torch.allclose(ours, wanted, atol=1e-4 * float(wanted.abs().max()))


# ---------------------------------------------------------------------------------------------- commands


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    picture(40, 30).save(tmp_path / "photo.png")

    def invoke(*arguments: Any) -> Any:
        result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "300", "TERM": "dumb"})
        assert result.exit_code == 0, result.output
        return result

    return invoke


def with_scheduler(folder: Path, **config: Any) -> Path:
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def turbo(build: Build) -> Path:
    """A tiny SD-Turbo in folder form."""
    return with_scheduler(build(), **EULER)


EDIT = ("edit", "photo.png", "--ref", "horse", "--query", "zebra", "--device", "cpu")


def steps_of(file: str) -> dict[str, Any]:
    stored = read_settings(file)
    assert stored
    return {key: stored[key] for key in TURBO}


def test_the_seed_command_on_a_turbo_model(run: Callable[..., Any], turbo: Path) -> None:
    said = run(*EDIT, "--model", turbo, "-o", "out.png", "--json").stderr
    assert f"{turbo} runs as a few-step model (Turbo): --steps 4, --solver ddim" in said
    assert steps_of("out.png") == TURBO
    run("rerun", "out.png", "--model", turbo)
    assert Path("out-rerun.png").read_bytes() == Path("out.png").read_bytes()
    told = run(*EDIT, "--model", turbo, "--dry-run", "-o", "new.png", "--json").stdout
    assert json.loads(told)["forwards"] == {"mask": 18, "invert": 0, "decode": 3}


def test_an_edit_of_four_steps_takes_21_forwards(turbo: Path, tmp_path: Path) -> None:
    picture(40, 30).save(tmp_path / "photo.png")
    model, rows = load_model(turbo, device="cpu"), list[int]()
    model.unet.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    result = edit_image(
        model, load_image(tmp_path / "photo.png"), EditConfig(ref="horse", query="zebra", zoom=False, seed=1)
    )
    assert sum(rows) == result.run.forwards == 6 * 3 + 3


def test_flags_go_before_the_models_own(run: Callable[..., Any], turbo: Path) -> None:
    own = ("--steps", "3", "--solver", "dpm++", "--timestep-spacing", "linspace")
    run(*EDIT, "--model", turbo, "-o", "out.png", *own, "--inversion", "ddim", "--guidance-scale", "2")
    assert steps_of("out.png") == {
        "steps": 3,
        "solver": "dpm++",
        "timestep_spacing": "linspace",
        "inversion": "ddim",
        "guidance_scale": 2,
    }


def test_fast_leaves_the_models_own_steps(run: Callable[..., Any], turbo: Path) -> None:
    run(*EDIT, "--model", turbo, "-o", "out.png", "--fast")
    assert steps_of("out.png") == TURBO
    run(*EDIT, "--model", turbo, "-o", "two.png", "--fast", "--steps", "2")
    assert steps_of("two.png") == TURBO | {"steps": 2}


def test_an_lcm_lora_makes_any_model_one_of_few_steps(
    run: Callable[..., Any], checkpoint: Path, tmp_path: Path
) -> None:
    lora = tmp_path / "lcm-lora-sdv1-5.safetensors"
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    save_file(
        {f"{layer}.lora_A.weight": torch.ones(1, 16), f"{layer}.lora_B.weight": torch.ones(16, 1)}, lora
    )
    used = ("--model", checkpoint, "--lora", f"{lora}:0.5")
    run(*EDIT, *used, "-o", "out.png", "--seed", "3")
    assert steps_of("out.png") == LCM
    run("rerun", "out.png", *used)
    assert Path("out-rerun.png").read_bytes() == Path("out.png").read_bytes()
    run("rerun", "out.png", *used, "--seed", "4", "-o", "other.png")
    assert Path("other.png").read_bytes() != Path("out.png").read_bytes()


def test_another_model_takes_its_own_steps(run: Callable[..., Any], turbo: Path, checkpoint: Path) -> None:
    run(*EDIT, "--model", turbo, "-o", "turbo.png")
    run("rerun", "turbo.png", "--model", checkpoint, "-o", "plain.png", "--mask-samples", "1")
    assert steps_of("plain.png")["steps"] == 25
    run("rerun", "plain.png", "--model", turbo, "-o", "again.png")
    assert steps_of("again.png") == TURBO


def test_a_film_says_what_it_needs(run: Callable[..., Any], turbo: Path) -> None:
    film = (*EDIT, "--model", str(turbo), "--animate", "film.gif", "--frames", "2")
    refused = CliRunner().invoke(app, film)
    assert refused.exit_code == 2
    assert "A film cannot be made with --inversion noise" in refused.output
    run(*film, "--inversion", "ddim")
    assert Path("film.gif").is_file()


def test_frames_between_prompts_share_their_fresh_noise() -> None:
    """With one prompt twice and one seed every frame is one picture."""
    config = InterpolateConfig(prompts=("1", "1"), frames=3, steps=3, guidance=PLAIN, solver="lcm")
    frames = [pixels for _, pixels in interpolate(Oracle(wavy), config, (3, 4, 5), [3, 3])]
    assert torch.allclose(frames[0], frames[1], atol=1e-5)
    assert torch.allclose(frames[0], frames[2], atol=1e-5)
