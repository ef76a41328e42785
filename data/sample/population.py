"""The generated users of one chunk: who they are, how they live through a month, who leaves."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa

from data.sample.rows import DAY, MISSING, NEVER, Rows, digits, texts

SIGNUPS = 0.04  # new users a month, as a share of the first drop's
CONTRACTS = ["Month-to-month", "One year", "Two year"]
SERVICES = ["Fiber optic", "DSL", "No"]
NAMES = 10_000 * 26**5  # dddd-LLLLL
CHUNK_OF_NAMES = 1_000_000


class Population:
    """Users of chunk `number`; arrays are by position in the chunk.

    The order of calls is: for each period `live`, then its events; at a drop `decide_who_leaves`.
    """

    def __init__(
        self, users: int, drops: list[date], sessions: float, seed: int, number: int
    ) -> None:
        self.key = [seed, number]
        self.rng = rng = np.random.default_rng([*self.key, 0])
        new = [rng.binomial(users, SIGNUPS) for _ in drops[1:]]
        n = self.size = users + sum(new)
        days = [(drop - date(1970, 1, 1)).days for drop in drops]
        age = np.clip(rng.exponential(500, users).astype(np.int64), 1, 1_100)
        joined = [
            rng.integers(start, end, count)
            for start, end, count in zip(days, days[1:], new, strict=False)
        ]
        self.signup = np.concatenate([days[0] - age, *joined])  # days since 1970
        self.names = _names(np.arange(n) + number * CHUNK_OF_NAMES)

        self.gender = _missing(rng, rng.integers(0, 2, n))
        self.senior = _missing(rng, rng.random(n) < 0.16)
        self.family = _missing(rng, rng.random(n) < 0.48)
        self.dependents = _missing(rng, rng.random(n) < 0.30)
        self.service = rng.choice(3, n, p=[0.44, 0.34, 0.22])
        self.contract = rng.choice(3, n, p=[0.55, 0.21, 0.24])
        self.tv, self.movies, self.paperless = rng.random((3, n)) < [[0.5], [0.5], [0.6]]
        base = np.array([7_000, 4_500, 2_000])[self.service]
        plans = 1_000 * (self.tv.astype(int) + self.movies) * (self.service != 2)
        self.fee = base + plans + 5 * rng.integers(-100, 100, n)  # cents

        self.rate = rng.gamma(4, sessions / 4, n)  # sessions in 30 days
        self.minutes = rng.lognormal(3.6, 0.4, n)  # a session
        self.devices = 1 + rng.binomial(3, 0.35, n)
        self.bad_card = rng.random(n) < 0.07
        self.complains = rng.gamma(0.8, 0.1, n)  # tickets in 30 days
        self.engagement = np.ones(n)
        self.fading = np.zeros(n, bool)
        self.left = np.zeros(n, bool)
        self.failures = np.zeros((3, n), np.int64)  # in each of the last three periods
        self.tickets = np.zeros((3, n), np.int64)
        self.next_id = {"usage": 0, "payments": 0, "support": 0}

    def live(self, period: int, start: date, end: date) -> None:
        """Begin the period [start, end): some users fade, some come back."""
        rng = self.rng = np.random.default_rng([*self.key, 1 + period])
        self.start, self.end = ((day - date(1970, 1, 1)).days for day in (start, end))
        luck = rng.random(self.size)
        self.fading = np.where(self.fading, luck > 0.12, luck < 0.07)
        self.engagement = np.where(self.fading, 0.5 * self.engagement, 0.4 + 0.6 * self.engagement)
        # The first day of the period as a user; from `end` on: not yet, or no longer.
        self.first = np.where(self.left, self.end, np.clip(self.signup, self.start, self.end))
        self.share = (self.end - self.first) / 30.0

    def usage(self) -> Rows:
        """Viewing sessions of the period, most of them in the evening."""
        rng = self.rng
        user = np.repeat(
            np.arange(self.size), rng.poisson(self.rate * self.engagement * self.share)
        )
        n = len(user)
        hour = np.mod(rng.normal(20.0, 3.0, n), 24.0)
        time = self._days(user) * DAY + np.minimum((hour * 3.6e9).astype(np.int64), DAY - 1)
        mean = self.minutes[user] * (0.5 + 0.5 * self.engagement[user])
        hundredths = np.minimum(rng.gamma(2.0, mean / 2.0) * 100, 72_000).astype(np.int64)
        device = user * 4 + rng.integers(0, self.devices[user])
        values = {
            "device": np.where(rng.random(n) < 0.015, MISSING, device),
            "hundredths": hundredths,  # of a minute
            "skips": np.where(rng.random(n) < 0.01, MISSING, rng.poisson(1.2, n)),
            "rebuffers": np.where(rng.random(n) < 0.01, MISSING, rng.poisson(0.5, n)),
        }
        return self._rows("usage", user, time, values)

    def support_and_payments(self) -> list[Rows]:
        """Payment attempts (one bill a period, one retry three days later) and tickets."""
        rng = self.rng
        user = np.flatnonzero(rng.random(self.size) < self.share)
        time = self._days(user) * DAY + rng.integers(0, DAY, len(user))
        failed = rng.random(len(user)) < np.where(self.bad_card[user], 0.4, 0.025)
        retry = time[failed] + 3 * DAY
        retried = retry < self.end * DAY
        payers = np.concatenate([user, user[failed][retried]])
        again = rng.random(retried.sum()) < 0.5
        failed = np.concatenate([failed, again]).astype(np.int64)
        values = {"cents": self.fee[payers], "failed": failed}
        payments = self._rows("payments", payers, np.concatenate([time, retry[retried]]), values)

        mean = self.complains * np.where(self.fading, 2.5, 1.0) * self.share
        user = np.repeat(np.arange(self.size), rng.poisson(mean))
        n = len(user)
        opened = self._days(user) * DAY + rng.integers(0, DAY, n)
        hours = np.where(rng.random(n) < 0.06, rng.uniform(100, 1_000, n), rng.gamma(4, 2.5, n))
        resolved = opened + 1 + (hours * 3.6e9).astype(np.int64)
        category = rng.integers(0, 4, n) + 4 * (rng.random(n) < 0.3)
        values = {
            "resolved_at": np.where(rng.random(n) < 0.02, NEVER, resolved),
            "category": category,
        }
        support = self._rows("support", user, opened, values)

        for counts, users in ((self.failures, payers[failed == 1]), (self.tickets, support.user)):
            counts[:2] = counts[1:]
            counts[2] = np.bincount(users, minlength=self.size)
        return [payments, support]

    def listed(self, day: date) -> np.ndarray:
        """Who is a user at the drop of `day`."""
        return ~self.left & (self.signup < (day - date(1970, 1, 1)).days)

    def decide_who_leaves(self, listed: np.ndarray) -> np.ndarray:
        """Who of the listed users is gone by the next drop; sets `left`."""
        score = (
            -4.3
            + 3.2 * (1 - np.minimum(self.engagement, 1))
            + 1.1 * np.minimum(self.failures.sum(0), 3)
            + 0.7 * np.minimum(self.tickets.sum(0), 4)
            + np.array([0.4, -0.6, -1.2])[self.contract]
        )
        leaves = listed & (self.rng.random(self.size) < 1 / (1 + np.exp(-score)))
        self.left |= leaves
        upgrades = self.rng.random(self.size) < 0.01
        self.next_contract = np.where(upgrades, np.minimum(self.contract + 1, 2), self.contract)
        return leaves

    def state(self, day: date, listed: np.ndarray, leaves: np.ndarray) -> dict[str, pa.Table]:
        """Table name -> the state tables of the drop of `day`, one row a listed user."""
        who = np.flatnonzero(listed)
        user_id = texts(self.names[who])
        signup = pa.array(self.signup[who].astype("datetime64[D]"))
        months = ((day - date(1970, 1, 1)).days - self.signup[who]) * 12 // 365
        no_plan = self.service[who] == 2
        users = [
            user_id,
            signup,
            pa.array(["Female", "Male"]).take(_nullable(self.gender[who])),
            *(
                _nullable(c[who]).cast(pa.bool_())
                for c in (self.senior, self.family, self.dependents)
            ),
        ]
        subscriptions = [
            user_id,
            pa.array(months),
            pa.array(self.tv[who], mask=no_plan),
            pa.array(self.movies[who], mask=no_plan),
            pa.array(CONTRACTS).take(pa.array(self.contract[who])),
            pa.array(self.paperless[who]),
            pa.array(self.fee[who] / 100),
            pa.array(self.fee[who] * months / 100),
            pa.array(SERVICES).take(pa.array(self.service[who])),
        ]
        labels = [user_id, pa.array(leaves[who])]
        self.contract = self.next_contract
        tables = {"users": users, "subscriptions": subscriptions, "labels": labels}
        return {
            name: pa.table(columns, names=[str(n) for n in range(len(columns))])
            for name, columns in tables.items()
        }

    def _days(self, user: np.ndarray) -> np.ndarray:
        """A random day of the period for each user, not before signup."""
        first = self.first[user]
        return first + (self.rng.random(len(user)) * (self.end - first)).astype(np.int64)

    def _rows(
        self, table: str, user: np.ndarray, time: np.ndarray, values: dict[str, np.ndarray]
    ) -> Rows:
        first = self.next_id[table]
        self.next_id[table] += len(user)
        order = np.argsort(time, kind="stable")
        rows = Rows(table, np.arange(first, first + len(user)), user, time, values).where(order)
        return Rows(table, np.sort(rows.id), rows.user, rows.time, rows.values)


def _missing(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """The values as int64, one in a hundred missing."""
    return np.where(rng.random(len(values)) < 0.01, MISSING, values.astype(np.int64))


def _nullable(values: np.ndarray) -> pa.Array:
    return pa.array(values, mask=values == MISSING)


def _names(numbers: np.ndarray) -> np.ndarray:
    """Names such as 7590-VHVEG, all different, as a matrix of bytes (len(numbers), 10)."""
    scattered = numbers * 71_236_948_713 % NAMES  # coprime to NAMES, product below 2**63
    letters = scattered[:, None] // 26 ** np.arange(4, -1, -1, dtype=np.int64) % 26 + ord("A")
    dash = np.full((len(numbers), 1), ord("-"))
    return np.concatenate([digits(scattered // 26**5, 4), dash, letters], axis=1).astype(np.uint8)
