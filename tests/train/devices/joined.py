"""One of several processes of a run that joins the others and then does one thing.

python joined.py PORT PROCESSES INDEX WHAT
"""

import dataclasses
import os
import signal
import sys
import threading
import time
from pathlib import Path

from lostjax.errors import ConfigError
from lostjax.train.config.presets import get_preset
from lostjax.train.config.schema import HostsConfig
from lostjax.train.devices import agreement, joining, lifeline, waiting
from lostjax.train.devices.agreement import check_same, check_same_flags, check_shared
from lostjax.train.devices.hosts import (
    finish_with_hosts,
    leave_hosts,
    leaving_without_the_others,
)

port, processes, index = map(int, sys.argv[1:4])
what = sys.argv[4]
hosts = HostsConfig(f"127.0.0.1:{port}", processes, index)
if what == "alone":
    hosts = dataclasses.replace(hosts, wait=3)
if what.endswith("in a cluster"):  # as Open MPI starts it
    hosts = HostsConfig()
    os.environ |= {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://127.0.0.1:1",
        "OMPI_COMM_WORLD_SIZE": str(processes),
        "OMPI_COMM_WORLD_RANK": str(index),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(index),
    }
if what == "alone" or what.startswith("interrupted"):
    waiting.FIRST_SECONDS, waiting.EACH_SECONDS = 1.0, 1.0
    # Ignored in a process that a shell starts in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
lifeline.PATIENCE_SECONDS = 1.0
if what == "freezes":
    joining.SILENT_SECONDS, lifeline._SIGN_SECONDS = 4, 0.5


def act() -> None:
    seed = index if what == "another seed" else 0
    own = {"cache_dir": f"/cache/{index}"}  # may differ
    config = dataclasses.replace(get_preset("smoke"), seed=seed, hosts=hosts)
    data = dataclasses.replace(config.data, **own)
    check_same_flags(dataclasses.replace(config, data=data))
    print("agreed", flush=True)
    if index == {"dies": 0, "dies in a cluster": 1}.get(what):
        os.kill(os.getpid(), signal.SIGKILL)
    if index == 1 and what == "freezes":
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "dies at its end":
        finish_with_hosts() if index else time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL if index else 0)
        return
    if index == 1 and what == "refuses":
        raise ConfigError("no text here")
    if index == 1 and what == "fails":
        raise TypeError("a fault of the program")
    if what == "interrupted for a text":
        if index:
            time.sleep(60)
        threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    if what == "does not share":
        agreement._SEEN_SECONDS = 0.2
        check_shared(Path("/proc/sys/kernel" if index == 0 else "/no/such") / "ostype")
    check_same("data", {})


try:
    with leaving_without_the_others():
        joining.join_hosts(hosts)
    with leaving_without_the_others(lambda: print("last", flush=True)):
        act()
except ConfigError as error:
    print(error, file=sys.stderr)
    sys.exit(leave_hosts(2))
except KeyboardInterrupt:
    sys.exit(leave_hosts(130))
finish_with_hosts()
