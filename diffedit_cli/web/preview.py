"""Looks into a running job: what the UNet takes the picture for at this step, as a small picture."""

import io
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..core.schedules import append_dims, to_x0, v_to_eps, vp_level
from ..images import canvas
from ..models import DiffusersDenoiser

if TYPE_CHECKING:
    from .worker import Job

DRAWING = ("decode", "generate")  # the stages that there is something to see of
EVERY = 0.4  # seconds between two looks, at least
SHARE = 0.1  # of a job's time that looks may take
SIDE = 192


class Preview:
    """A hook on the UNet: it ends cancelled jobs, and shows each drawing one now and then."""

    def __init__(
        self, model: DiffusersDenoiser, check: Callable[[], None], current: "Callable[[], Job | None]"
    ) -> None:
        self.model, self.check, self.current = model, check, current
        self.next = 0.0

    def attach(self) -> None:
        self.model.unet.register_forward_hook(self.after)

    def after(self, _: Any, arguments: tuple[Any, ...], output: Any) -> None:
        self.check()
        job, now = self.current(), time.monotonic()
        is_drawing = job is not None and job.stage in DRAWING
        if job is None or not is_drawing or now < self.next or self.model.offload is not None:
            return
        job.preview = self.look(arguments[0][-1:], arguments[1][-1:], output.sample[-1:])
        job.previews += 1
        took = time.monotonic() - now
        self.next = now + max(EVERY, took / SHARE)

    def look(self, latents: Any, timestep: Any, predicted: Any) -> bytes:
        """The clean picture that a prediction under the prompt implies, as a small JPEG."""
        latents, predicted = latents.float(), predicted.float()
        level = vp_level(append_dims(self.model.schedule.alphas_cumprod.to(latents)[timestep], latents))
        eps = v_to_eps(latents, predicted, level) if self.model.is_v_prediction else predicted
        image = canvas.pixels_to_image(self.model.decode(to_x0(latents, eps, level)).cpu())
        image.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()
