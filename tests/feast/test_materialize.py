from tests.feast.offline import JAN, Offline

USERS = [f"user-{number:03d}" for number in range(20)]


def equal(offline: Offline) -> None:
    for name in offline.views:
        assert offline.online(name) == offline.expected(name), name


def test_the_first_run_brings_data_that_is_years_old(offline, store, now):
    offline.publish(offline.month(JAN, USERS))
    store.materialize_incremental(now)
    assert len(offline.online("usage_features")) == 20
    equal(offline)
