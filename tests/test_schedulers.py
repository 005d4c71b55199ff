"""schedulers.py against every scheduler class of diffusers: supported as the class runs, or refused."""

import importlib
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers.schedulers
import pytest
import torch
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_tcd import TCDScheduler

from diffedit_cli.core.ddim import decode
from diffedit_cli.core.guidance import Guidance
from diffedit_cli.core.schedules import draw_noise, make_steps
from diffedit_cli.errors import ModelError, SettingError
from diffedit_cli.models import describe, load_model
from diffedit_cli.models.schedulers import REFUSED, SUPPORTED, read_schedule
from diffedit_cli.settings import GuidanceConfig

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
FOLDER = Path(diffusers.schedulers.__file__).parent


def scheduler_classes() -> dict[str, str]:
    """Every scheduler class of diffusers and its module, read from the source: some need further packages."""
    found = {}
    for file in sorted(FOLDER.rglob("scheduling_*.py")):
        module = ".".join(("diffusers.schedulers", *file.relative_to(FOLDER).with_suffix("").parts))
        for name in re.findall(r"^class (\w+Scheduler)\(.*SchedulerMixin", file.read_text(), re.MULTILINE):
            found[name] = module
    return found


CLASSES = scheduler_classes()
OF_NUMPY = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # diffusers' own


def config_of(name: str, **more: Any) -> dict[str, Any]:
    return {"_class_name": name, **SD, **more}


def test_every_class_of_diffusers_is_supported_or_refused() -> None:
    assert len(CLASSES) > 40
    assert {*CLASSES} <= {*SUPPORTED} | {*REFUSED}  # an older diffusers has fewer
    assert not {*SUPPORTED} & {*REFUSED}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_classes_say_why(name: str) -> None:
    with pytest.raises(ModelError, match=re.escape(f"({name}): {REFUSED[name]}")) as caught:
        read_schedule("m", config_of(name))
    assert caught.value.hint


@OF_NUMPY
@pytest.mark.parametrize("name", SUPPORTED)
def test_supported_classes_are_read_as_they_run(name: str) -> None:
    """Levels, the default spacing, and the level at which a run ends, for both values of what decides it."""
    if name == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde")
    cls = getattr(importlib.import_module(CLASSES[name]), name)
    parameters = inspect.signature(cls.__init__).parameters
    key = SUPPORTED[name].ends
    choices = {"set_alpha_to_one": (None, True, False), "final_sigmas_type": (None, "zero", "sigma_min")}
    for value in choices.get(key, (None,)):
        config = config_of(name, **({} if value is None else {key: value}))
        schedule, predicts_v = read_schedule("m", config)
        assert not predicts_v
        taken = {key: value for key, value in config.items() if key in parameters}
        if name in ("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"):
            taken["algorithm_type"] = "dpmsolver++"
        theirs = cls(**taken)
        if name.startswith("EDM"):
            continue  # it has no betas of its own; those of the config count
        assert torch.equal(schedule.alphas_cumprod, theirs.alphas_cumprod.double())
        theirs.set_timesteps(4)
        if key == "set_alpha_to_one":
            end = float(theirs.final_alpha_cumprod)
        elif name.startswith("DDPM"):
            end = float(theirs.one)
        else:
            end = 1 / (1 + float(theirs.sigmas[-1]) ** 2)
        assert schedule.final_alpha == pytest.approx(end, rel=1e-6)
        if schedule.spacing != "lcm" and "timestep_spacing" in parameters:
            assert schedule.spacing == parameters["timestep_spacing"].default


@pytest.mark.parametrize("cls", [LCMScheduler, TCDScheduler])
def test_the_steps_of_distilled_models_are_those_of_diffusers(cls: Any) -> None:
    for distilled in (50, 40):
        theirs = cls(**SD, original_inference_steps=distilled)
        schedule, _ = read_schedule("m", config_of(cls.__name__, original_inference_steps=distilled))
        for count in range(1, distilled + 1):
            theirs.set_timesteps(count)
            assert make_steps(schedule, count).timesteps.tolist() == theirs.timesteps.tolist()
        with pytest.raises(SettingError, match=f"--steps {distilled + 1} is out of range"):
            make_steps(schedule, distilled + 1)
    schedule, _ = read_schedule("m", config_of(cls.__name__))
    assert make_steps(schedule, 4).timesteps.tolist() == [999, 759, 499, 259]
    assert schedule.final_alpha == 1


