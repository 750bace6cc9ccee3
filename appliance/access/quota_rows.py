# SPDX-License-Identifier: Apache-2.0
"""The buckets that replicas share, in PostgreSQL: one row for each, changed by one statement.

A row has ``level``, what was in the bucket at the moment ``filled_at``, and ``lent``, all that
replicas have taken ahead and not told of since; after ``lent_until`` none of that is good any more.
Moments are Unix seconds by the database's clock, so that the replicas' clocks do not matter.
"""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import text

from appliance.access.sharing import ALLOTMENT_SECONDS, Allotted, Exchange
from appliance.database import Database

__all__ = ["exchange"]

# Level and lent together are never more than the limit, so that no allotment is out beside a full
# bucket. A clock that was set back by more than a statement may wait for its turn is followed.
_EXCHANGE = text("""
WITH asked AS (
    SELECT CAST(:limit AS double precision) AS most,
           CAST(:need AS double precision) AS need,
           CAST(:ahead AS double precision) AS ahead,
           CAST(:change AS double precision) AS change,
           CAST(:size AS double precision) AS size,
           CAST(:unused AS double precision) AS unused,
           CAST(:until AS double precision) AS until
), found AS (
    SELECT level, filled_at, lent, lent_until,
           CAST(extract(epoch FROM clock_timestamp()) AS double precision) AS clock
    FROM quotas WHERE token_id = :token_id AND kind = :kind FOR UPDATE
), timed AS (
    SELECT level, filled_at, lent, lent_until,
           CASE WHEN clock < filled_at - 10 THEN clock ELSE greatest(clock, filled_at) END AS now
    FROM found
), filled AS (
    SELECT now, lent_until,
           least(
               least(
                   level + greatest(least(now, lent_until) - filled_at, 0) * most / 60,
                   most - lent
               ) + greatest(now - greatest(filled_at, lent_until), 0) * most / 60,
               most
           ) AS level,
           CASE WHEN now > lent_until THEN 0 ELSE lent END AS lent,
           CASE WHEN now <= until THEN size ELSE 0 END AS ended,
           CASE WHEN now <= until THEN change + unused ELSE change END AS put
    FROM timed, asked
), settled AS (
    SELECT now, lent_until, greatest(lent - ended, 0) AS lent,
           least(level + put, most - greatest(lent - ended, 0)) AS level
    FROM filled, asked
), taken AS (
    SELECT now, lent_until, lent, level >= least(need, most) - 1e-6 AS is_there, level
    FROM settled, asked
), allotted AS (
    SELECT now, lent_until, lent, is_there,
           CASE WHEN is_there THEN level - need ELSE level END AS level,
           CASE WHEN is_there THEN greatest(least(ahead, floor((level - need) / 2)), 0)
                ELSE 0 END AS more
    FROM taken, asked
)
UPDATE quotas
SET level = allotted.level - more,
    filled_at = now,
    lent = allotted.lent + more,
    lent_until = CASE WHEN more > 0 THEN now + :seconds ELSE allotted.lent_until END
FROM allotted
WHERE token_id = :token_id AND kind = :kind
RETURNING is_there, more, quotas.lent_until, quotas.level
""")

_MAKE = text("""
INSERT INTO quotas (token_id, kind, level, filled_at, lent, lent_until)
VALUES (:token_id, :kind, :limit, extract(epoch FROM clock_timestamp()), 0, 0)
ON CONFLICT DO NOTHING
""")


async def exchange(database: Database, wanted: Exchange) -> Allotted:
    """Give back to a bucket and take from it; one that is new is full.

    Raises:
        StoreUnavailable: The database cannot be reached.
    """
    values = asdict(wanted) | {"seconds": ALLOTMENT_SECONDS}
    async with database.at_once() as connection:
        row = (await connection.execute(_EXCHANGE, values)).one_or_none()
        if row is None:
            await connection.execute(
                _MAKE, {name: values[name] for name in ("token_id", "kind", "limit")}
            )
            row = (await connection.execute(_EXCHANGE, values)).one()
    return Allotted(*row)
