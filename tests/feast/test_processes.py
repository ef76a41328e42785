"""A FeatureStore in several event loops, processes and forks: notebooks, pools, data loaders."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest
from feast import FeatureStore

from tests.feast.conftest import REPO, ROOT
from tests.feast.offline import JAN, Offline

USERS = [f"user-{number:03d}" for number in range(20)]
SERVICE = "all_features"


@pytest.fixture
def used(offline: Offline, store: FeatureStore, now) -> FeatureStore:
    """January of 20 users is online, and the store has read it."""
    offline.publish(offline.month(JAN, USERS))
    store.materialize_incremental(now)
    assert read(store, USERS[0])["user_id"] == [USERS[0]]
    return store


def read(store: FeatureStore, user: str) -> dict[str, list[Any]]:
    service = store.get_feature_service(SERVICE)
    return store.get_online_features(service, [{"user_id": user}]).to_dict()


def read_all(store: FeatureStore) -> list[dict[str, list[Any]]]:
    """Everybody, many times and side by side: answers of a shared socket would be mixed up."""
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(lambda user: read(store, user), USERS * 5))


# Without `await store.close()`, as people write it.
LOOPS = """
import asyncio, json, sys, threading

from feast import FeatureStore

from data.database import Database

store = FeatureStore(repo_path=sys.argv[1])
service = store.get_feature_service("all_features")
users = [f"user-{number:03d}" for number in range(20)]


async def one(user):
    answer = await store.get_online_features_async(service, [{"user_id": user}])
    return answer.to_dict()["user_id"][0]


async def all_of_them():
    return await asyncio.gather(*map(one, users)) == users


async def cancelled():
    reads = [asyncio.create_task(one(user)) for user in users]
    await asyncio.sleep(0.005)
    reads[0].cancel()
    await asyncio.wait_for(asyncio.gather(*reads, return_exceptions=True), 20)
    return await all_of_them()


async def left_running():
    for user in users:
        asyncio.create_task(one(user))
    await asyncio.sleep(0.005)
    return True


def by_hand():  # a loop that is closed with nothing else done
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(all_of_them())
    finally:
        loop.close()


def open_now():
    with Database().connect() as connection:
        row = connection.execute(
            "select count(*) from pg_stat_activity where application_name = 'streamflow feast'"
            " and datname = current_database()"
        ).fetchone()
        return row[0]


asyncio.run(all_of_them())
before, threads = open_now(), threading.active_count()
done = [asyncio.run(work()) for _ in range(4) for work in (all_of_them, cancelled, left_running)]
done += [by_hand(), by_hand(), asyncio.run(all_of_them())]
print(json.dumps([all(done), open_now() - before, threading.active_count() - threads]))
"""


def test_reads_in_many_loops_end_with_each_and_leave_nothing(used: FeatureStore) -> None:
    """The loop's end waited for ever for a pool that was still opening connections."""
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-X", "dev", "-c", LOOPS, str(REPO)],
        cwd=ROOT, env=os.environ.copy(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [True, 0, 0]
    assert "was deleted while still open" not in done.stderr


def test_a_used_store_is_pickled_as_its_configuration(
    used: FeatureStore, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    assert used.config.offline_store.password
    packed = pickle.dumps(used)
    assert b"password" not in packed
    monkeypatch.chdir(tmp_path)
    for again in (pickle.loads(packed), copy.deepcopy(used)):
        assert again.repo_path == REPO
        assert again.config.registry_config == used.config.registry_config
        assert read_all(again) == read_all(used)


def test_a_pool_of_new_processes_reads_side_by_side(used: FeatureStore) -> None:
    expected = read_all(used)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        parts = [pool.submit(read_all, used) for _ in range(2)]
        assert read_all(used) == expected
        assert [part.result(120) for part in parts] == [expected] * 2


def _in_a_fork(store: FeatureStore, answers: Any) -> None:
    answers.put(read_all(store))


def test_a_fork_reads_beside_its_parent_with_sockets_of_its_own(
    used: FeatureStore, offline: Offline
) -> None:
    expected = read_all(used)

    def backends() -> set[int]:
        with offline.connect() as connection:
            query = (
                "select pid from pg_stat_activity where application_name = 'streamflow feast'"
                " and datname = current_database()"
            )
            return {pid for (pid,) in connection.execute(query)}

    before = backends()
    assert before
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    children = [context.Process(target=_in_a_fork, args=(used, answers)) for _ in range(3)]
    for child in children:
        child.start()
    assert read_all(used) == expected
    assert [answers.get(timeout=60) for _ in children] == [expected] * 3
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    assert before <= backends()  # no child closed what is its parent's
    assert read_all(used) == expected
