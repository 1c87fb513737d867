"""What a cloud's machine runs from its boot on, so that it ends by itself (``guard.sh``).

Keys of ``provider`` in a cluster's file that it follows:

    idle_minutes: {head: 60, worker: 20}, without work before a machine ends itself.
    max_hours: that no machine outlives.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

_IDLE_MINUTES = {"head": 60, "worker": 20}
_MAX_HOURS = 168

_SCRIPT = Path(__file__).with_name("guard.sh")

#: systemd's own unit outlasts the one that runs a boot's scripts.
_START = """#!/bin/sh
guard=$(mktemp /run/sparseae-guard.XXXXXX)
cat > "$guard" <<'GUARD'
{script}GUARD
set -- sh "$guard" {idle:.0f} {life:.0f} {end}
if [ -d /run/systemd/system ]; then
    systemd-run --unit=sparseae-guard "$@"
else
    nohup setsid "$@" >"$guard.log" 2>&1 &
fi
"""


def boot_script(config: Mapping[str, Any], role: str, end: str = "'shutdown -h now'") -> str:
    """What a machine runs as root when it boots.

    Args:
        config: of the cluster.
        role: ``head`` or ``worker``.
        end: the shell word that ends the machine.

    Raises:
        click.ClickException: in one line, where ``idle_minutes`` or ``max_hours`` is no time, or
            a worker would end before the autoscaler ends it.
    """
    provider = config["provider"]
    idle = provider.get("idle_minutes", _IDLE_MINUTES)
    if not isinstance(idle, Mapping) or set(idle) - set(_IDLE_MINUTES):
        raise click.ClickException(
            f"provider.idle_minutes: must be as {{head: 60, worker: 20}}, not {idle!r}"
        )
    minutes = {
        name: _positive(f"idle_minutes.{name}", idle.get(name, usual))
        for name, usual in _IDLE_MINUTES.items()
    }
    autoscaler = config.get("idle_timeout_minutes", 5)
    if minutes["worker"] <= autoscaler:
        raise click.ClickException(
            f"provider.idle_minutes.worker: {minutes['worker']:g} must be more than "
            f"idle_timeout_minutes ({autoscaler:g}), after which the autoscaler ends a worker"
        )
    hours = _positive("max_hours", provider.get("max_hours", _MAX_HOURS))
    return _START.format(
        script=_SCRIPT.read_text(), idle=60 * minutes[role], life=3600 * hours, end=end
    )


def _positive(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise click.ClickException(f"provider.{key}: must be a number above 0, not {value!r}")
    return float(value)
