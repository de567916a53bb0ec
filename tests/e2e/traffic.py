"""A service of two instances, and steady requests to it while something goes wrong."""

import threading

import httpx2
from local_mesh import LocalMesh, answer, until

import proxyless


class Traffic:
    """Requests from a few threads until stopped; what failed is kept."""

    def __init__(self, mesh: proxyless.Mesh, url: str, threads: int = 4) -> None:
        self.failures: list[str] = []
        self.pids: list[int] = []
        self._stop = threading.Event()
        self._client = httpx2.Client(transport=mesh.transport())
        self._threads = [threading.Thread(target=self._run, args=(url,)) for _ in range(threads)]

    def _run(self, url: str) -> None:
        while not self._stop.is_set():
            try:
                found = self._client.get(url)
                if found.status_code == 200:
                    self.pids.append(found.json()["pid"])
                else:
                    self.failures.append(f"{found.status_code} {found.headers.get('x-proxyless-reason')}")
            except httpx2.HTTPError as error:
                self.failures.append(repr(error))

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        self.more(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def more(self, count: int) -> None:
        """Wait until ``count`` more requests have been answered."""
        goal = len(self.pids) + len(self.failures) + count
        until(f"{count} more answers", lambda: True if len(self.pids) + len(self.failures) >= goal else None)


def start_two(local: LocalMesh, *arguments: str) -> proxyless.Mesh:
    """A control plane with these arguments, ``hello`` twice, and a mesh that has met both."""
    local.start_control_plane(*arguments)
    local.serve("one", "hello:app", "hello")
    local.serve("two", "hello:app", "hello")
    mesh = local.mesh()
    both = {local.processes.pid("one"), local.processes.pid("two")}
    with httpx2.Client(transport=mesh.transport()) as client:

        def answered() -> bool | None:
            answers = [answer(client) for _ in range(6)]
            return True if {a.json()["pid"] for a in answers if a} == both else None

        until("both instances", answered)
    return mesh
