"""Two processes with a real network between them on one machine: namespaces, a veth pair, and a token bucket (tbf).

Each end has a namespace and an address of its own, so that gloo's TCP crosses the link; tbf shapes what leaves either
end. Needs root and the tools ip and tc. The bucket's burst hides shaping of transfers below about 128 KiB.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from types import TracebackType

from thrifty.core.errors import ThriftyError

NAMES = ("thrifty-0", "thrifty-1")
DEVICES = ("thrifty-veth0", "thrifty-veth1")
ADDRESSES = ("10.207.113.1", "10.207.113.2")
BURST = "128kb"


class LinkError(ThriftyError):
    """A shaped link that cannot be made here."""


def unavailable() -> str:
    """Why there can be no shaped link here; empty where there can be one."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    absent = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if absent:
        return f"{' and '.join(absent)} not found: install iproute2"
    try:
        with ShapedLink("1gbit"):
            return ""
    except LinkError as error:
        return str(error)


class ShapedLink:
    """Two namespaces with a link of `rate` between them, as long as it is entered.

    Args:
        rate: of each direction, as tc writes it: `1gbit`, `100mbit`.
    """

    def __init__(self, rate: str) -> None:
        self.rate = rate

    def __enter__(self) -> ShapedLink:
        self._remove()
        try:
            for name in NAMES:
                _run("ip", "netns", "add", name)
            _run("ip", "link", "add", DEVICES[0], "netns", NAMES[0], "type", "veth", "peer", "name", DEVICES[1],
                 "netns", NAMES[1])  # fmt: skip
            for name, device, address in zip(NAMES, DEVICES, ADDRESSES, strict=True):
                inside = ("ip", "netns", "exec", name)
                _run(*inside, "ip", "address", "add", f"{address}/24", "dev", device)
                _run(*inside, "ip", "link", "set", "lo", "up")
                _run(*inside, "ip", "link", "set", device, "up")
                _run(*inside, "tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", self.rate, "burst", BURST,
                     "latency", "50ms")  # fmt: skip
                _settle_congestion(inside)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def inside(self, rank: int) -> list[str]:
        """Words before a command that put it into the namespace of a rank."""
        return ["ip", "netns", "exec", NAMES[rank]]

    def environment(self, rank: int) -> dict[str, str]:
        """Variables that make gloo use the link; the master is rank 0."""
        return {"MASTER_ADDR": ADDRESSES[0], "GLOO_SOCKET_IFNAME": DEVICES[rank]}

    @staticmethod
    def _remove() -> None:
        for name in NAMES:  # the veth pair goes with them
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _settle_congestion(inside: tuple[str, ...]) -> None:
    """Take TCP's congestion control off schemes such as bbr, which measure the path for seconds to find its speed."""
    for scheme in ("cubic", "reno"):  # not every machine lets a namespace have cubic
        try:
            _run(*inside, "sysctl", "-q", "-w", f"net.ipv4.tcp_congestion_control={scheme}")
        except LinkError:
            continue
        return


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[0]
        raise LinkError(f"{' '.join(words)}: {reason}")
