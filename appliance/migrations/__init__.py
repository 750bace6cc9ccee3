# SPDX-License-Identifier: Apache-2.0
"""How alembic brings a database up to date. The steps themselves lie beside each schema."""
