# SPDX-License-Identifier: Apache-2.0
"""The server's description of itself, in OpenAPI 3.1.

Routes read their bodies and queries by hand, for the sake of what they say about faults, so that
the framework cannot know them; :func:`~appliance.openapi.operations.operation` tells it, beside
each route. Everything else is taken from where it stands anyway: schemas from the types that are
decoded and encoded; words from the docstrings of types, routes and errors.
"""
