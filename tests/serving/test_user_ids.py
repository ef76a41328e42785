"""One rule for user ids: what the loader takes, the API answers about, by every way there is."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import quote

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from data.contract import USER, is_user_id
from data.database import Database
from serving.main import create_app
from serving.settings import Settings
from tests.serving.hand_made import AS_OF, running

GOOD = [
    "müller/1 a", "a/history", "/", "../x", "...", ".a", "a.", "..a", "anna@example.com", "名前",
    "a%2Fb", "a+b", "it's", 'say "hi"', "a?b=c#d", "a;b", "-x", "\\", "e\u0301", "😀", "x" * 200,
]  # fmt: skip
BAD = [
    "", " ", " a", "a ", "\u3000a", "a\u00a0", "a\x00b", "a\nb", "a\tb", "\x7f", "a\u2028b", ".",
    "..", "x" * 201, "\ufeffa",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD + BAD)
def test_the_rule_means_the_same_to_python_and_to_the_fast_reader(text: str) -> None:
    wanted = text in GOOD
    assert is_user_id(text) == wanted
    fast = pc.match_substring_regex(pa.array([text]), f"^(?:{USER.pattern})$")[0].as_py()
    assert (fast and len(text) <= 200) == wanted
    assert (bool(re.fullmatch(USER.pattern, text)) and len(text) <= 200) == wanted


def test_every_id_is_answered_about_by_every_way(own_online: Database) -> None:
    with own_online.connect() as connection:
        for number, user in enumerate(GOOD):
            connection.execute(
                "insert into online.plan_features (user_id, monthly_fee, as_of)"
                " values (%s, %s, %s)",
                [user, number, AS_OF],
            )
            connection.execute(
                "insert into published.plan_features_latest (user_id, monthly_fee, as_of, known_at)"
                " values (%s, %s, %s, %s)",
                [user, number, AS_OF, AS_OF],
            )

    async def run() -> None:
        async with running(create_app(Settings(), own_online)) as client:
            for number, user in enumerate(GOOD):
                path = f"/features/{quote(user, safe='')}"
                one = (await client.get(path)).json()
                assert (one["user_id"], one["features"]["monthly_fee"]) == (user, number)
                past = (await client.get(f"{path}/history")).json()
                assert past["user_id"] == user
                assert [v["features"]["monthly_fee"] for v in past["views"]["plan_features"]] == [
                    number
                ]
            many = (await client.post("/features", json={"user_ids": GOOD})).json()
            assert [one["user_id"] for one in many["results"]] == GOOD
            assert [one["features"]["monthly_fee"] for one in many["results"]] == [
                *range(len(GOOD))
            ]

    asyncio.run(run())


def test_no_bad_id_gets_through(online: Database) -> None:
    async def run() -> list[httpx.Response]:
        async with running(create_app(Settings(), online)) as client:
            answers = []
            for user in BAD:
                path = f"/features/{quote(user, safe='').replace('.', '%2E')}"
                answers.append(await client.post("/features", json={"user_ids": [user]}))
                if user:
                    answers += [await client.get(path), await client.get(f"{path}/history")]
            return answers

    answers = asyncio.run(run())
    assert {a.status_code for a in answers} == {422}