@OF_NUMPY
def test_a_model_with_an_euler_scheduler_ends_clean(build: Callable[..., Path]) -> None:
    """Against EulerDiscreteScheduler: x in its space is x / sqrt(abar)."""
    folder = build(timestep_spacing="trailing")
    file = folder / "scheduler/scheduler_config.json"
    config = {**json.loads(file.read_text()), "_class_name": "EulerDiscreteScheduler"}
    file.write_text(json.dumps(config))
    model = load_model(folder, device="cpu", dtype="float32")
    theirs = EulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    theirs.set_timesteps(4)
    steps, text = make_steps(model.schedule, 4), model.embed(["a horse"])
    assert steps.timesteps.tolist() == theirs.timesteps.int().tolist()
    noise = draw_noise((4, 16, 16), [3])
    *_, ours = decode(model, noise, steps, text, text, Guidance(GuidanceConfig(scale=1.0), steps))
    x = noise / float(steps.alphas[0])
    for t in theirs.timesteps:
        eps = model.predict(theirs.scale_model_input(x, t), t[None].long(), text)
        x = theirs.step(eps, t, x).prev_sample
    assert torch.allclose(ours, x, atol=1e-4)
    assert "ends clean" in describe(str(folder))["scheduler"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"_class_name": "DDIMScheduler"}, "without betas"),
        ({"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 0.5}, "without betas"),
        ({"_class_name": "UniPCMultistepScheduler", "beta_schedule": "linear"}, "without betas"),
        (config_of("UniPCMultistepScheduler", use_flow_sigmas=True), "flow-matching"),
        (config_of("NewScheduler"), "NewScheduler.*not known"),
        (SD, "no _class_name"),
        (config_of("DDIMScheduler", prediction_type="flow_prediction"), "predicts flow_prediction"),
        (config_of("DDIMScheduler", prediction_type=["epsilon"]), "predicts"),
        (config_of("DDIMScheduler", num_train_timesteps=10**8), "num_train_timesteps"),
        (config_of("DDIMScheduler", num_train_timesteps=True), "num_train_timesteps"),
        (config_of("DDIMScheduler", beta_schedule="sigmoid"), "beta_schedule"),
        (config_of("DDIMScheduler", beta_end="big"), "betas"),
        (config_of("DDIMScheduler", beta_end=2.0), "betas"),
        (config_of("DDIMScheduler", trained_betas=[]), "trained_betas"),
        (config_of("DDIMScheduler", trained_betas=[None] * 9), "betas"),
        (config_of("DDIMScheduler", timestep_spacing="karras"), "timestep_spacing"),
        (config_of("DDIMScheduler", timestep_spacing=["leading"]), "timestep_spacing"),
        (config_of("DDIMScheduler", steps_offset=-3), "steps_offset"),
        (config_of("DDIMScheduler", set_alpha_to_one="no"), "set_alpha_to_one"),
        (config_of("EulerDiscreteScheduler", final_sigmas_type="big"), "final_sigmas_type"),
        (config_of("LCMScheduler", original_inference_steps=0), "original_inference_steps"),
        (config_of("DDIMScheduler", rescale_betas_zero_snr=3), "rescale_betas_zero_snr"),
    ],
)
def test_schedules_that_are_not_stable_diffusions_are_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        read_schedule("m", config)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_betas_can_be_given_one_by_one() -> None:
    betas = torch.linspace(0.001, 0.02, 100)
    schedule, _ = read_schedule("m", {"_class_name": "DDIMScheduler", "trained_betas": betas.tolist()})
    assert torch.allclose(schedule.alphas_cumprod, (1 - betas.double()).cumprod(0), atol=1e-6)
