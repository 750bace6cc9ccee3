# SPDX-License-Identifier: Apache-2.0
"""The tables of files and of batches, as they are after every migration.

Columns are called as the fields of :mod:`appliance.batches.records`, which tells of them; moments
are Unix seconds.
"""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Integer, MetaData, String, Table, Text

__all__ = ["batches", "files", "metadata"]

metadata = MetaData()

_NUMBER = BigInteger().with_variant(Integer, "sqlite")
"""Counts up, so that it tells which of two was first, however the clock was set."""

files = Table(
    "batch_files",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(32), index=True),
    Column("filename", Text, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    sqlite_autoincrement=True,
)

batches = Table(
    "batches",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("owner", String(32), index=True),
    Column("input_file_id", String(64), nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("completion_window", String(16), nullable=False),
    Column("metadata", JSON(none_as_null=True)),
    Column("output_expires_seconds", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("status", String(16), nullable=False, index=True),
    Column("in_progress_at", BigInteger),
    Column("finalizing_at", BigInteger),
    Column("completed_at", BigInteger),
    Column("failed_at", BigInteger),
    Column("expired_at", BigInteger),
    Column("cancelling_at", BigInteger),
    Column("cancelled_at", BigInteger),
    Column("errors", JSON(none_as_null=True)),
    Column("model", Text),
    Column("total", BigInteger, nullable=False),
    Column("completed", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("output_file_id", String(64)),
    Column("error_file_id", String(64)),
    Column("ending", String(16)),
    Column("holder", String(64)),
    Column("beat", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)
