# SPDX-License-Identifier: Apache-2.0
"""A Dockerfile, read and carried out without a container engine."""
