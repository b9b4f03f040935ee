"""The command `env`: what tlkit runs on, and what clashes."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import click

from tlkit import __version__
from tlkit.cli.group import main
from tlkit.cli.output import json_option, show_json, wants_json
from tlkit.quiet import _tensorflow_quietly
from tlkit.words import counted, shown


@main.command()
@json_option
def env() -> None:
    """Show what is installed, and what clashes.

    Packages, devices, precision, the cache and the weights on this machine. Uses no network and changes nothing."""
    found = _found()
    if wants_json():
        show_json(found)
        return
    system, devices, cache = found["system"], found["devices"], found["cache"]
    click.echo(f"tlkit      {found['tlkit']}, Python {system['python']}, {system['system']}")
    if devices["error"] is None:
        click.echo(f"device     {devices['device']}; Keras computes with {devices['backend']}")
        click.echo(f"precision  {devices['precision']}, where a recipe says auto")
    click.echo("packages   " + ", ".join(f"{name} {version}" for name, version in found["packages"].items()))
    sizes = ", ".join(f"{kind} {one['bytes'] / 1e9:.2f} GB" for kind, one in cache["kinds"].items())
    click.echo(f"cache      {shown(cache['folder'])}: {cache['bytes'] / 1e9:.2f} GB" + (f" ({sizes})" if sizes else ""))
    weights = found["weights"]
    click.echo(f"weights    {len(weights)} of {counted(found['backbones'], 'backbone')}: {', '.join(weights)}")
    for one in found["clashes"]:
        click.echo(f"attention: {shown(one['what'])}. Remedy: {one['remedy']}")
    if not found["clashes"]:
        click.echo("nothing clashes")


def _found() -> dict[str, Any]:
    """All facts, as JSON values."""
    from tlkit.backbones import BACKBONES, cached_file
    from tlkit.cache import Cache
    from tlkit.environment import (
        Clash,
        clashes,
        devices_found,
        gpu_driver_found,
        requirements,
        system_found,
        versions_installed,
    )

    try:
        with _tensorflow_quietly():
            devices = devices_found()
    except ImportError:  # as `devices_found` says; TensorFlow's own lines were printed
        devices = devices_found()
    installed = versions_installed()
    found = clashes(installed, requirements(), gpus=devices["gpus"], gpu_driver=gpu_driver_found())
    if devices["error"] is not None:
        found.insert(0, Clash(f"Keras or TensorFlow cannot be imported: {devices['error']}", "pip install tlkit"))
    if devices["image_data_format"] == "channels_first":
        what = "Keras' image_data_format is channels_first, and pretrained networks are channels_last"
        found.append(Clash(what, "change it in keras.json, or unset KERAS_IMAGE_DATA_FORMAT"))
    kinds: dict[str, dict[str, int]] = defaultdict(lambda: {"entries": 0, "bytes": 0})
    entries = Cache().entries()
    for one in entries:
        kinds[one.kind]["entries"] += 1
        kinds[one.kind]["bytes"] += one.bytes
    return {
        "tlkit": __version__,
        "system": system_found(),
        "devices": devices,
        "packages": installed,
        "cache": {"folder": str(Cache().folder), "bytes": sum(one.bytes for one in entries), "kinds": dict(kinds)},
        "weights": [name for name, one in BACKBONES.items() if cached_file(one)],
        "backbones": len(BACKBONES),
        "clashes": [{"what": one.what, "remedy": one.remedy} for one in found],
    }
