"""The engine is called from several threads and event loops at once, while snapshots come and go."""

import random
import sys
import threading
from collections import Counter

from engine_world import OK, RESET, cluster, endpoints, forward, request, world

from proxyless.engine.engine import Engine
from proxyless.engine.steps import Answered, Attempt
from proxyless.model.cluster import LoadBalancer
from proxyless.model.route import RetryPolicy

POLICY = RetryPolicy(frozenset({"reset"}), num_retries=1, back_off_base=0.0, retry_other_host=True)


def test_nothing_is_lost_between_threads() -> None:
    decide = Engine(rng=random.Random(1))
    hosts = endpoints(8)
    snapshots = [
        world(forward(retry=POLICY), clusters=[cluster(hosts=hosts[:count], load_balancer=balancer)])
        for count in (4, 8)
        for balancer in LoadBalancer
    ]
    seen: list[Counter[int | None]] = []
    wrong: list[BaseException] = []

    def work(number: int) -> None:
        try:
            rng, statuses = random.Random(number), Counter[int | None]()
            for _ in range(150):
                call = decide.call(rng.choice(snapshots), request())
                while (step := call.next_step()) is not None:
                    if isinstance(step, Attempt):
                        call.report(RESET if rng.random() < 0.3 else OK)
                call.finish()
                statuses[call.record.status] += 1
            seen.append(statuses)
        except BaseException as error:
            wrong.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    assert sum(sum(statuses.values()) for statuses in seen) == 900
    assert all(set(statuses) <= {200, 503} for statuses in seen)
    assert [decide.active_requests("v1", host.key) for host in hosts] == [0] * 8


def test_round_robin_is_exact_over_threads() -> None:
    decide, hosts = Engine(rng=random.Random(1)), endpoints(4)
    snapshot = world(forward(), clusters=[cluster(hosts=hosts)])
    decide.call(snapshot, request()).next_step()
    counts: Counter[int] = Counter()
    guard = threading.Lock()

    def work() -> None:
        mine: Counter[int] = Counter()
        for _ in range(200):
            call = decide.call(snapshot, request())
            step = call.next_step()
            assert isinstance(step, Attempt)
            mine[step.endpoint.port] += 1
            call.report(Answered(200, []))
            call.finish()
        with guard:
            counts.update(mine)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert counts == {host.port: 200 for host in hosts}
