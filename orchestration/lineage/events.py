"""OpenLineage events of the steps: what was read and written, column by column, and its tests.

Off unless one of the client's own environment variables says where events go: OPENLINEAGE_URL, or
OPENLINEAGE_CONFIG and OPENLINEAGE__TRANSPORT__* (a file, HTTP, Kafka). OPENLINEAGE_NAMESPACE names
the jobs' namespace (streamflow). A step never fails because its events could not be sent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

SWITCHES = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG")
PREFIX = "OPENLINEAGE__TRANSPORT"


def wanted() -> bool:
    """Whether the environment says where events go."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return False
    return any(os.environ.get(name) for name in SWITCHES) or any(
        name.startswith(PREFIX) for name in os.environ
    )


class Run:
    """One run of a step. What it `tells` is worked out when it has ended, if events are wanted."""

    def __init__(self) -> None:
        self.told: tuple[Callable[..., Any], tuple[Any, ...]] | None = None

    def tells(self, datasets: Callable[..., Any], *about: Any) -> None:
        """What was read and written: `datasets` of these gives two lists."""
        self.told = (datasets, about)


@contextmanager
def emitted(job: str, tests: Callable[[datetime], Any] | None = None) -> Iterator[Run]:
    """Send START, and COMPLETE or FAIL at the end, for what runs inside. `tests` gives, of what
    began at an instant, the tested datasets with their assertions; they go with either end."""
    run = Run()
    if not wanted():
        yield run
        return
    sender = _Sender(job)
    sender.send("START")
    began = datetime.now(timezone.utc)
    try:
        yield run
    except BaseException as error:
        sender.send("FAIL", error=error, tested=tests and (tests, (began,)))
        raise
    sender.send("COMPLETE", run.told, tested=tests and (tests, (began,)))


class _Sender:
    """The events of one run."""

    def __init__(self, job: str) -> None:
        from openlineage.client.uuid import generate_new_uuid

        self.job, self.run_id = job, str(generate_new_uuid())

    def send(
        self,
        state: str,
        told: Any = None,
        *,
        error: BaseException | None = None,
        tested: Any = None,
    ) -> None:
        """Send an event; what goes wrong with that is said on stderr, and no more."""
        inputs: list[Any] = []
        outputs: list[Any] = []
        try:
            if told:
                inputs, outputs = told[0](*told[1])
            if tested:
                inputs = inputs + tested[0](*tested[1])
        except Exception as trouble:  # a failed step may have left nothing to tell of
            self._say(f"{state} of {self.job} says less than it could", trouble)
        try:
            self._send(state, inputs, outputs, error)
        except Exception as trouble:
            self._say(f"{state} of {self.job} was not sent", trouble)

    def _say(self, what: str, trouble: Exception) -> None:
        said = " ".join(f"{type(trouble).__name__}: {trouble}".split())[:300]
        print(f"OpenLineage: {what}: {said}", file=sys.stderr)

    def _send(
        self, state: str, inputs: list[Any], outputs: list[Any], error: BaseException | None
    ) -> None:
        from openlineage.client import OpenLineageClient
        from openlineage.client.event_v2 import Job, RunEvent, RunState
        from openlineage.client.event_v2 import Run as RunOf
        from openlineage.client.facet_v2 import error_message_run, job_type_job, set_producer

        from orchestration.lineage.facets import PRODUCER

        set_producer(PRODUCER)
        facets: dict[str, Any] = {}
        if error is not None:
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(
                message=str(error)[:2000], programmingLanguage="PYTHON"
            )
        namespace = os.environ.get("OPENLINEAGE_NAMESPACE") or "streamflow"
        kind = job_type_job.JobTypeJobFacet(
            processingType="BATCH", integration="STREAMFLOW", jobType="STEP"
        )
        client = OpenLineageClient()
        client.emit(
            RunEvent(
                eventType=RunState[state],
                eventTime=datetime.now(timezone.utc).isoformat(),
                run=RunOf(self.run_id, facets),
                job=Job(namespace, self.job, {"jobType": kind}),
                producer=PRODUCER,
                inputs=inputs,
                outputs=outputs,
            )
        )
        client.close(2)
