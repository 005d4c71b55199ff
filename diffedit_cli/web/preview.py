"""A view into a running job: the picture that the model currently predicts, as a small picture."""

import io
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..core.schedules import append_dims, to_x0, vp_level
from ..core.types import FlowSchedule, Latents, Level, Timesteps
from ..images import canvas
from ..models import DiffusersDenoiser

if TYPE_CHECKING:
    from .worker import Job

DRAWING = ("decode", "generate")  # the stages that there is something to see of
EVERY = 0.4  # seconds between two looks, at least
SHARE = 0.1  # of a job's time that looks may take
SIDE = 192


class Preview:
    """Watches the forwards of a model: it ends cancelled jobs, and shows each drawing one now and then."""

    def __init__(
        self, model: DiffusersDenoiser, check: Callable[[], None], current: "Callable[[], Job | None]"
    ) -> None:
        self.model, self.check, self.current = model, check, current
        self.next = 0.0

    def attach(self) -> None:
        self.model.watch = self.after

    def after(self, latents: Latents, timesteps: Timesteps, predicted: Latents) -> None:
        self.check()
        job, now = self.current(), time.monotonic()
        is_drawing = job is not None and job.stage in DRAWING
        if job is None or not is_drawing or now < self.next or self.model.offload is not None:
            return
        job.preview = self.look(latents[-1:], timesteps[-1:], predicted[-1:])
        job.previews += 1
        took = time.monotonic() - now
        self.next = now + max(EVERY, took / SHARE)

    def look(self, latents: Latents, timestep: Timesteps, predicted: Latents) -> bytes:
        """The clean picture that a prediction under the prompt implies, as a small JPEG."""
        schedule = self.model.schedule
        if isinstance(schedule, FlowSchedule):
            sigma = append_dims(timestep / 1000, latents)
            level = Level(1 - sigma, sigma)
        else:
            level = vp_level(append_dims(schedule.alphas_cumprod.to(latents)[timestep], latents))
        x0 = to_x0(latents, predicted, level, schedule.target)
        image = canvas.pixels_to_image(self.model.decode(x0).cpu())
        image.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()
