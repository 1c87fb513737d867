"""Every reach into what Ray does not promise, with what it buys; without it each says "unknown".

Ray's documented parts are used elsewhere as they are. What is here may change with any version of
Ray: so each function catches that, and a sweep then trains on without what it buys.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import ray
from ray import cloudpickle
from ray.tune.experiment import Trial as TuneTrial

#: What `ray.exceptions` says of a worker that died, of which this is the reason.
_EXIT = re.compile(r"Worker exit detail: (.*?)(?: Some common causes|$)", re.MULTILINE)


@contextmanager
def prompt_tune(*, private: bool) -> Iterator[None]:
    """Buys 1.5 s before the first trial, and on one machine 3 s more.

    Tune counts callbacks for Ray's usage statistics, which are off, and imports MLflow and W&B for
    that where they are installed. And it starts trials with environment variables of its own, for
    other libraries, so that they cannot have the workers that Ray started with itself, which in a
    private Ray have the driver's environment anyway.
    """
    with ExitStack() as undo:
        with suppress(ImportError, AttributeError):
            from ray.air._internal import usage

            undo.enter_context(patch.object(usage, "tag_callbacks", lambda callbacks: False))
        with suppress(ImportError, AttributeError):
            from ray.tune.execution import class_cache

            if private:
                undo.enter_context(patch.object(class_cache, "DEFAULT_ENV_VARS", {}))
                undo.enter_context(patch.object(class_cache, "ENV_VARS_TO_PROPAGATE", set()))
        yield


def read_settings() -> None:
    """Buys a process that has had a Ray of its own a cluster that asks for no token.

    Ray reads the environment once, and again where it starts a Ray of its own, for which it sets
    ``RAY_AUTH_MODE``; it does not look again when it is gone.
    """
    with suppress(Exception):
        raylet: Any = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


@dataclass(frozen=True)
class Error:
    """Why a Tune trial failed.

    Attributes:
        text: what was raised, with its traceback; or what Ray says of the worker's death.
        actor: the worker's actor, in hexadecimal; empty where it is not known.
        memory: Ray ended the worker because the machine was running out of memory.
        died: the worker is gone, rather than that something was raised in it.
    """

    text: str
    actor: str = ""
    memory: bool = False
    died: bool = False

    @property
    def reason(self) -> str:
        """In one line."""
        if self.memory:
            return "the machine was running out of memory"
        if self.died:
            found = _EXIT.search(self.text)
            detail = f": {found[1].strip().rstrip('.')}" if found else ""
            return f"its worker died{detail}"
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        # A class is named with its module: that is for the traceback.
        return re.sub(r"^(?:\w+\.)+(\w+:)", r"\1", lines[-1]) if lines else "no reason is known"


def error_of(trial: TuneTrial) -> Error:
    """Buys the retry its reason: Tune tells no callback what was raised, but keeps it in a file."""
    raised: Any = None
    text = ""
    with suppress(Exception):
        if trial.pickled_error_file is not None:
            with open(trial.pickled_error_file, "rb") as stream:
                raised = cloudpickle.load(stream)  # of this very process
    with suppress(Exception):
        if trial.error_file is not None:
            with open(trial.error_file) as stream:
                text = stream.read()
    if raised is not None:
        text = str(raised)
    known: Any = importlib.import_module("ray.exceptions")
    actor = getattr(raised, "actor_id", None) or getattr(raised, "_actor_id", None) or ""
    return Error(
        text=text,
        actor=actor if isinstance(actor, str) else actor.hex(),
        memory=isinstance(raised, known.OutOfMemoryError) or "running low on memory" in text,
        died=isinstance(raised, known.RayActorError)
        and not getattr(raised, "actor_init_failed", False),
    )


def actor_of(trial: TuneTrial) -> str:
    """Buys `kill` its worker; empty where it is not known."""
    with suppress(Exception):
        handle: Any = trial.temporary_state.ray_actor
        return handle._actor_id.hex()
    return ""


def node_of(actor: str) -> str:
    """Buys the node of a worker that never reported: the id of Ray's node, or an empty text."""
    with suppress(Exception):
        from ray._private import state

        return state.actors(actor)["Address"]["NodeID"]
    return ""


def starting() -> dict[str, str]:
    """Buys a look at workers that do not come up: actors of this job to their nodes."""
    with suppress(Exception):
        from ray._private import state

        job = ray.get_runtime_context().get_job_id()
        return {
            actor["ActorID"]: actor["Address"]["NodeID"]
            for actor in state.actors(actor_state_name="PENDING_CREATION").values()
            if actor["JobID"] == job and actor["Address"]["NodeID"]
        }
    return {}


def resetting(controller: Any) -> list[TuneTrial]:
    """Buys a look at trials that wait for a reused worker to get ready: Tune waits without end."""
    with suppress(Exception):
        return list(getattr(controller, "_tune_controller", controller)._resetting_trials)
    return []


def kill(actor: str) -> bool:
    """Buys an end to a worker that does not answer, also while it starts; whether it was asked."""
    with suppress(Exception):
        from ray._private import worker

        connected: Any = worker.global_worker
        connected.core_worker.kill_actor(ray.ActorID(bytes.fromhex(actor)), True)
        return True
    return False


def not_to_be_had() -> list[str]:
    """Buys the reasons why machines did not come, as the autoscaler knows them."""
    with suppress(Exception):
        from ray.autoscaler.v2.sdk import get_cluster_status

        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        tried = [*status.failed_launches, *status.pending_launches]
        reasons = {launch.ray_node_type_name: launch.details for launch in tried}
        return [f"{kind}: {' '.join(text.split())}" for kind, text in reasons.items() if text]
    return []
