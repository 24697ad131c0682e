"""A sweep on a Ray cluster of two nodes, a worker and then a node of which are killed; jobs that kill their process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rhe_parties.errors import ParameterError
from rhe_parties.runner.scenario import load_scenario
from rhe_parties.sweep.driver import sweep
from rhe_parties.sweep.results import load_sweep
from rhe_parties.transport import Job
from rhe_parties.transport.ray_jobs import RayJobs
from tests.sweep_tools import SerialJobs, request, timeless, write_scenario

# Runs in a process of its own: the cluster, what disturbs it, and the command.
DISTURBED = """
import sys, threading, time
from pathlib import Path
import psutil
from ray.cluster_utils import Cluster
from rhe_parties.cli.main import main

scenario, out = sys.argv[1:]
small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=dict(small))
node = cluster.add_node(**small)

def disturb():
    _wait(2)
    while not any(_busy(process) and _killed(process) for process in psutil.Process().children(recursive=True)):
        pass
    _wait(4)
    print("killed a worker, kills a node", file=sys.stderr)
    cluster.remove_node(node, allow_graceful=False)

def _busy(process):
    try:
        return "ray::run_cell" in " ".join(process.cmdline())
    except psutil.Error:
        return False

def _killed(process):
    process.suspend()  # or it might have finished its cell since it was looked at
    if _busy(process):
        process.kill()
        return True
    process.resume()
    return False

def _wait(cells):
    while len(list(Path(out).glob("cells/*/cell.json"))) < cells:
        time.sleep(0.05)

threading.Thread(target=disturb, daemon=True).start()
main(["sweep", scenario, "-g", "seed=0,1,2", "-g", "victims=1,2,3", "--out", out, "--json",
      "--address", cluster.address])
"""


def test_a_killed_worker_and_a_killed_node_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_scenario(tmp_path)
    # Its own folder for Ray, or `ray.init()` anywhere else on this machine would join the test's cluster.
    folder = tempfile.mkdtemp(prefix="rhe")
    environment = os.environ | {
        "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": folder, "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", DISTURBED, str(file), str(tmp_path / "out")], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    monkeypatch.setattr("rhe_parties.sweep.driver.make_jobs", lambda address, parallel: SerialJobs())
    grid = {"seed": ("0", "1", "2"), "victims": ("1", "2", "3")}
    sweep(request(load_scenario(file), file, tmp_path / "calm", grid))
    try:
        said, errors = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors
    assert "killed a worker, kills a node" in errors
    summary = json.loads(said)
    assert (summary["cells"], summary["finished"], summary["failed"]) == (9, 9, 0)
    disturbed = load_sweep(tmp_path / "out")
    assert timeless(disturbed) == timeless(load_sweep(tmp_path / "calm"))
    assert max(cell.attempts for cell in disturbed.cells) > 1


def _deadly(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_a_job_that_kills_its_process_is_given_up_and_the_others_go_on(ray_session: None) -> None:
    jobs = RayJobs(None, 2, attempts=2)
    ends = {}
    for end in jobs.run(_deadly, [Job(str(n), n, {"num_cpus": 1}) for n in range(4)]):
        ends[end.name] = end
        assert len(jobs._running) <= 2
    assert {name: end.result for name, end in ends.items()} == {"0": 0, "1": 1, "2": None, "3": 9}
    assert ends["2"].attempts == 2
    assert "process or machine died (WorkerCrashedError), 2 times out of 2" in ends["2"].lost
    with pytest.raises(ParameterError, match=r"no machine of the Ray cluster has num_gpus=64 for one cell"):
        next(jobs.run(_deadly, [Job("0", 0, {"num_gpus": 64})]))
    jobs.close()
    import ray

    assert ray.is_initialized()
