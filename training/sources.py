"""Fetch the photos that the scenes are made of, with ordinary package clients.

| source | what | licence |
|---|---|---|
| Debian `tuxpaint-stamps-default` | photo cut-outs with exact alpha | GPL-2+ |
| npm `@pmndrs/assets` | 360 degree photo panoramas, half float | CC0-1.0 |
| Debian `blender-data` | 360 degree photo panoramas, for the VAE alone | CC0-1.0 |
| Debian `mate-backgrounds`, `plasma-workspace-wallpapers` | photos, held out: never trained on | GPL-2+ |
"""

import base64
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np

from training.words import BACKDROPS, THINGS

DATA = Path(__file__).parent / "data"
DEBIAN_PACKAGES = (
    "tuxpaint-stamps-default", "blender-data", "mate-backgrounds", "plasma-workspace-wallpapers",
)  # fmt: skip
BLENDER_PANORAMAS = "usr/share/blender/datafiles/studiolights/world"
NPM_PACKAGE = "@pmndrs/assets@1.7.0"

# Wallpapers that are photos with room for an object; the rest are abstract. Names are ours.
WALLPAPERS = {
    "dune": "usr/share/backgrounds/mate/nature/Dune.jpg",
    "grass": "usr/share/backgrounds/mate/nature/GreenMeadow.jpg",
    "storm": "usr/share/backgrounds/mate/nature/Storm.jpg",
    "path": "usr/share/wallpapers/Path/contents/images/1280x800.jpg",
    "deck": "usr/share/wallpapers/BytheWater/contents/images/1280x800.jpg",
    "boats": "usr/share/wallpapers/EveningGlow/contents/images/1280x800.jpg",
    "leaves": "usr/share/wallpapers/FallenLeaf/contents/images/1280x800.jpg",
}


def fetch(data: Path = DATA) -> None:
    """Download and unpack every source into `data`: stamps/, panoramas/ (float16 .npy), wallpapers/.

    Needs apt-get, dpkg and npm on the PATH, and the OpenEXR package. About 350 MB are downloaded.
    """
    packages = data / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    missing = [name for name in DEBIAN_PACKAGES if not list(packages.glob(f"{name}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "update"], check=True)
        subprocess.run(["apt-get", "download", *missing], cwd=packages, check=True)
    for archive in packages.glob("*.deb"):
        subprocess.run(["dpkg", "-x", archive.name, "root"], cwd=packages, check=True)
    if not list(packages.glob("*.tgz")):
        subprocess.run(["npm", "pack", NPM_PACKAGE], cwd=packages, check=True)
    for archive in packages.glob("*.tgz"):
        with tarfile.open(archive) as tar:
            tar.extractall(packages / "npm", filter="data")

    shutil.copytree(packages / "root/usr/share/tuxpaint/stamps", data / "stamps", dirs_exist_ok=True)
    unpack_panoramas(packages / "npm/package/hdri", data / "panoramas")
    for name in BACKDROPS:
        if name.startswith("blender-"):
            exr = packages / "root" / BLENDER_PANORAMAS / f"{name.removeprefix('blender-')}.exr"
            save_panorama(exr, data / "panoramas" / f"{name}.npy")
    (data / "wallpapers").mkdir(exist_ok=True)
    for name, path in WALLPAPERS.items():
        shutil.copy(packages / "root" / path, data / "wallpapers" / f"{name}.jpg")


def unpack_panoramas(folder: Path, out: Path) -> None:
    """Decode each `<name>.exr.js`, a base64 OpenEXR in a script, to `<name>.npy`."""
    out.mkdir(parents=True, exist_ok=True)
    for script in sorted(folder.glob("*.exr.js")):
        name = script.name.removesuffix(".exr.js")
        match = re.search(r"base64,([A-Za-z0-9+/=]+)", script.read_text())
        if match is None:
            raise ValueError(f"{script} holds no base64 picture; has the package changed its layout?")
        exr = out / f"{name}.exr"
        exr.write_bytes(base64.b64decode(match.group(1)))
        save_panorama(exr, out / f"{name}.npy")
        exr.unlink()


def save_panorama(exr: Path, out: Path, height: int = 256) -> None:
    """An OpenEXR picture as .npy: float16 (height w 3), linear light; a multiple of that size is averaged."""
    import OpenEXR  # only this step needs it

    with OpenEXR.File(str(exr)) as file:
        channels = file.channels()
        rgb = (
            channels["RGB"].pixels if "RGB" in channels else np.stack([channels[c].pixels for c in "RGB"], -1)
        )
    times = rgb.shape[0] // height
    small = np.asarray(rgb, np.float32).reshape(height, times, -1, times, 3).mean((1, 3))
    np.save(out, small.astype(np.float16))


def pack(data: Path, out: Path) -> Path:
    """Copy to `out` what training reads of `data`, a few per cent of it, to carry to another machine."""
    for folder in ("panoramas", "wallpapers"):
        shutil.copytree(data / folder, out / folder, dirs_exist_ok=True)
    for thing in THINGS:
        for photo in thing.photos + thing.held_out:
            path = out / "stamps" / f"{photo}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(data / "stamps" / f"{photo}.png", path)
    return out
